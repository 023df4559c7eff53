/* A certificate as swtpm_cert's command line asks for it.
 */
#ifndef NVKEEP_COMPAT_CERT_ISSUE_H
#define NVKEEP_COMPAT_CERT_ISSUE_H

#include "src/compat/cert_args.h"
#include "src/compat/cert_x509.h"

enum { CERT_BYTES = X509_CERTIFICATE_BYTES + 16 };

struct cert_by {
    const struct secret *password; /* of the key, or a token's PIN; NULL: none */
    const char *common_name;       /* where the arguments name no subject; NULL: none */
};

/* The checked arguments' certificate, with its header where one is asked for. ERR_USAGE: a key or
 * certificate is not what it should be. */
int cert_issue(const struct cert_args *a, const struct cert_by *by, uint8_t ret[CERT_BYTES],
               size_t *ret_bytes, struct err *e) MUST_CHECK;

/* Into a file of mode 0600, which is there whole or not at all; never through a symbolic link.
 * NULL: standard output. */
int cert_write(const char *path, const uint8_t *p, size_t n, struct err *e) MUST_CHECK;

#endif
