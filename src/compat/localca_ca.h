/* The local certificate authority's own files: root key and certificate, signing key and issuer's
 * certificate, and the number of the last certificate.
 *
 * What is missing is made under a lock, in this order, each file whole or not there at all:
 *
 *     root key, root certificate, signing key, issuer's certificate
 *
 * so that whoever was stopped on the way is continued by the next. Nothing that is there is made
 * anew. The lock is the one that swtpm_localca has always taken: both may use one directory.
 */
#ifndef NVKEEP_COMPAT_LOCALCA_CA_H
#define NVKEEP_COMPAT_LOCALCA_CA_H

#include "crypto/secret.h"
#include "src/compat/setup_log.h"

struct localca_ca {
    const char *state_dir, *signing_key, *issuer_cert, *cert_serial;
    const struct secret *password;      /* of the signing key; NULL: none */
    const struct secret *root_password; /* likewise */
};

/* Directories that are missing. */
int localca_dirs(const struct localca_ca *ca, const struct setup_log *log,
                 struct err *e) MUST_CHECK;
/* ERR_USAGE: files are there that do not belong together. */
int localca_make(const struct localca_ca *ca, const struct setup_log *log,
                 struct err *e) MUST_CHECK;
/* One that nobody else gets: on disk before it is returned. ERR_USAGE: the file holds no number;
 * what to count on from cannot be guessed. */
int localca_serial(const struct localca_ca *ca, uint64_t *ret, struct err *e) MUST_CHECK;

#endif
