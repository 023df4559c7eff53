/* A key made by us: 32 random bytes, written as base64 text (44 characters, no newline), because
 * QEMU's tools take only passphrases that are UTF-8 without NUL.
 */
#ifndef NVKEEP_SRC_NEW_KEY_H
#define NVKEEP_SRC_NEW_KEY_H

#include "crypto/secret.h"

enum { NEW_KEY_TEXT_BYTES = 44 };

/* Makes the key and its file: new, mode 0600; it appears whole and is durable on return, or there
 * is none. Who finds it may use it: it is never taken away again. ERR_USAGE: path exists or cannot
 * be made. */
int new_key_file(const char *path, struct secret **ret, size_t *ret_bytes,
                 struct err *e) MUST_CHECK;

#endif
