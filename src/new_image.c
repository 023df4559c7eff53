#include "src/new_image.h"

int new_image(struct image_create *what, const struct tpm_blobs *blobs, const struct secret *key,
              size_t key_bytes, const struct watch *watch, struct ref_facts *ret, struct err *e)
{
    struct state_change first = {0};
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        if (blobs->blob[i])
            first.blob[i] =
                (struct blob_change){BLOB_SET, secret_peek(blobs->blob[i]), blobs->n[i]};
    what->first = &first;
    int r = image_create(what, key, key_bytes, watch, ret, e);
    what->first = NULL;
    return r;
}
