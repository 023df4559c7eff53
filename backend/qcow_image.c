#include <inttypes.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "backend/qcow_snapshot.h"
#include "src/base/bytes.h"

/* What may be read in order to refuse an image is bounded, whatever its size says. */
enum {
    PIECE = 8192,             /* entries of a table read at a time */
    MAX_L1_ENTRIES = 1 << 17, /* of all L1 tables together */
    MAX_L2_ENTRIES = 1 << 21, /* of all active L2 tables together */
    READ_COST = 64,           /* in entries: one more read */
    MAX_SNAPSHOTS = 1 << 13,
};

void qcow_image_free(struct qcow_image *img)
{
    if (!img)
        return;
    free(img->map);
    free(img->use);
    free(img->refs);
    free(img);
}

const struct qcow_header *qcow_image_header(const struct qcow_image *img)
{
    return &img->header;
}

const struct luks_header *qcow_image_luks(const struct qcow_image *img)
{
    return &img->luks;
}

const struct blk *qcow_image_blk(const struct qcow_image *img)
{
    return img->blk;
}

/* ---- who uses which cluster ---- */

static const char *const use_names[] = {
    [USE_NONE] = "nothing",
    [USE_HEADER] = "the header",
    [USE_REFTABLE] = "the refcount table",
    [USE_REFBLOCK] = "a refcount block",
    [USE_L1] = "the L1 table",
    [USE_L2] = "an L2 table",
    [USE_LUKS] = "the LUKS area",
    [USE_DATA] = "data",
    [USE_SNAPSHOT_TABLE] = "the snapshot table",
    [USE_SNAPSHOT_L1] = "a snapshot's L1 table",
    [USE_SNAPSHOT_L2] = "a snapshot's L2 table",
    [USE_BITMAP_DIR] = "the bitmap directory",
};

/* Offset of one cluster, from a table entry. */
static int check_cluster(const struct qcow_image *img, enum use use, uint64_t at, struct err *e)
{
    if (at % img->cluster_bytes != 0)
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "offset 0x%" PRIx64 " of %s is not at the begin of a cluster", at,
                        use_names[use]);
    if (at / img->cluster_bytes >= img->n_host)
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "%s at offset 0x%" PRIx64 " lies beyond the end of the file (%" PRIu64
                        " bytes); is the file cut off?",
                        use_names[use], at, blk_size(img->blk));
    return 0;
}

/* The clusters of [at, at + n) become `use`. No cluster is used twice. */
static int claim_clusters(struct qcow_image *img, enum use use, uint64_t at, uint64_t n,
                          struct err *e)
{
    if (check_cluster(img, use, at, e) < 0 ||
        (n > 0 && check_cluster(img, use, (at + n - 1) & ~(img->cluster_bytes - 1), e) < 0))
        return -1;
    uint64_t first = at / img->cluster_bytes;
    uint64_t end = (at + n + img->cluster_bytes - 1) / img->cluster_bytes;
    for (uint64_t c = first; c < end; c++) {
        if (img->use[c] != USE_NONE)
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                            "the cluster at offset 0x%" PRIx64 " is used twice: as %s and as %s",
                            c * img->cluster_bytes, use_names[img->use[c]], use_names[use]);
        img->use[c] = (uint8_t)use;
    }
    return 0;
}

/* A table of one whole cluster. */
static int claim_table(struct qcow_image *img, enum use use, uint64_t at, struct err *e)
{
    if (claim_clusters(img, use, at, img->cluster_bytes, e) < 0)
        return -1;
    if (!range_within(at, img->cluster_bytes, blk_size(img->blk)))
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "%s at offset 0x%" PRIx64 " reaches beyond the end of the file; is it cut "
                        "off?",
                        use_names[use], at);
    return 0;
}

/* ---- tables ---- */

