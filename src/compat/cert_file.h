/* Files of a certificate authority: read into memory that is wiped, and written whole or not at
 * all. */
#ifndef NVKEEP_COMPAT_CERT_FILE_H
#define NVKEEP_COMPAT_CERT_FILE_H

#include <sys/types.h>

#include "crypto/secret.h"

enum { CERT_FILE_BYTES = 256 << 10 };

/* `what` is for the message. ERR_USAGE: not there, or not to be read; empty, or too large. */
int cert_file_read(const char *path, const char *what, struct secret **ret, size_t *ret_bytes,
                   struct err *e) MUST_CHECK;

/* Replaces what is there, whose owner and mode it keeps; what is no plain file is written to, a
 * symbolic link is refused. durable: on disk when it returns, but for
 * the directory's entry. ERR_USAGE: it cannot be there. */
int cert_file_write(const char *path, mode_t mode, bool durable, const void *p, size_t n,
                    struct err *e) MUST_CHECK;

#endif
