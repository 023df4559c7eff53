/* The bytes of a volume key: for luks_key.c, sector_cipher.c and ref_sector.c, and nobody else.
 * Outside this folder (and its tests) no file may include this one.
 */
#ifndef NVKEEP_CRYPTO_LUKS_KEY_PRIV_H
#define NVKEEP_CRYPTO_LUKS_KEY_PRIV_H

#include "crypto/sector_cipher.h"

const uint8_t *volume_key_peek(const struct volume_key *k);
/* The cipher of the volume it opens; its key_bytes is the length of what volume_key_peek() shows.
 */
const struct luks_cipher *volume_key_cipher(const struct volume_key *k);

/* A sector cipher under a key that is no volume key: how a slot's material is encrypted. */
int sector_cipher_with(const struct luks_cipher *how, const uint8_t *key_bytes,
                       struct sector_cipher **ret, struct err *e) MUST_CHECK;

#endif
