#include "src/compat/cert_x509.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509-ext.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/base/bytes.h"

enum { EXPONENT_BYTES = 4, RSA_BITS = 3072, MODULUS_MIN_BYTES = 128, KEY_ID_BYTES = 64 };

struct x509_subject {
    gnutls_pubkey_t key;
};
struct x509_issuer {
    gnutls_x509_crt_t cert;
};
struct x509_key {
    gnutls_privkey_t key;
    const struct secret *pin; /* while the key is found */
    /* One that is elsewhere: */
    struct x509_signs calls;
    gnutls_pk_algorithm_t algorithm;
    unsigned bits;
    gnutls_digest_algorithm_t digest; /* of what is being signed */
    struct err failed;                /* what its call said */
};

void x509_subject_free(struct x509_subject *s)
{
    if (!s)
        return;
    gnutls_pubkey_deinit(s->key);
    free(s);
}

void x509_issuer_free(struct x509_issuer *i)
{
    if (!i)
        return;
    gnutls_x509_crt_deinit(i->cert);
    free(i);
}

void x509_key_free(struct x509_key *k)
{
    if (!k)
        return;
    gnutls_privkey_deinit(k->key);
    free(k);
}

static int failed(const char *what, int code, struct err *e)
{
    return err_set(e, code == GNUTLS_E_MEMORY_ERROR ? ERR_STORAGE : ERR_USAGE, "%s: %s", what,
                   gnutls_strerror(code));
}

/* GnuTLS reads from what is not const. */
static gnutls_datum_t datum(struct span s)
{
    return (gnutls_datum_t){(unsigned char *)(uintptr_t)s.p, (unsigned)s.n};
}

/* --- public keys --- */

static int subject_new(struct x509_subject **ret, struct err *e)
{
    OWNED_HEAP struct x509_subject *s = calloc(1, sizeof(*s));
    if (!s || gnutls_pubkey_init(&s->key) < 0)
        return err_nomem(e, "a public key");
    *ret = MOVE(s);
    return 0;
}

int x509_subject_rsa(struct span modulus, uint32_t exponent, struct x509_subject **ret,
                     struct err *e)
{
    uint8_t be[EXPONENT_BYTES];
    const gnutls_datum_t m = datum(modulus), x = {be, sizeof(be)};
    OWNED(x509_subject) s = NULL;
    const uint8_t *p = modulus.p;
    if (modulus.n < MODULUS_MIN_BYTES || p[0] == 0 || !(p[modulus.n - 1] & 1))
        return err_set(e, ERR_USAGE, "%zu bytes that are no modulus of an RSA key", modulus.n);
    if (exponent < 3 || !(exponent & 1))
        return err_set(e, ERR_USAGE, "%u is no exponent of an RSA key", exponent);
    put_be32(be, exponent);
    if (subject_new(&s, e) < 0)
        return -1;
    int r = gnutls_pubkey_import_rsa_raw(s->key, &m, &x);
    if (r < 0)
        return failed("Could not set modulus and exponent on RSA key", r, e);
    *ret = MOVE(s);
    return 0;
}

static bool find_curve(const char *name, gnutls_ecc_curve_t *ret)
{
    static const struct {
        const char *name;
        gnutls_ecc_curve_t curve;
    } known[] = {{"secp256r1", GNUTLS_ECC_CURVE_SECP256R1},
                 {"secp384r1", GNUTLS_ECC_CURVE_SECP384R1},
                 {"secp521r1", GNUTLS_ECC_CURVE_SECP521R1}};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(known[i].name, name) == 0) {
            *ret = known[i].curve;
            return true;
        }
    return false;
}

int x509_subject_point(const char *curve, struct span x, struct span y, struct x509_subject **ret,
                       struct err *e)
{
    char buf[100];
    gnutls_ecc_curve_t c;
    const gnutls_datum_t dx = datum(x), dy = datum(y);
    OWNED(x509_subject) s = NULL;
    if (!find_curve(curve, &c))
        return err_set(e, ERR_USAGE, "Unsupported ECC curve id: %s",
                       err_quote(buf, sizeof(buf), curve, strlen(curve)));
    if (subject_new(&s, e) < 0)
        return -1;
    int r = gnutls_pubkey_import_ecc_raw(s->key, c, &dx, &dy);
    if (r == 0)
        r = gnutls_pubkey_verify_params(s->key);
    if (r < 0)
        return failed("Could not set x and y on ECC key", r, e);
    *ret = MOVE(s);
    return 0;
}

