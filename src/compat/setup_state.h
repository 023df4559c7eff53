/* Where the state of swtpm_setup's --tpm-state is, and what may be done to it.
 *
 *     DIR, dir://DIR   DIR/tpm2-00.qcow2 (TPM 1.2: tpm-00.qcow2), key file tpm2-00.key
 *     file://PATH      PATH itself, key file PATH.key
 *
 * What is there is claimed before anything is done to it, and changed by one commit: what a running
 * daemon holds, what the key does not open and what is not ours stays as it is.
 */
#ifndef NVKEEP_COMPAT_SETUP_STATE_H
#define NVKEEP_COMPAT_SETUP_STATE_H

#include "backend/image.h"
#include "backend/tpm.h"
#include "src/compat/setup_args.h"
#include "src/compat/setup_log.h"

struct setup_state {
    char *image, *key_file; /* owned */
    char *old;              /* where swtpm would have its state; NULL: file:// */
    enum device_kind device;
    const struct setup_args *args; /* for the key, which is read once: a pipe is empty then */
    struct secret *key;            /* owned; NULL: not read yet */
    size_t key_bytes;
};

enum setup_found { SETUP_NOTHING, SETUP_EMPTY_FILE, SETUP_IMAGE };

/* ERR_USAGE: the directory is not there. */
int setup_state_name(const struct setup_args *args, struct setup_state *ret,
                     struct err *e) MUST_CHECK;
void setup_state_clear(struct setup_state *s);

/* ERR_STATE_FOREIGN: something else is there, a state of swtpm's for one. */
int setup_state_look(const struct setup_state *s, enum setup_found *ret, struct err *e) MUST_CHECK;

/* The key that was given, if one was: before anything else is done, for it may never come. */
int setup_state_take_key(struct setup_state *s, struct err *e) MUST_CHECK;

/* Does the key open the image? Reads alone, also what a daemon holds. */
int setup_state_verify(struct setup_state *s, struct err *e) MUST_CHECK;

/* An image that is there, claimed. ERR_LOCKED comes before a passphrase is stretched. */
int setup_state_open(struct setup_state *s, struct store **ret, struct err *e) MUST_CHECK;

/* The same TPM, changed: in one commit. A run that was interrupted (a volatile state) is over. */
int setup_state_change(struct store *store, const struct tpm_blobs *blobs,
                       struct err *e) MUST_CHECK;

/* Another TPM: a new image, with an identity of its own and the key of the old one, takes the name
 * of the image that the store lies on. (A block device cannot be replaced, and is changed.) */
int setup_state_replace(struct setup_state *s, struct store *store, const struct tpm_blobs *blobs,
                        const struct setup_log *log, struct err *e) MUST_CHECK;

/* A new image with these blobs, and a key file where no key was given. found: what stands at its
 * place; an empty file gives it owner and mode. */
int setup_state_create(struct setup_state *s, enum setup_found found, const struct tpm_blobs *blobs,
                       const struct setup_log *log, struct err *e) MUST_CHECK;

#endif
