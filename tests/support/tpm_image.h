/* A TPM in a real image file in a directory of its own, for tests. Header only: it needs libtpms'
 * half of the backend, which not every test program links.
 */
#ifndef NVKEEP_TESTS_TPM_IMAGE_H
#define NVKEEP_TESTS_TPM_IMAGE_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/image.h"
#include "crypto/luks_key.h"
#include "tpm_run.h"

#define TPM_IMAGE_PASS "correct horse"

struct tpm_image {
    char dir[64], path[96];
    struct secret *pass;
    struct tpm_run run; /* run.t: open, or NULL */
    struct tpm_cmd c;
    struct err e;
};

#define TPM_IMAGE_MUST(im, call)                                                                   \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, (im)->e.text);                                               \
    } while (0)

/* Also after fork(), which a secret does not survive. */
static inline void tpm_image_pass(struct tpm_image *im)
{
    secret_free(im->pass);
    im->pass = NULL;
    TPM_IMAGE_MUST(im, secret_new(sizeof(TPM_IMAGE_PASS), &im->pass, &im->e));
    memcpy(secret_bytes(im->pass), TPM_IMAGE_PASS, sizeof(TPM_IMAGE_PASS) - 1);
}

static inline void tpm_image_begin(struct tpm_image *im)
{
    const char *tmp = getenv("TMPDIR");
    *im = (struct tpm_image){0};
    snprintf(im->dir, sizeof(im->dir), "%.40s/nvkeep-tpm-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(im->dir))
        fail_msg("cannot make %s", im->dir);
    snprintf(im->path, sizeof(im->path), "%s/tpm.qcow2", im->dir);
    tpm_image_pass(im);
}

static inline void tpm_image_create(struct tpm_image *im, enum device_kind kind,
                                    const struct tpm_blobs *state)
{
    struct state_change first = {0};
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (state->blob[i])
            first.blob[i] = (struct blob_change){
                .what = BLOB_SET, .p = secret_peek(state->blob[i]), .n = state->n[i]};
    struct image_create what = {
        .path = im->path, .device = kind, .iterations = LUKS_MIN_ITERATIONS, .first = &first};
    TPM_IMAGE_MUST(im,
                   image_create(&what, im->pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, NULL, &im->e));
}

static inline void tpm_image_store(struct tpm_image *im, struct store **ret)
{
    TPM_IMAGE_MUST(
        im, image_open_store(im->path, im->pass, sizeof(TPM_IMAGE_PASS) - 1, NULL, ret, &im->e));
}

static inline void tpm_image_open(struct tpm_image *im)
{
    OWNED(store) s = NULL;
    tpm_image_store(im, &s);
    TPM_IMAGE_MUST(im, tpm_new(&s, &im->run.t, &im->e));
}

/* As when the power is cut: nothing is shut down. */
static inline void tpm_image_close(struct tpm_image *im)
{
    tpm_free(im->run.t);
    im->run.t = NULL;
}

static inline void tpm_image_start(struct tpm_image *im)
{
    TPM_IMAGE_MUST(im, tpm_power_on(im->run.t, false, &im->e));
    TPM_IMAGE_MUST(im, tpm_startup(im->run.t, STARTUP_CLEAR, &im->e));
}

/* A new TPM, open and off. */
static inline void tpm_image_new(struct tpm_image *im, enum device_kind kind)
{
    struct tpm_blobs blobs = {{NULL}, {0}};
    tpm_image_begin(im);
    TPM_IMAGE_MUST(im, tpm_manufacture(kind, &blobs, &im->e));
    tpm_image_create(im, kind, &blobs);
    tpm_blobs_clear(&blobs);
    tpm_image_open(im);
}

static inline void tpm_image_end(struct tpm_image *im)
{
    tpm_image_close(im);
    secret_free(im->pass);
    unlink(im->path);
    if (rmdir(im->dir) != 0)
        fail_msg("%s is not empty", im->dir); /* whatever appeared there should not have */
}

static inline struct store_stats tpm_image_stats(const struct tpm_image *im)
{
    struct store_stats stats;
    store_stats(tpm_store(im->run.t), &stats);
    return stats;
}

#endif
