#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

/* Everything that refers to a cluster is counted and compared with what the refcounts say. The
 * active tables were validated when the image was opened; those of snapshots and bitmaps are not
 * trusted here either: what they refer to is checked first. [QCOW2; qemu-img check] */

/* What is read and held is bounded, whatever the tables say: each L2 table is read once, however
 * many L1 entries name it, and no bitmap has a larger table than the disk's size calls for. */
enum {
    PIECE = 4096,
    MAX_BITMAP_ENTRIES = 1 << 20, /* of all bitmap tables together */
    BITMAP_COST = 64,             /* in entries, what a bitmap costs apart from its table */
    SEEN_MOST = UINT16_MAX,       /* stands for that and more */
};

struct count {
    const struct qcow_image *img;
    uint16_t *seen;  /* references to each host cluster, at most SEEN_MOST */
    uint64_t *piece; /* of PIECE entries */
    uint64_t n_entries;
    struct qcow_check check;
    char first_leak[200];
};

static void corruption(struct count *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void corruption(struct count *c, const char *fmt, ...)
{
    va_list ap;
    if (c->check.corruptions++ > 0)
        return;
    va_start(ap, fmt);
    vsnprintf(c->check.first, sizeof(c->check.first), fmt, ap);
    va_end(ap);
}

static void add_references(uint16_t *seen, uint32_t times)
{
    *seen = times > (uint32_t)(SEEN_MOST - *seen) ? SEEN_MOST : (uint16_t)(*seen + times);
}

static void count_times(struct count *c, const char *what, uint64_t at, uint64_t n, uint32_t times)
{
    const struct qcow_image *img = c->img;
    if (n == 0)
        return;
    uint64_t first = at / img->cluster_bytes;
    if (!range_within(at, n, (uint64_t)img->n_host * img->cluster_bytes)) {
        corruption(c, "%s at offset 0x%" PRIx64 " lies beyond the end of the file", what, at);
        return;
    }
    for (uint64_t i = first; i <= (at + n - 1) / img->cluster_bytes; i++)
        add_references(&c->seen[i], times);
}

static void count_range(struct count *c, const char *what, uint64_t at, uint64_t n)
{
    count_times(c, what, at, n, 1);
}

/* ---- tables ---- */

/* An L2 table that `times` L1 entries name. */
static int count_l2(struct count *c, uint64_t at, uint32_t times, struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t n = img->cluster_bytes / 8;
    c->n_entries += n + QCOW_L2_COST;
    if (c->n_entries > QCOW_MAX_COUNTED)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "disk and snapshots have more than %d entries in their L2 tables: too many "
                        "to be counted",
                        QCOW_MAX_COUNTED);
    for (uint64_t i = 0; i < n; i += PIECE) {
        size_t part = n - i < PIECE ? (size_t)(n - i) : PIECE;
        if (qcow_read_table(img->blk, (struct host){at + i * 8}, c->piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++) {
            uint64_t entry = c->piece[k], to = entry & QCOW_OFFSET;
            if (entry & QCOW_COMPRESSED)
                corruption(c,
                           "the L2 table at offset 0x%" PRIx64
                           " has a compressed cluster, in an encrypted image",
                           at);
            else if (entry & QCOW_L2_RESERVED)
                corruption(c, "the L2 table at offset 0x%" PRIx64 " has reserved bits set", at);
            else if (to % img->cluster_bytes != 0)
                corruption(c, "data at offset 0x%" PRIx64 " is not at the begin of a cluster", to);
            else if (to != 0)
                count_times(c, "data", to, img->cluster_bytes, times);
        }
    }
    return 0;
}

/* After all L1 tables and before anything else that could name the same clusters: what was counted
 * of an L2 table is how many L1 entries name it. */
static int count_l2s(struct count *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    for (uint32_t i = 0; i < img->n_host; i++) {
        bool is_l2 = img->use[i] == USE_L2 || img->use[i] == USE_SNAPSHOT_L2;
        if (is_l2 && count_l2(c, i * img->cluster_bytes, c->seen[i], e) < 0)
            return -1;
    }
    return 0;
}

static int count_l1(struct count *c, struct host l1, uint32_t n, struct err *e)
{
    const struct qcow_image *img = c->img;
    count_range(c, "an L1 table", l1.byte, (uint64_t)n * 8);
    for (uint32_t i = 0; i < n; i += PIECE) {
        size_t part = n - i < PIECE ? n - i : PIECE;
        struct host at = {l1.byte + (uint64_t)i * 8};
        if (qcow_read_table(img->blk, at, c->piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++) {
            uint64_t to = c->piece[k] & QCOW_OFFSET;
            if (c->piece[k] & QCOW_L1_RESERVED)
                corruption(c, "an L1 table has reserved bits set");
            if (to != 0)
                count_range(c, "an L2 table", to, img->cluster_bytes);
        }
    }
    return 0;
}

static int count_snapshot(void *ctx, const struct qcow_snapshot *s, struct err *e)
{
    struct count *c = ctx;
    if (c->img->header.version == 3 && s->extra_bytes < 16)
        corruption(c, "a snapshot has %" PRIu32 " bytes of extra data, must have 16",
                   s->extra_bytes);
    return s->l1_size > 0 ? count_l1(c, s->l1, s->l1_size, e) : 0;
}

static int count_reftable(struct count *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    const struct qcow_header *h = &img->header;
    uint64_t n = h->reftable_clusters * img->cluster_bytes / 8;
    count_range(c, "the refcount table", h->reftable.byte, n * 8);
    for (uint64_t i = 0; i < n; i += PIECE) {
        size_t part = n - i < PIECE ? (size_t)(n - i) : PIECE;
        struct host at = {h->reftable.byte + i * 8};
        if (qcow_read_table(img->blk, at, c->piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++)
            if (c->piece[k] != 0)
                count_range(c, "a refcount block", c->piece[k], img->cluster_bytes);
    }
    return 0;
}

/* ---- bitmaps [QCOW2 bitmaps] ---- */

enum { BITMAP_FIXED_BYTES = 24, BITMAP_LEAST_GRANULARITY = 512 };

/* Entries of the table of the finest bitmap: one bit for every 512 bytes of the disk. */
static uint64_t bitmap_entries_most(const struct qcow_image *img)
{
    return img->header.size / BITMAP_LEAST_GRANULARITY / 8 / img->cluster_bytes + 1;
}

static int count_bitmap(struct count *c, uint64_t table, uint32_t n, struct err *e)
{
    const struct qcow_image *img = c->img;
    if (!range_within(table, (uint64_t)n * 8, blk_size(img->blk))) {
        corruption(c, "a bitmap table at offset 0x%" PRIx64 " lies beyond the end of the file",
                   table);
        return 0;
    }
    if (n > bitmap_entries_most(img)) {
        corruption(c,
                   "the bitmap table at offset 0x%" PRIx64 " has %" PRIu32
                   " entries, a disk of this size needs at most %" PRIu64,
                   table, n, bitmap_entries_most(img));
        return 0;
    }
    c->n_entries += n + BITMAP_COST;
    if (c->n_entries > MAX_BITMAP_ENTRIES)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "there are more bitmaps than can be counted (more than %d entries in their "
                        "tables)",
                        MAX_BITMAP_ENTRIES);
    count_range(c, "a bitmap table", table, (uint64_t)n * 8);
    for (uint32_t i = 0; i < n; i += PIECE) {
        size_t part = n - i < PIECE ? n - i : PIECE;
        struct host at = {table + (uint64_t)i * 8};
        if (qcow_read_table(img->blk, at, c->piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++)
            if (c->piece[k] & QCOW_OFFSET)
                count_range(c, "a bitmap", c->piece[k] & QCOW_OFFSET, img->cluster_bytes);
    }
    return 0;
}

static int count_bitmaps(struct count *c, struct err *e)
{
    const struct qcow_header *h = &c->img->header;
    uint64_t used = 0;
    c->n_entries = 0;
    if (!h->has_bitmaps)
        return 0;
    count_range(c, "the bitmap directory", h->bitmap_dir.byte, h->bitmap_dir_bytes);
    for (uint32_t i = 0; i < h->n_bitmaps; i++) {
        uint8_t entry[BITMAP_FIXED_BYTES];
        if (!range_within(used, sizeof(entry), h->bitmap_dir_bytes)) {
            corruption(c, "the bitmap directory ends before its last entry");
            return 0;
        }
        struct host at = {h->bitmap_dir.byte + used};
        if (blk_read(c->img->blk, at, entry, sizeof(entry), e) < 0 ||
            count_bitmap(c, get_be64(entry), get_be32(entry + 8), e) < 0)
            return -1;
        used += sizeof(entry) + (uint64_t)get_be16(entry + 18) + get_be32(entry + 20);
        used = (used + 7) & ~UINT64_C(7);
    }
    return 0;
}

/* ---- the comparison ---- */

static int compare(void *ctx, uint32_t first, const uint64_t *refs, size_t n, struct err *e)
{
    struct count *c = ctx;
    (void)e;
    for (size_t i = 0; i < n; i++) {
        uint16_t *seen = &c->seen[first + i];
        uint64_t at = (first + i) * c->img->cluster_bytes;
        c->check.clusters += *seen > 0;
        if (refs[i] < *seen)
            corruption(c,
                       "the cluster at offset 0x%" PRIx64 " has %u"
                       " references and a refcount of %" PRIu64,
                       at, *seen, refs[i]);
        if (refs[i] > *seen && *seen < SEEN_MOST && c->check.leaks++ == 0)
            snprintf(c->first_leak, sizeof(c->first_leak),
                     "the cluster at offset 0x%" PRIx64 " has %u"
                     " references and a refcount of %" PRIu64,
                     at, *seen, refs[i]);
        *seen = 0; /* compared */
    }
    return 0;
}

/* COPIED says that the refcount is exactly one, in the active tables. */
static void check_copied(struct count *c)
{
    const struct qcow_image *img = c->img;
    for (uint32_t i = 0; i < img->n_guest; i++) {
        uint32_t host = img->map[i] & MAP_HOST;
        if (host != 0 && !(img->map[i] & MAP_COPIED) != (img->refs[host] != 1))
            corruption(c,
                       "cluster %" PRIu32 " of the disk is %s as not shared, its refcount is "
                       "%u",
                       i, img->map[i] & MAP_COPIED ? "marked" : "not marked", img->refs[host]);
    }
}

static void check_l1_entry(struct count *c, uint32_t i, uint64_t entry)
{
    const struct qcow_image *img = c->img;
    uint64_t host = (entry & QCOW_OFFSET) / img->cluster_bytes;
    if (host == 0 || host >= img->n_host)
        return;
    if (!(entry & QCOW_COPIED) != (img->refs[host] != 1))
        corruption(c, "L1 entry %" PRIu32 " is %s as not shared, its refcount is %u", i,
                   entry & QCOW_COPIED ? "marked" : "not marked", img->refs[host]);
}

static int check_l1_copied(struct count *c, struct err *e)
{
    const struct qcow_header *h = &c->img->header;
    for (uint32_t i = 0; i < h->l1_size; i += PIECE) {
        size_t part = h->l1_size - i < PIECE ? h->l1_size - i : PIECE;
        struct host at = {h->l1.byte + (uint64_t)i * 8};
        if (qcow_read_table(c->img->blk, at, c->piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++)
            check_l1_entry(c, i + (uint32_t)k, c->piece[k]);
    }
    return 0;
}

static int count_all(struct count *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    const struct qcow_header *h = &img->header;
    uint64_t bytes = 0;
    count_range(c, "the header", 0, img->cluster_bytes);
    count_range(c, "the LUKS area", h->luks.byte, h->luks_bytes);
    if (count_reftable(c, e) < 0 || count_l1(c, h->l1, h->l1_size, e) < 0 ||
        qcow_visit_snapshots(img->blk, h, count_snapshot, c, &bytes, e) < 0 ||
        count_l2s(c, e) < 0 || count_bitmaps(c, e) < 0)
        return -1;
    count_range(c, "the snapshot table", h->snapshots.byte, bytes);
    return 0;
}

/* What a tool has left as a mark is why qcow_arm() refuses: a clean check would be a lie. */
static void check_marks(struct count *c)
{
    uint64_t marks = c->img->header.incompatible;
    if (marks & QCOW_CORRUPT)
        corruption(c, "the image is marked corrupt; `qemu-img check -r all` repairs it");
    if (marks & QCOW_DIRTY)
        corruption(c, "the image is marked dirty by a writer that did not end in order; `qemu-img "
                      "check -r all` repairs it");
}

int qcow_check_image(const struct qcow_image *img, struct qcow_check *ret, struct err *e)
{
    OWNED_HEAP uint16_t *seen = calloc(img->n_host, sizeof(*seen));
    OWNED_HEAP uint64_t *piece = malloc(PIECE * sizeof(*piece));
    struct count c = {.img = img, .seen = seen, .piece = piece};
    if (!seen || !piece)
        return err_nomem(e, "counting references");
    check_marks(&c);
    if (count_all(&c, e) < 0)
        return -1;
    if (qcow_visit_refs(img, &(struct qcow_refs_visitor){compare, &c}, e) < 0)
        return -1;
    for (uint32_t i = 0; i < img->n_host; i++) /* no refcount block speaks of these */
        if (seen[i] > 0)
            corruption(&c, "the cluster at offset 0x%" PRIx64 " is in use and has no refcount",
                       i * img->cluster_bytes);
    check_copied(&c);
    if (check_l1_copied(&c, e) < 0)
        return -1;
    if (c.check.corruptions == 0)
        memcpy(c.check.first, c.first_leak, sizeof(c.check.first));
    *ret = c.check;
    return 0;
}
