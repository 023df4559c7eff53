#include "backend/qcow_change.h"

#include <inttypes.h>
#include <string.h>

#include "src/base/bytes.h"

enum { ALIGN = 4096 };

static uint64_t up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

uint8_t *change_buffer(uint64_t n)
{
    uint64_t bytes = up(n > 0 ? n : 1, ALIGN);
    uint8_t *p = aligned_alloc(ALIGN, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

int change_read(const struct qcow_image *img, struct host at, uint64_t n, uint8_t **ret,
                struct err *e)
{
    uint64_t size = blk_size(img->blk), there = at.byte < size ? size - at.byte : 0;
    uint64_t bytes = up(n, SECTOR_BYTES);
    OWNED_HEAP uint8_t *p = change_buffer(bytes);
    if (!p)
        return err_nomem(e, "a table");
    if (there > bytes)
        there = bytes;
    if (there > 0 && blk_read(img->blk, at, p, there, e) < 0)
        return -1;
    *ret = MOVE(p);
    return 0;
}

int qcow_count_references(struct qcow_image *img, struct err *e)
{
    struct qcow_check check;
    if (img->counted || img->header.n_snapshots == 0)
        return 0;
    int r = qcow_check_image(img, &check, e);
    if (r < 0 && e->kind == ERR_STORAGE)
        return -1;
    img->counted = true;
    if (r < 0)
        img->fixed = *e;
    else if (check.corruptions > 0)
        (void)!qcow_bad(img->blk, ERR_STATE_CORRUPT, &img->fixed,
                        "its tables are damaged, and are not changed (%s); `qemu-img check -r all` "
                        "on a copy may repair them",
                        check.first);
    return 0;
}

int change_begin(struct qcow_change *c, struct qcow_image *img, struct blk_rw *w, struct err *e)
{
    if (qcow_check_flags(img, e) < 0 || qcow_count_references(img, e) < 0)
        return -1;
    if (img->fixed.kind != ERR_NONE) {
        *e = img->fixed;
        return -1;
    }
    *c = (struct qcow_change){.img = img, .w = w};
    c->sector = change_buffer(SECTOR_BYTES);
    return c->sector ? 0 : err_nomem(e, "a change to an image");
}

/* ---- one sector of a table ---- */

static int put_sector(struct qcow_change *c, struct err *e)
{
    if (!c->sector_changed)
        return 0;
    c->sector_changed = false;
    return blk_write(c->w, c->sector_at, c->sector, SECTOR_BYTES, e);
}

static int get_sector(struct qcow_change *c, uint64_t byte, struct err *e)
{
    struct host at = {byte / SECTOR_BYTES * SECTOR_BYTES};
    if (c->sector_at.byte == at.byte)
        return 0;
    if (put_sector(c, e) < 0)
        return -1;
    c->sector_at.byte = 0;
    if (blk_read(c->img->blk, at, c->sector, SECTOR_BYTES, e) < 0)
        return -1;
    c->sector_at = at;
    return 0;
}

/* ---- refcounts ---- */

static uint64_t per_block(const struct qcow_image *img)
{
    return img->cluster_bytes * 8 >> img->header.refcount_order;
}

/* Offset of the refcount block for that range of clusters; 0: there is none. */
static int block_of(struct qcow_change *c, uint64_t range, uint64_t *ret, struct err *e)
{
    const struct qcow_header *h = &c->img->header;
    if (range >= h->reftable_clusters * c->img->cluster_bytes / 8)
        return qcow_bad(c->img->blk, ERR_UNSUPPORTED, e,
                        "the refcount table is full: the image cannot have more than %" PRIu64
                        " clusters; delete snapshots, or copy it to larger clusters",
                        h->reftable_clusters * c->img->cluster_bytes / 8 * per_block(c->img));
    uint64_t at = h->reftable.byte + range * 8;
    if (get_sector(c, at, e) < 0)
        return -1;
    *ret = get_be64(c->sector + at % SECTOR_BYTES) & ~QCOW_REF_RESERVED;
    return 0;
}

/* What the refcount of a cluster becomes. */
static int add_refs(struct qcow_change *c, uint32_t cluster, int change, struct err *e)
{
    struct qcow_image *img = c->img;
    unsigned order = img->header.refcount_order;
    uint64_t block = 0, n = per_block(img), per_sector = SECTOR_BYTES * 8 >> order;
    if (block_of(c, cluster / n, &block, e) < 0)
        return -1;
    uint64_t i = cluster % n;
    uint64_t at = block + i / per_sector * SECTOR_BYTES;
    if (block == 0 || get_sector(c, at, e) < 0)
        return block ? -1 : qcow_bad(img->blk, ERR_STATE_CORRUPT, e, "a refcount block is gone");
    uint64_t now = qcow_refcount_get(c->sector, order, i % per_sector);
    if (change > 0 ? now != 0 : now == 0)
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "the refcount of the cluster at offset 0x%" PRIx64 " is %" PRIu64
                        ", and was not when the image was opened",
                        cluster * img->cluster_bytes, now);
    now = change > 0 ? 1 : now - 1;
    qcow_refcount_put(c->sector, order, i % per_sector, now);
    c->sector_changed = true;
    img->refs[cluster] = now > 255 ? 255 : (uint8_t)now;
    if (now == 0)
        img->use[cluster] = USE_NONE;
    return 0;
}

/* ---- free clusters ---- */

/* Clusters that the file does not have are free, too. */
static bool is_free(const struct qcow_image *img, uint64_t i)
{
    return i >= img->n_host || (img->refs[i] == 0 && img->use[i] == USE_NONE);
}

static uint64_t find_free(const struct qcow_image *img, uint64_t n)
{
    uint64_t first = 1;
    for (uint64_t i = 1; i < img->n_host && i - first < n; i++)
        if (!is_free(img, i))
            first = i + 1;
    return first;
}

/* How many refcount blocks lack for the clusters [first, first + n). */
static int count_lacking(struct qcow_change *c, uint64_t first, uint64_t n, uint64_t *ret,
                         struct err *e)
{
    uint64_t block = 0;
    *ret = 0;
    for (uint64_t r = first / per_block(c->img); r <= (first + n - 1) / per_block(c->img); r++) {
        if (block_of(c, r, &block, e) < 0)
            return -1;
        *ret += block == 0;
    }
    return 0;
}

/* n bytes, of which the first `old` are those of *p, and the rest zeroes. */
static bool make_longer(uint8_t **p, size_t old, size_t n)
{
    uint8_t *q = calloc(n, 1);
    if (!q)
        return false;
    memcpy(q, *p, old);
    free(*p);
    *p = q;
    return true;
}

static int make_room(struct qcow_change *c, uint64_t end, struct err *e)
{
    struct qcow_image *img = c->img;
    if (end > QCOW_MAX_HOST)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "the file would have %" PRIu64
                        " clusters, at most %d are supported for a state image; delete snapshots",
                        end, QCOW_MAX_HOST);
    if (end > img->n_host) {
        if (!make_longer(&img->use, img->n_host, end) || !make_longer(&img->refs, img->n_host, end))
            return err_nomem(e, "the tables of an image");
        img->n_host = (uint32_t)end;
    }
    return blk_extend(c->w, end * img->cluster_bytes, e);
}

