#include "crypto/migration_key.h"

#include <assert.h>
#include <string.h>

#include "crypto/migration_key_priv.h"

enum {
    BLOCK = 16,
    KEY_MAX = MIGRATION_IV_MAX, /* swtpm's IVs are as long as the key */
    PBKDF2_ITERATIONS = 1000,   /* swtpm's */
};

struct migration_key {
    struct secret *home; /* this struct lies in it */
    unsigned bits;
    uint8_t bytes[KEY_MAX];
};

static int check_bits(unsigned bits, struct err *e)
{
    return bits == 128 || bits == 256
               ? 0
               : err_set(e, ERR_USAGE, "a migration key of %u bits; known are 128 and 256", bits);
}

static int key_new(unsigned bits, struct migration_key **ret, struct err *e)
{
    OWNED(secret) home = NULL;
    if (check_bits(bits, e) < 0 || secret_new(sizeof(struct migration_key), &home, e) < 0)
        return -1;
    struct migration_key *k = (void *)secret_bytes(home);
    k->bits = bits;
    k->home = MOVE(home);
    *ret = k;
    return 0;
}

void migration_key_free(struct migration_key *k)
{
    if (k)
        secret_free(k->home);
}

unsigned migration_key_bits(const struct migration_key *k)
{
    return k->bits;
}

const uint8_t *migration_key_peek(const struct migration_key *k)
{
    return k->bytes;
}

/* ---- where it comes from ---- */

/* The digits are the key: neither a branch nor an address may depend on them. */
enum { NO_DIGIT = 0x80 };

/* All bits set where lo <= c <= hi, none elsewhere. */
static uint32_t in_range(uint32_t c, uint32_t lo, uint32_t hi)
{
    return (((c - lo) | (hi - c)) >> 31) - 1;
}

/* NO_DIGIT where it is none. */
static uint8_t digit(uint8_t c)
{
    uint32_t letter = c | 0x20, is_number = in_range(c, '0', '9'),
             is_letter = in_range(letter, 'a', 'f');
    return (uint8_t)(((c - '0') & is_number) | ((letter - 'a' + 10) & is_letter) |
                     (NO_DIGIT & ~(is_number | is_letter)));
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* It is no key, so there is nothing to keep to oneself but the text: it may be nearly right. */
static int not_hex(const uint8_t *text, struct err *e)
{
    size_t i = 0;
    while (digit(text[i]) != NO_DIGIT)
        i++;
    return err_set(e, ERR_KEY_WRONG, "character %zu is not a hex digit; is the key binary?", i + 1);
}

static int parse_hex(const uint8_t *text, size_t n, unsigned bits, uint8_t *ret, struct err *e)
{
    if (n >= 2 && text[0] == '0' && text[1] == 'x') {
        text += 2;
        n -= 2;
    }
    while (n > 0 && is_space(text[n - 1]))
        n--;
    if (n != bits / 4)
        return err_set(e, ERR_KEY_WRONG, "%zu characters where a key of %u bits has %u hex digits",
                       n, bits, bits / 4);
    static const uint8_t none = 0;
    uint8_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t d = digit(text[i]);
        wrong |= d & NO_DIGIT;
        ret[i / 2] = (uint8_t)(ret[i / 2] << 4 | (d & 0xf));
    }
    return equal_constant_time(&wrong, &none, 1) ? 0 : not_hex(text, e);
}

int migration_key_parse(enum migration_key_form form, unsigned bits, const struct secret *text,
                        size_t n, struct migration_key **ret, struct err *e)
{
    OWNED(migration_key) k = NULL;
    if (key_new(bits, &k, e) < 0)
        return -1;
    if (form == MIGRATION_KEY_HEX) {
        if (parse_hex(secret_peek(text), n, bits, k->bytes, e) < 0)
            return -1;
    } else {
        if (n != bits / 8)
            return err_set(e, ERR_KEY_WRONG,
                           "%zu bytes where a key of %u bits has %u; is it in hex?", n, bits,
                           bits / 8);
        memcpy(k->bytes, secret_peek(text), n);
    }
    *ret = MOVE(k);
    return 0;
}

int migration_key_derive(enum migration_kdf kdf, unsigned bits, const struct secret *pass,
                         size_t pass_bytes, struct migration_key **ret, struct err *e)
{
    OWNED(migration_key) k = NULL;
    if (key_new(bits, &k, e) < 0)
        return -1;
    const uint8_t *p = secret_peek(pass);
    if (kdf == MIGRATION_KDF_SHA512) {
        uint8_t digest[HASH_MAX_BYTES];
        hash_compute(HASH_SHA512, &(struct span){p, pass_bytes}, 1, digest);
        memcpy(k->bytes, digest, bits / 8);
        wipe(digest, sizeof(digest));
    } else {
        /* Some milliseconds, and nobody to stop it. */
        int r = pbkdf2(HASH_SHA512, p, pass_bytes, "swtpm", 5, PBKDF2_ITERATIONS, k->bytes,
                       bits / 8, NULL);
        assert(r == 0);
        (void)r;
    }
    *ret = MOVE(k);
    return 0;
}

/* ---- swtpm's layer ---- */

/* Padding as in PKCS #7, each byte saying how many they are, but to whole keys and not to whole
 * blocks: with a key of 256 bits there are up to 32. */
size_t migration_layer_bytes(const struct migration_key *k, size_t n)
{
    size_t unit = k->bits / 8;
    return (n / unit + 1) * unit;
}