int x509_subject_pem(struct span pem, struct x509_subject **ret, struct err *e)
{
    const gnutls_datum_t d = datum(pem);
    OWNED(x509_subject) s = NULL;
    if (subject_new(&s, e) < 0)
        return -1;
    int r = gnutls_pubkey_import(s->key, &d, GNUTLS_X509_FMT_PEM);
    if (r < 0)
        return failed("Could not import EK", r, e);
    *ret = MOVE(s);
    return 0;
}

bool x509_subject_is_ecc(const struct x509_subject *s)
{
    return gnutls_pubkey_get_pk_algorithm(s->key, NULL) == GNUTLS_PK_ECDSA;
}

int x509_issuer_pem(struct span pem, struct x509_issuer **ret, struct err *e)
{
    const gnutls_datum_t d = datum(pem);
    OWNED(x509_issuer) i = calloc(1, sizeof(*i));
    if (!i || gnutls_x509_crt_init(&i->cert) < 0)
        return err_nomem(e, "a certificate");
    int r = gnutls_x509_crt_import(i->cert, &d, GNUTLS_X509_FMT_PEM);
    if (r < 0)
        return failed("Could not import issuer certificate", r, e);
    *ret = MOVE(i);
    return 0;
}

/* --- keys that sign --- */

static int key_new(struct x509_key **ret, struct err *e)
{
    OWNED_HEAP struct x509_key *k = calloc(1, sizeof(*k));
    if (!k || gnutls_privkey_init(&k->key) < 0)
        return err_nomem(e, "a signing key");
    *ret = MOVE(k);
    return 0;
}

int x509_key_pem(struct span pem, const struct secret *password, struct x509_key **ret,
                 struct err *e)
{
    const gnutls_datum_t d = datum(pem);
    const char *text = password ? (const char *)secret_peek(password) : NULL;
    OWNED(x509_key) k = NULL;
    if (key_new(&k, e) < 0)
        return -1;
    int r = gnutls_privkey_import_x509_raw(k->key, &d, GNUTLS_X509_FMT_PEM, text, 0);
    if (r < 0)
        return failed("Could not import signing key", r, e);
    *ret = MOVE(k);
    return 0;
}

/* Once: a token counts how often it is given a wrong one. */
static int give_pin(void *ctx, int attempt, const char *url, const char *label, unsigned flags,
                    char *pin, size_t room)
{
    const struct x509_key *k = ctx;
    (void)url;
    (void)label;
    const size_t n = k->pin ? strlen((const char *)secret_peek(k->pin)) : 0;
    if (n == 0 || n >= room || attempt > 0 || (flags & GNUTLS_PIN_WRONG))
        return -1;
    memcpy(pin, secret_peek(k->pin), n + 1);
    return 0;
}

int x509_key_token(const char *uri, const struct secret *pin, struct x509_key **ret, struct err *e)
{
    OWNED(x509_key) k = NULL;
    if (key_new(&k, e) < 0)
        return -1;
    k->pin = pin;
    gnutls_privkey_set_pin_function(k->key, give_pin, k);
    int r = gnutls_privkey_import_url(k->key, uri, 0);
    if (r < 0)
        return failed("Could not import the key of the PKCS #11 token", r, e);
    *ret = MOVE(k);
    return 0;
}

int x509_subject_of_key(const struct x509_key *k, struct x509_subject **ret, struct err *e)
{
    OWNED(x509_subject) s = NULL;
    if (subject_new(&s, e) < 0)
        return -1;
    int r = gnutls_pubkey_import_privkey(s->key, k->key, 0, 0);
    if (r < 0)
        return failed("the public half of a key", r, e);
    *ret = MOVE(s);
    return 0;
}

