#include <inttypes.h>
#include <string.h>

#include "backend/qcow_key_io.h"
#include "backend/qcow_priv.h"
#include "backend/qcow_snapshot.h"
#include "src/base/bytes.h"

enum {
    FIRST_FREE_SECTOR = 8, /* the first eight belong to the reference sector */
    FEW_BITS = 8,          /* two random uuids differ in about 60 */
};

/* ---- the volume ---- */

void qcow_volume_free(struct qcow_volume *v)
{
    if (!v)
        return;
    sector_cipher_free(v->cipher);
    volume_key_free(v->key);
    qcow_image_free(v->img);
    free(v);
}

int qcow_unlock(struct qcow_image **img, struct volume_key **key, struct qcow_volume **ret,
                struct err *e)
{
    OWNED(qcow_volume) v = calloc(1, sizeof(*v));
    if (!v)
        return err_nomem(e, "a volume");
    if (sector_cipher_new(&(*img)->luks.cipher, *key, &v->cipher, e) < 0)
        return -1;
    v->img = MOVE(*img);
    v->key = MOVE(*key);
    *ret = MOVE(v);
    return 0;
}

uint64_t qcow_volume_sectors(const struct qcow_volume *v)
{
    return v->img->header.size / SECTOR_BYTES;
}

/* Sectors that lie one after the other in the file, or are no part of it. */
struct run {
    struct host at; /* 0: reads as zeroes */
    size_t n;
};

static uint64_t place_of(const struct qcow_image *img, uint64_t sector)
{
    uint64_t byte = sector * SECTOR_BYTES;
    uint32_t entry = img->map[byte / img->cluster_bytes];
    if ((entry & MAP_HOST) == 0 || (entry & MAP_ZERO))
        return 0;
    return (entry & MAP_HOST) * img->cluster_bytes + byte % img->cluster_bytes;
}

/* The longest run that begins at `sector`, of at most `most` sectors. */
static struct run next_run(const struct qcow_image *img, uint64_t sector, size_t most)
{
    uint64_t per_cluster = img->cluster_bytes / SECTOR_BYTES;
    struct run r = {{place_of(img, sector)}, per_cluster - sector % per_cluster};
    while (r.n < most) {
        uint64_t at = place_of(img, sector + r.n);
        if (at != (r.at.byte ? r.at.byte + r.n * SECTOR_BYTES : 0))
            break;
        r.n += per_cluster;
    }
    if (r.n > most)
        r.n = most;
    return r;
}

/* The last cluster of a file may be short; what lacks counts as zeroes, ciphertext like the rest.
 */
static int read_ciphertext(const struct qcow_image *img, const struct run *r, uint8_t *buf,
                           struct err *e)
{
    uint64_t n = r->n * SECTOR_BYTES, size = blk_size(img->blk);
    uint64_t there = r->at.byte >= size ? 0 : size - r->at.byte;
    if (there > n)
        there = n;
    memset(buf + there, 0, n - there);
    return there > 0 ? blk_read(img->blk, r->at, buf, there, e) : 0;
}

static int read_runs(const struct qcow_volume *v, uint64_t first, size_t n_sectors, uint8_t *buf,
                     struct err *e)
{
    for (size_t done = 0; done < n_sectors;) {
        struct run r = next_run(v->img, first + done, n_sectors - done);
        uint8_t *at = buf + done * SECTOR_BYTES;
        if (r.at.byte == 0)
            memset(at, 0, r.n * SECTOR_BYTES);
        else if (read_ciphertext(v->img, &r, at, e) < 0)
            return -1;
        else
            sector_decrypt(v->cipher, r.at.byte / SECTOR_BYTES, r.n, at);
        done += r.n;
    }
    return 0;
}