/* A new block for `range`, in a cluster of [first, first + n) which all are to be blocks: those of
 * them that lie in its own range it counts itself. */
static int write_block(struct qcow_change *c, uint64_t range, uint64_t at, uint64_t first,
                       uint64_t n, struct err *e)
{
    struct qcow_image *img = c->img;
    OWNED_HEAP uint8_t *block = change_buffer(img->cluster_bytes);
    if (!block)
        return err_nomem(e, "a refcount block");
    for (uint64_t i = first; i < first + n; i++)
        if (i / per_block(img) == range)
            qcow_refcount_put(block, img->header.refcount_order, i % per_block(img), 1);
    return blk_write(c->w, (struct host){at * img->cluster_bytes}, block, img->cluster_bytes, e);
}

/* n new blocks at [first, first + n) for all ranges up to that of `last` that have none. Each is
 * whole, and counted, before the table names it; they lie in the first of the ranges. */
static int add_blocks(struct qcow_change *c, uint64_t first, uint64_t n, uint64_t last,
                      struct err *e)
{
    struct qcow_image *img = c->img;
    uint64_t at = first, block = 0;
    bool counted;
    for (uint64_t r = first / per_block(img); r <= last / per_block(img); r++) {
        if (block_of(c, r, &block, e) < 0)
            return -1;
        if (block == 0 && write_block(c, r, at++, first, n, e) < 0)
            return -1;
    }
    if (block_of(c, first / per_block(img), &block, e) < 0)
        return -1;
    counted = block == 0;
    for (uint64_t i = first; i < first + n; i++) {
        if (!counted && i / per_block(img) == first / per_block(img) &&
            add_refs(c, (uint32_t)i, 1, e) < 0)
            return -1;
        img->use[i] = USE_REFBLOCK;
        img->refs[i] = 1;
    }
    if (put_sector(c, e) < 0 || blk_flush(c->w, e) < 0)
        return -1;
    at = first;
    for (uint64_t r = first / per_block(img); r <= last / per_block(img); r++) {
        if (block_of(c, r, &block, e) < 0)
            return -1;
        if (block != 0)
            continue;
        put_be64(c->sector + (img->header.reftable.byte + r * 8) % SECTOR_BYTES,
                 at++ * img->cluster_bytes);
        c->sector_changed = true;
        if (put_sector(c, e) < 0 || blk_flush(c->w, e) < 0)
            return -1;
    }
    return 0;
}