static int elsewhere_info(gnutls_privkey_t key, unsigned flags, void *ctx)
{
    const struct x509_key *k = ctx;
    (void)key;
    if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO)
        return (int)k->algorithm;
    if (flags & GNUTLS_PRIVKEY_INFO_PK_ALGO_BITS)
        return (int)k->bits;
    if (flags & GNUTLS_PRIVKEY_INFO_HAVE_SIGN_ALGO)
        return (int)gnutls_sign_supports_pk_algorithm(GNUTLS_FLAGS_TO_SIGN_ALGO(flags),
                                                      k->algorithm);
    return -1;
}

/* GnuTLS gives the digest, with RSA behind the name of its algorithm (DigestInfo [RFC 8017 9.2]).
 */
static int elsewhere_sign(gnutls_privkey_t key, gnutls_sign_algorithm_t unused, void *ctx,
                          unsigned flags, const gnutls_datum_t *data, gnutls_datum_t *ret)
{
    struct x509_key *k = ctx;
    uint8_t signature[X509_SIGNATURE_BYTES];
    const unsigned n_digest = gnutls_hash_get_len(k->digest);
    (void)key;
    (void)unused;
    (void)flags;
    if (data->size < n_digest)
        return GNUTLS_E_PK_SIGN_FAILED;
    ssize_t n = k->calls.sign(
        k->calls.ctx, gnutls_sign_get_name(gnutls_pk_to_sign(k->algorithm, k->digest)),
        (struct span){data->data + data->size - n_digest, n_digest}, signature, &k->failed);
    if (n <= 0)
        return GNUTLS_E_PK_SIGN_FAILED;
    ret->data = gnutls_malloc((size_t)n);
    if (!ret->data)
        return GNUTLS_E_MEMORY_ERROR;
    memcpy(ret->data, signature, (size_t)n);
    ret->size = (unsigned)n;
    return 0;
}

int x509_key_elsewhere(const struct x509_issuer *i, const struct x509_signs *calls,
                       struct x509_key **ret, struct err *e)
{
    OWNED(x509_key) k = NULL;
    if (key_new(&k, e) < 0)
        return -1;
    int r = gnutls_x509_crt_get_pk_algorithm(i->cert, &k->bits);
    if (r < 0)
        return failed("the issuer's key", r, e);
    k->algorithm = (gnutls_pk_algorithm_t)r;
    k->calls = *calls;
    r = gnutls_privkey_import_ext4(k->key, k, NULL, elsewhere_sign, NULL, NULL, elsewhere_info, 0);
    if (r < 0)
        return failed("a key that is elsewhere", r, e);
    *ret = MOVE(k);
    return 0;
}

static int export_key(gnutls_x509_privkey_t key, const struct secret *password,
                      struct secret **ret_pem, size_t *ret_bytes, struct err *e)
{
    gnutls_datum_t pem = {NULL, 0};
    OWNED(secret) s = NULL;
    int r = gnutls_x509_privkey_export2_pkcs8(
        key, GNUTLS_X509_FMT_PEM, password ? (const char *)secret_peek(password) : NULL,
        password ? GNUTLS_PKCS_PBES2_AES_256 : GNUTLS_PKCS_PLAIN, &pem);
    if (r < 0)
        return failed("Could not write the key", r, e);
    if (secret_new(pem.size, &s, e) == 0)
        memcpy(secret_bytes(s), pem.data, pem.size);
    *ret_bytes = pem.size;
    wipe(pem.data, pem.size);
    gnutls_free(pem.data);
    *ret_pem = MOVE(s);
    return *ret_pem ? 0 : -1;
}

int x509_key_make(const struct secret *password, struct secret **ret_pem, size_t *ret_bytes,
                  struct err *e)
{
    gnutls_x509_privkey_t key = NULL;
    if (gnutls_x509_privkey_init(&key) < 0)
        return err_nomem(e, "a new key");
    int r = gnutls_x509_privkey_generate(key, GNUTLS_PK_RSA, RSA_BITS, 0);
    int result = r < 0 ? failed("Could not make a key", r, e)
                       : export_key(key, password, ret_pem, ret_bytes, e);
    gnutls_x509_privkey_deinit(key);
    return result;
}