static int layer_cipher(const struct migration_key *k, struct block_cipher **ret, struct err *e)
{
    return block_cipher_new(k->bits == 256 ? CIPHER_AES256 : CIPHER_AES128, k->bytes, ret, e);
}

/* Over the ciphertext and all of the IV, which is as long as the key although AES takes 16. */
static int layer_mac(const struct migration_key *k, const uint8_t *p, size_t n, const uint8_t *iv,
                     uint8_t ret[SHA256_BYTES], struct err *e)
{
    OWNED(mac_key) m = NULL;
    if (mac_key_new(k->bytes, k->bits / 8, &m, e) < 0)
        return -1;
    mac_compute(m, (struct span[]){{p, n}, {iv, k->bits / 8}}, 2, ret);
    return 0;
}

int migration_layer_seal(const struct migration_key *k, const uint8_t *p, size_t n, uint8_t *ret,
                         uint8_t ret_mac[SHA256_BYTES], uint8_t *ret_iv, struct err *e)
{
    OWNED(block_cipher) c = NULL;
    OWNED(mac_key) m = NULL;
    uint8_t iv[KEY_MAX], last[KEY_MAX];
    size_t key_bytes = k->bits / 8, whole = n - n % key_bytes, total = migration_layer_bytes(k, n);
    if (layer_cipher(k, &c, e) < 0 || mac_key_new(k->bytes, key_bytes, &m, e) < 0 ||
        random_bytes(iv, key_bytes, e) < 0)
        return -1;
    memset(last, (int)(total - n), sizeof(last));
    if (n > whole)
        memcpy(last, p + whole, n - whole);
    if (whole > 0)
        block_cbc_encrypt(c, iv, whole, ret, p);
    block_cbc_encrypt(c, whole > 0 ? ret + whole - BLOCK : iv, key_bytes, ret + whole, last);
    wipe(last, sizeof(last));
    mac_compute(m, (struct span[]){{ret, total}, {iv, key_bytes}}, 2, ret_mac);
    memcpy(ret_iv, iv, key_bytes);
    return 0;
}

/* The padding is authenticated: where it is wrong, the sender was. 0: it is wrong. */
static size_t unpadded(const uint8_t *p, size_t n, size_t most)
{
    size_t pad = p[n - 1];
    if (pad == 0 || pad > most || pad > n)
        return 0;
    for (size_t i = n - pad; i < n; i++)
        if (p[i] != pad)
            return 0;
    return n - pad;
}

int migration_layer_open(const struct migration_key *k, const uint8_t *p, size_t n,
                         const uint8_t mac[SHA256_BYTES], const uint8_t *iv, struct secret **ret,
                         size_t *ret_n, struct err *e)
{
    OWNED(block_cipher) c = NULL;
    OWNED(secret) content = NULL;
    uint8_t right[SHA256_BYTES];
    if (layer_mac(k, p, n, iv, right, e) < 0)
        return -1;
    bool matches = equal_constant_time(right, mac, sizeof(right));
    wipe(right, sizeof(right));
    if (!matches)
        return err_set(e, ERR_KEY_WRONG,
                       "the blob does not open with this migration key: it was sealed under "
                       "another one, or is damaged; give both hosts the same key");
    if (n == 0 || n % BLOCK)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the blob's migration layer is authenticated, but its %zu bytes are not "
                       "whole blocks",
                       n);
    if (layer_cipher(k, &c, e) < 0 || secret_new(n, &content, e) < 0)
        return -1;
    block_cbc_decrypt(c, iv, n, secret_bytes(content), p);
    size_t bytes = unpadded(secret_peek(content), n, k->bits / 8);
    if (bytes == 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the blob's migration layer is authenticated, but its padding is wrong or "
                       "there is nothing in it");
    *ret = MOVE(content);
    *ret_n = bytes;
    return 0;
}

/* Moves the content to the front; 0: it is not what the digest before it was made of. */
static size_t without_digest(uint8_t *p, size_t n)
{
    uint8_t digest[HASH_MAX_BYTES];
    if (n <= SHA256_BYTES)
        return 0;
    size_t bytes = n - SHA256_BYTES;
    hash_compute(HASH_SHA256, &(struct span){p + SHA256_BYTES, bytes}, 1, digest);
    bool matches = equal_constant_time(digest, p, SHA256_BYTES);
    wipe(digest, sizeof(digest));
    memmove(p, p + SHA256_BYTES, bytes);
    return matches ? bytes : 0;
}

int migration_layer_open_old(const struct migration_key *k, const uint8_t *p, size_t n,
                             struct secret **ret, size_t *ret_n, struct err *e)
{
    static const uint8_t iv[BLOCK] = {0};
    OWNED(block_cipher) c = NULL;
    OWNED(secret) content = NULL;
    if (n == 0 || n % BLOCK)
        return err_set(e, ERR_STATE_CORRUPT, "%zu encrypted bytes are not whole blocks", n);
    if (layer_cipher(k, &c, e) < 0 || secret_new(n, &content, e) < 0)
        return -1;
    block_cbc_decrypt(c, iv, n, secret_bytes(content), p);
    size_t bytes = unpadded(secret_peek(content), n, k->bits / 8);
    bytes = without_digest(secret_bytes(content), bytes);
    if (bytes == 0)
        return err_set(e, ERR_KEY_WRONG, "the digest inside does not match");
    *ret = MOVE(content);
    *ret_n = bytes;
    return 0;
}
