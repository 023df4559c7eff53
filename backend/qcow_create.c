#include <inttypes.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

/* A new file, cluster by cluster:
 *
 *     header | refcount table | refcount blocks | LUKS area | L1 | L2 tables | data
 */
struct plan {
    uint64_t cluster;
    uint64_t n_reftable, n_refblocks, n_luks, n_l1, n_l2, n_data;
    uint64_t luks_bytes;
};

struct qcow_new {
    struct blk_rw *w;
    const struct plan *plan;
    uint64_t sectors;
    struct host data;
    struct sector_cipher *cipher;
};

enum {
    REFCOUNT_ORDER = 4, /* 16 bits */
    HEADER_BYTES = 112,
    CHUNK_BYTES = 256 * 1024,
};

static uint64_t up(uint64_t n, uint64_t unit)
{
    return n / unit + (n % unit != 0);
}

static uint64_t total(const struct plan *p)
{
    return 1 + p->n_reftable + p->n_refblocks + p->n_luks + p->n_l1 + p->n_l2 + p->n_data;
}

/* The refcounts count themselves too: grow them until they cover everything. */
static struct plan plan_for(const struct qcow_create *c)
{
    struct plan p = {.cluster = UINT64_C(1) << c->cluster_bits, .n_reftable = 1, .n_refblocks = 1};
    uint64_t per_block = p.cluster / 2;
    p.luks_bytes = luks_area_bytes(c->luks.cipher.key_bytes);
    p.n_luks = up(p.luks_bytes, p.cluster);
    p.n_data = up(c->size, p.cluster);
    p.n_l2 = up(p.n_data, p.cluster / 8);
    p.n_l1 = up(p.n_l2 * 8, p.cluster);
    while (p.n_refblocks * per_block < total(&p) ||
           p.n_reftable * (p.cluster / 8) < p.n_refblocks) {
        p.n_refblocks = up(total(&p), per_block);
        p.n_reftable = up(p.n_refblocks, p.cluster / 8);
    }
    return p;
}

static uint64_t place(const struct plan *p, uint64_t clusters_before)
{
    return clusters_before * p->cluster;
}
static uint64_t refblocks_at(const struct plan *p)
{
    return place(p, 1 + p->n_reftable);
}
static uint64_t luks_at(const struct plan *p)
{
    return place(p, 1 + p->n_reftable + p->n_refblocks);
}
static uint64_t l1_at(const struct plan *p)
{
    return luks_at(p) + p->n_luks * p->cluster;
}
static uint64_t l2_at(const struct plan *p)
{
    return l1_at(p) + p->n_l1 * p->cluster;
}
static uint64_t data_at(const struct plan *p)
{
    return l2_at(p) + p->n_l2 * p->cluster;
}

uint64_t qcow_create_bytes(const struct qcow_create *c)
{
    struct plan p = plan_for(c);
    return total(&p) * p.cluster;
}

/* ---- writing it ---- */

/* n_clusters of numbers of `width` bytes; value(i) for the first n, then zeroes. */
struct series {
    uint64_t at, n_clusters, n;
    unsigned width;
    uint64_t first, step;
};

static int write_series(struct blk_rw *w, const struct plan *p, const struct series *s,
                        struct err *e)
{
    OWNED_HEAP uint8_t *cluster = malloc(p->cluster);
    uint64_t i = 0;
    if (!cluster)
        return err_nomem(e, "a table of the new image");
    for (uint64_t c = 0; c < s->n_clusters; c++) {
        memset(cluster, 0, p->cluster);
        for (uint64_t at = 0; at < p->cluster && i < s->n; at += s->width, i++)
            if (s->width == 2)
                put_be16(cluster + at, (uint16_t)(s->first + i * s->step));
            else
                put_be64(cluster + at, s->first + i * s->step);
        if (blk_write(w, (struct host){s->at + c * p->cluster}, cluster, p->cluster, e) < 0)
            return -1;
    }
    return 0;
}

static int write_tables(struct blk_rw *w, const struct plan *p, struct err *e)
{
    struct series reftable = {p->cluster, p->n_reftable,   p->n_refblocks,
                              8,          refblocks_at(p), p->cluster};
    struct series refblocks = {refblocks_at(p), p->n_refblocks, total(p), 2, 1, 0};
    struct series l1 = {l1_at(p), p->n_l1, p->n_l2, 8, l2_at(p) | QCOW_COPIED, p->cluster};
    struct series l2 = {l2_at(p), p->n_l2, p->n_data, 8, data_at(p) | QCOW_COPIED, p->cluster};
    if (write_series(w, p, &reftable, e) < 0 || write_series(w, p, &refblocks, e) < 0 ||
        write_series(w, p, &l1, e) < 0)
        return -1;
    return write_series(w, p, &l2, e);
}

