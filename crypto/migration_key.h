/* The key that two hosts share for migration: swtpm's --migration-key, 128 or 256 bits.
 *
 * With it either swtpm's own layer around a blob is opened and made (AES-CBC, then HMAC-SHA256 over
 * ciphertext and IV, both under this key), or the envelope of envelope.h is sealed.
 */
#ifndef NVKEEP_CRYPTO_MIGRATION_KEY_H
#define NVKEEP_CRYPTO_MIGRATION_KEY_H

#include "crypto/prim.h"
#include "crypto/secret.h"

struct migration_key;
void migration_key_free(struct migration_key *k);
DEFINE_OWNED(migration_key);

enum migration_key_form { MIGRATION_KEY_BINARY, MIGRATION_KEY_HEX };
/* From the bytes of a key file as swtpm reads it: hex digits (optional 0x, white space at the end
 * is not counted) or binary; `bits` is 128 or 256, and as many must be there. ERR_KEY_WRONG says
 * what was found. */
int migration_key_parse(enum migration_key_form form, unsigned bits, const struct secret *text,
                        size_t n, struct migration_key **ret, struct err *e) MUST_CHECK;

enum migration_kdf { MIGRATION_KDF_PBKDF2, MIGRATION_KDF_SHA512 };
/* From a passphrase (every byte counts, a final newline too), with swtpm's derivations:
 * PBKDF2-HMAC-SHA512 (salt "swtpm", 1000 iterations), or the beginning of SHA-512. */
int migration_key_derive(enum migration_kdf kdf, unsigned bits, const struct secret *pass,
                         size_t pass_bytes, struct migration_key **ret, struct err *e) MUST_CHECK;
unsigned migration_key_bits(const struct migration_key *k);

/* swtpm's layer. The content is padded to whole blocks [PKCS #7]. Sealing: ret gets
 * migration_layer_bytes() of ciphertext; iv: as many bytes as the key has, drawn here. */
enum { MIGRATION_IV_MAX = 32 };
size_t migration_layer_bytes(const struct migration_key *k, size_t n);
int migration_layer_seal(const struct migration_key *k, const uint8_t *p, size_t n, uint8_t *ret,
                         uint8_t ret_mac[SHA256_BYTES], uint8_t *ret_iv, struct err *e) MUST_CHECK;
/* The MAC is compared before anything is decrypted. ERR_KEY_WRONG: it does not match (another key,
 * or damage: swtpm's format cannot tell). ERR_STATE_CORRUPT: it does, and there are no whole blocks
 * or no padding. *ret_n bytes of the new secret are the content. */
int migration_layer_open(const struct migration_key *k, const uint8_t *p, size_t n,
                         const uint8_t mac[SHA256_BYTES], const uint8_t *iv, struct secret **ret,
                         size_t *ret_n, struct err *e) MUST_CHECK;
/* The layer of swtpm's first format, which is only read: AES-CBC with an IV of zeroes over a
 * SHA-256 of the content and the content. ERR_KEY_WRONG as above: the digest does not match. */
int migration_layer_open_old(const struct migration_key *k, const uint8_t *p, size_t n,
                             struct secret **ret, size_t *ret_n, struct err *e) MUST_CHECK;

#endif
