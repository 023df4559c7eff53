#include "src/make/manufacture_tpm12.h"

#include <string.h>

#include "crypto/prim.h"
#include "crypto/secret.h"
#include "src/make/rsa_public.h"

enum {
    TAG_COMMAND = 0x00c1,
    TAG_AUTH1_COMMAND = 0x00c2,
    ORD_OIAP = 0x0a,
    ORD_TAKE_OWNERSHIP = 0x0d,
    ORD_PHYSICAL_ENABLE = 0x6f,
    ORD_PHYSICAL_SET_DEACTIVATED = 0x72,
    ORD_READ_EK = 0x7c,
    ORD_CREATE_EK = 0x78,
    ORD_NV_DEFINE = 0xcc,
    ORD_NV_WRITE = 0xcd,
    ORD_PHYSICAL_PRESENCE = 0x4000000a,

    TAG_NV_DATA_PUBLIC = 0x0018,
    TAG_NV_ATTRIBUTES = 0x0017,
    TAG_KEY12 = 0x0028,
    NV_OWNER_READ_AND_WRITE = 0x00020002,
    ANY_LOCALITY = 0x1f,
    PID_OWNER = 0x0005,
    KEY_STORAGE = 0x0011,
    AUTH_ALWAYS = 0x01,
    ALG_RSA = 0x00000001,
    ES_OAEP_SHA1 = 0x0003,
    SS_NONE = 0x0001,
    SS_SHA1 = 0x0002,
    RSA_PARAMETERS_BYTES = 12,
    HEADER_BYTES = 10,
};

static struct bytes_out begin(uint8_t *ret, uint16_t tag, uint32_t ordinal)
{
    struct bytes_out out = bytes_out(ret, MADE_COMMAND_BYTES);
    bytes_put_be16(&out, tag);
    bytes_put_be32(&out, 0);
    bytes_put_be32(&out, ordinal);
    return out;
}

static size_t end(struct bytes_out *out)
{
    put_be32(out->start + 2, (uint32_t)out->n);
    return out->n;
}

size_t command12_presence(uint16_t presence, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_PHYSICAL_PRESENCE);
    bytes_put_be16(&out, presence);
    return end(&out);
}

size_t command12_enable(uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_PHYSICAL_ENABLE);
    return end(&out);
}

size_t command12_activate(uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_PHYSICAL_SET_DEACTIVATED);
    bytes_put_u8(&out, 0);
    return end(&out);
}

/* TPM_KEY_PARMS of an RSA key of 2048 bits with the usual exponent. */
static void put_key_parameters(struct bytes_out *out, uint16_t signature)
{
    enum { BITS = 2048, PRIMES = 2 };
    bytes_put_be32(out, ALG_RSA);
    bytes_put_be16(out, ES_OAEP_SHA1);
    bytes_put_be16(out, signature);
    bytes_put_be32(out, RSA_PARAMETERS_BYTES);
    bytes_put_be32(out, BITS);
    bytes_put_be32(out, PRIMES);
    bytes_put_be32(out, 0);
}

size_t command12_create_ek(uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_CREATE_EK);
    bytes_put_zero(&out, TPM12_DIGEST_BYTES); /* against replay: nobody is between us and it */
    put_key_parameters(&out, SS_SHA1);
    return end(&out);
}

size_t command12_read_ek(uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_READ_EK);
    bytes_put_zero(&out, TPM12_DIGEST_BYTES);
    return end(&out);
}

static void put_no_pcrs(struct bytes_out *out)
{
    enum { SELECT_BYTES = 3 };
    bytes_put_be16(out, SELECT_BYTES);
    bytes_put_zero(out, SELECT_BYTES);
    bytes_put_u8(out, ANY_LOCALITY);
    bytes_put_zero(out, TPM12_DIGEST_BYTES);
}

size_t command12_nv_define(uint32_t index, uint32_t bytes, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_NV_DEFINE);
    bytes_put_be16(&out, TAG_NV_DATA_PUBLIC);
    bytes_put_be32(&out, index);
    put_no_pcrs(&out); /* for reading */
    put_no_pcrs(&out); /* for writing */
    bytes_put_be16(&out, TAG_NV_ATTRIBUTES);
    bytes_put_be32(&out, bytes > 0 ? NV_OWNER_READ_AND_WRITE : 0);
    bytes_put_zero(&out, 3); /* bReadSTClear, bWriteSTClear, bWriteDefine */
    bytes_put_be32(&out, bytes);
    bytes_put_zero(&out, TPM12_DIGEST_BYTES); /* encAuth */
    return end(&out);
}

size_t command12_nv_write(uint32_t index, uint32_t at, const void *p, size_t n,
                          uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_NV_WRITE);
    bytes_put_be32(&out, index);
    bytes_put_be32(&out, at);
    bytes_put_be32(&out, (uint32_t)n);
    bytes_put(&out, p, n);
    return end(&out);
}

void nv12_certificate_header(size_t certificate_bytes, uint8_t ret[TPM12_NV_HEADER_BYTES])
{
    enum { TAG_STORED_CERT = 0x1001, TYPE_FULL = 0, TAG_FULL_CERT = 0x1002 };
    struct bytes_out out = bytes_out(ret, TPM12_NV_HEADER_BYTES);
    bytes_put_be16(&out, TAG_STORED_CERT);
    bytes_put_u8(&out, TYPE_FULL);
    bytes_put_be16(&out, (uint16_t)(certificate_bytes + 2)); /* its tag is part of it */
    bytes_put_be16(&out, TAG_FULL_CERT);
}

