#include "crypto/sector_cipher.h"

#include <string.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"

enum {
    IV_BYTES = 16,
    BATCH = 8, /* sectors whose tweaks are encrypted together and lie on the stack together */
};

struct sector_cipher {
    struct luks_cipher how;
    size_t block_bytes;
    struct block_cipher *data;
    struct block_cipher *tweak; /* MODE_XTS only */
    struct block_cipher *essiv; /* IVGEN_ESSIV only */
};

/* ESSIV encrypts the sector number under a hash of the key with a cipher of the same family whose
 * key is as long as the digest. */
static int essiv_alg(const struct luks_cipher *how, enum cipher_alg *ret, struct err *e)
{
    static const enum cipher_alg families[][3] = {
        {CIPHER_AES128, CIPHER_AES192, CIPHER_AES256},
        {CIPHER_SERPENT128, CIPHER_SERPENT192, CIPHER_SERPENT256},
        {CIPHER_TWOFISH128, CIPHER_TWOFISH192, CIPHER_TWOFISH256},
    };
    for (size_t f = 0; f < ARRAY_LEN(families); f++) {
        const enum cipher_alg *alg = families[f];
        if (how->alg != alg[0] && how->alg != alg[1] && how->alg != alg[2])
            continue;
        for (size_t i = 0; i < ARRAY_LEN(families[f]); i++)
            if (cipher_key_bytes(alg[i]) == hash_bytes(how->essiv_hash)) {
                *ret = alg[i];
                return 0;
            }
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "ESSIV with a digest of %zu bytes has no cipher that takes it as key",
                   hash_bytes(how->essiv_hash));
}

static int essiv_new(const struct luks_cipher *how, const uint8_t *key, struct block_cipher **ret,
                     struct err *e)
{
    uint8_t salt[HASH_MAX_BYTES];
    enum cipher_alg alg;
    if (essiv_alg(how, &alg, e) < 0)
        return -1;
    hash_compute(how->essiv_hash, &(struct span){key, how->key_bytes}, 1, salt);
    int r = block_cipher_new(alg, salt, ret, e);
    wipe(salt, sizeof(salt));
    return r;
}

int sector_cipher_with(const struct luks_cipher *how, const uint8_t *key,
                       struct sector_cipher **ret, struct err *e)
{
    OWNED(sector_cipher) c = calloc(1, sizeof(*c));
    if (!c)
        return err_nomem(e, "a sector cipher");
    c->how = *how;
    c->block_bytes = cipher_block_bytes(how->alg);
    if (block_cipher_new(how->alg, key, &c->data, e) < 0)
        return -1;
    if (how->mode == MODE_XTS &&
        block_cipher_new(how->alg, key + cipher_key_bytes(how->alg), &c->tweak, e) < 0)
        return -1;
    if (how->ivgen == IVGEN_ESSIV && essiv_new(how, key, &c->essiv, e) < 0)
        return -1;
    *ret = MOVE(c);
    return 0;
}

static bool same_cipher(const struct luks_cipher *a, const struct luks_cipher *b)
{
    return a->alg == b->alg && a->mode == b->mode && a->ivgen == b->ivgen &&
           a->key_bytes == b->key_bytes &&
           (a->ivgen != IVGEN_ESSIV || a->essiv_hash == b->essiv_hash);
}

int sector_cipher_new(const struct luks_cipher *how, const struct volume_key *key,
                      struct sector_cipher **ret, struct err *e)
{
    if (!same_cipher(how, volume_key_cipher(key)))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the LUKS header names another cipher than when the key was recovered; "
                       "somebody has changed the image meanwhile");
    return sector_cipher_with(how, volume_key_peek(key), ret, e);
}

void sector_cipher_free(struct sector_cipher *c)
{
    if (!c)
        return;
    block_cipher_free(c->data);
    block_cipher_free(c->tweak);
    block_cipher_free(c->essiv);
    free(c);
}

