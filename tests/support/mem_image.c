#include "mem_image.h"

#include <stdio.h>
#include <string.h>

#include "src/base/bytes.h"

static void must(int r, const struct err *e)
{
    if (r == 0)
        return;
    fprintf(stderr, "an image for a test cannot be made: %s\n", e->text);
    abort();
}

void mem_image_pattern(uint64_t nr, uint8_t ret[SECTOR_BYTES])
{
    for (size_t i = 0; i < SECTOR_BYTES; i += 8)
        put_be64(ret + i, (nr << 16 | i) * UINT64_C(0x9e3779b97f4a7c15));
}

struct content {
    struct mem_image *im;
    const struct volume_key *key;
};

static int fill(void *ctx, struct qcow_new *n, const uint8_t digest[32], struct err *e)
{
    struct content *c = ctx;
    uint8_t sector[SECTOR_BYTES];
    OWNED(mac_key) unused = NULL;
    memcpy(c->im->facts.header_digest, digest, sizeof(c->im->facts.header_digest));
    for (uint64_t i = 1; i < c->im->sectors; i++) {
        mem_image_pattern(i, sector);
        if (qcow_new_write(n, (struct sector){i}, 1, sector, e) < 0)
            return -1;
    }
    if (ref_sector_encode(&c->im->facts, c->key, sector, &unused, e) < 0)
        return -1;
    return qcow_new_write(n, (struct sector){0}, 1, sector, e);
}

static void pass_of(const char *text, struct secret **ret)
{
    struct err e;
    must(secret_new(strlen(text) + 1, ret, &e), &e);
    memcpy(secret_bytes(*ret), text, strlen(text));
}

static void read_header(struct mem_image *im)
{
    struct err e;
    must(qcow_header_decode(mem_disk_bytes(im->disk), QCOW_HEADER_MAX, mem_disk_size(im->disk),
                            &im->header, NULL, &e),
         &e);
}

void mem_image_new(unsigned cluster_bits, uint64_t size, struct mem_image *ret)
{
    struct qcow_create c = {.size = size, .cluster_bits = cluster_bits};
    struct content content = {.im = ret};
    uint64_t part = (size / SECTOR_BYTES - 8) / 3 / 8 * 8;
    OWNED(secret) pass = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED_HEAP uint8_t *material = NULL;
    struct err e;

    *ret = (struct mem_image){.sectors = size / SECTOR_BYTES};
    ret->facts.device = DEVICE_TPM20;
    ret->facts.layout = (struct store_layout){{8, 8 + part}, part, 8 + 2 * part, part};
    memset(ret->facts.instance, 0x42, sizeof(ret->facts.instance));
    memset(c.instance, 0x42, sizeof(c.instance));
    pass_of(MEM_IMAGE_PASS, &pass);
    must(luks_volume_new(LUKS_MIN_ITERATIONS, &c.luks, &key, &e), &e);
    material = calloc(luks_slot_sectors(c.luks.cipher.key_bytes), SECTOR_BYTES);
    if (!material)
        abort();
    must(luks_slot_seal(&c.luks, 0, key, pass, strlen(MEM_IMAGE_PASS), LUKS_MIN_ITERATIONS, NULL,
                        material, &e),
         &e);
    c.material[0] = material;
    content.key = key;
    ret->disk = mem_disk_new(qcow_create_bytes(&c));
    must(mem_disk_claimed(ret->disk, &w, &e), &e);
    must(qcow_format(w, &c, key, fill, &content, &e), &e);
    read_header(ret);
}

void mem_image_clear(struct mem_image *im)
{
    mem_disk_free(im->disk);
    im->disk = NULL;
}

int mem_image_volume(const struct blk *b, const char *text, struct qcow_volume **ret, struct err *e)
{
    OWNED(secret) pass = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    pass_of(text, &pass);
    if (qcow_open(b, &img, e) < 0 || qcow_recover(img, pass, strlen(text), NULL, &key, e) < 0)
        return -1;
    return qcow_unlock(&img, &key, ret, e);
}

int mem_image_attach(const struct blk *b, const char *pass, struct qcow_disk **ret, struct err *e)
{
    OWNED(qcow_volume) v = NULL;
    if (mem_image_volume(b, pass, &v, e) < 0)
        return -1;
    return qcow_attach(&v, ret, e);
}

int mem_image_arm(struct mem_disk *disk, const char *pass, struct qcow_disk_rw **ret, struct err *e)
{
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) d = NULL;
    if (mem_disk_claimed(disk, &w, e) < 0 || mem_image_attach(blk_of(w), pass, &d, e) < 0)
        return -1;
    return qcow_arm(&d, &w, ret, e);
}

bool mem_image_intact(const struct qcow_disk *d, uint64_t n)
{
    enum { CHUNK = 64 };
    uint8_t got[CHUNK * SECTOR_BYTES], want[SECTOR_BYTES];
    struct err e;
    for (uint64_t at = 0; at < n; at += CHUNK) {
        size_t part = n - at < CHUNK ? (size_t)(n - at) : CHUNK;
        if (qcow_disk_read(d, (struct sector){at}, part, got, &e) < 0)
            return false;
        for (size_t i = at == 0 ? 1 : 0; i < part; i++) {
            mem_image_pattern(at + i, want);
            if (memcmp(got + i * SECTOR_BYTES, want, SECTOR_BYTES) != 0)
                return false;
        }
    }
    return true;
}

uint64_t mem_image_l2_entry(const struct mem_image *im, uint64_t guest_cluster)
{
    uint64_t per_l2 = UINT64_C(1) << (im->header.cluster_bits - 3);
    const uint8_t *l1 = mem_disk_bytes(im->disk) + im->header.l1.byte;
    uint64_t l2 = get_be64(l1 + guest_cluster / per_l2 * 8) & UINT64_C(0x00fffffffffffe00);
    return l2 + guest_cluster % per_l2 * 8;
}

uint64_t mem_image_refcount(const struct mem_image *im, uint64_t host_cluster)
{
    uint64_t per_block = UINT64_C(1) << (im->header.cluster_bits - 1);
    const uint8_t *table = mem_disk_bytes(im->disk) + im->header.reftable.byte;
    return get_be64(table + host_cluster / per_block * 8) + host_cluster % per_block * 2;
}
