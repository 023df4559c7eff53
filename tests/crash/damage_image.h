/* An image of a real TPM as bytes in memory, opened by path all the same: for programs linked with
 * --wrap=blk_open and --wrap=luks_slot_open. Everything above the file is the product, on the very
 * way that the daemon takes; what it reads of the file is noted.
 *
 * luks_slot_open() is a function of its arguments: where they are, byte for byte, those of the
 * sound image, its result is remembered. That saves nine tenths of the time and can hide nothing.
 */
#ifndef NVKEEP_TESTS_DAMAGE_IMAGE_H
#define NVKEEP_TESTS_DAMAGE_IMAGE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/fd.h"
#include "tests/support/store_image.h"
#include "tests/support/tpm_image.h"

#define IN_MEMORY "image in memory"
enum { MAX_VERSIONS = 8 };

static struct {
    uint8_t *now;
    size_t n;
    bool *read; /* of n: was this byte ever read since noting began */
    bool noting;
    unsigned n_writes;
    uint64_t unreadable; /* sector that cannot be read until it was written; 0: none */
    uint8_t
        *version[MAX_VERSIONS]; /* the whole file after each commit; the last is the sound one */
    size_t n_versions;
    struct secret *pass;
} image;

static inline void die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, e->text);
    exit(1);
}

static inline const uint8_t *sound(void)
{
    return image.version[image.n_versions - 1];
}

/* ---- the file ---- */

static inline int image_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    uint64_t bad = image.unreadable * SECTOR_BYTES;
    (void)ctx;
    if (bad > 0 && off < bad + SECTOR_BYTES && bad < off + n)
        return err_sys(e, ERR_STORAGE, EIO, "reading %zu bytes at offset %llu", n,
                       (unsigned long long)off);
    memcpy(buf, image.now + off, n);
    if (image.noting)
        memset(image.read + off, true, n);
    return 0;
}

static inline int image_pwrite(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e)
{
    (void)ctx;
    (void)e;
    memcpy(image.now + off, buf, n);
    image.n_writes++;
    if (off <= image.unreadable * SECTOR_BYTES && (image.unreadable + 1) * SECTOR_BYTES <= off + n)
        image.unreadable = 0;
    return 0;
}

static inline int image_no_op(void *ctx, struct err *e)
{
    (void)ctx;
    (void)e;
    return 0;
}

static inline void image_nothing(void *ctx)
{
    (void)ctx;
}

int __real_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e);
int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e);
int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e)
{
    static const struct blk_ops ops = {.pread = image_pread,
                                       .pwrite = image_pwrite,
                                       .flush = image_no_op,
                                       .claim = image_no_op,
                                       .release = image_nothing,
                                       .close = image_nothing};
    if (strcmp(path, IN_MEMORY) != 0)
        return __real_blk_open(path, mode, ret, e);
    return blk_from_ops(&ops, &image, image.n, path, ret, e);
}

/* ---- the key ---- */

static struct {
    struct luks_header header;
    uint8_t *material;
    size_t n;
    struct volume_key *key;
} slot_memo;

int __real_luks_slot_open(const struct luks_header *h, unsigned slot, const uint8_t *material,
                          const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                          struct volume_key **ret, struct err *e);
int __wrap_luks_slot_open(const struct luks_header *h, unsigned slot, const uint8_t *material,
                          const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                          struct volume_key **ret, struct err *e);
int __wrap_luks_slot_open(const struct luks_header *h, unsigned slot, const uint8_t *material,
                          const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                          struct volume_key **ret, struct err *e)
{
    if (slot_memo.key && slot == 0 && pass == image.pass &&
        memcmp(h, &slot_memo.header, sizeof(*h)) == 0 &&
        memcmp(material, slot_memo.material, slot_memo.n) == 0)
        return volume_key_copy(slot_memo.key, ret, e) < 0 ? -1 : 1;
    return __real_luks_slot_open(h, slot, material, pass, pass_bytes, watch, ret, e);
}

static inline void remember_slot(const struct blk *b)
{
    OWNED(qcow_image) img = NULL;
    struct err e;
    if (qcow_open(b, &img, &e) < 0)
        die("the sound image", &e);
    const struct luks_header *h = qcow_image_luks(img);
    uint64_t at = qcow_image_header(img)->luks.byte + h->slot[0].material_sector * SECTOR_BYTES;
    slot_memo.header = *h;
    slot_memo.n = luks_slot_sectors(h->cipher.key_bytes) * (size_t)SECTOR_BYTES;
    slot_memo.material = malloc(slot_memo.n);
    if (!slot_memo.material)
        die("the key material", &(struct err){.text = "no memory"});
    memcpy(slot_memo.material, sound() + at, slot_memo.n);
    if (__real_luks_slot_open(h, 0, slot_memo.material, image.pass, sizeof(TPM_IMAGE_PASS) - 1,
                              NULL, &slot_memo.key, &e) != 1)
        die("the key", &e);
}