static int beyond_end(const struct qcow_volume *v, uint64_t first, size_t n, struct err *e)
{
    return qcow_bad(v->img->blk, ERR_USAGE, e,
                    "sectors %" PRIu64 " to %" PRIu64 " of a disk of %" PRIu64, first,
                    first + n - 1, qcow_volume_sectors(v));
}

int qcow_volume_read(const struct qcow_volume *v, struct sector first, size_t n_sectors,
                     uint8_t *buf, struct err *e)
{
    if (!range_within(first.nr, n_sectors, qcow_volume_sectors(v)))
        return beyond_end(v, first.nr, n_sectors, e);
    if (read_runs(v, first.nr, n_sectors, buf, e) == 0)
        return 0;
    wipe(buf, n_sectors * SECTOR_BYTES); /* no half of a payload */
    return -1;
}

/* ---- the disk ---- */

void qcow_disk_free(struct qcow_disk *d)
{
    if (!d)
        return;
    mac_key_free(d->record_key);
    qcow_volume_free(d->v);
    free(d);
}

/* nvkeep writes the reference sector before its mark in the header: there, it was lost. */
static int never_written(const struct qcow_volume *v, const char *how, struct err *e)
{
    if (v->img->header.ours)
        return qcow_bad(v->img->blk, ERR_STATE_CORRUPT, e,
                        "the key is right, but the reference sector, with which every image of "
                        "nvkeep begins, is gone (%s); restore the image from a backup",
                        how);
    return qcow_bad(v->img->blk, ERR_STATE_EMPTY, e,
                    "the key is right, but the disk inside holds no TPM state yet (%s); `nvkeep "
                    "create` makes an image with a TPM in it",
                    how);
}

static int read_reference(const struct qcow_volume *v, uint8_t *sector, struct err *e)
{
    if (qcow_volume_sectors(v) == 0)
        return never_written(v, "it has no sectors", e);
    struct run r = next_run(v->img, 0, 1);
    if (r.at.byte == 0)
        return never_written(v, "sector 0 was never written", e);
    if (read_ciphertext(v->img, &r, sector, e) < 0)
        return -1;
    if (bytes_all_zero(sector, SECTOR_BYTES))
        return never_written(v, "sector 0 is zero in the file", e);
    sector_decrypt(v->cipher, r.at.byte / SECTOR_BYTES, 1, sector);
    return 0;
}

/* The clear-text header says nvkeep; then a sector nobody recognises is damage. */
static int not_recognised(const struct qcow_volume *v, struct err *e)
{
    if (e->kind == ERR_STATE_FOREIGN && v->img->header.ours)
        e->kind = ERR_STATE_CORRUPT;
    return err_prefix(e, "%s", blk_name(v->img->blk));
}

static bool area_within(uint64_t first, uint64_t n, uint64_t sectors)
{
    return first >= FIRST_FREE_SECTOR && range_within(first, n, sectors);
}

static unsigned differing_bits(const uint8_t a[16], const uint8_t b[16])
{
    unsigned n = 0;
    for (size_t i = 0; i < 16; i++)
        n += (unsigned)__builtin_popcount(a[i] ^ b[i]);
    return n;
}

static int check_facts(const struct qcow_volume *v, const struct ref_facts *f, struct err *e)
{
    const struct qcow_header *h = &v->img->header;
    const struct store_layout *l = &f->layout;
    uint64_t sectors = qcow_volume_sectors(v);
    uint8_t digest[SHA256_BYTES];
    unsigned n_differ = h->ours ? differing_bits(h->instance, f->instance) : 0;
    if (n_differ > 0 && n_differ <= FEW_BITS)
        return qcow_bad(v->img->blk, ERR_STATE_CORRUPT, e,
                        "the name of the instance in the header is damaged: it differs in %u of "
                        "128 bits from that of the state inside",
                        n_differ);
    if (n_differ > 0)
        return qcow_bad(v->img->blk, ERR_STATE_FOREIGN, e,
                        "the header names another instance than the state inside: one of them was "
                        "taken from another image");
    qcow_header_digest(h, &v->img->luks, digest);
    if (memcmp(digest, f->header_digest, sizeof(digest)) != 0)
        return qcow_bad(v->img->blk, ERR_STATE_CORRUPT, e,
                        "the clear-text header was changed after the image was made: cluster size, "
                        "or cipher, hash or uuid of the LUKS header, are not those that the "
                        "reference sector vouches for");
    if (!area_within(l->checkpoint[0], l->checkpoint_sectors, sectors) ||
        !area_within(l->checkpoint[1], l->checkpoint_sectors, sectors) ||
        !area_within(l->log, l->log_sectors, sectors))
        return qcow_bad(v->img->blk, ERR_STATE_CORRUPT, e,
                        "the disk has %" PRIu64
                        " sectors, and the state that the reference sector describes does not fit "
                        "in; was the image made smaller?",
                        sectors);
    return 0;
}

