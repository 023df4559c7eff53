/* The image that swtpm_setup is to do something to.
 *
 * What is there is claimed before anything is done to it, and changed by one commit: what a running
 * daemon holds, what the key does not open and what is not ours stays as it is.
 */
#ifndef NVKEEP_COMPAT_SETUP_STATE_H
#define NVKEEP_COMPAT_SETUP_STATE_H

#include "src/compat/compat_image.h"
#include "src/compat/setup_args.h"

/* Place and key, from --tpm-state and the options for a key. ERR_USAGE: the directory is not there.
 */
int setup_state_name(const struct setup_args *args, struct compat_image *ret,
                     struct err *e) MUST_CHECK;

/* The log is written to: it is not the image, the file of its key, or swtpm's state. */
int setup_state_check_log(const struct setup_args *args, struct err *e) MUST_CHECK;

/* Does the key open the image, and is it of that kind? Reads alone, also what a daemon holds.
 * false: it waits for a migration to bring a TPM. */
int setup_state_verify(struct compat_image *i, bool *ret_holds_tpm, struct err *e) MUST_CHECK;

/* An image that is there, claimed. ERR_LOCKED comes before a passphrase is stretched. */
int setup_state_open(struct compat_image *i, struct store **ret, struct err *e) MUST_CHECK;

/* The same TPM, changed: in one commit. A run that was interrupted (a volatile state) is over. */
int setup_state_change(struct store *store, const struct tpm_blobs *blobs,
                       struct err *e) MUST_CHECK;

/* Another TPM: a new image, with an identity of its own, in the place of the one that the store
 * lies on. (A block device cannot be replaced, and is changed.) */
int setup_state_replace(struct compat_image *i, struct store *store, const struct tpm_blobs *blobs,
                        struct err *e) MUST_CHECK;

#endif
