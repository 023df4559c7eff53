/* How the LUKS area of an image is read and written while keys are changed.
 *
 * Offsets count from the begin of the area; everything is whole sectors, in memory that is aligned
 * to them (key_buffer). A write names the header sectors that the writer believes to be there:
 * where they are others, nothing is written (ERR_LOCKED), so that a change that was worked out
 * slowly is never made to what somebody else has changed meanwhile. What has been written is
 * durable after a flush.
 */
#ifndef NVKEEP_BACKEND_QCOW_KEY_IO_H
#define NVKEEP_BACKEND_QCOW_KEY_IO_H

#include "backend/qcow.h"

enum { KEY_HEADER_BYTES = 1024 }; /* the sectors that the LUKS header touches */

struct key_io {
    /* From the storage, not from this machine's memory where that can be avoided. */
    int (*read)(void *ctx, uint64_t at, void *buf, size_t n, struct err *e);
    int (*write)(void *ctx, const uint8_t *header, uint64_t at, const void *buf, size_t n,
                 struct err *e);
    int (*flush)(void *ctx, struct err *e);
    void *ctx;
    uint64_t bytes; /* of the area */
};

/* n bytes, a multiple of 512; free(). NULL: no memory. */
void *key_buffer(size_t n);

/* Of an open image; without a claim for reading only. */
struct key_area {
    const struct blk *b;
    struct blk_rw *w; /* borrowed; NULL: not claimed */
    struct host at;
    uint64_t bytes;
};
/* w: NULL, or the claim over the blk that img was opened on, after it was claimed.
 * ERR_UNSUPPORTED: claimed, and the image is marked corrupt. */
int key_area_of(const struct qcow_image *img, struct blk_rw *w, struct key_area *ret,
                struct err *e) MUST_CHECK;
int qcow_disk_key_area(const struct qcow_disk_rw *d, struct key_area *ret,
                       struct err *e) MUST_CHECK;
struct key_io key_area_io(struct key_area *a); /* borrows it */

#endif