static int reserved_bits(const struct qcow_image *img, const char *what, uint64_t i, uint64_t entry,
                         struct err *e)
{
    return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                    "entry %" PRIu64 " of %s is 0x%016" PRIx64 ": reserved bits are set", i, what,
                    entry);
}

static int open_reftable(struct qcow_image *img, uint64_t *piece, struct err *e)
{
    const struct qcow_header *h = &img->header;
    uint64_t bytes = h->reftable_clusters * img->cluster_bytes, n = bytes / 8;
    if (claim_clusters(img, USE_REFTABLE, h->reftable.byte, bytes, e) < 0)
        return -1;
    for (uint64_t at = 0; at < n; at += PIECE) {
        size_t part = n - at < PIECE ? (size_t)(n - at) : PIECE;
        if (qcow_read_table(img->blk, (struct host){h->reftable.byte + at * 8}, piece, part, e) < 0)
            return -1;
        for (size_t i = 0; i < part; i++) {
            if (piece[i] & QCOW_REF_RESERVED)
                return reserved_bits(img, "the refcount table", at + i, piece[i], e);
            if (piece[i] != 0 && claim_table(img, USE_REFBLOCK, piece[i], e) < 0)
                return -1;
        }
    }
    return 0;
}

static int map_entry(struct qcow_image *img, uint64_t guest, uint64_t entry, struct err *e)
{
    uint64_t at = entry & QCOW_OFFSET;
    if (entry & QCOW_COMPRESSED)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "cluster %" PRIu64 " of the disk is compressed, and compressed clusters "
                        "are not encrypted; `qemu-img convert` makes an image without them",
                        guest);
    if (entry & QCOW_L2_RESERVED)
        return reserved_bits(img, "the L2 tables", guest, entry, e);
    if ((entry & QCOW_ZERO) && img->header.version == 2)
        return reserved_bits(img, "the L2 tables (zero flag in version 2)", guest, entry, e);
    if (at == 0) /* unallocated, or reads as zeroes */
        return 0;
    if (claim_clusters(img, USE_DATA, at, 1, e) < 0)
        return -1;
    if (guest < img->n_guest)
        img->map[guest] = (uint32_t)(at / img->cluster_bytes) |
                          (entry & QCOW_COPIED ? MAP_COPIED : 0) |
                          (entry & QCOW_ZERO ? MAP_ZERO : 0);
    return 0;
}

/* The entries [first, first + n) of the disk's clusters, from one or more L2 tables at `at`. */
static int open_l2(struct qcow_image *img, uint64_t first, uint64_t at, uint64_t n, uint64_t *piece,
                   struct err *e)
{
    for (uint64_t i = 0; i < n; i += PIECE) {
        size_t part = n - i < PIECE ? (size_t)(n - i) : PIECE;
        if (qcow_read_table(img->blk, (struct host){at + i * 8}, piece, part, e) < 0)
            return -1;
        for (size_t k = 0; k < part; k++)
            if (piece[k] != 0 && map_entry(img, first + i + k, piece[k], e) < 0)
                return -1;
    }
    return 0;
}

static int too_large(const struct qcow_image *img, const char *what, uint64_t n, uint64_t most,
                     struct err *e)
{
    return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                    "%s: %" PRIu64 ", at most %" PRIu64 " are supported for a state image", what, n,
                    most);
}

static int read_l1(struct qcow_image *img, uint64_t **ret, struct err *e)
{
    const struct qcow_header *h = &img->header;
    OWNED_HEAP uint64_t *l1 = calloc((size_t)h->l1_size + 1, sizeof(*l1));
    if (!l1)
        return err_nomem(e, "the L1 table");
    if (h->l1_size > 0 &&
        (claim_clusters(img, USE_L1, h->l1.byte, (uint64_t)h->l1_size * 8, e) < 0 ||
         qcow_read_table(img->blk, h->l1, l1, h->l1_size, e) < 0))
        return -1;
    for (uint32_t i = 0; i < h->l1_size; i++) {
        if (l1[i] & QCOW_L1_RESERVED)
            return reserved_bits(img, "the L1 table", i, l1[i], e);
        if ((l1[i] & QCOW_OFFSET) && claim_table(img, USE_L2, l1[i] & QCOW_OFFSET, e) < 0)
            return -1;
    }
    *ret = MOVE(l1);
    return 0;
}

