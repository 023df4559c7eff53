/* A passphrase asked on the controlling terminal: without echo, into a secret.
 *
 * Only the tool asks; the daemon's code and the library never do. The terminal is as it was when
 * these return, and also when a signal stops or kills the program meanwhile.
 */
#ifndef NVKEEP_SRC_KEY_PROMPT_H
#define NVKEEP_SRC_KEY_PROMPT_H

#include "crypto/secret.h"

/* ERR_USAGE: there is no terminal; ERR_KEY_MISSING: an empty line or the end of input. */
int key_prompt(const char *image, struct secret **ret, size_t *ret_bytes, struct err *e) MUST_CHECK;

/* For an image that is about to be made: asks twice, ERR_USAGE where the answers differ. */
int key_prompt_new(const char *image, struct secret **ret, size_t *ret_bytes,
                   struct err *e) MUST_CHECK;

/* Is somebody there to ask? */
bool key_can_prompt(void);

#endif