/* --- the owner --- */

size_t command12_oiap(uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_COMMAND, ORD_OIAP);
    return end(&out);
}

bool response12_oiap(const uint8_t *resp, size_t n, struct session12 *ret)
{
    struct bytes_in in = bytes_in(resp, n);
    struct session12 s;
    bytes_skip(&in, HEADER_BYTES);
    s.handle = bytes_be32(&in);
    bytes_copy_out(&in, s.nonce, sizeof(s.nonce));
    if (!bytes_done(&in))
        return false;
    *ret = s;
    return true;
}

/* [RFC 2104], for a key of 20 bytes. */
static void hmac_sha1(const uint8_t key[TPM12_DIGEST_BYTES], const struct span *parts,
                      size_t n_parts, uint8_t ret[TPM12_DIGEST_BYTES])
{
    enum { BLOCK = 64, MOST = 5 };
    uint8_t inner[BLOCK], outer[BLOCK];
    struct span all[MOST] = {{inner, BLOCK}};
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t k = i < TPM12_DIGEST_BYTES ? key[i] : 0;
        inner[i] = k ^ 0x36;
        outer[i] = k ^ 0x5c;
    }
    memcpy(all + 1, parts, n_parts * sizeof(*parts));
    hash_compute(HASH_SHA1, all, n_parts + 1, ret);
    const struct span rest[] = {{outer, BLOCK}, {ret, TPM12_DIGEST_BYTES}};
    hash_compute(HASH_SHA1, rest, ARRAY_LEN(rest), ret);
    wipe(inner, sizeof(inner));
    wipe(outer, sizeof(outer));
}

static int put_encrypted(struct bytes_out *out, const struct ek_public *ek,
                         const uint8_t auth[TPM12_DIGEST_BYTES], struct err *e)
{
    uint8_t block[RSA_PUBLIC_BYTES];
    if (rsa_oaep_encrypt(ek->n_or_x, "TCPA", auth, TPM12_DIGEST_BYTES, block, e) < 0)
        return -1;
    bytes_put_be32(out, sizeof(block));
    bytes_put(out, block, sizeof(block));
    return 0;
}

/* TPM_KEY12 of the storage root key that is wanted. */
static void put_srk(struct bytes_out *out)
{
    bytes_put_be16(out, TAG_KEY12);
    bytes_put_be16(out, 0);
    bytes_put_be16(out, KEY_STORAGE);
    bytes_put_be32(out, 0); /* flags */
    bytes_put_u8(out, AUTH_ALWAYS);
    put_key_parameters(out, SS_NONE);
    bytes_put_be32(out, 0); /* PCRs */
    bytes_put_be32(out, 0); /* public part */
    bytes_put_be32(out, 0); /* private part */
}

/* Ends the command with its authorization: an HMAC over ordinal and parameters, and the nonces. */
static int put_authorization(struct bytes_out *out, const struct session12 *session,
                             const uint8_t key[TPM12_DIGEST_BYTES], struct err *e)
{
    static const uint8_t ends = 0; /* continueAuthSession */
    uint8_t parameters[TPM12_DIGEST_BYTES], nonce[TPM12_DIGEST_BYTES], mac[TPM12_DIGEST_BYTES];
    const struct span covered = {out->start + HEADER_BYTES - 4, out->n - HEADER_BYTES + 4};
    if (random_bytes(nonce, sizeof(nonce), e) < 0)
        return -1;
    hash_compute(HASH_SHA1, &covered, 1, parameters);
    const struct span parts[] = {{parameters, sizeof(parameters)},
                                 {session->nonce, sizeof(session->nonce)},
                                 {nonce, sizeof(nonce)},
                                 {&ends, 1}};
    hmac_sha1(key, parts, ARRAY_LEN(parts), mac);
    bytes_put_be32(out, session->handle);
    bytes_put(out, nonce, sizeof(nonce));
    bytes_put_u8(out, ends);
    bytes_put(out, mac, sizeof(mac));
    return 0;
}

int command12_take_ownership(const struct session12 *session, const struct ek_public *ek,
                             const uint8_t owner[TPM12_DIGEST_BYTES],
                             const uint8_t srk[TPM12_DIGEST_BYTES], uint8_t ret[MADE_COMMAND_BYTES],
                             size_t *ret_bytes, struct err *e)
{
    struct bytes_out out = begin(ret, TAG_AUTH1_COMMAND, ORD_TAKE_OWNERSHIP);
    bytes_put_be16(&out, PID_OWNER);
    if (put_encrypted(&out, ek, owner, e) < 0 || put_encrypted(&out, ek, srk, e) < 0)
        return -1;
    put_srk(&out);
    if (put_authorization(&out, session, owner, e) < 0)
        return -1;
    *ret_bytes = end(&out);
    return 0;
}

bool response12_ek(const uint8_t *resp, size_t n, struct ek_public *ret)
{
    enum { PARAMETERS_BYTES = 12 + RSA_PARAMETERS_BYTES };
    struct ek_public ek = {0};
    struct bytes_in in = bytes_in(resp, n);
    bytes_skip(&in, HEADER_BYTES + PARAMETERS_BYTES);
    if (bytes_be32(&in) != TPM12_RSA_BYTES)
        return false;
    bytes_copy_out(&in, ek.n_or_x, TPM12_RSA_BYTES);
    bytes_skip(&in, TPM12_DIGEST_BYTES); /* checksum */
    if (!bytes_done(&in))
        return false;
    ek.n_or_x_bytes = TPM12_RSA_BYTES;
    *ret = ek;
    return true;
}
