/* X.509 through GnuTLS: keys, and certificates that are signed with them. cert_x509.c is the only
 * file that sees GnuTLS, and only swtpm_cert and swtpm_localca are linked with it: what holds the
 * keys of an image is not.
 *
 * A certificate is never handed out before its signature was checked against the certificate of its
 * issuer: a key that does not belong to the issuer signs nothing.
 */
#ifndef NVKEEP_COMPAT_CERT_X509_H
#define NVKEEP_COMPAT_CERT_X509_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "crypto/prim.h"
#include "crypto/secret.h"

struct x509_subject; /* a public key that is certified */
struct x509_key;     /* a private key that signs */
struct x509_issuer;  /* the certificate of who signs */
void x509_subject_free(struct x509_subject *s);
void x509_key_free(struct x509_key *k);
void x509_issuer_free(struct x509_issuer *i);
DEFINE_OWNED(x509_subject);
DEFINE_OWNED(x509_key);
DEFINE_OWNED(x509_issuer);

/* ERR_USAGE: they are no public key. Numbers are big-endian. curve: "secp256r1", "secp384r1",
 * "secp521r1". */
int x509_subject_rsa(struct span modulus, uint32_t exponent, struct x509_subject **ret,
                     struct err *e) MUST_CHECK;
int x509_subject_point(const char *curve, struct span x, struct span y, struct x509_subject **ret,
                       struct err *e) MUST_CHECK;
int x509_subject_pem(struct span pem, struct x509_subject **ret, struct err *e) MUST_CHECK;
/* Its public half. */
int x509_subject_of_key(const struct x509_key *k, struct x509_subject **ret,
                        struct err *e) MUST_CHECK;
bool x509_subject_is_ecc(const struct x509_subject *s);

int x509_issuer_pem(struct span pem, struct x509_issuer **ret, struct err *e) MUST_CHECK;

/* password: with its zero; NULL: none. ERR_USAGE: no key, or not with this password. */
int x509_key_pem(struct span pem, const struct secret *password, struct x509_key **ret,
                 struct err *e) MUST_CHECK;
/* A PKCS #11 URI [RFC 7512]. pin: likewise, and given once, so that no token is locked. Where the
 * URI names a PIN of its own, that one counts. */
int x509_key_token(const char *uri, const struct secret *pin, struct x509_key **ret,
                   struct err *e) MUST_CHECK;
/* What signs for us: a digest, by the algorithm, which GnuTLS names ("RSA-SHA256",
 * "ECDSA-SHA256"). Returns the length of what it put into ret, or -1 with *e filled. */
enum { X509_SIGNATURE_BYTES = 4096 };
struct x509_signs {
    ssize_t (*sign)(void *ctx, const char *algorithm, struct span digest,
                    uint8_t ret[X509_SIGNATURE_BYTES], struct err *e);
    void *ctx;
};
/* The key whose public half is in the issuer's certificate; calls: copied, ctx borrowed. */
int x509_key_elsewhere(const struct x509_issuer *i, const struct x509_signs *calls,
                       struct x509_key **ret, struct err *e) MUST_CHECK;
/* RSA with 3072 bits, in a file's form (PKCS #8, PEM); encrypted where there is a password. */
int x509_key_make(const struct secret *password, struct secret **ret_pem, size_t *ret_bytes,
                  struct err *e) MUST_CHECK;

struct x509_extension {
    const char *oid;
    bool critical;
    const uint8_t *der;
    size_t n;
};
enum x509_usage {
    X509_SIGNS = 1,
    X509_ENCIPHERS_KEYS = 2,
    X509_AGREES_ON_KEYS = 4,
    X509_SIGNS_CERTIFICATES = 8,
};
enum { X509_FOR_EVER = -1, X509_SERIAL_BYTES = 20 };

struct x509_request {
    const struct x509_subject *subject;
    const char *name;                  /* [RFC 4514], NULL: see below */
    const char *common_name;           /* its text as it is; both NULL: the empty name */
    uint8_t serial[X509_SERIAL_BYTES]; /* big-endian, positive */
    int64_t days;                      /* from now on; X509_FOR_EVER */
    unsigned usage;                    /* enum x509_usage, added up */
    bool is_ca;                        /* with a subject key identifier */
    bool sha1;                         /* instead of SHA-256 */
    const struct x509_extension *extension;
    size_t n_extensions;
};
enum { X509_CERTIFICATE_BYTES = 16384 };
/* issuer: NULL: itself. ERR_USAGE: the name cannot be read, or the key is not the issuer's. */
int x509_issue(const struct x509_request *r, const struct x509_issuer *issuer, struct x509_key *key,
               bool pem, uint8_t ret[X509_CERTIFICATE_BYTES], size_t *ret_bytes,
               struct err *e) MUST_CHECK;

#endif