/* --- certificates --- */

/* One thing after the other; the first code that is bad counts. */
struct made {
    gnutls_x509_crt_t cert;
    int code;
    const char *what;
};

static void step(struct made *m, const char *what, int code)
{
    if (m->code >= 0 && code < 0) {
        m->code = code;
        m->what = what;
    }
}

static void put_name(struct made *m, const struct x509_request *r)
{
    const char *where = NULL;
    if (r->name)
        step(m, "Could not set DN on CRT", gnutls_x509_crt_set_dn(m->cert, r->name, &where));
    else if (r->common_name)
        step(m, "Could not set the common name",
             gnutls_x509_crt_set_dn_by_oid(m->cert, GNUTLS_OID_X520_COMMON_NAME, 0, r->common_name,
                                           (unsigned)strlen(r->common_name)));
}

static void put_serial(struct made *m, const struct x509_request *r)
{
    size_t at = 0;
    /* An INTEGER has a sign: what begins with a bit set keeps a zero in front. */
    while (at < X509_SERIAL_BYTES - 1 && r->serial[at] == 0 && !(r->serial[at + 1] & 0x80))
        at++;
    step(m, "Could not set serial on CRT",
         gnutls_x509_crt_set_serial(m->cert, r->serial + at, X509_SERIAL_BYTES - at));
}

static void put_validity(struct made *m, const struct x509_request *r)
{
    enum { SECONDS = 24 * 60 * 60 };
    const time_t now = time(NULL);
    step(m, "Could not set activation time on CRT",
         gnutls_x509_crt_set_activation_time(m->cert, now));
    step(m, "Could not set expiration time on CRT",
         gnutls_x509_crt_set_expiration_time(
             m->cert, r->days < 0 ? (time_t)-1 : now + (time_t)r->days * SECONDS));
}

/* Where the issuer's certificate names its key, by that name. */
static void put_key_ids(struct made *m, const struct x509_request *r,
                        const struct x509_issuer *issuer)
{
    uint8_t id[KEY_ID_BYTES];
    size_t n = sizeof(id);
    if (r->is_ca) {
        step(m, "the key's identifier", gnutls_x509_crt_get_key_id(m->cert, 0, id, &n));
        step(m, "the key's identifier", gnutls_x509_crt_set_subject_key_id(m->cert, id, n));
    }
    if (!issuer)
        return;
    n = sizeof(id);
    if (gnutls_x509_crt_get_subject_key_id(issuer->cert, id, &n, NULL) < 0) {
        n = sizeof(id);
        step(m, "the issuer's key identifier", gnutls_x509_crt_get_key_id(issuer->cert, 0, id, &n));
    }
    step(m, "Could not set the authority key id",
         gnutls_x509_crt_set_authority_key_id(m->cert, id, n));
}

static void put_usage(struct made *m, const struct x509_request *r)
{
    unsigned usage = 0;
    usage |= r->usage & X509_SIGNS ? GNUTLS_KEY_DIGITAL_SIGNATURE : 0;
    usage |= r->usage & X509_ENCIPHERS_KEYS ? GNUTLS_KEY_KEY_ENCIPHERMENT : 0;
    usage |= r->usage & X509_AGREES_ON_KEYS ? GNUTLS_KEY_KEY_AGREEMENT : 0;
    usage |= r->usage & X509_SIGNS_CERTIFICATES ? GNUTLS_KEY_KEY_CERT_SIGN : 0;
    step(m, "Could not set the key usage", gnutls_x509_crt_set_key_usage(m->cert, usage));
}

static int fill(const struct x509_request *r, const struct x509_issuer *issuer, struct made *m,
                struct err *e)
{
    step(m, "a certificate", gnutls_x509_crt_set_version(m->cert, 3));
    put_name(m, r);
    put_serial(m, r);
    put_validity(m, r);
    step(m, "Could not set the public key", gnutls_x509_crt_set_pubkey(m->cert, r->subject->key));
    for (size_t i = 0; i < r->n_extensions; i++)
        step(m, "Could not set an extension",
             gnutls_x509_crt_set_extension_by_oid(m->cert, r->extension[i].oid, r->extension[i].der,
                                                  r->extension[i].n, r->extension[i].critical));
    step(m, "Could not set the basic constraints",
         gnutls_x509_crt_set_basic_constraints(m->cert, r->is_ca, -1));
    put_usage(m, r);
    put_key_ids(m, r, issuer);
    return m->code < 0 ? failed(m->what, m->code, e) : 0;
}