/* Whose tree it is that lives, for qcow_disk_check_branch(). */
static int read_branch(const struct qcow_volume *v, struct qcow_disk *d, uint8_t *sector,
                       struct err *e)
{
    if (qcow_volume_read(v, (struct sector){1}, 1, sector, e) < 0)
        return -1;
    enum branch_verdict verdict = branch_sector_decode(d->record_key, sector, d->branch);
    if (verdict != BRANCH_DAMAGED && !(verdict == BRANCH_NOTHING && v->img->header.has_branch))
        return 0;
    return qcow_bad(v->img->blk, ERR_STATE_CORRUPT, e,
                    "sector 1 of the disk, which tells the state that lives from those of "
                    "snapshots, is damaged");
}

int qcow_attach(struct qcow_volume **v, struct qcow_disk **ret, struct err *e)
{
    OWNED(qcow_disk) d = calloc(1, sizeof(*d));
    OWNED(secret) sector = NULL;
    if (!d)
        return err_nomem(e, "a disk");
    if (secret_new(SECTOR_BYTES, &sector, e) < 0 || read_reference(*v, secret_bytes(sector), e) < 0)
        return -1;
    if (ref_sector_verify(secret_peek(sector), (*v)->key, &d->facts, &d->record_key, e) < 0)
        return not_recognised(*v, e);
    if (check_facts(*v, &d->facts, e) < 0 || read_branch(*v, d, secret_bytes(sector), e) < 0)
        return -1;
    d->v = MOVE(*v);
    volume_key_free(MOVE(d->v->key)); /* what is needed from now on was derived from it */
    *ret = MOVE(d);
    return 0;
}

const struct ref_facts *qcow_disk_facts(const struct qcow_disk *d)
{
    return &d->facts;
}

const struct mac_key *qcow_disk_record_key(const struct qcow_disk *d)
{
    return d->record_key;
}

const struct qcow_image *qcow_disk_image(const struct qcow_disk *d)
{
    return d->v->img;
}

int qcow_disk_read(const struct qcow_disk *d, struct sector first, size_t n_sectors, uint8_t *buf,
                   struct err *e)
{
    return qcow_volume_read(d->v, first, n_sectors, buf, e);
}

static bool is_in_file(const struct qcow_image *img, uint32_t host)
{
    return range_within(host * img->cluster_bytes, img->cluster_bytes, blk_size(img->blk));
}

static int check_area_whole(const struct qcow_image *img, uint64_t first, uint64_t n_sectors,
                            struct err *e)
{
    uint64_t per_cluster = img->cluster_bytes / SECTOR_BYTES;
    for (uint64_t c = first / per_cluster; c * per_cluster < first + n_sectors; c++) {
        uint32_t host = img->map[c] & MAP_HOST;
        if (host != 0 && !is_in_file(img, host))
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                            "cluster %" PRIu64
                            " of the state reaches beyond the end of the file (%" PRIu64
                            " bytes): the file is cut off",
                            c, blk_size(img->blk));
    }
    return 0;
}

