#include "compare_subject.h"

#include <string.h>

#include "backend/image.h"
#include "backend/tpm.h"

void image_make(const char *path, const char *passphrase)
{
    struct err e;
    struct tpm_blobs blobs = {0};
    struct state_change first = {0};
    OWNED(secret) pass = NULL;
    size_t n = strlen(passphrase);
    if (secret_new(n, &pass, &e) < 0 || tpm_manufacture(DEVICE_TPM20, &blobs, &e) < 0)
        fail("cannot make an image: %s", e.text);
    memcpy(secret_bytes(pass), passphrase, n);
    tpm_blobs_change(&blobs, &first);
    struct image_create what = {
        .path = path,
        .device = DEVICE_TPM20,
        .iterations = LUKS_MIN_ITERATIONS,
        .first = &first,
    };
    int rc = image_create(&what, pass, n, NULL, NULL, &e);
    tpm_blobs_clear(&blobs);
    if (rc < 0)
        fail("cannot make %s: %s", path, e.text);
}
