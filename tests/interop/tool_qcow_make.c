/* Makes an encrypted image through the code under test, without a TPM in it:
 *
 *     tool_qcow_make IMAGE KEYFILE CLUSTER_BITS BYTES PATTERN
 *
 * PATTERN is a raw file of at most BYTES whose sectors are written to the disk ("-": none). Sector
 * 0 always becomes a reference sector with a layout over the rest of the disk, so that the image
 * can be attached and armed. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/qcow.h"
#include "src/base/fd.h"

struct content {
    struct ref_facts facts;
    const struct volume_key *key;
    const uint8_t *pattern;
    size_t sectors;
};

static int fill(void *ctx, struct qcow_new *n, const uint8_t digest[32], struct err *e)
{
    struct content *c = ctx;
    uint8_t sector[SECTOR_BYTES];
    OWNED(mac_key) record_key = NULL;
    memcpy(c->facts.header_digest, digest, 32);
    for (size_t i = 1; i < c->sectors; i++) {
        memcpy(sector, c->pattern + i * SECTOR_BYTES, sizeof(sector));
        if (qcow_new_write(n, (struct sector){i}, 1, sector, e) < 0)
            return -1;
    }
    if (ref_sector_encode(&c->facts, c->key, sector, &record_key, e) < 0)
        return -1;
    return qcow_new_write(n, (struct sector){0}, 1, sector, e);
}

static int read_file(const char *path, size_t most, uint8_t **ret, size_t *ret_bytes)
{
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *buf = calloc(1, most + 1);
    ssize_t n = fd < 0 || !buf ? -1 : fd_read_full(fd, buf, most);
    if (n < 0) {
        free(buf);
        return -1;
    }
    *ret = buf;
    *ret_bytes = (size_t)n;
    return 0;
}

static int make(const char *path, const uint8_t *pass, size_t pass_bytes, struct qcow_create *c,
                struct content *content, struct err *e)
{
    OWNED(secret) secret = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(blk_new) file = NULL;
    OWNED_HEAP uint8_t *material = NULL;
    if (secret_new(pass_bytes ? pass_bytes : 1, &secret, e) < 0 ||
        luks_volume_new(LUKS_MIN_ITERATIONS, &c->luks, &key, e) < 0)
        return -1;
    memcpy(secret_bytes(secret), pass, pass_bytes);
    material = calloc(luks_slot_sectors(c->luks.cipher.key_bytes), SECTOR_BYTES);
    if (!material)
        return err_nomem(e, "material");
    if (luks_slot_seal(&c->luks, 0, key, secret, pass_bytes, LUKS_MIN_ITERATIONS, NULL, material,
                       e) < 0)
        return -1;
    c->material[0] = material;
    content->key = key;
    if (blk_create(path, qcow_create_bytes(c), &file, e) < 0 ||
        qcow_format(blk_new_rw(file), c, key, fill, content, e) < 0)
        return -1;
    return blk_publish(&file, e);
}

int main(int argc, char **argv)
{
    struct qcow_create c = {0};
    struct content content = {.facts = {.device = DEVICE_TPM20}};
    struct err e;
    OWNED_HEAP uint8_t *pass = NULL;
    OWNED_HEAP uint8_t *pattern = NULL;
    size_t pass_bytes = 0, pattern_bytes = 0;
    if (argc != 6) {
        fprintf(stderr, "usage: %s IMAGE KEYFILE CLUSTER_BITS BYTES PATTERN\n", argv[0]);
        return 2;
    }
    c.cluster_bits = (unsigned)strtoul(argv[3], NULL, 10);
    c.size = strtoull(argv[4], NULL, 10);
    memset(c.instance, 0x42, sizeof(c.instance));
    if (read_file(argv[2], 65536, &pass, &pass_bytes) < 0 ||
        (strcmp(argv[5], "-") && read_file(argv[5], c.size, &pattern, &pattern_bytes) < 0)) {
        perror(argv[0]);
        return 2;
    }
    uint64_t part = (c.size / SECTOR_BYTES - 8) / 3 / 8 * 8;
    content.facts.layout = (struct store_layout){{8, 8 + part}, part, 8 + 2 * part, part};
    memcpy(content.facts.instance, c.instance, sizeof(c.instance));
    content.pattern = pattern;
    content.sectors = pattern_bytes / SECTOR_BYTES;
    if (make(argv[1], pass, pass_bytes, &c, &content, &e) < 0) {
        fprintf(stderr, "%s: %s: %s\n", argv[0], err_class(e.kind)->name, e.text);
        return err_class(e.kind)->exit_code;
    }
    return 0;
}
