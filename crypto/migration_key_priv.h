/* The bytes of a migration key: for migration_key.c and envelope.c, and nobody else. Outside this
 * folder (and its tests) no file may include this one.
 */
#ifndef NVKEEP_CRYPTO_MIGRATION_KEY_PRIV_H
#define NVKEEP_CRYPTO_MIGRATION_KEY_PRIV_H

#include "crypto/migration_key.h"

/* migration_key_bits() / 8 of them. */
const uint8_t *migration_key_peek(const struct migration_key *k);

#endif
