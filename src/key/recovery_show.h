/* Where a recovery key is shown, once. */
#ifndef NVKEEP_SRC_RECOVERY_SHOW_H
#define NVKEEP_SRC_RECOVERY_SHOW_H

#include "crypto/secret.h"

/* fd: -1: the terminal, with a line that says what it is; otherwise the key and a newline, durable
 * where that is a file. ERR_USAGE: there is no terminal, or no such descriptor. */
int recovery_key_show(const struct secret *key, const char *image, int fd,
                      struct err *e) MUST_CHECK;

#endif
