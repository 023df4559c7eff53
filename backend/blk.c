#include "backend/blk.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/blk_priv.h"
#include "src/base/bytes.h"

struct blk {
    const struct blk_ops *ops;
    void *ctx;
    uint64_t size;
    enum blk_mode mode;
    bool claimed;
    uint64_t dev, ino;
    char name[BLK_NAME_BYTES];
};
struct blk_rw {
    struct blk *b;
};

void blk_name_of(const char *path, char ret[BLK_NAME_BYTES])
{
    enum { SHOWN = 120 };
    char cut[SHOWN + 4];
    size_t n = strlen(path);
    if (n > SHOWN)
        n = (size_t)snprintf(cut, sizeof(cut), "...%s", path + n - SHOWN);
    err_quote(ret, BLK_NAME_BYTES, n > SHOWN ? cut : path, n);
}

int blk_new_over(const struct blk_ops *ops, void *ctx, uint64_t size,
                 const struct blk_traits *traits, const char *name, struct blk **ret, struct err *e)
{
    struct blk *b = calloc(1, sizeof(*b));
    if (!b)
        return err_nomem(e, "an open image");
    b->ops = ops;
    b->ctx = ctx;
    b->size = size;
    b->mode = traits->mode;
    b->dev = traits->dev;
    b->ino = traits->ino;
    blk_name_of(name, b->name);
    *ret = b;
    return 0;
}

int blk_from_ops(const struct blk_ops *ops, void *ctx, uint64_t size, const char *name,
                 struct blk **ret, struct err *e)
{
    return blk_new_over(ops, ctx, size, &(struct blk_traits){BLK_READ_WRITE, 0, 0}, name, ret, e);
}

void blk_free(struct blk *b)
{
    if (!b)
        return;
    if (b->claimed)
        b->ops->release(b->ctx);
    b->ops->close(b->ctx);
    free(b);
}

uint64_t blk_size(const struct blk *b)
{
    return b->size;
}

int blk_measure(struct blk *b, struct err *e)
{
    uint64_t size = b->size;
    if (b->ops->size && b->ops->size(b->ctx, &size, e) < 0)
        return err_prefix(e, "%s", b->name);
    if (b->ops->forget && !blk_claim_is_enough(b))
        b->ops->forget(b->ctx);
    b->size = size;
    return 0;
}

const char *blk_name(const struct blk *b)
{
    return b->name;
}

void blk_identity(const struct blk *b, uint64_t *ret_dev, uint64_t *ret_ino)
{
    *ret_dev = b->dev;
    *ret_ino = b->ino;
}

bool blk_is_claimed(const struct blk *b)
{
    return b->claimed;
}

/* ---- reading and writing ---- */

int blk_read(const struct blk *b, struct host at, void *buf, size_t n, struct err *e)
{
    if (!range_within(at.byte, n, b->size))
        return err_set(e, ERR_STATE_CORRUPT,
                       "%s: is cut off: %zu bytes at offset %" PRIu64
                       " are wanted, the file has %" PRIu64,
                       b->name, n, at.byte, b->size);
    if (b->ops->pread(b->ctx, buf, n, at.byte, e) < 0)
        return err_prefix(e, "%s", b->name);
    return 0;
}

int blk_write(struct blk_rw *w, struct host at, const void *buf, size_t n, struct err *e)
{
    struct blk *b = w->b;
    if (!range_within(at.byte, n, b->size))
        return err_set(e, ERR_STORAGE,
                       "%s: refusing to write %zu bytes at offset %" PRIu64
                       ", beyond the end of the file (%" PRIu64 ")",
                       b->name, n, at.byte, b->size);
    if (b->ops->pwrite(b->ctx, buf, n, at.byte, e) < 0)
        return err_prefix(e, "%s", b->name);
    return 0;
}

int blk_flush(struct blk_rw *w, struct err *e)
{
    if (w->b->ops->flush(w->b->ctx, e) < 0)
        return err_prefix(e, "%s", w->b->name);
    return 0;
}

int blk_extend(struct blk_rw *w, uint64_t size, struct err *e)
{
    struct blk *b = w->b;
    if (size <= b->size)
        return 0;
    if (!b->ops->extend)
        return err_set(e, ERR_STORAGE,
                       "%s: has %" PRIu64 " bytes and cannot be made longer; %" PRIu64
                       " are needed",
                       b->name, b->size, size);
    if (b->ops->extend(b->ctx, size, e) < 0)
        return err_prefix(e, "%s: making it longer", b->name);
    b->size = size;
    return 0;
}

void blk_write_direct(struct blk_rw *w)
{
    if (w->b->ops->direct)
        w->b->ops->direct(w->b->ctx);
}

int blk_read_again(struct blk_rw *w, struct host at, void *buf, size_t n, struct err *e)
{
    if (w->b->ops->forget)
        w->b->ops->forget(w->b->ctx);
    return blk_read(w->b, at, buf, n, e);
}

/* ---- the claim ---- */

/* What is asked once nobody else can write. */
static int look_again(struct blk *b, bool named, struct err *e)
{
    if (named && b->ops->named && b->ops->named(b->ctx, e) < 0)
        return err_prefix(e, "%s", b->name);
    return blk_measure(b, e);
}

static int claim(struct blk *b, bool named, struct err *e)
{
    if (b->ops->claim(b->ctx, e) < 0)
        return err_prefix(e, "%s", b->name);
    if (look_again(b, named, e) < 0) {
        b->ops->release(b->ctx);
        return -1;
    }
    b->claimed = true;
    return 0;
}

static int claim_as(struct blk **b, bool named, struct blk_rw **ret, struct err *e)
{
    OWNED_HEAP struct blk_rw *w = calloc(1, sizeof(*w));
    if (!w)
        return err_nomem(e, "a claim");
    if ((*b)->mode != BLK_READ_WRITE)
        return err_set(e, ERR_USAGE, "%s: was opened for reading only and cannot be claimed",
                       (*b)->name);
    if (claim(*b, named, e) < 0)
        return -1;
    w->b = MOVE(*b);
    *ret = MOVE(w);
    return 0;
}

int blk_claim(struct blk **b, struct blk_rw **ret, struct err *e)
{
    return claim_as(b, true, ret, e);
}

int blk_claim_unnamed(struct blk **b, struct blk_rw **ret, struct err *e)
{
    return claim_as(b, false, ret, e);
}

void blk_rw_free(struct blk_rw *w)
{
    if (!w)
        return;
    blk_free(w->b);
    free(w);
}

void blk_unclaim(struct blk_rw **w, struct blk **ret)
{
    struct blk *b = (*w)->b;
    b->ops->release(b->ctx);
    b->claimed = false;
    free(*w);
    *w = NULL;
    *ret = b;
}

bool blk_claim_is_enough(const struct blk *b)
{
    return !b->ops->exclusive || b->ops->exclusive(b->ctx);
}

const struct blk *blk_of(const struct blk_rw *w)
{
    return w->b;
}
