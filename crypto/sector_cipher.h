/* The sector cipher: 512-byte sectors, in place, IV from the physical sector number.
 *
 * Made from a verified volume key only. It authenticates nothing (XTS cannot): whoever reads
 * through it must check MACs of his own. Safe to use from several threads. [QCOW2, encryption;
 * LUKS1 4]
 */
#ifndef NVKEEP_CRYPTO_SECTOR_CIPHER_H
#define NVKEEP_CRYPTO_SECTOR_CIPHER_H

#include "crypto/luks_key.h"

enum { SECTOR_BYTES = 512 };

struct sector_cipher;
int sector_cipher_new(const struct luks_cipher *how, const struct volume_key *key,
                      struct sector_cipher **ret, struct err *e) MUST_CHECK;
void sector_cipher_free(struct sector_cipher *c);
DEFINE_OWNED(sector_cipher);

/* buf: n_sectors * 512 bytes; first: number of the first sector (host offset / 512). */
void sector_encrypt(const struct sector_cipher *c, uint64_t first, size_t n_sectors, uint8_t *buf);
void sector_decrypt(const struct sector_cipher *c, uint64_t first, size_t n_sectors, uint8_t *buf);

#endif