/* ---- opening ---- */

/* A slot that takes more iterations than this is left to the long form. */
static uint64_t most_iterations;
static bool costly;

static inline bool not_too_long(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)done;
    costly |= total > most_iterations;
    return total <= most_iterations;
}

static inline int open_image(struct image **ret_image, struct store **ret, struct err *e)
{
    const struct watch watch = {not_too_long, NULL};
    costly = false;
    return image_open_claimed(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, &watch, ret_image,
                              ret, e);
}

static inline int check_image(struct image_report *ret, struct err *e)
{
    return image_verify(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, true, NULL, ret, e);
}

/* Everything that a start, a migration that is prepared or taken in, and `verify-key` read. */
static inline void note_what_opening_reads(void)
{
    struct err e;
    struct image_report report;
    OWNED(image_file) file = NULL;
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    OWNED(store_look) look = NULL;
    image.noting = true;
    if (image_file_open(IN_MEMORY, &file, &e) < 0 ||
        image_unlock(&file, image.pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, &i, &e) < 0 ||
        image_look(i, &look, &e) < 0 || image_claim(i, &s, &e) < 0)
        die("the sound image", &e);
    image_release(i, &s);
    if (image_verify(IN_MEMORY, image.pass, sizeof(TPM_IMAGE_PASS) - 1, false, NULL, &report, &e) <
        0)
        die("the sound image", &e);
    OWNED(image) other = NULL;
    if (open_image(&other, &s, &e) < 0)
        die("the sound image", &e);
    image.noting = false;
}

/* ---- making it ---- */

static inline void take_version(const char *path)
{
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t n = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    uint8_t *bytes = n > 0 ? malloc((size_t)n) : NULL;
    if (!bytes || pread(fd, bytes, (size_t)n, 0) != n || image.n_versions == MAX_VERSIONS)
        die(path, &(struct err){.text = "cannot be read"});
    image.n = (size_t)n;
    image.version[image.n_versions++] = bytes;
}

static inline void write_index(struct tpm_image *im, const char *text)
{
    cmd2_nv_write(&im->c, 0x01800001, text, (uint16_t)strlen(text), 0);
    TPM_OK(&im->run, &im->c);
    take_version(im->path);
}

/* A TPM 2.0 that was made, started, given an index, and written to: a checkpoint that is dead, one
 * that is the base, and records in the log. */
static inline void make_image(unsigned cluster_bits, uint64_t size)
{
    struct tpm_image im;
    struct tpm_blobs blobs = {{NULL}, {0}};
    tpm_image_begin(&im);
    TPM_IMAGE_MUST(&im, tpm_manufacture(DEVICE_TPM20, &blobs, &im.e));
    const struct state_change first = {{{BLOB_SET, secret_peek(blobs.blob[0]), blobs.n[0]}}};
    const struct image_create what = {.path = im.path,
                                      .device = DEVICE_TPM20,
                                      .cluster_bits = cluster_bits,
                                      .size = size,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    TPM_IMAGE_MUST(&im,
                   image_create(&what, im.pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, NULL, &im.e));
    tpm_blobs_clear(&blobs);
    take_version(im.path);
    tpm_image_open(&im);
    tpm_image_start(&im);
    take_version(im.path);
    cmd2_nv_define(&im.c, 0x01800001, 700, NV2_ORDINARY, 0);
    TPM_OK(&im.run, &im.c);
    take_version(im.path);
    write_index(&im, "what was written first");
    write_index(&im, "what was written then, and is longer");
    write_index(&im, "what was written last");
    tpm_image_close(&im);

    image.now = malloc(image.n);
    image.read = calloc(image.n, sizeof(*image.read));
    if (!image.now || !image.read || secret_new(sizeof(TPM_IMAGE_PASS), &image.pass, &im.e) < 0)
        die("the image", &im.e);
    memcpy(secret_bytes(image.pass), TPM_IMAGE_PASS, sizeof(TPM_IMAGE_PASS));
    memcpy(image.now, sound(), image.n);
    tpm_image_end(&im);
}

static inline void clear_image(void)
{
    for (size_t i = 0; i < image.n_versions; i++)
        free(image.version[i]);
    free(image.now);
    free(image.read);
    free(slot_memo.material);
    volume_key_free(slot_memo.key);
    secret_free(image.pass);
    memset(&image, 0, sizeof(image));
    memset(&slot_memo, 0, sizeof(slot_memo));
}

#endif