int change_take(struct qcow_change *c, uint32_t n, enum use use, struct host *ret, struct err *e)
{
    struct qcow_image *img = c->img;
    uint64_t first, lacking = 0, more = 0;
    do { /* blocks that lack are put in front; with them, others may lack */
        more = lacking;
        first = find_free(img, n + more);
        if (count_lacking(c, first, n + more, &lacking, e) < 0)
            return -1;
    } while (lacking > more);
    if (make_room(c, first + more + n, e) < 0 ||
        (lacking > 0 && add_blocks(c, first, lacking, first + more + n - 1, e) < 0))
        return -1;
    first += more;
    if (c->n_taken == CHANGE_RUNS_MAX)
        return err_set(e, ERR_USAGE, "too many runs of clusters in one change");
    memset(img->use + first, use, n);
    c->taken[c->n_taken].first = (uint32_t)first;
    c->taken[c->n_taken++].n = n;
    ret->byte = first * img->cluster_bytes;
    return 0;
}

int change_raise(struct qcow_change *c, struct err *e)
{
    c->raised = true;
    for (size_t i = 0; i < c->n_taken; i++)
        for (uint32_t k = 0; k < c->taken[i].n; k++)
            if (add_refs(c, c->taken[i].first + k, 1, e) < 0)
                return -1;
    return put_sector(c, e);
}

/* ---- what is given back ---- */

/* Of metadata there is one of each. A table that says otherwise is not believed. */
static bool may_be_dropped(const struct qcow_image *img, uint64_t i)
{
    static const bool never[] = {[USE_HEADER] = true,
                                 [USE_REFTABLE] = true,
                                 [USE_REFBLOCK] = true,
                                 [USE_LUKS] = true,
                                 [USE_BITMAP_DIR] = true};
    uint8_t use = img->use[i];
    return img->refs[i] > 0 && !(use < ARRAY_LEN(never) && never[use]);
}

static int more_dropped(struct qcow_change *c, struct err *e)
{
    size_t room = c->dropped_room * 2 + 64;
    uint32_t *more = calloc(room, sizeof(*more));
    if (!more)
        return err_nomem(e, "a list of clusters");
    if (c->n_dropped > 0)
        memcpy(more, c->dropped, c->n_dropped * sizeof(*more));
    free(c->dropped);
    c->dropped = more;
    c->dropped_room = room;
    return 0;
}

int change_drop(struct qcow_change *c, struct host at, uint64_t bytes, struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t first = at.byte / img->cluster_bytes;
    uint64_t end = (at.byte + bytes + img->cluster_bytes - 1) / img->cluster_bytes;
    for (uint64_t i = first; i < end; i++) {
        if (i >= img->n_host || at.byte % img->cluster_bytes != 0 || !may_be_dropped(img, i))
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                            "a table leads to offset 0x%" PRIx64
                            ", where nothing of its kind can be; `qemu-img check` says more",
                            i * img->cluster_bytes);
        if (c->n_dropped == c->dropped_room && more_dropped(c, e) < 0)
            return -1;
        c->dropped[c->n_dropped++] = (uint32_t)i;
    }
    return 0;
}

