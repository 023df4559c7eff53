#include "src/compat/cert_issue.h"

#include <errno.h>
#include <string.h>

#include "src/base/bytes.h"
#include "src/base/fd.h"
#include "src/compat/cert_file.h"
#include "src/compat/cert_program.h"

#define OID_SUBJECT_ALT_NAME     "2.5.29.17"
#define OID_DIRECTORY_ATTRIBUTES "2.5.29.9"
#define OID_EXTENDED_KEY_USAGE   "2.5.29.37"

/* --- who --- */

static int open_subject(const struct cert_args *a, struct x509_subject **ret, struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    if (a->pubkey_file)
        return cert_file_read(a->pubkey_file, "the EK's public key", &pem, &n, e) < 0
                   ? -1
                   : x509_subject_pem((struct span){secret_peek(pem), n}, ret, e);
    if (a->modulus.n)
        return x509_subject_rsa((struct span){a->modulus.p, a->modulus.n}, a->exponent, ret, e);
    return x509_subject_point(a->curve, (struct span){a->x.p, a->x.n},
                              (struct span){a->y.p, a->y.n}, ret, e);
}

static int open_issuer(const char *path, struct x509_issuer **ret, struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    return cert_file_read(path, "the issuer's certificate", &pem, &n, e) < 0
               ? -1
               : x509_issuer_pem((struct span){secret_peek(pem), n}, ret, e);
}

static int open_key_file(const char *path, const struct secret *password, struct x509_key **ret,
                         struct err *e)
{
    OWNED(secret) pem = NULL;
    size_t n = 0;
    return cert_file_read(path, "signing key", &pem, &n, e) < 0
               ? -1
               : x509_key_pem((struct span){secret_peek(pem), n}, password, ret, e);
}

static int open_key(const char *name, const struct secret *password,
                    const struct x509_issuer *issuer, struct x509_key **ret, struct err *e)
{
    static const char program[] = "program:";
    if (strncmp(name, "pkcs11:", 7) == 0)
        return x509_key_token(name, password, ret, e);
    if (strncmp(name, "tpmkey:", 7) == 0)
        return err_set(
            e, ERR_UNSUPPORTED,
            "a key of a TPM (tpmkey:) is not supported; reach it by pkcs11: or program:");
    if (strncmp(name, program, strlen(program)) != 0)
        return open_key_file(name, password, ret, e);
    const struct x509_signs calls = {cert_program_sign,
                                     (void *)(uintptr_t)(name + strlen(program))};
    return x509_key_elsewhere(issuer, &calls, ret, e);
}

/* --- what --- */

struct attributes {
    uint8_t name[ATTRIBUTES_BYTES], directory[ATTRIBUTES_BYTES], purpose[ATTRIBUTES_BYTES];
    struct x509_extension extension[3];
    size_t n;
};

static void add(struct attributes *t, const char *oid, bool critical, const uint8_t *p, size_t n)
{
    t->extension[t->n++] = (struct x509_extension){oid, critical, p, n};
}

static int put_attributes(const struct cert_args *a, struct attributes *t, struct err *e)
{
    const bool ek = a->type == CERT_EK;
    const enum cert_family family = a->tpm2 ? FAMILY_TPM20 : FAMILY_TPM12;
    size_t n = 0;
    if (attributes_purpose(ek ? PURPOSE_EK : PURPOSE_PLATFORM, t->purpose, &n, e) < 0)
        return -1;
    add(t, OID_EXTENDED_KEY_USAGE, false, t->purpose, n);
    /* A platform with a TPM 1.2 says which TPM it has. */
    if (attributes_subject_name(ek || !a->tpm2 ? &a->tpm : NULL, ek ? NULL : &a->platform, family,
                                t->name, &n, e) < 0)
        return -1;
    add(t, OID_SUBJECT_ALT_NAME, true, t->name, n);
    if (!ek)
        return 0;
    if (attributes_directory(&a->specification, a->assertions, t->directory, &n, e) < 0)
        return -1;
    add(t, OID_DIRECTORY_ATTRIBUTES, false, t->directory, n);
    return 0;
}

/* What the EK may be used for. A TPM 1.2 has one that decrypts, always. */
static unsigned usage(const struct cert_args *a, bool is_ecc)
{
    const unsigned decrypts = is_ecc ? X509_AGREES_ON_KEYS : X509_ENCIPHERS_KEYS;
    if (!a->tpm2)
        return X509_ENCIPHERS_KEYS;
    if (!a->allow_signing)
        return decrypts;
    return a->decryption ? X509_SIGNS | decrypts : X509_SIGNS;
}

/* [PC Client Implementation for TPM 1.2, 7.3.2: TCG_PCCLIENT_STORED_CERT, TCG_FULL_CERT] */
static int put_header(size_t bytes, struct bytes_out *out, struct err *e)
{
    enum { STORED = 0x1001, FULL = 0x1002, FULL_TAG_BYTES = 2 };
    if (bytes > UINT16_MAX - FULL_TAG_BYTES)
        return err_set(e, ERR_UNSUPPORTED, "a certificate of %zu bytes has no header", bytes);
    bytes_put_be16(out, STORED);
    bytes_put_u8(out, 0);
    bytes_put_be16(out, (uint16_t)(bytes + FULL_TAG_BYTES));
    bytes_put_be16(out, FULL);
    return 0;
}

static int issue(const struct cert_args *a, const struct cert_by *by, struct attributes *t,
                 uint8_t ret[X509_CERTIFICATE_BYTES], size_t *ret_bytes, struct err *e)
{
    OWNED(x509_subject) subject = NULL;
    OWNED(x509_issuer) issuer = NULL;
    OWNED(x509_key) key = NULL;
    if (put_attributes(a, t, e) < 0 || open_subject(a, &subject, e) < 0 ||
        open_issuer(a->issuer_file, &issuer, e) < 0 ||
        open_key(a->signkey, by->password, issuer, &key, e) < 0)
        return -1;
    struct x509_request r = {
        .subject = subject,
        .name = a->tpm2 ? a->subject : NULL, /* empty for a TPM 1.2 [CP12 3.5.6] */
        .common_name = a->tpm2 && !a->subject ? by->common_name : NULL,
        .days = a->days,
        .usage = usage(a, x509_subject_is_ecc(subject)),
        .sha1 = !a->tpm2, /* [CP12 3.5.3] */
        .extension = t->extension,
        .n_extensions = t->n,
    };
    put_be64(r.serial + sizeof(r.serial) - 8, a->serial);
    return x509_issue(&r, issuer, key, a->pem, ret, ret_bytes, e);
}

int cert_issue(const struct cert_args *a, const struct cert_by *by, uint8_t ret[CERT_BYTES],
               size_t *ret_bytes, struct err *e)
{
    uint8_t cert[X509_CERTIFICATE_BYTES];
    size_t n = 0;
    struct bytes_out out = bytes_out(ret, CERT_BYTES);
    OWNED_HEAP struct attributes *t = calloc(1, sizeof(*t));
    if (!t)
        return err_nomem(e, "a certificate's attributes");
    if (issue(a, by, t, cert, &n, e) < 0 || (a->header && put_header(n, &out, e) < 0))
        return -1;
    bytes_put(&out, cert, n);
    *ret_bytes = out.n;
    return 0;
}

int cert_write(const char *path, const uint8_t *p, size_t n, struct err *e)
{
    if (path)
        return cert_file_write(path, 0600, false, p, n, e);
    return fd_write_full(STDOUT_FILENO, p, n) < 0
               ? err_sys(e, ERR_STORAGE, errno, "Could not write the certificate")
               : 0;
}