static void put_le64(uint8_t *p, uint64_t v)
{
    for (size_t i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

/* The IVs of n sectors, IV_BYTES each; a cipher with shorter blocks uses the first bytes. */
static void make_ivs(const struct sector_cipher *c, uint64_t first, size_t n, uint8_t *ret)
{
    memset(ret, 0, n * IV_BYTES);
    for (size_t i = 0; i < n; i++)
        put_le64(ret + i * IV_BYTES,
                 c->how.ivgen == IVGEN_PLAIN ? (uint32_t)(first + i) : first + i);
    if (c->essiv)
        block_encrypt(c->essiv, n * IV_BYTES, ret, ret);
}

static inline void xor_into(uint8_t *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t a, b;
        memcpy(&a, dst + i, 8);
        memcpy(&b, src + i, 8);
        a ^= b;
        memcpy(dst + i, &a, 8);
    }
}

/* ---- XTS [IEEE 1619] ---- */

/* The tweaks of all blocks of a sector: each is the one before it times x in GF(2^128). */
static inline void xts_tweaks(const uint8_t first[16], uint8_t ret[SECTOR_BYTES])
{
    uint64_t lo, hi;
    memcpy(&lo, first, 8);
    memcpy(&hi, first + 8, 8);
    for (size_t i = 0; i < SECTOR_BYTES; i += 16) {
        memcpy(ret + i, &lo, 8);
        memcpy(ret + i + 8, &hi, 8);
        uint64_t carry = (uint64_t)((int64_t)hi >> 63) & 0x87;
        hi = hi << 1 | lo >> 63;
        lo = lo << 1 ^ carry;
    }
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "XTS counts bits in this order");

/* nettle's own XTS calls the cipher once for each block, which keeps its fast path from ever
 * running; here one call gets all blocks of up to BATCH sectors. */
static void xts_batch(const struct sector_cipher *c, uint64_t first, size_t n, bool encrypt,
                      uint8_t *buf)
{
    uint8_t iv[BATCH * IV_BYTES], tweaks[BATCH * SECTOR_BYTES];
    size_t bytes = n * SECTOR_BYTES;
    make_ivs(c, first, n, iv);
    block_encrypt(c->tweak, n * IV_BYTES, iv, iv);
    for (size_t i = 0; i < n; i++)
        xts_tweaks(iv + i * IV_BYTES, tweaks + i * SECTOR_BYTES);
    xor_into(buf, tweaks, bytes);
    if (encrypt)
        block_encrypt(c->data, bytes, buf, buf);
    else
        block_decrypt(c->data, bytes, buf, buf);
    xor_into(buf, tweaks, bytes);
    wipe(iv, n * IV_BYTES);
    wipe(tweaks, bytes);
}

static void xts(const struct sector_cipher *c, uint64_t first, size_t n, bool encrypt, uint8_t *buf)
{
    while (n > 0) {
        size_t now = n < BATCH ? n : BATCH;
        xts_batch(c, first, now, encrypt, buf);
        first += now;
        n -= now;
        buf += now * SECTOR_BYTES;
    }
}

/* ---- CBC, CTR, ECB: one sector at a time ---- */

static void cbc_encrypt_sector(const struct sector_cipher *c, const uint8_t *iv, uint8_t *buf)
{
    const uint8_t *before = iv;
    for (size_t i = 0; i < SECTOR_BYTES; i += c->block_bytes) {
        xor_into(buf + i, before, c->block_bytes);
        block_encrypt(c->data, c->block_bytes, buf + i, buf + i);
        before = buf + i;
    }
}

static void cbc_decrypt_sector(const struct sector_cipher *c, const uint8_t *iv, uint8_t *buf)
{
    uint8_t cipher_text[SECTOR_BYTES];
    memcpy(cipher_text, buf, SECTOR_BYTES);
    block_decrypt(c->data, SECTOR_BYTES, buf, buf);
    xor_into(buf, iv, c->block_bytes);
    xor_into(buf + c->block_bytes, cipher_text, SECTOR_BYTES - c->block_bytes);
}

/* The IV is a big-endian counter of one block, as nettle's and thereby QEMU's CTR has it. */
static void ctr_sector(const struct sector_cipher *c, const uint8_t *iv, uint8_t *buf)
{
    uint8_t stream[SECTOR_BYTES], counter[IV_BYTES];
    memcpy(counter, iv, c->block_bytes);
    for (size_t i = 0; i < SECTOR_BYTES; i += c->block_bytes) {
        memcpy(stream + i, counter, c->block_bytes);
        for (size_t j = c->block_bytes; j-- > 0 && ++counter[j] == 0;)
            ;
    }
    block_encrypt(c->data, SECTOR_BYTES, stream, stream);
    xor_into(buf, stream, SECTOR_BYTES);
    wipe(stream, sizeof(stream));
}

static void one_sector(const struct sector_cipher *c, uint64_t sector, bool encrypt, uint8_t *buf)
{
    uint8_t iv[IV_BYTES];
    make_ivs(c, sector, 1, iv);
    if (c->how.mode == MODE_CTR)
        ctr_sector(c, iv, buf);
    else if (c->how.mode == MODE_CBC && encrypt)
        cbc_encrypt_sector(c, iv, buf);
    else if (c->how.mode == MODE_CBC)
        cbc_decrypt_sector(c, iv, buf);
    else if (encrypt)
        block_encrypt(c->data, SECTOR_BYTES, buf, buf);
    else
        block_decrypt(c->data, SECTOR_BYTES, buf, buf);
    wipe(iv, sizeof(iv)); /* ESSIV's are derived from the key */
}

static void crypt_sectors(const struct sector_cipher *c, uint64_t first, size_t n, bool encrypt,
                          uint8_t *buf)
{
    if (c->how.mode == MODE_XTS) {
        xts(c, first, n, encrypt, buf);
        return;
    }
    for (size_t i = 0; i < n; i++)
        one_sector(c, first + i, encrypt, buf + i * SECTOR_BYTES);
}

void sector_encrypt(const struct sector_cipher *c, uint64_t first, size_t n_sectors, uint8_t *buf)
{
    crypt_sectors(c, first, n_sectors, true, buf);
}

void sector_decrypt(const struct sector_cipher *c, uint64_t first, size_t n_sectors, uint8_t *buf)
{
    crypt_sectors(c, first, n_sectors, false, buf);
}
