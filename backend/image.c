#include "backend/image.h"

#include <string.h>

enum {
    SLOT = 0,              /* a new image has its key here */
    DIGEST_COST_SHARE = 8, /* the digest costs an eighth of the slot, as qemu-img has it */
};

/* From an open blk to the disk whose reference sector matched: everything that reads takes this
 * way, with a claim below it or without. */
static int attach(const struct blk *b, const struct secret *pass, size_t pass_bytes,
                  const struct watch *watch, struct qcow_disk **ret, struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(qcow_volume) volume = NULL;
    if (qcow_open(b, &img, e) < 0 || qcow_recover(img, pass, pass_bytes, watch, &key, e) < 0 ||
        qcow_unlock(&img, &key, &volume, e) < 0)
        return -1;
    return qcow_attach(&volume, ret, e);
}

int image_open_store(const char *path, const struct secret *pass, size_t pass_bytes,
                     const struct watch *watch, struct store **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) disk = NULL;
    OWNED(qcow_disk_rw) disk_rw = NULL;
    if (blk_open(path, BLK_READ_WRITE, &b, e) < 0 || blk_claim(&b, &w, e) < 0 ||
        attach(blk_of(w), pass, pass_bytes, watch, &disk, e) < 0 ||
        qcow_arm(&disk, &w, &disk_rw, e) < 0)
        return -1;
    return store_open(&disk_rw, ret, e);
}

int image_verify(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                 const struct watch *watch, struct image_report *ret, struct err *e)
{
    struct image_report report = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) disk = NULL;
    if (blk_open(path, BLK_READ_ONLY, &b, e) < 0 ||
        attach(b, pass, pass_bytes, watch, &disk, e) < 0 ||
        store_inspect(disk, &report.store, e) < 0)
        return -1;
    if (full && qcow_check_image(qcow_disk_image(disk), &report.check, e) < 0)
        return -1;
    report.facts = *qcow_disk_facts(disk);
    *ret = report;
    return 0;
}

/* What qcow_format() calls back for: the only content of a new disk. */
struct content {
    struct ref_facts *facts;
    const struct volume_key *key;
    const struct state_change *first;
};

static int write_content(void *ctx, struct qcow_new *n, const uint8_t header_digest[32],
                         struct err *e)
{
    struct content *c = ctx;
    OWNED(secret) sector = NULL;
    OWNED(mac_key) record_key = NULL;
    memcpy(c->facts->header_digest, header_digest, sizeof(c->facts->header_digest));
    if (secret_new(SECTOR_BYTES, &sector, e) < 0 ||
        ref_sector_encode(c->facts, c->key, secret_bytes(sector), &record_key, e) < 0 ||
        qcow_new_write(n, (struct sector){0}, 1, secret_bytes(sector), e) < 0)
        return -1;
    return store_format(n, c->facts, record_key, c->first, e);
}

/* A random uuid [RFC 4122 4.4]. */
static int uuid_new(uint8_t ret[16], struct err *e)
{
    if (random_bytes(ret, 16, e) < 0)
        return -1;
    ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
    ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
    return 0;
}

int image_create(const struct image_create *what, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct ref_facts *ret_facts, struct err *e)
{
    struct ref_facts facts = {.device = what->device};
    struct qcow_create c = {
        .size = what->size ? what->size : IMAGE_DEFAULT_BYTES,
        .cluster_bits = what->cluster_bits ? what->cluster_bits : 16,
    };
    OWNED(volume_key) key = NULL;
    OWNED(blk_new) file = NULL;
    OWNED_HEAP uint8_t *material = NULL;

    /* What can be refused is refused before time goes into the key. */
    if (store_plan(c.size / SECTOR_BYTES, &facts.layout, e) < 0 || uuid_new(facts.instance, e) < 0)
        return -1;
    memcpy(c.instance, facts.instance, sizeof(c.instance));
    uint32_t digest_iterations = what->iterations / DIGEST_COST_SHARE;
    if (digest_iterations < LUKS_MIN_ITERATIONS)
        digest_iterations = LUKS_MIN_ITERATIONS;
    if (luks_volume_new(digest_iterations, &c.luks, &key, e) < 0 ||
        blk_create(what->path, qcow_create_bytes(&c), &file, e) < 0)
        return -1;

    material = calloc(luks_slot_sectors(c.luks.cipher.key_bytes), SECTOR_BYTES);
    if (!material)
        return err_nomem(e, "the key material of a LUKS slot");
    if (luks_slot_seal(&c.luks, SLOT, key, pass, pass_bytes, what->iterations, watch, material, e) <
        0)
        return -1;
    c.material[SLOT] = material;

    struct content content = {&facts, key, what->first};
    if (qcow_format(blk_new_rw(file), &c, key, write_content, &content, e) < 0 ||
        blk_publish(&file, e) < 0)
        return -1;
    if (ret_facts)
        *ret_facts = facts;
    return 0;
}