static int write_luks(struct blk_rw *w, const struct plan *p, const struct qcow_create *c,
                      struct err *e)
{
    uint8_t header[LUKS_HEADER_BYTES];
    size_t n = (size_t)luks_slot_sectors(c->luks.cipher.key_bytes) * SECTOR_BYTES;
    luks_header_encode(&c->luks, header);
    if (blk_write(w, (struct host){luks_at(p)}, header, sizeof(header), e) < 0)
        return -1;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        uint64_t at = luks_at(p) + (uint64_t)c->luks.slot[i].material_sector * SECTOR_BYTES;
        if (c->material[i] && blk_write(w, (struct host){at}, c->material[i], n, e) < 0)
            return -1;
    }
    return 0;
}

/* Every cluster holds encrypted zeroes and is really written: the first write of a cluster that is
 * only reserved would cost the file system a change of its own metadata at the first commit. */
static int write_zeroes(struct qcow_new *n, struct err *e)
{
    uint64_t bytes = n->plan->n_data * n->plan->cluster;
    OWNED_HEAP uint8_t *chunk = malloc(CHUNK_BYTES);
    if (!chunk)
        return err_nomem(e, "the data of the new image");
    for (uint64_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t part = bytes - at < CHUNK_BYTES ? (size_t)(bytes - at) : CHUNK_BYTES;
        struct host to = {n->data.byte + at};
        memset(chunk, 0, part);
        sector_encrypt(n->cipher, to.byte / SECTOR_BYTES, part / SECTOR_BYTES, chunk);
        if (blk_write(n->w, to, chunk, part, e) < 0)
            return -1;
    }
    return 0;
}

int qcow_new_write(struct qcow_new *n, struct sector first, size_t n_sectors, uint8_t *buf,
                   struct err *e)
{
    if (!range_within(first.nr, n_sectors, n->sectors))
        return err_set(e, ERR_USAGE,
                       "writing sectors %" PRIu64 " to %" PRIu64 " of a disk of %" PRIu64, first.nr,
                       first.nr + n_sectors - 1, n->sectors);
    struct host to = {n->data.byte + first.nr * SECTOR_BYTES};
    sector_encrypt(n->cipher, to.byte / SECTOR_BYTES, n_sectors, buf);
    return blk_write(n->w, to, buf, n_sectors * SECTOR_BYTES, e);
}

static void header_for(const struct plan *p, const struct qcow_create *c, struct qcow_header *ret)
{
    *ret = (struct qcow_header){
        .version = 3,
        .cluster_bits = c->cluster_bits,
        .size = c->size,
        .crypt_method = 2,
        .l1_size = (uint32_t)p->n_l2,
        .l1 = {l1_at(p)},
        .reftable = {p->cluster},
        .reftable_clusters = (uint32_t)p->n_reftable,
        .refcount_order = REFCOUNT_ORDER,
        .header_length = HEADER_BYTES,
        .luks = {luks_at(p)},
        .luks_bytes = p->luks_bytes,
        .ours = true,
        .our_version = 1,
    };
    memcpy(ret->instance, c->instance, sizeof(ret->instance));
}

static int check_create(const struct qcow_create *c, struct err *e)
{
    if (c->cluster_bits < 9 || c->cluster_bits > 21)
        return err_set(e, ERR_USAGE, "a cluster size of 2^%u bytes; 2^9 to 2^21 are possible",
                       c->cluster_bits);
    if (c->size == 0 || c->size % 4096 != 0)
        return err_set(e, ERR_USAGE, "a disk of %" PRIu64 " bytes; it must be a multiple of 4096",
                       c->size);
    if (up(c->size, UINT64_C(1) << c->cluster_bits) > QCOW_MAX_GUEST)
        return err_set(e, ERR_USAGE,
                       "a disk of %" PRIu64 " bytes is too large for clusters of %" PRIu64
                       " bytes: at most %d clusters",
                       c->size, UINT64_C(1) << c->cluster_bits, QCOW_MAX_GUEST);
    return 0;
}

int qcow_format(struct blk_rw *w, const struct qcow_create *c, const struct volume_key *key,
                int (*fill)(void *ctx, struct qcow_new *n, const uint8_t header_digest[32],
                            struct err *e),
                void *ctx, struct err *e)
{
    if (check_create(c, e) < 0)
        return -1;
    struct plan p = plan_for(c);
    struct qcow_new n = {w, &p, c->size / SECTOR_BYTES, {data_at(&p)}, NULL};
    OWNED(sector_cipher) cipher = NULL;
    uint8_t digest[32], bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    header_for(&p, c, &h);
    qcow_header_digest(&h, &c->luks, digest);
    qcow_header_encode(&h, bytes);
    if (sector_cipher_new(&c->luks.cipher, key, &cipher, e) < 0)
        return -1;
    n.cipher = cipher;

    if (write_tables(w, &p, e) < 0 || write_luks(w, &p, c, e) < 0 || write_zeroes(&n, e) < 0 ||
        fill(ctx, &n, digest, e) < 0 || blk_flush(w, e) < 0)
        return -1;
    /* From here on it is an image: one sector, which a disk writes whole or not at all. */
    if (blk_write(w, (struct host){0}, bytes, SECTOR_BYTES, e) < 0)
        return -1;
    return blk_flush(w, e);
}
