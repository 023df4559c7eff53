/* Where the state of a machine's TPM is, as swtpm's tools are told it: one image of ours, and the
 * file with the key that opens it where none is given.
 *
 *     DIR, dir://DIR   DIR/tpm2-00.qcow2 (TPM 1.2: tpm-00.qcow2), key file DIR/tpm2-00.key
 *     file://PATH      PATH itself, key file PATH.key
 */
#ifndef NVKEEP_COMPAT_PLACE_H
#define NVKEEP_COMPAT_PLACE_H

#include "backend/store.h"

struct compat_place {
    char *image, *key_file; /* owned */
    char *dir, *old;        /* owned; swtpm's directory, and its file there; NULL: file:// */
    enum device_kind device;
};

/* One of the two is NULL. ERR_USAGE: too long. */
int compat_place_name(const char *dir, const char *file, enum device_kind device,
                      struct compat_place *ret, struct err *e) MUST_CHECK;
void compat_place_clear(struct compat_place *p);

enum compat_found {
    FOUND_NOTHING,
    FOUND_EMPTY_FILE, /* made in advance, so that it has an owner */
    FOUND_IMAGE,
    FOUND_OLD, /* a state of swtpm's */
    FOUND_OTHER,
};

/* Reads a few bytes and takes no lock. */
int compat_place_look(const struct compat_place *p, enum compat_found *ret,
                      struct err *e) MUST_CHECK;
/* Has an image the name of swtpm's state? See src/make/in_place.h. Only with a directory. */
int compat_place_old_is_image(const struct compat_place *p, bool *ret, struct err *e) MUST_CHECK;

#endif