int qcow_disk_check_whole(const struct qcow_disk *d, struct err *e)
{
    const struct qcow_image *img = d->v->img;
    const struct store_layout *l = &d->facts.layout;
    if (check_area_whole(img, l->checkpoint[0], l->checkpoint_sectors, e) < 0 ||
        check_area_whole(img, l->checkpoint[1], l->checkpoint_sectors, e) < 0)
        return -1;
    return check_area_whole(img, l->log, l->log_sectors, e);
}

/* ---- writing ---- */

void qcow_disk_rw_free(struct qcow_disk_rw *d)
{
    if (!d)
        return;
    qcow_disk_free(d->d);
    blk_rw_free(d->w);
    free(d);
}

/* Why this cluster cannot be overwritten in place; NULL: it can. */
static const char *not_in_place(const struct qcow_image *img, uint64_t guest)
{
    uint32_t entry = img->map[guest], host = entry & MAP_HOST;
    if (host == 0)
        return "is not allocated";
    if (entry & MAP_ZERO)
        return "is marked as zero";
    if (!(entry & MAP_COPIED) || img->refs[host] != 1)
        return "is marked as shared with a snapshot";
    if (img->use[host] != USE_DATA || !is_in_file(img, host))
        return "lies at the cut off end of the file";
    return NULL;
}

/* In an image that nvkeep has preallocated, only snapshots change that. */
static int cannot_be_written(const struct qcow_image *img, uint64_t guest, const char *why,
                             struct err *e)
{
    if (img->header.ours && img->header.n_snapshots == 0)
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "cluster %" PRIu64
                        " of the state %s, and the image has no snapshots: its tables are damaged; "
                        "`qemu-img check -r all` on a copy may repair them",
                        guest, why);
    return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                    "cluster %" PRIu64
                    " of the state %s and cannot be written in place; `qemu-img snapshot -l` shows "
                    "snapshots, `-d` deletes one, `qemu-img check -r all` repairs",
                    guest, why);
}

static bool is_area_shared(const struct qcow_image *img, uint64_t first, uint64_t n_sectors)
{
    uint64_t per_cluster = img->cluster_bytes / SECTOR_BYTES;
    for (uint64_t c = first / per_cluster; c * per_cluster < first + n_sectors; c++)
        if (not_in_place(img, c))
            return true;
    return false;
}

bool qcow_disk_is_shared(const struct qcow_disk *d)
{
    const struct qcow_image *img = d->v->img;
    const struct store_layout *l = &d->facts.layout;
    if (img->header.n_snapshots == 0)
        return false;
    return is_area_shared(img, l->checkpoint[0], l->checkpoint_sectors) ||
           is_area_shared(img, l->checkpoint[1], l->checkpoint_sectors) ||
           is_area_shared(img, l->log, l->log_sectors);
}

static int check_in_place(const struct qcow_image *img, uint64_t first, uint64_t n_sectors,
                          struct err *e)
{
    uint64_t per_cluster = img->cluster_bytes / SECTOR_BYTES;
    for (uint64_t c = first / per_cluster; c * per_cluster < first + n_sectors; c++) {
        const char *why = not_in_place(img, c);
        if (why)
            return cannot_be_written(img, c, why, e);
    }
    return 0;
}

int qcow_check_flags(const struct qcow_image *img, struct err *e)
{
    const struct qcow_header *h = &img->header;
    if (h->incompatible & QCOW_CORRUPT)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "the image is marked corrupt, and is not written to; `qemu-img check -r "
                        "all` repairs it (keep a copy)");
    if (h->incompatible & QCOW_DIRTY)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "the image is marked dirty: another writer did not end in order, its "
                        "refcounts may be wrong; `qemu-img check -r all` repairs it");
    if (h->autoclear != 0)
        return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                        "the image has %s, which writing would make wrong; `qemu-img bitmap "
                        "--remove` or `qemu-img convert` take them out",
                        h->has_bitmaps ? "dirty bitmaps" : "features that are not known here");
    return 0;
}

