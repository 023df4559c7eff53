#include "src/make/ek_print.h"

#include <stdio.h>
#include <string.h>

#include "crypto/der.h"

enum {
    ALG_RSA = 0x0001,
    ALG_NULL = 0x0010,
    ALG_ECC = 0x0023,
    DER_BIT_STRING = 0x03,
    POINT_UNCOMPRESSED = 4,
    EXPONENT_USUAL = 65537,
};

struct curve {
    uint16_t id;
    const char *name;
    size_t bytes; /* of a coordinate */
    uint8_t oid[10];
    size_t oid_bytes;
};

static const struct curve curves[] = {
    {3, "P-256", 32, {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, 10},
    {4, "P-384", 48, {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}, 7},
    {5, "P-521", 66, {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}, 7},
};

static const struct curve *curve_of(const struct ek_key *k)
{
    for (size_t i = 0; i < ARRAY_LEN(curves); i++)
        if (curves[i].id == k->curve)
            return &curves[i];
    return NULL;
}

bool ek_algorithm(const struct ek_key *k, char ret[EK_ALGORITHM_BYTES])
{
    const struct curve *c = k->public.is_ecc ? curve_of(k) : NULL;
    if (k->public.is_ecc && !c)
        return false;
    if (c)
        (void)snprintf(ret, EK_ALGORITHM_BYTES, "ECC %s", c->name);
    else
        (void)snprintf(ret, EK_ALGORITHM_BYTES, "RSA %zu", k->public.n_or_x_bytes * 8);
    return true;
}

/* --- SubjectPublicKeyInfo --- */

/* A positive INTEGER, in the shortest form. */
static void put_integer(struct bytes_out *out, const uint8_t *p, size_t n)
{
    while (n > 1 && p[0] == 0) {
        p++;
        n--;
    }
    der_put_head(out, DER_INTEGER, n + (p[0] >> 7));
    bytes_put_zero(out, p[0] >> 7);
    bytes_put(out, p, n);
}

/* RSAPublicKey */
static void put_rsa(struct bytes_out *out, const struct ek_key *k)
{
    uint8_t numbers[EK_PUBLIC_MAX_BYTES + 20], exponent[4];
    struct bytes_out in = bytes_out(numbers, sizeof(numbers));
    put_be32(exponent, k->exponent);
    put_integer(&in, k->public.n_or_x, k->public.n_or_x_bytes);
    put_integer(&in, exponent, sizeof(exponent));
    der_put_head(out, DER_SEQUENCE, in.n);
    bytes_put(out, numbers, in.n);
}

/* ECPoint [SEC 1, 2.3.3] */
static void put_point(struct bytes_out *out, const struct ek_key *k, const struct curve *c)
{
    const struct ek_public *p = &k->public;
    bytes_put_u8(out, POINT_UNCOMPRESSED);
    bytes_put_zero(out, c->bytes - p->n_or_x_bytes);
    bytes_put(out, p->n_or_x, p->n_or_x_bytes);
    bytes_put_zero(out, c->bytes - p->y_bytes);
    bytes_put(out, p->y, p->y_bytes);
}

static void put_algorithm(struct bytes_out *out, const struct curve *c)
{
    static const uint8_t rsa[] = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                  0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
    static const uint8_t ec[] = {0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
    if (!c) {
        bytes_put(out, rsa, sizeof(rsa));
        return;
    }
    der_put_head(out, DER_SEQUENCE, sizeof(ec) + c->oid_bytes);
    bytes_put(out, ec, sizeof(ec));
    bytes_put(out, c->oid, c->oid_bytes);
}

bool ek_key_info(const struct ek_key *k, uint8_t ret[KEY_INFO_BYTES], size_t *ret_bytes)
{
    const struct curve *c = k->public.is_ecc ? curve_of(k) : NULL;
    uint8_t key[KEY_INFO_BYTES], algorithm[40];
    struct bytes_out inner = bytes_out(key, sizeof(key));
    struct bytes_out alg = bytes_out(algorithm, sizeof(algorithm));
    struct bytes_out out = bytes_out(ret, KEY_INFO_BYTES);
    if (k->public.is_ecc &&
        (!c || k->public.n_or_x_bytes > c->bytes || k->public.y_bytes > c->bytes))
        return false;
    if (c)
        put_point(&inner, k, c);
    else
        put_rsa(&inner, k);
    put_algorithm(&alg, c);
    const size_t bits = der_head_bytes(inner.n + 1) + inner.n + 1;
    der_put_head(&out, DER_SEQUENCE, alg.n + bits);
    bytes_put(&out, algorithm, alg.n);
    der_put_head(&out, DER_BIT_STRING, inner.n + 1);
    bytes_put_u8(&out, 0); /* no bit is left over */
    bytes_put(&out, key, inner.n);
    *ret_bytes = out.n;
    return !inner.bad && !alg.bad && !out.bad;
}

bool ek_fingerprint(const struct ek_key *k, uint8_t ret[SHA256_BYTES])
{
    uint8_t info[KEY_INFO_BYTES];
    size_t n;
    if (!ek_key_info(k, info, &n))
        return false;
    const struct span all = {info, n};
    hash_compute(HASH_SHA256, &all, 1, ret);
    return true;
}

/* --- TPMT_PUBLIC --- */

/* TPMT_SYM_DEF_OBJECT, TPMT_RSA_SCHEME, TPMT_ECC_SCHEME, TPMT_KDF_SCHEME: a word, and what belongs
 * to it. */
static void skip_scheme(struct bytes_in *in, size_t more)
{
    if (bytes_be16(in) != ALG_NULL)
        bytes_skip(in, more);
}

static void take_number(struct bytes_in *in, uint8_t ret[EK_PUBLIC_MAX_BYTES], size_t *ret_bytes)
{
    const uint16_t n = bytes_be16(in);
    const uint8_t *p = bytes_take(in, n);
    in->bad |= n == 0 || n > EK_PUBLIC_MAX_BYTES;
    if (in->bad)
        return;
    memcpy(ret, p, n);
    *ret_bytes = n;
}

bool ek_key_decode(struct bytes_in *in, struct ek_key *ret)
{
    struct ek_key k = {.exponent = 0};
    const uint16_t type = bytes_be16(in);
    bytes_skip(in, 2 + 4);          /* name algorithm, attributes */
    bytes_skip(in, bytes_be16(in)); /* policy */
    if (type != ALG_RSA && type != ALG_ECC)
        return false;
    k.public.is_ecc = type == ALG_ECC;
    skip_scheme(in, 2 + 2); /* key bits and mode */
    skip_scheme(in, 2);     /* hash */
    if (k.public.is_ecc) {
        k.curve = bytes_be16(in);
        skip_scheme(in, 2);
    } else {
        bytes_skip(in, 2); /* key bits */
        k.exponent = bytes_be32(in);
        k.exponent = k.exponent ? k.exponent : EXPONENT_USUAL;
    }
    take_number(in, k.public.n_or_x, &k.public.n_or_x_bytes);
    if (k.public.is_ecc)
        take_number(in, k.public.y, &k.public.y_bytes);
    if (in->bad)
        return false;
    *ret = k;
    return true;
}
