/* From a passphrase to a verified volume key, and the other way when a volume is made.
 *
 * Holding a struct volume_key proves that the passphrase was right: it is only made by a slot whose
 * key matched the header's digest, or fresh for a new volume. Its bytes are visible in this folder
 * alone (luks_key.c, sector_cipher.c, ref_sector.c, through volume_key_peek in luks_key_priv.h).
 */
#ifndef NVKEEP_CRYPTO_LUKS_KEY_H
#define NVKEEP_CRYPTO_LUKS_KEY_H

#include "crypto/luks_header.h"
#include "crypto/secret.h"

struct volume_key;
void volume_key_free(struct volume_key *k);
DEFINE_OWNED(volume_key);
/* For an image that is claimed again later: what it is made for takes its key. */
int volume_key_copy(const struct volume_key *k, struct volume_key **ret, struct err *e) MUST_CHECK;

bool volume_key_equal(const struct volume_key *a, const struct volume_key *b) MUST_CHECK;

/* Key material is ciphertext all over. False: a sector of it is zero, which was never written or
 * was wiped, and no passphrase can open it. */
bool luks_material_is_whole(const struct luks_header *h, const uint8_t *material);

/* Tries one active slot. material: its luks_slot_sectors() sectors as they are on disk.
 * 1: *ret is the verified key. 0: not this slot's passphrase. -1: no memory, or stopped by the
 * watch (ERR_USAGE, "interrupted"). The watch counts the PBKDF2 iterations of this slot and of
 * the digest behind it. */
int luks_slot_open(const struct luks_header *h, unsigned slot, const uint8_t *material,
                   const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                   struct volume_key **ret, struct err *e) MUST_CHECK;

/* A new volume: random volume key, digest, salts and uuid; all slots inactive but laid out. The
 * cipher is aes-256-xts-plain64 with sha256. */
int luks_volume_new(uint32_t digest_iterations, struct luks_header *ret_header,
                    struct volume_key **ret_key, struct err *e) MUST_CHECK;

/* Fills slot `slot` of *h (in memory) and writes its material (luks_slot_sectors() * 512 bytes) to
 * ret_material. On failure *h is unchanged. */
int luks_slot_seal(struct luks_header *h, unsigned slot, const struct volume_key *key,
                   const struct secret *pass, size_t pass_bytes, uint32_t iterations,
                   const struct watch *watch, uint8_t *ret_material, struct err *e) MUST_CHECK;

/* Iterations that take about `ms` milliseconds of this machine (one 64-byte key with SHA-256);
 * measures for at most 50 ms; at least LUKS_MIN_ITERATIONS. */
uint32_t luks_iterations_for(unsigned ms);

#endif
