/* Internal snapshots of an image, and what lives in it.
 *
 * A snapshot that nvkeep makes shares nothing with the living state: it is a tree of its own (L1,
 * L2, data) that holds the reference sector, a branch sector (qcow_branch.h) and one full record.
 * So the living tree stays where it is, an ordinary commit goes on changing no metadata, and no
 * physical sector ever belongs to two states. Other tools share clusters instead (`qemu-img
 * snapshot -c`, `-a`): before such an image is written to, its living tree is replaced by one of
 * its own.
 *
 * Each of these is one change of qcow_change.h. What fails leaves everything as it was, unless it
 * was the switch itself. Of a disk that is armed, writing goes on as before.
 */
#ifndef NVKEEP_BACKEND_QCOW_SNAPSHOT_H
#define NVKEEP_BACKEND_QCOW_SNAPSHOT_H

#include "backend/qcow.h"

enum { SNAPSHOT_ID_BYTES = 128, SNAPSHOT_NAME_BYTES = 256 };

/* id and name as far as they fit; they are somebody's text, not escaped. */
struct snapshot_facts {
    char id[SNAPSHOT_ID_BYTES], name[SNAPSHOT_NAME_BYTES];
    uint32_t seconds, nanoseconds; /* when it was taken */
    uint64_t vm_state_bytes, disk_bytes;
    struct host l1;
    uint32_t l1_size;
};
struct snapshot_list {
    struct snapshot_facts *at;
    size_t n;
};
/* The caller clears. */
int snapshot_list_read(const struct qcow_image *img, struct snapshot_list *ret,
                       struct err *e) MUST_CHECK;
void snapshot_list_clear(struct snapshot_list *l);
/* By its id, or else by its name, as qemu-img does. ERR_USAGE: there is none, or several of that
 * name. */
int snapshot_find(const struct snapshot_list *l, const char *id_or_name, size_t *ret,
                  struct err *e) MUST_CHECK;
/* Can a new snapshot have that name? UTF-8, no control characters, no name or id that is there. */
int snapshot_check_name(const struct snapshot_list *l, const char *name, struct err *e) MUST_CHECK;

/* An image as it was when the snapshot was taken, for reading. */
int qcow_open_snapshot(const struct blk *b, const struct snapshot_facts *s, struct qcow_image **ret,
                       struct err *e) MUST_CHECK;

/* A record in clear, of whole sectors, and where it lies. */
struct qcow_piece {
    struct sector first;
    size_t n_sectors;
    const uint8_t *plain;
};
int qcow_snapshot_create(struct qcow_disk_rw *d, const char *name, const struct qcow_piece *record,
                         struct err *e) MUST_CHECK;
int qcow_snapshot_delete(struct qcow_disk_rw *d, const char *id_or_name, struct err *e) MUST_CHECK;

/* Is the living tree one that can be written to in place? Of an image with snapshots; where the
 * tables are damaged, qcow_arm() says so. */
bool qcow_disk_is_shared(const struct qcow_disk *d);
/* ERR_STATE_ROLLED_BACK: the living tree is not the one that the header names. */
int qcow_disk_check_branch(const struct qcow_disk *d, struct err *e) MUST_CHECK;

/* A new living tree that holds that record and nothing else, at that generation and epoch. The
 * image is to be opened anew afterwards: the disk leads to what is free. */
struct qcow_life {
    struct qcow_piece record;
    uint64_t generation, epoch;
};
int qcow_replace_living(struct qcow_disk *d, struct blk_rw *w, const struct qcow_life *life,
                        struct err *e) MUST_CHECK;
/* For disks that are armed: are they still what the header names? ERR_FENCED. Looks at the storage.
 */
int qcow_disk_still_lives(struct qcow_disk_rw *d, struct err *e) MUST_CHECK;

#endif