static int drop_l2(struct qcow_change *c, struct host l2, struct err *e)
{
    const struct qcow_image *img = c->img;
    OWNED_HEAP uint8_t *table = NULL;
    if (change_read(img, l2, img->cluster_bytes, &table, e) < 0)
        return -1;
    for (uint64_t i = 0; i < img->cluster_bytes; i += 8) {
        struct host to = {get_be64(table + i) & QCOW_OFFSET};
        if (get_be64(table + i) & QCOW_COMPRESSED)
            return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                            "there are compressed clusters in a snapshot, which are not encrypted; "
                            "`qemu-img snapshot -d` deletes it");
        if (to.byte != 0 && change_drop(c, to, img->cluster_bytes, e) < 0)
            return -1;
    }
    return change_drop(c, l2, img->cluster_bytes, e);
}

int change_drop_tree(struct qcow_change *c, struct host l1, uint32_t l1_size, struct err *e)
{
    OWNED_HEAP uint8_t *table = NULL;
    if (l1_size == 0)
        return 0;
    if (change_read(c->img, l1, (uint64_t)l1_size * 8, &table, e) < 0)
        return -1;
    for (uint32_t i = 0; i < l1_size; i++) {
        struct host to = {get_be64(table + (size_t)i * 8) & QCOW_OFFSET};
        if (to.byte != 0 && (to.byte % c->img->cluster_bytes != 0 || drop_l2(c, to, e) < 0))
            return to.byte % c->img->cluster_bytes
                       ? qcow_bad(c->img->blk, ERR_STATE_CORRUPT, e, "an L1 table is damaged")
                       : -1;
    }
    return change_drop(c, l1, (uint64_t)l1_size * 8, e);
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* What the disk holds and what is known here may differ now. */
static void fix_tables(const struct qcow_change *c)
{
    (void)!qcow_bad(c->img->blk, ERR_STORAGE, &c->img->fixed,
                    "it is not known how much of an earlier change reached the disk; snapshots can "
                    "be changed again when the image was opened anew");
}

/* What fails here is a leak: the change has happened. */
static int lower(struct qcow_change *c, struct err *e)
{
    if (c->n_dropped > 0)
        qsort(c->dropped, c->n_dropped, sizeof(*c->dropped), by_number);
    for (size_t i = 0; i < c->n_dropped; i++)
        if (add_refs(c, c->dropped[i], -1, e) < 0)
            return -1;
    return put_sector(c, e);
}

/* What was written is nobody's. */
static int give_back(struct qcow_change *c, struct err *e)
{
    for (size_t i = 0; i < c->n_taken; i++)
        for (uint32_t k = 0; k < c->taken[i].n; k++) {
            uint32_t cluster = c->taken[i].first + k;
            if (c->img->refs[cluster] == 0)
                c->img->use[cluster] = USE_NONE;
            else if (add_refs(c, cluster, -1, e) < 0)
                return -1;
        }
    return put_sector(c, e);
}

/* ---- the switch ---- */

static int make_header(const struct qcow_change *c, const struct qcow_header *to, uint8_t *sector,
                       struct err *e)
{
    OWNED_HEAP uint8_t *bytes = NULL;
    uint64_t size = blk_size(c->img->blk);
    size_t n = size < QCOW_HEADER_MAX ? (size_t)size : QCOW_HEADER_MAX;
    if (change_read(c->img, (struct host){0}, n, &bytes, e) < 0)
        return -1;
    if (qcow_header_switch(bytes, n, to, sector, e) < 0)
        return err_prefix(e, "%s", blk_name(c->img->blk));
    return 0;
}

int change_switch(struct qcow_change *c, const struct qcow_header *to, struct err *e)
{
    OWNED_HEAP uint8_t *sector = change_buffer(SECTOR_BYTES);
    if (!sector)
        return err_nomem(e, "a header");
    if (make_header(c, to, sector, e) < 0 || blk_flush(c->w, e) < 0)
        return -1;
    if (blk_write(c->w, (struct host){0}, sector, SECTOR_BYTES, e) < 0 || blk_flush(c->w, e) < 0) {
        c->unknown = true;
        fix_tables(c);
        return -1;
    }
    c->switched = true;
    c->img->header = *to;
    return 0;
}

void change_end(struct qcow_change *c)
{
    struct err why = {0};
    if (!c->unknown && (c->switched ? lower : give_back)(c, &why) < 0)
        fix_tables(c);
    free(c->dropped);
    free(c->sector);
    *c = (struct qcow_change){0};
}
