/* What image.c and image_snapshot.c share; nobody else includes this. */
#ifndef NVKEEP_BACKEND_IMAGE_PRIV_H
#define NVKEEP_BACKEND_IMAGE_PRIV_H

#include "backend/image.h"
#include "backend/store_snapshot.h"

struct image_file {
    struct blk *blk;
};
struct image {
    struct blk *blk;          /* NULL: a store has it */
    struct image_file *shell; /* for image_lock(); empty meanwhile */
    struct volume_key *key;
    char name[BLK_NAME_BYTES];
};

/* From an open image and its key to the disk whose reference sector matched; whether it is the one
 * that lives was not asked. Takes the image. */
int image_attach(struct qcow_image **img, const struct volume_key *key, struct qcow_disk **ret,
                 struct err *e) MUST_CHECK;
/* From a claimed image, read afresh, to a store. Takes the claim on success. */
int image_open_again(struct blk_rw **w, const struct volume_key *key, struct store **ret,
                     struct err *e) MUST_CHECK;

#endif