/* How many L2 tables, beginning with that of entry i, lie one after the other in the file. */
static uint32_t l2_run(const struct qcow_image *img, const uint64_t *l1, uint32_t i)
{
    uint32_t n = 1;
    while (i + n < img->header.l1_size &&
           (l1[i + n] & QCOW_OFFSET) == (l1[i] & QCOW_OFFSET) + n * img->cluster_bytes)
        n++;
    return n;
}

/* After everything else was claimed: data that lies in a table is found as such. */
static int open_l2s(struct qcow_image *img, const uint64_t *l1, uint64_t *piece, struct err *e)
{
    uint64_t n_entries = 0, per_l2 = img->cluster_bytes / 8;
    for (uint32_t i = 0, n; i < img->header.l1_size; i += n) {
        uint64_t at = l1[i] & QCOW_OFFSET;
        n = 1;
        if (at == 0)
            continue;
        n = l2_run(img, l1, i);
        n_entries += n * per_l2 + READ_COST;
        if (n_entries > MAX_L2_ENTRIES)
            return too_large(img, "entries of L2 tables", n_entries, MAX_L2_ENTRIES, e);
        if (open_l2(img, i * per_l2, at, n * per_l2, piece, e) < 0)
            return -1;
    }
    return 0;
}

/* ---- snapshots: what they share with the active tables, and what must stay apart ---- */

struct snapshots {
    struct qcow_image *img;
    uint64_t *piece;
    uint64_t n_entries;
};

/* Snapshots share L2 tables with each other and with the active disk, nothing else. */
static int share_l2(struct qcow_image *img, uint64_t at, struct err *e)
{
    if (check_cluster(img, USE_SNAPSHOT_L2, at, e) < 0)
        return -1;
    uint8_t use = img->use[at / img->cluster_bytes];
    if (use == USE_L2 || use == USE_SNAPSHOT_L2)
        return 0;
    return claim_table(img, USE_SNAPSHOT_L2, at, e);
}

static int open_snapshot(void *ctx, const struct qcow_snapshot *s, struct err *e)
{
    struct snapshots *all = ctx;
    struct qcow_image *img = all->img;
    uint64_t bytes = (uint64_t)s->l1_size * 8;
    all->n_entries += s->l1_size;
    if (all->n_entries > MAX_L1_ENTRIES)
        return too_large(img, "entries of L1 tables", all->n_entries, MAX_L1_ENTRIES, e);
    if (s->l1_size == 0 || (img->of_snapshot && s->l1.byte == img->header.l1.byte))
        return 0;
    if (claim_clusters(img, USE_SNAPSHOT_L1, s->l1.byte, bytes, e) < 0)
        return -1;
    for (uint32_t at = 0; at < s->l1_size; at += PIECE) {
        size_t part = s->l1_size - at < PIECE ? s->l1_size - at : PIECE;
        struct host from = {s->l1.byte + (uint64_t)at * 8};
        if (qcow_read_table(img->blk, from, all->piece, part, e) < 0)
            return -1;
        for (size_t i = 0; i < part; i++)
            if ((all->piece[i] & QCOW_OFFSET) && share_l2(img, all->piece[i] & QCOW_OFFSET, e) < 0)
                return -1;
    }
    return 0;
}

