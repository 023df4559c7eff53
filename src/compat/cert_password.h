/* Passwords as swtpm_cert's and swtpm_localca's options and files name them. */
#ifndef NVKEEP_COMPAT_CERT_PASSWORD_H
#define NVKEEP_COMPAT_CERT_PASSWORD_H

#include "crypto/secret.h"

enum { CERT_PASSWORD_BYTES = 255 };

/* The text itself, with its zero. ERR_USAGE: too long. */
int cert_password(const char *text, struct secret **ret, struct err *e) MUST_CHECK;

/* "pass:TEXT", "file:PATH", "fd:N", "env:NAME", or the text itself; of a file its first
 * CERT_PASSWORD_BYTES up to a zero or the end, a newline counts. */
int cert_password_named(const char *words, struct secret **ret, struct err *e) MUST_CHECK;

#endif
