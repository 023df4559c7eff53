#include "backend/qcow_key_io.h"

#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

void *key_buffer(size_t n)
{
    return aligned_alloc(SECTOR_BYTES, n);
}

int key_area_of(const struct qcow_image *img, struct blk_rw *w, struct key_area *ret, struct err *e)
{
    const struct qcow_header *h = &img->header;
    if (w && (img->blk != blk_of(w) || !img->claimed))
        return qcow_bad(img->blk, ERR_USAGE, e,
                        "the image was opened before it was claimed, or is not the claimed one");
    if (w && h->incompatible & QCOW_CORRUPT)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "the image is marked corrupt, and is not written to; `qemu-img check -r "
                        "all` repairs it (keep a copy)");
    *ret = (struct key_area){img->blk, w, h->luks, h->luks_bytes};
    return 0;
}

static int check_range(const struct key_area *a, uint64_t at, size_t n, struct err *e)
{
    if (range_within(at, n, a->bytes))
        return 0;
    return qcow_bad(a->b, ERR_STATE_CORRUPT, e, "key material beyond the LUKS area");
}

static int area_read(void *ctx, uint64_t at, void *buf, size_t n, struct err *e)
{
    const struct key_area *a = ctx;
    if (check_range(a, at, n, e) < 0)
        return -1;
    const struct host from = {a->at.byte + at};
    return a->w ? blk_read_again(a->w, from, buf, n, e) : blk_read(a->b, from, buf, n, e);
}

static int area_write(void *ctx, const uint8_t *header, uint64_t at, const void *buf, size_t n,
                      struct err *e)
{
    const struct key_area *a = ctx;
    OWNED_HEAP uint8_t *now = key_buffer(KEY_HEADER_BYTES);
    if (!now)
        return err_nomem(e, "the LUKS header");
    if (!a->w)
        return qcow_bad(a->b, ERR_USAGE, e, "the image is not claimed, and is not written to");
    if (check_range(a, at, n, e) < 0 || area_read(ctx, 0, now, KEY_HEADER_BYTES, e) < 0)
        return -1;
    if (memcmp(now, header, KEY_HEADER_BYTES) != 0)
        return qcow_bad(a->b, ERR_LOCKED, e,
                        "somebody else has changed the keys meanwhile; nothing more was written");
    return blk_write(a->w, (struct host){a->at.byte + at}, buf, n, e);
}

static int area_flush(void *ctx, struct err *e)
{
    return blk_flush(((struct key_area *)ctx)->w, e);
}

struct key_io key_area_io(struct key_area *a)
{
    return (struct key_io){area_read, area_write, area_flush, a, a->bytes};
}
