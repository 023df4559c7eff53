#include "mem_disk.h"

#include <errno.h>
#include <string.h>

#include "src/base/bytes.h"

struct mem_disk {
    uint8_t *bytes;
    uint64_t size, room;
    struct mem_op *log;
    size_t n_log, log_room;
    bool claimed;
    size_t n_ops, n_reads;
    bool fails;
    enum mem_fault how;
    size_t fail_at, partial;
    int fail_errno;
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct mem_disk *mem_disk_new(uint64_t size)
{
    struct mem_disk *d = must(calloc(1, sizeof(*d)));
    d->bytes = must(calloc(1, size + 1));
    d->size = d->room = size;
    return d;
}

struct mem_disk *mem_disk_of(const void *bytes, uint64_t size)
{
    struct mem_disk *d = mem_disk_new(size);
    memcpy(d->bytes, bytes, size);
    return d;
}

void mem_disk_forget(struct mem_disk *d)
{
    for (size_t i = 0; i < d->n_log; i++)
        free(d->log[i].data);
    d->n_log = 0;
    d->n_ops = d->n_reads = 0;
}

void mem_disk_free(struct mem_disk *d)
{
    if (!d)
        return;
    mem_disk_forget(d);
    free(d->log);
    free(d->bytes);
    free(d);
}

uint8_t *mem_disk_bytes(struct mem_disk *d)
{
    return d->bytes;
}

uint64_t mem_disk_size(const struct mem_disk *d)
{
    return d->size;
}

void mem_disk_truncate(struct mem_disk *d, uint64_t size)
{
    if (size > d->room)
        abort();
    if (size > d->size)
        memset(d->bytes + d->size, 0, size - d->size);
    d->size = size;
}

bool mem_disk_is_claimed(const struct mem_disk *d)
{
    return d->claimed;
}

/* ---- the log ---- */

const struct mem_op *mem_disk_log(const struct mem_disk *d, size_t *ret_n)
{
    *ret_n = d->n_log;
    return d->log;
}

static void remember(struct mem_disk *d, struct mem_op op, const void *data)
{
    if (d->n_log == d->log_room) {
        d->log_room = d->log_room ? 2 * d->log_room : 64;
        d->log = must(realloc(d->log, d->log_room * sizeof(*d->log)));
    }
    if (op.what == MEM_WRITE) {
        op.data = must(malloc(op.n + 1));
        memcpy(op.data, data, op.n);
    }
    d->log[d->n_log++] = op;
}

void mem_replay(const struct mem_op *ops, size_t from, size_t to, uint8_t *bytes, uint64_t size)
{
    for (size_t i = from; i < to; i++)
        if (ops[i].what == MEM_WRITE && range_within(ops[i].off, ops[i].n, size))
            memcpy(bytes + ops[i].off, ops[i].data, ops[i].n);
}

void mem_replay_torn(const struct mem_op *op, bool (*keep)(void *ctx, size_t sector), void *ctx,
                     uint8_t *bytes, uint64_t size)
{
    for (size_t at = 0; at < op->n; at += 512) {
        size_t n = op->n - at < 512 ? op->n - at : 512;
        if (keep(ctx, at / 512) && range_within(op->off + at, n, size))
            memcpy(bytes + op->off + at, op->data + at, n);
    }
}

/* ---- faults ---- */

void mem_disk_fail(struct mem_disk *d, size_t k, enum mem_fault how, int os, size_t partial_bytes)
{
    d->fails = true;
    d->how = how;
    d->fail_at = k;
    d->fail_errno = os;
    d->partial = partial_bytes;
    d->n_ops = d->n_reads = 0;
}

void mem_disk_heal(struct mem_disk *d)
{
    d->fails = false;
    d->n_ops = d->n_reads = 0;
}

size_t mem_disk_n_ops(const struct mem_disk *d)
{
    return d->n_ops;
}

size_t mem_disk_n_reads(const struct mem_disk *d)
{
    return d->n_reads;
}

static bool fails_now(struct mem_disk *d)
{
    size_t k = d->n_ops++;
    return d->fails && (k == d->fail_at || (d->how == MEM_FAIL_AFTER && k > d->fail_at));
}

static int injected(const struct mem_disk *d, const char *what, struct err *e)
{
    return err_sys(e, ERR_STORAGE, d->fail_errno, "%s (injected)", what);
}

/* ---- blk_ops ---- */

static int mem_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    struct mem_disk *d = ctx;
    d->n_reads++;
    if (fails_now(d))
        return injected(d, "reading", e);
    if (!range_within(off, n, d->size))
        return err_set(e, ERR_STORAGE, "reading beyond the end");
    memcpy(buf, d->bytes + off, n);
    return 0;
}

static int mem_pwrite(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e)
{
    struct mem_disk *d = ctx;
    if (!d->claimed || !range_within(off, n, d->size))
        abort(); /* blk's own promise */
    if (fails_now(d)) {
        memcpy(d->bytes + off, buf, d->partial < n ? d->partial : n);
        return injected(d, "writing", e);
    }
    memcpy(d->bytes + off, buf, n);
    remember(d, (struct mem_op){MEM_WRITE, off, n, NULL}, buf);
    return 0;
}

static int mem_flush(void *ctx, struct err *e)
{
    struct mem_disk *d = ctx;
    if (fails_now(d))
        return injected(d, "flushing", e);
    remember(d, (struct mem_op){MEM_FLUSH, 0, 0, NULL}, NULL);
    return 0;
}

static int mem_claim(void *ctx, struct err *e)
{
    struct mem_disk *d = ctx;
    if (fails_now(d))
        return injected(d, "claiming", e);
    if (d->claimed)
        return err_set(e, ERR_LOCKED, "another blk holds the claim");
    d->claimed = true;
    return 0;
}

static void mem_release(void *ctx)
{
    struct mem_disk *d = ctx;
    d->claimed = false;
}

static void mem_close(void *ctx)
{
    (void)ctx; /* the disk outlives its blks */
}

static int mem_size(void *ctx, uint64_t *ret, struct err *e)
{
    (void)e;
    *ret = ((struct mem_disk *)ctx)->size;
    return 0;
}

static const struct blk_ops mem_ops = {
    .pread = mem_pread,
    .pwrite = mem_pwrite,
    .flush = mem_flush,
    .claim = mem_claim,
    .release = mem_release,
    .close = mem_close,
    .size = mem_size,
};

int mem_disk_blk(struct mem_disk *d, struct blk **ret, struct err *e)
{
    return blk_from_ops(&mem_ops, d, d->size, "memory", ret, e);
}

int mem_disk_claimed(struct mem_disk *d, struct blk_rw **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    if (mem_disk_blk(d, &b, e) < 0)
        return -1;
    return blk_claim(&b, ret, e);
}
