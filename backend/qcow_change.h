/* A change to the tables of an image that is claimed, with one write that counts. Private to the
 * qcow layer.
 *
 *     change_begin
 *     change_take      free clusters, any number of times (contiguous each time)
 *     change_drop      references that will be gone
 *     change_raise     refcounts of what was taken; not flushed
 *     (what was taken is written)
 *     change_switch    flush, the header's first sector, flush: the change has happened
 *     change_end       refcounts of what was dropped are lowered; or, where the switch did not come
 *                      about, of what was taken
 *
 * So no refcount is ever lower than the number of references, whatever the moment in which the
 * power fails; what is left then are leaks. A cluster is never written while anything refers to it:
 * no two states that live share a physical sector, and so a tweak.
 *
 * Where the switch failed it is not known which header is on the disk: the tables are not changed
 * any more (img->fixed) before the image was opened anew.
 *
 * All reads and writes are of whole sectors, at aligned places of memory, as blk_write_direct()
 * wants them.
 */
#ifndef NVKEEP_BACKEND_QCOW_CHANGE_H
#define NVKEEP_BACKEND_QCOW_CHANGE_H

#include "backend/qcow_priv.h"

enum { CHANGE_RUNS_MAX = 4 };

struct qcow_change {
    struct qcow_image *img;
    struct blk_rw *w;
    struct {
        uint32_t first, n;
    } taken[CHANGE_RUNS_MAX];
    size_t n_taken;
    uint32_t *dropped; /* one for each reference */
    size_t n_dropped, dropped_room;
    bool raised, switched, unknown;

    /* One sector of refcounts or of the refcount table, as it is or will be on the disk. */
    uint8_t *sector;
    struct host sector_at; /* 0: none */
    bool sector_changed;
};

int change_begin(struct qcow_change *c, struct qcow_image *img, struct blk_rw *w,
                 struct err *e) MUST_CHECK;
/* n clusters, one after the other, become `use`. Makes the file longer and adds refcount blocks
 * where that is needed. */
int change_take(struct qcow_change *c, uint32_t n, enum use use, struct host *ret,
                struct err *e) MUST_CHECK;
/* ERR_STATE_CORRUPT: it is none that may be dropped. */
int change_drop(struct qcow_change *c, struct host at, uint64_t bytes, struct err *e) MUST_CHECK;
/* All that an L1 table leads to, and the table. */
int change_drop_tree(struct qcow_change *c, struct host l1, uint32_t l1_size,
                     struct err *e) MUST_CHECK;
int change_raise(struct qcow_change *c, struct err *e) MUST_CHECK;
/* img->header becomes `to`. */
int change_switch(struct qcow_change *c, const struct qcow_header *to, struct err *e) MUST_CHECK;
void change_end(struct qcow_change *c);

/* Zeroed, aligned, a multiple of 512 and at least n bytes; free(). NULL: no memory. */
uint8_t *change_buffer(uint64_t n);
/* n bytes from offset `at`, in a buffer of the same kind; beyond the end of the file: zeroes. */
int change_read(const struct qcow_image *img, struct host at, uint64_t n, uint8_t **ret,
                struct err *e) MUST_CHECK;

#endif