static int open_snapshots(struct qcow_image *img, uint64_t *piece, struct err *e)
{
    struct snapshots all = {img, piece, img->header.l1_size};
    uint64_t bytes = 0;
    if (img->header.n_snapshots == 0)
        return 0;
    if (img->header.n_snapshots > MAX_SNAPSHOTS)
        return too_large(img, "snapshots", img->header.n_snapshots, MAX_SNAPSHOTS, e);
    if (qcow_visit_snapshots(img->blk, &img->header, open_snapshot, &all, &bytes, e) < 0)
        return -1;
    if (!range_within(img->header.snapshots.byte, bytes, blk_size(img->blk)))
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "the snapshot table reaches beyond the end of the file");
    img->snapshots_bytes = bytes;
    return claim_clusters(img, USE_SNAPSHOT_TABLE, img->header.snapshots.byte, bytes, e);
}

/* ---- refcounts ---- */

static int note_refs(void *ctx, uint32_t first, const uint64_t *refs, size_t n, struct err *e)
{
    struct qcow_image *img = ctx;
    (void)e;
    for (size_t i = 0; i < n; i++)
        img->refs[first + i] = refs[i] > 255 ? 255 : (uint8_t)refs[i];
    return 0;
}

static int open_refs(struct qcow_image *img, struct err *e)
{
    if (qcow_visit_refs(img, &(struct qcow_refs_visitor){note_refs, img}, e) < 0)
        return -1;
    if (img->header.incompatible & QCOW_DIRTY) /* says that refcounts may be too low */
        return 0;
    for (uint32_t c = 0; c < img->n_host; c++)
        if (img->use[c] != USE_NONE && img->refs[c] == 0)
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                            "the cluster at offset 0x%" PRIx64
                            " is in use (%s) but its refcount is 0; `qemu-img check -r all` on a "
                            "copy may repair it",
                            c * img->cluster_bytes, use_names[img->use[c]]);
    return 0;
}

/* ---- opening ---- */

static int read_header(const struct blk *b, struct qcow_header *ret, struct qcow_oddities *odd,
                       struct err *e)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    size_t n = blk_size(b) < sizeof(bytes) ? (size_t)blk_size(b) : sizeof(bytes);
    if (blk_read(b, (struct host){0}, bytes, n, e) < 0)
        return -1;
    if (qcow_header_decode(bytes, n, blk_size(b), ret, odd, e) < 0)
        return err_prefix(e, "%s", blk_name(b));
    return 0;
}

static int read_luks(const struct blk *b, const struct qcow_header *h, struct luks_header *ret,
                     struct err *e)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    if (blk_read(b, h->luks, bytes, sizeof(bytes), e) < 0)
        return -1;
    if (luks_header_decode(bytes, h->luks_bytes, ret, e) < 0)
        return err_prefix(e, "%s", blk_name(b));
    return 0;
}

/* Two layers the wrong way round look like this from outside. */
static int not_encrypted(const struct blk *b, const struct qcow_header *h, struct err *e)
{
    return qcow_bad(b, ERR_KEY_UNEXPECTED, e,
                    "a key was given, but this qcow2 image (%" PRIu64
                    " bytes of disk) is not encrypted; nvkeep serves encrypted images alone. If "
                    "encryption was expected, somebody replaced the image; otherwise `nvkeep "
                    "create` makes a new one",
                    h->size);
}

static int allocate(struct qcow_image *img, struct err *e)
{
    const struct qcow_header *h = &img->header;
    uint64_t cluster = img->cluster_bytes = UINT64_C(1) << h->cluster_bits;
    uint64_t n_guest = h->size / cluster + (h->size % cluster != 0);
    uint64_t n_host = blk_size(img->blk) / cluster + (blk_size(img->blk) % cluster != 0);
    if (n_guest > QCOW_MAX_GUEST)
        return too_large(img, "clusters of the disk", n_guest, QCOW_MAX_GUEST, e);
    if (n_host > QCOW_MAX_HOST)
        return too_large(img, "clusters of the file", n_host, QCOW_MAX_HOST, e);
    if (h->l1_size > MAX_L1_ENTRIES)
        return too_large(img, "entries of the L1 table", h->l1_size, MAX_L1_ENTRIES, e);
    img->n_guest = (uint32_t)n_guest;
    img->n_host = (uint32_t)n_host;
    img->map = calloc(n_guest + 1, sizeof(*img->map));
    img->use = calloc(n_host, 1);
    img->refs = calloc(n_host, 1);
    if (!img->map || !img->use || !img->refs)
        return err_nomem(e, "the tables of an image");
    return 0;
}

