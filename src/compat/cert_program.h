/* A program that signs for us: the key never comes near this process. It serves keys that no
 * PKCS #11 module leads to.
 *
 * It is started as PATH ALGORITHM (GnuTLS' name: "RSA-SHA256", "ECDSA-SHA256"; for a TPM 1.2
 * "RSA-SHA1"), gets the digest of what is to be signed on standard input and answers on standard
 * output with the signature as it stands in a certificate (RSA: PKCS #1 v1.5; ECDSA: DER). It has
 * CERT_PROGRAM_SECONDS.
 */
#ifndef NVKEEP_COMPAT_CERT_PROGRAM_H
#define NVKEEP_COMPAT_CERT_PROGRAM_H

#include "src/compat/cert_x509.h"

enum { CERT_PROGRAM_SECONDS = 60 };

/* x509_signs.sign; ctx: its path. ERR_USAGE: it did not end well. */
ssize_t cert_program_sign(void *ctx, const char *algorithm, struct span digest,
                          uint8_t ret[X509_SIGNATURE_BYTES], struct err *e) MUST_CHECK;

#endif
