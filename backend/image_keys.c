#include "backend/image_keys.h"

struct image_keys {
    struct blk *b; /* or */
    struct blk_rw *w;
    struct qcow_image *img;
    struct key_area area;
    struct qcow_keys *slots;
};

void image_keys_free(struct image_keys *i)
{
    if (!i)
        return;
    qcow_keys_free(i->slots);
    qcow_image_free(i->img);
    blk_rw_free(i->w);
    blk_free(i->b);
    free(i);
}

int image_keys_open(const char *path, bool claims, struct image_keys **ret, struct err *e)
{
    OWNED(image_keys) i = calloc(1, sizeof(*i));
    if (!i)
        return err_nomem(e, "an image");
    if (blk_open(path, claims ? BLK_READ_WRITE : BLK_READ_ONLY, &i->b, e) < 0 ||
        (claims && blk_claim(&i->b, &i->w, e) < 0) ||
        qcow_open(claims ? blk_of(i->w) : i->b, &i->img, e) < 0 ||
        key_area_of(i->img, i->w, &i->area, e) < 0)
        return -1;
    const struct key_io io = key_area_io(&i->area);
    if (qcow_keys_open(&io, &i->slots, e) < 0)
        return -1;
    *ret = MOVE(i);
    return 0;
}

struct qcow_keys *image_keys_slots(struct image_keys *i)
{
    return i->slots;
}