/* The signature, and nothing else about the two. As others will read it. */
static int check_signature(struct span der, const struct x509_issuer *issuer, struct err *e)
{
    const gnutls_datum_t d = datum(der);
    const unsigned flags = GNUTLS_VERIFY_ALLOW_BROKEN | GNUTLS_VERIFY_DISABLE_TIME_CHECKS |
                           GNUTLS_VERIFY_DISABLE_CA_SIGN | GNUTLS_VERIFY_ALLOW_ANY_X509_V1_CA_CRT;
    gnutls_x509_crt_t cert = NULL;
    unsigned status = 0;
    if (gnutls_x509_crt_init(&cert) < 0)
        return err_nomem(e, "a certificate");
    int r = gnutls_x509_crt_import(cert, &d, GNUTLS_X509_FMT_DER);
    if (r >= 0)
        r = gnutls_x509_crt_verify(cert, issuer ? &issuer->cert : &cert, 1, flags, &status);
    gnutls_x509_crt_deinit(cert);
    return r >= 0 && status == 0
               ? 0
               : err_set(e, ERR_USAGE,
                         "the signing key does not belong to the issuer's certificate "
                         "(verification status 0x%x)",
                         status);
}

static int sign(const struct x509_request *r, gnutls_x509_crt_t cert,
                const struct x509_issuer *issuer, struct x509_key *key, struct err *e)
{
    key->failed = (struct err){.kind = ERR_NONE};
    key->digest = r->sha1 ? GNUTLS_DIG_SHA1 : GNUTLS_DIG_SHA256;
    int code =
        gnutls_x509_crt_privkey_sign(cert, issuer ? issuer->cert : cert, key->key, key->digest, 0);
    if (code >= 0)
        return 0;
    if (key->failed.kind == ERR_NONE)
        return failed("Could not sign the CRT", code, e);
    *e = key->failed;
    return -1;
}

static int export_cert(gnutls_x509_crt_t cert, bool pem, uint8_t ret[X509_CERTIFICATE_BYTES],
                       size_t *ret_bytes, struct err *e)
{
    size_t n = X509_CERTIFICATE_BYTES;
    int r = gnutls_x509_crt_export(cert, pem ? GNUTLS_X509_FMT_PEM : GNUTLS_X509_FMT_DER, ret, &n);
    if (r < 0)
        return failed("Could not write the certificate", r, e);
    *ret_bytes = n;
    return 0;
}

static int issue(const struct x509_request *r, gnutls_x509_crt_t cert,
                 const struct x509_issuer *issuer, struct x509_key *key, bool pem,
                 uint8_t ret[X509_CERTIFICATE_BYTES], size_t *ret_bytes, struct err *e)
{
    struct made m = {.cert = cert};
    if (fill(r, issuer, &m, e) < 0 || sign(r, cert, issuer, key, e) < 0 ||
        export_cert(cert, false, ret, ret_bytes, e) < 0 ||
        check_signature((struct span){ret, *ret_bytes}, issuer, e) < 0)
        return -1;
    return pem ? export_cert(cert, true, ret, ret_bytes, e) : 0;
}

int x509_issue(const struct x509_request *r, const struct x509_issuer *issuer, struct x509_key *key,
               bool pem, uint8_t ret[X509_CERTIFICATE_BYTES], size_t *ret_bytes, struct err *e)
{
    gnutls_x509_crt_t cert = NULL;
    if (gnutls_x509_crt_init(&cert) < 0)
        return err_nomem(e, "a certificate");
    int result = issue(r, cert, issuer, key, pem, ret, ret_bytes, e);
    gnutls_x509_crt_deinit(cert);
    return result;
}