static int open_tables(struct qcow_image *img, struct err *e)
{
    const struct qcow_header *h = &img->header;
    OWNED_HEAP uint64_t *piece = malloc(PIECE * sizeof(*piece));
    OWNED_HEAP uint64_t *l1 = NULL;
    if (!piece)
        return err_nomem(e, "a table");
    if (claim_clusters(img, USE_HEADER, 0, 1, e) < 0 ||
        claim_clusters(img, USE_LUKS, h->luks.byte, h->luks_bytes, e) < 0 ||
        open_reftable(img, piece, e) < 0 || read_l1(img, &l1, e) < 0)
        return -1;
    if (h->has_bitmaps &&
        claim_clusters(img, USE_BITMAP_DIR, h->bitmap_dir.byte, h->bitmap_dir_bytes, e) < 0)
        return -1;
    if (open_snapshots(img, piece, e) < 0 || open_l2s(img, l1, piece, e) < 0)
        return -1;
    return open_refs(img, e);
}

/* s NULL: what lives. */
static int open_tree(const struct blk *b, const struct snapshot_facts *s, struct qcow_image **ret,
                     struct err *e)
{
    OWNED(qcow_image) img = calloc(1, sizeof(*img));
    if (!img)
        return err_nomem(e, "an image");
    img->blk = b;
    img->claimed = blk_is_claimed(b);
    if (read_header(b, &img->header, NULL, e) < 0)
        return -1;
    if (s) {
        img->header.l1 = s->l1;
        img->header.l1_size = s->l1_size;
        img->of_snapshot = true;
    }
    if (img->header.crypt_method == 0)
        return not_encrypted(b, &img->header, e);
    if (read_luks(b, &img->header, &img->luks, e) < 0 || allocate(img, e) < 0 ||
        open_tables(img, e) < 0)
        return -1;
    *ret = MOVE(img);
    return 0;
}

int qcow_open(const struct blk *b, struct qcow_image **ret, struct err *e)
{
    return open_tree(b, NULL, ret, e);
}

int qcow_open_snapshot(const struct blk *b, const struct snapshot_facts *s, struct qcow_image **ret,
                       struct err *e)
{
    return open_tree(b, s, ret, e);
}

int qcow_inspect(const struct blk *b, struct qcow_facts *ret, struct err *e)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_facts facts = {0};
    OWNED(qcow_image) img = NULL;
    struct err luks_error = {0};
    size_t n = blk_size(b) < sizeof(bytes) ? (size_t)blk_size(b) : sizeof(bytes);
    if (blk_read(b, (struct host){0}, bytes, n, e) < 0)
        return -1;
    if (qcow_header_decode(bytes, n, blk_size(b), &facts.header, &facts.odd, &facts.refused) < 0) {
        if (!qcow_header_peek(bytes, n, &facts.header)) {
            *e = facts.refused; /* there is nothing to tell */
            return err_prefix(e, "%s", blk_name(b));
        }
        err_prefix(&facts.refused, "%s", blk_name(b));
        *ret = facts;
        return 0;
    }
    if (facts.header.crypt_method != 0)
        facts.has_luks = read_luks(b, &facts.header, &facts.luks, &luks_error) == 0;
    if (luks_error.kind == ERR_STORAGE) { /* not read is not "none" */
        *e = luks_error;
        return -1;
    }
    if (qcow_open(b, &img, &facts.refused) == 0)
        facts.refused = (struct err){0};
    if (facts.refused.kind == ERR_STORAGE) {
        *e = facts.refused;
        return -1;
    }
    *ret = facts;
    return 0;
}
