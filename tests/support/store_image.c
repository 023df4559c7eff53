#include "tests/support/store_image.h"

#include <stdlib.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

const struct store_layout store_image_small = {
    .checkpoint = {8, 24}, .checkpoint_sectors = 16, .log = 40, .log_sectors = 24};

static const char passphrase[] = "a passphrase of the tests";

/* What qcow_format() calls back for. */
struct content {
    struct ref_facts *facts;
    const struct volume_key *key;
    const struct state_change *first;
};

static int write_content(void *ctx, struct qcow_new *n, const uint8_t header_digest[32],
                         struct err *e)
{
    struct content *c = ctx;
    OWNED(mac_key) record_key = NULL;
    uint8_t sector[SECTOR_BYTES];
    memcpy(c->facts->header_digest, header_digest, sizeof(c->facts->header_digest));
    if (ref_sector_encode(c->facts, c->key, sector, &record_key, e) < 0 ||
        qcow_new_write(n, (struct sector){0}, 1, sector, e) < 0)
        return -1;
    return store_format(n, c->facts, record_key, c->first, e);
}

static int claim_new(struct power_disk *p, struct blk_rw **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    if (power_disk_blk(p, &b, e) < 0)
        return -1;
    return blk_claim(&b, ret, e);
}

static int format(struct store_image *im, uint64_t disk_sectors, const struct state_change *first,
                  void (*at_flush)(void *im), struct err *e)
{
    struct qcow_create c = {.size = disk_sectors * SECTOR_BYTES, .cluster_bits = 16};
    OWNED(volume_key) key = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED_HEAP uint8_t *material = NULL;
    memcpy(c.instance, im->facts.instance, sizeof(c.instance));
    if (luks_volume_new(LUKS_MIN_ITERATIONS, &c.luks, &key, e) < 0)
        return -1;
    material = calloc(luks_slot_sectors(c.luks.cipher.key_bytes), SECTOR_BYTES);
    if (!material)
        return err_nomem(e, "key material");
    if (luks_slot_seal(&c.luks, 0, key, im->pass, sizeof(passphrase) - 1, LUKS_MIN_ITERATIONS, NULL,
                       material, e) < 0)
        return -1;
    c.material[0] = material;
    im->power = power_disk_new(qcow_create_bytes(&c));
    power_on_flush(im->power, at_flush, im);
    struct content content = {&im->facts, key, first};
    if (claim_new(im->power, &w, e) < 0 || qcow_format(w, &c, key, write_content, &content, e) < 0)
        return -1;
    power_on_flush(im->power, NULL, NULL);
    power_settle(im->power);
    return 0;
}

int store_image_new(const struct store_layout *layout, uint64_t disk_sectors,
                    const struct state_change *first, struct store_image *ret, struct err *e)
{
    return store_image_new_watched(layout, disk_sectors, first, NULL, ret, e);
}

static int make(enum device_kind device, const struct store_layout *layout, uint64_t disk_sectors,
                const struct state_change *first, void (*at_flush)(void *im),
                struct store_image *ret, struct err *e)
{
    struct store_image im = {.facts = {.device = device}};
    memcpy(im.facts.instance, "instance of test", 16);
    if (secret_new(sizeof(passphrase), &im.pass, e) < 0)
        return -1;
    memcpy(secret_bytes(im.pass), passphrase, sizeof(passphrase));
    if (layout)
        im.facts.layout = *layout;
    if ((!layout && store_plan(disk_sectors, &im.facts.layout, e) < 0) ||
        format(&im, disk_sectors, first, at_flush, e) < 0) {
        store_image_clear(&im);
        return -1;
    }
    *ret = im;
    return 0;
}

int store_image_new_for(enum device_kind device, const struct store_layout *layout,
                        uint64_t disk_sectors, const struct state_change *first,
                        struct store_image *ret, struct err *e)
{
    return make(device, layout, disk_sectors, first, NULL, ret, e);
}

int store_image_new_watched(const struct store_layout *layout, uint64_t disk_sectors,
                            const struct state_change *first, void (*at_flush)(void *im),
                            struct store_image *ret, struct err *e)
{
    return make(DEVICE_TPM20, layout, disk_sectors, first, at_flush, ret, e);
}

void store_image_clear(struct store_image *im)
{
    blk_free(im->blk);
    power_disk_free(im->power);
    secret_free(im->pass);
    *im = (struct store_image){0};
}

static int attach(struct store_image *im, const struct blk *b, struct qcow_disk **ret,
                  struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(qcow_volume) volume = NULL;
    if (qcow_open(b, &img, e) < 0 ||
        qcow_recover(img, im->pass, sizeof(passphrase) - 1, NULL, &key, e) < 0 ||
        qcow_unlock(&img, &key, &volume, e) < 0)
        return -1;
    return qcow_attach(&volume, ret, e);
}

int store_image_arm(struct store_image *im, struct qcow_disk_rw **ret, struct err *e)
{
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) disk = NULL;
    if (claim_new(im->power, &w, e) < 0 || attach(im, blk_of(w), &disk, e) < 0)
        return -1;
    return qcow_arm(&disk, &w, ret, e);
}

int store_image_open(struct store_image *im, struct store **ret, struct err *e)
{
    OWNED(qcow_disk_rw) disk = NULL;
    if (store_image_arm(im, &disk, e) < 0)
        return -1;
    return store_open(&disk, ret, e);
}

int store_image_disk(struct store_image *im, struct qcow_disk **ret, struct err *e)
{
    blk_free(im->blk);
    im->blk = NULL;
    if (power_disk_blk(im->power, &im->blk, e) < 0)
        return -1;
    return attach(im, im->blk, ret, e);
}

uint64_t store_image_host_sector(const struct qcow_disk *d, uint64_t guest)
{
    const struct qcow_image *img = qcow_disk_image(d);
    uint64_t per_cluster = img->cluster_bytes / SECTOR_BYTES;
    uint64_t cluster = img->map[guest / per_cluster] & MAP_HOST;
    return cluster * per_cluster + guest % per_cluster;
}

struct state_change store_image_content(const struct store *s)
{
    struct state_change c = {0};
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t n;
        const uint8_t *p = store_get(s, (enum blob_kind)(i + 1), &n);
        c.blob[i].what = p ? BLOB_SET : BLOB_DELETE;
        if (p) {
            c.blob[i].p = p;
            c.blob[i].n = n;
        }
    }
    return c;
}

void store_image_digest(const struct state_change *state, uint8_t ret[SHA256_BYTES])
{
    uint8_t heads[N_BLOBS][1 + 8] = {0};
    struct span parts[2 * N_BLOBS];
    for (size_t i = 0; i < N_BLOBS; i++) {
        const struct blob_change *b = &state->blob[i];
        size_t n = b->what == BLOB_SET ? b->n : 0;
        heads[i][0] = b->what == BLOB_SET;
        put_be64(heads[i] + 1, n);
        parts[2 * i] = (struct span){heads[i], sizeof(heads[i])};
        parts[2 * i + 1] = (struct span){n ? b->p : heads[i], n};
    }
    hash_compute(HASH_SHA256, parts, ARRAY_LEN(parts), ret);
}
