/* Where the state of swtpm's --tpmstate is: one image of ours, and the key that opens it.
 *
 *     dir=DIR, backend-uri=dir://DIR   DIR/tpm2-00.qcow2 (TPM 1.2: tpm-00.qcow2), key file .key
 *     backend-uri=file://PATH          PATH itself, key file PATH.key
 *
 * As with swtpm, a first start makes a TPM. It is never made over anything: what is there and is
 * neither an image nor empty is refused, and so is a state of swtpm's, which is to be imported.
 * An image made without --key has a random key in a file of its own next to it.
 */
#ifndef NVKEEP_COMPAT_EMULATOR_STATE_H
#define NVKEEP_COMPAT_EMULATOR_STATE_H

#include "src/compat/emulator_policy.h"
#include "src/key/migration_key_source.h"

struct emulator_state {
    char *image, *key_file; /* owned */
    char *old;              /* dir: where swtpm would have its state; NULL: file:// */
    mode_t mode;            /* of a new image; 0: 0600 */
    enum device_kind device;
};

enum emulator_found {
    FOUND_NOTHING,
    FOUND_EMPTY_FILE, /* made in advance, so that it has an owner */
    FOUND_IMAGE,
    FOUND_OLD, /* a state of swtpm's */
    FOUND_OTHER,
};

/* text: the argument of --tpmstate; NULL: $TPM_PATH. ERR_USAGE: no place was named, or not by the
 * rules; ERR_UNSUPPORTED: of a kind that there is not. */
int emulator_state_parse(const char *text, enum device_kind device, struct emulator_state *ret,
                         struct err *e) MUST_CHECK;
void emulator_state_clear(struct emulator_state *s);

/* Reads a few bytes and takes no lock. */
int emulator_state_look(const struct emulator_state *s, enum emulator_found *ret,
                        struct err *e) MUST_CHECK;
/* Has an image the name of swtpm's state? See src/make/in_place.h. */
int emulator_state_old_is_image(const struct emulator_state *s, bool *ret,
                                struct err *e) MUST_CHECK;
/* The key for an image that is there: from --key, else from the key file. ERR_KEY_MISSING: there is
 * neither. */
int emulator_state_key(const struct emulator_state *s, const struct migration_key_source *key,
                       struct secret **ret, size_t *ret_n, struct err *e) MUST_CHECK;

/* The key, and an image behind it: one is made where there is none. waits: without a TPM, a
 * migration is to bring it. */
struct emulator_start {
    const struct migration_key_source *key; /* KEY_SOURCE_NONE: no --key */
    const struct emulator_policy *policy;
    const struct log *log;
    bool waits;
};
int emulator_state_prepare(const struct emulator_state *s, const struct emulator_start *how,
                           struct secret **ret, size_t *ret_n, struct err *e) MUST_CHECK;

#endif
