#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

int qcow_bad(const struct blk *b, enum err_kind kind, struct err *e, const char *fmt, ...)
{
    va_list ap;
    e->kind = kind;
    e->os = 0;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    return err_prefix(e, "%s", blk_name(b));
}

int qcow_read_table(const struct blk *b, struct host at, uint64_t *ret, size_t n, struct err *e)
{
    if (blk_read(b, at, ret, n * sizeof(*ret), e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        ret[i] = get_be64((const uint8_t *)&ret[i]);
    return 0;
}

/* ---- refcounts [QCOW2 refcounts] ---- */

/* Number i of a block. Widths below a byte fill each byte from its lowest bits. */
uint64_t qcow_refcount_get(const uint8_t *block, unsigned order, size_t i)
{
    switch (order) {
    case 3:
        return block[i];
    case 4:
        return get_be16(block + 2 * i);
    case 5:
        return get_be32(block + 4 * i);
    case 6:
        return get_be64(block + 8 * i);
    default: {
        unsigned bits = 1u << order, per_byte = 8 / bits;
        return block[i / per_byte] >> (i % per_byte * bits) & ((1u << bits) - 1);
    }
    }
}

void qcow_refcount_put(uint8_t *block, unsigned order, size_t i, uint64_t value)
{
    switch (order) {
    case 3:
        block[i] = (uint8_t)value;
        break;
    case 4:
        put_be16(block + 2 * i, (uint16_t)value);
        break;
    case 5:
        put_be32(block + 4 * i, (uint32_t)value);
        break;
    case 6:
        put_be64(block + 8 * i, value);
        break;
    default: {
        unsigned bits = 1u << order, per_byte = 8 / bits, shift = (unsigned)(i % per_byte) * bits;
        unsigned mask = ((1u << bits) - 1) << shift;
        block[i / per_byte] = (uint8_t)((block[i / per_byte] & ~mask) | (unsigned)value << shift);
    }
    }
}

struct refs_buffers {
    uint8_t *block;
    uint64_t *numbers;
};
enum {
    NUMBERS = 4096,
    ENTRIES = 512,
    MAX_BLOCKS = 1 << 14, /* each is one read; 2^21 clusters have 2^13 of the usual kind */
};

static int visit_block(const struct qcow_image *img, struct refs_buffers *buf, uint64_t first,
                       uint64_t per_block, const struct qcow_refs_visitor *v, struct err *e)
{
    uint64_t n = img->n_host - first < per_block ? img->n_host - first : per_block;
    for (uint64_t at = 0; at < n; at += NUMBERS) {
        size_t part = n - at < NUMBERS ? (size_t)(n - at) : NUMBERS;
        for (size_t i = 0; i < part; i++)
            buf->numbers[i] = qcow_refcount_get(buf->block, img->header.refcount_order, at + i);
        if (v->each(v->ctx, (uint32_t)(first + at), buf->numbers, part, e) < 0)
            return -1;
    }
    return 0;
}

/* The blocks of n entries of the table, of which the first is number `from`. */
static int visit_blocks(const struct qcow_image *img, struct refs_buffers *buf,
                        const uint64_t *entries, uint64_t from, size_t n,
                        const struct qcow_refs_visitor *v, struct err *e)
{
    uint64_t per_block = img->cluster_bytes * 8 >> img->header.refcount_order;
    for (size_t i = 0; i < n; i++) {
        struct host at = {entries[i] & ~QCOW_REF_RESERVED};
        if (at.byte == 0)
            continue;
        if (blk_read(img->blk, at, buf->block, img->cluster_bytes, e) < 0 ||
            visit_block(img, buf, (from + i) * per_block, per_block, v, e) < 0)
            return -1;
    }
    return 0;
}

/* Blocks before the end of the file; the others say nothing about clusters that exist. */
int qcow_visit_refs(const struct qcow_image *img, const struct qcow_refs_visitor *v, struct err *e)
{
    const struct qcow_header *h = &img->header;
    uint64_t per_block = img->cluster_bytes * 8 >> h->refcount_order;
    uint64_t n = (img->n_host + per_block - 1) / per_block;
    uint64_t n_table = h->reftable_clusters * img->cluster_bytes / 8;
    OWNED_HEAP uint8_t *block = malloc(img->cluster_bytes);
    OWNED_HEAP uint64_t *numbers = malloc(NUMBERS * sizeof(*numbers));
    OWNED_HEAP uint64_t *entries = malloc(ENTRIES * sizeof(*entries));
    struct refs_buffers buf = {block, numbers};
    if (!block || !numbers || !entries)
        return err_nomem(e, "refcounts");
    if (n > n_table)
        n = n_table;
    if (n > MAX_BLOCKS)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "refcount blocks: %" PRIu64
                        ", at most %d are supported for a state image; larger clusters need fewer",
                        n, MAX_BLOCKS);
    for (uint64_t at = 0; at < n; at += ENTRIES) {
        size_t part = n - at < ENTRIES ? (size_t)(n - at) : ENTRIES;
        struct host from = {h->reftable.byte + at * 8};
        if (qcow_read_table(img->blk, from, entries, part, e) < 0 ||
            visit_blocks(img, &buf, entries, at, part, v, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- the snapshot table [QCOW2 snapshots] ---- */

enum { SNAPSHOT_FIXED_BYTES = 40, SNAPSHOT_MAX_EXTRA = 1024 };
#define SNAPSHOT_MAX_TABLE (UINT64_C(64) << 20)

int qcow_visit_snapshots(const struct blk *b, const struct qcow_header *h,
                         int (*each)(void *ctx, const struct qcow_snapshot *s, struct err *e),
                         void *ctx, uint64_t *ret_bytes, struct err *e)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < h->n_snapshots; i++) {
        uint8_t fixed[SNAPSHOT_FIXED_BYTES];
        struct qcow_snapshot s;
        used = (used + 7) & ~UINT64_C(7); /* entries are aligned, the end of the last one is not */
        if (blk_read(b, (struct host){h->snapshots.byte + used}, fixed, sizeof(fixed), e) < 0)
            return -1;
        s.l1.byte = get_be64(fixed);
        s.l1_size = get_be32(fixed + 8);
        s.extra_bytes = get_be32(fixed + 36);
        if (s.extra_bytes > SNAPSHOT_MAX_EXTRA)
            return qcow_bad(b, ERR_STATE_CORRUPT, e,
                            "snapshot %" PRIu32 " has %" PRIu32 " bytes of extra data, at most %d",
                            i + 1, s.extra_bytes, SNAPSHOT_MAX_EXTRA);
        s.at = used;
        s.bytes =
            SNAPSHOT_FIXED_BYTES + s.extra_bytes + get_be16(fixed + 12) + get_be16(fixed + 14);
        used += s.bytes;
        if (used > SNAPSHOT_MAX_TABLE)
            return qcow_bad(b, ERR_STATE_CORRUPT, e, "the snapshot table is longer than 64 MiB");
        if (each(ctx, &s, e) < 0)
            return -1;
    }
    *ret_bytes = used;
    return 0;
}
