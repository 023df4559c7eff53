/* The key of an image as swtpm_setup's options name it: a passphrase as it is, to the last byte; of
 * a key (hexadecimal) its digits in lower case, so that qemu-img can be given the same.
 *
 * Those who call us wait for us: where the key does not come, the process says so and ends.
 */
#ifndef NVKEEP_COMPAT_SETUP_KEY_H
#define NVKEEP_COMPAT_SETUP_KEY_H

#include "crypto/secret.h"
#include "src/compat/setup_args.h"

bool setup_key_given(const struct setup_args *a);
/* ERR_KEY_MISSING: empty; ERR_KEY_WRONG: no key of that length; ERR_USAGE: no such file. */
int setup_key_read(const struct setup_args *a, struct secret **ret, size_t *ret_bytes,
                   struct err *e) MUST_CHECK;

#endif