int qcow_arm(struct qcow_disk **d, struct blk_rw **w, struct qcow_disk_rw **ret, struct err *e)
{
    struct qcow_image *img = (*d)->v->img;
    const struct store_layout *l = &(*d)->facts.layout;
    OWNED_HEAP struct qcow_disk_rw *rw = calloc(1, sizeof(*rw));
    if (!rw)
        return err_nomem(e, "a disk");
    if (img->blk != blk_of(*w) || !img->claimed)
        return qcow_bad(img->blk, ERR_USAGE, e,
                        "the image was opened before it was claimed, or is not the claimed one");
    if (qcow_check_flags(img, e) < 0 ||
        check_in_place(img, l->checkpoint[0], l->checkpoint_sectors, e) < 0 ||
        check_in_place(img, l->checkpoint[1], l->checkpoint_sectors, e) < 0 ||
        check_in_place(img, l->log, l->log_sectors, e) < 0 || qcow_count_references(img, e) < 0)
        return -1;
    rw->d = MOVE(*d);
    rw->w = MOVE(*w);
    *ret = MOVE(rw);
    return 0;
}

void qcow_disarm(struct qcow_disk_rw **d, struct blk_rw **ret)
{
    struct blk_rw *w = MOVE((*d)->w);
    qcow_disk_rw_free(*d);
    *d = NULL;
    *ret = w;
}

const struct qcow_disk *qcow_disk_of(const struct qcow_disk_rw *d)
{
    return d->d;
}

static void go_direct(struct qcow_disk_rw *d)
{
    if (!d->direct)
        blk_write_direct(d->w);
    d->direct = true;
}

int qcow_disk_write(struct qcow_disk_rw *d, struct sector first, size_t n_sectors, uint8_t *buf,
                    struct err *e)
{
    const struct qcow_volume *v = d->d->v;
    if (!range_within(first.nr, n_sectors, qcow_volume_sectors(v)))
        return beyond_end(v, first.nr, n_sectors, e);
    if (check_in_place(v->img, first.nr, n_sectors, e) < 0)
        return -1;
    go_direct(d);
    for (size_t done = 0; done < n_sectors;) {
        struct run r = next_run(v->img, first.nr + done, n_sectors - done);
        uint8_t *at = buf + done * SECTOR_BYTES;
        sector_encrypt(v->cipher, r.at.byte / SECTOR_BYTES, r.n, at);
        if (blk_write(d->w, r.at, at, r.n * SECTOR_BYTES, e) < 0)
            return -1;
        done += r.n;
    }
    return 0;
}

int qcow_disk_flush(struct qcow_disk_rw *d, struct err *e)
{
    return blk_flush(d->w, e);
}

int qcow_disk_read_again(struct qcow_disk_rw *d, struct sector at, uint8_t buf[SECTOR_BYTES],
                         struct err *e)
{
    const struct qcow_volume *v = d->d->v;
    if (!range_within(at.nr, 1, qcow_volume_sectors(v)))
        return beyond_end(v, at.nr, 1, e);
    if (check_in_place(v->img, at.nr, 1, e) < 0)
        return -1;
    go_direct(d);
    struct run r = next_run(v->img, at.nr, 1);
    if (blk_read_again(d->w, r.at, buf, SECTOR_BYTES, e) < 0)
        return -1;
    sector_decrypt(v->cipher, r.at.byte / SECTOR_BYTES, 1, buf);
    return 0;
}

int qcow_disk_key_area(const struct qcow_disk_rw *d, struct key_area *ret, struct err *e)
{
    return key_area_of(d->d->v->img, d->w, ret, e);
}

bool qcow_disk_claim_is_enough(const struct qcow_disk_rw *d)
{
    return blk_claim_is_enough(blk_of(d->w));
}
