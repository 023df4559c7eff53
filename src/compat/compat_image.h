/* The image at a place: what stands there already, the key that opens it, and how one is made.
 *
 * As with swtpm a first start makes a TPM, but never over anything: what is there and is neither an
 * image nor empty is refused, and so is a state of swtpm's, which is to be imported. An image that
 * is made without a key has a random one in a file of its own next to it.
 */
#ifndef NVKEEP_COMPAT_IMAGE_H
#define NVKEEP_COMPAT_IMAGE_H

#include "backend/tpm.h"
#include "crypto/prim.h"
#include "src/compat/compat_place.h"
#include "src/compat/compat_policy.h"
#include "src/key/swtpm_key.h"

struct compat_image {
    struct compat_place place;   /* owned */
    struct swtpm_key_source key; /* KEY_SOURCE_NONE: none was given */
    mode_t mode;                 /* of a new image; 0: 0600, or that of the file it replaces */
    struct compat_policy policy;
    void (*tell)(void *ctx, const char *text); /* what is to be in the log */
    void *ctx;
    struct secret *pass; /* owned; NULL: not read yet */
    size_t pass_bytes;
};

void compat_image_clear(struct compat_image *i);

/* As compat_place_look(), and what an import in place left half done is finished.
 * ERR_STATE_FOREIGN: what is there is left alone; *ret_advice: how to go on, however long that is,
 * where there is a way; the caller's. */
int compat_image_look(const struct compat_image *i, enum compat_found *ret, char **ret_advice,
                      struct err *e) MUST_CHECK;

/* The key that was given, if one was; read once: a pipe is empty then. ERR_KEY_MISSING: none was,
 * and the policy demands one, or it did not come in ten seconds; ERR_KEY_WRONG, ERR_USAGE. */
int compat_image_take_key(struct compat_image *i, struct err *e) MUST_CHECK;
/* The key of an image that is there: the one that was given, else that of the key file.
 * ERR_KEY_MISSING: there is neither. */
int compat_image_find_key(struct compat_image *i, struct err *e) MUST_CHECK;

/* The key for an image that is to be made: the one that was given, else a random one, in a new key
 * file. ERR_USAGE: qemu-img could not use it. */
int compat_image_first_key(struct compat_image *i, struct err *e) MUST_CHECK;
/* A new image with these blobs (none: it waits for a migration), where there is nothing, or an
 * empty file that gives it owner and mode. pass: that key; watch: over its stretching, or NULL. */
int compat_image_create(const struct compat_image *i, enum compat_found found,
                        const struct tpm_blobs *blobs, const struct secret *pass, size_t pass_bytes,
                        const struct watch *watch, struct err *e) MUST_CHECK;
/* Another image takes the name, the owner and the mode of the one that is there, a file that the
 * caller has claimed, and has its key. */
int compat_image_replace(struct compat_image *i, const struct tpm_blobs *blobs,
                         struct err *e) MUST_CHECK;

#endif
