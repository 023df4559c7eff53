/* The primitives: nettle's, behind names of our own. prim.c is the only file that sees nettle.
 *
 * Nothing here does I/O (random bytes excepted: getrandom), logs, or keeps state between calls
 * except in the objects it hands out, which live in secret memory and are wiped when freed.
 */
#ifndef NVKEEP_CRYPTO_PRIM_H
#define NVKEEP_CRYPTO_PRIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"
#include "src/base/own.h"

enum hash_alg {
    HASH_MD5,
    HASH_SHA1,
    HASH_SHA224,
    HASH_SHA256,
    HASH_SHA384,
    HASH_SHA512,
    HASH_RIPEMD160,
};
enum { HASH_MAX_BYTES = 64, SHA256_BYTES = 32 };

struct span {
    const void *p;
    size_t n;
};

size_t hash_bytes(enum hash_alg alg);
/* Digest of the concatenation of the parts; ret has hash_bytes(alg). */
void hash_compute(enum hash_alg alg, const struct span *parts, size_t n_parts, uint8_t *ret);

/* HMAC-SHA256 with the inner and outer states computed once. */
struct mac_key;
int mac_key_new(const void *key, size_t key_bytes, struct mac_key **ret, struct err *e) MUST_CHECK;
void mac_key_free(struct mac_key *k);
DEFINE_OWNED(mac_key);
/* Safe to call from several threads on one key. */
void mac_compute(const struct mac_key *k, const struct span *parts, size_t n_parts,
                 uint8_t ret[SHA256_BYTES]);

/* HKDF-SHA256 [RFC 5869], extract and expand. ret_bytes <= 8160. */
void hkdf_sha256(const void *salt, size_t salt_bytes, const void *ikm, size_t ikm_bytes,
                 const char *info, void *ret, size_t ret_bytes);

/* Asked from time to time during long work; `done` and `total` are in the work's own units.
 * Returning false stops the work. NULL watch = never asked. May be called from several threads. */
struct watch {
    bool (*go_on)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
};

/* PBKDF2 with HMAC-alg [RFC 8018 5.2]. Returns 0, or 1 when the watch stopped it (ret is wiped).
 * All output blocks are computed side by side where that is faster. */
int pbkdf2(enum hash_alg alg, const void *pass, size_t pass_bytes, const void *salt,
           size_t salt_bytes, uint32_t iterations, void *ret, size_t ret_bytes,
           const struct watch *watch) MUST_CHECK;

/* Block ciphers, many blocks to a call. Block size is 16 bytes, for CAST5 8. */
enum cipher_alg {
    CIPHER_AES128,
    CIPHER_AES192,
    CIPHER_AES256,
    CIPHER_SERPENT128,
    CIPHER_SERPENT192,
    CIPHER_SERPENT256,
    CIPHER_TWOFISH128,
    CIPHER_TWOFISH192,
    CIPHER_TWOFISH256,
    CIPHER_CAST5_128,
};
size_t cipher_key_bytes(enum cipher_alg alg);
size_t cipher_block_bytes(enum cipher_alg alg);

struct block_cipher; /* both directions expanded */
int block_cipher_new(enum cipher_alg alg, const void *key, struct block_cipher **ret,
                     struct err *e) MUST_CHECK;
void block_cipher_free(struct block_cipher *c);
DEFINE_OWNED(block_cipher);
/* n is a multiple of the block size; dst == src is allowed. ECB: each block on its own. */
void block_encrypt(const struct block_cipher *c, size_t n, uint8_t *dst, const uint8_t *src);
void block_decrypt(const struct block_cipher *c, size_t n, uint8_t *dst, const uint8_t *src);

/* CBC over whole blocks of a cipher with blocks of 16 bytes; the iv stays as it is. */
void block_cbc_encrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n, uint8_t *dst,
                       const uint8_t *src);
void block_cbc_decrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n, uint8_t *dst,
                       const uint8_t *src);

/* AES-256-GCM [SP 800-38D]. A key and a nonce together are used for one message and never again.
 * They fail (ERR_STORAGE) before anything is written. */
enum { AEAD_KEY_BYTES = 32, AEAD_NONCE_BYTES = 12, AEAD_TAG_BYTES = 16 };
/* ret: as many bytes as plain; apart from it. */
int aead_seal(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct span ad, struct span plain, uint8_t *ret, uint8_t ret_tag[AEAD_TAG_BYTES],
              struct err *e) MUST_CHECK;
/* 1: the tag is right, and ret holds as many bytes as cipher; 0: it is not, and ret was wiped. */
int aead_open(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct span ad, struct span cipher, const uint8_t tag[AEAD_TAG_BYTES], uint8_t *ret,
              struct err *e) MUST_CHECK;

/* Bytes from the kernel's generator. If randomness fails, this fails. */
int random_bytes(void *ret, size_t n, struct err *e) MUST_CHECK;

#endif
