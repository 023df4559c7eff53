/* A new image from the first state of a new TPM. */
#ifndef NVKEEP_SRC_NEW_IMAGE_H
#define NVKEEP_SRC_NEW_IMAGE_H

#include "backend/image.h"
#include "backend/tpm.h"

/* As image_create(), with these blobs as its first state; no blob: it waits for a migration. */
int new_image(struct image_create *what, const struct tpm_blobs *blobs, const struct secret *key,
              size_t key_bytes, const struct watch *watch, struct ref_facts *ret,
              struct err *e) MUST_CHECK;

#endif
