/* The reference sector: guest sector 0, the content whose correctness we know.
 *
 *     0    8  magic "nvkeepRS"
 *     8    2  version, 1 (big-endian, as everything here)
 *    10    2  length of the DER body, at most 384
 *    12    4  zero
 *    16   32  salt, random
 *    48   16  key id: HKDF(volume key, salt, "nvkeep key id 1")
 *    64    n  DER body, ReferenceSector of nvkeep.asn; zeroes up to 448
 *   448   16  checksum: the first 16 bytes of SHA-256 over bytes 0..447
 *   464   16  second magic "nvkeepRS-the-end"
 *   480   32  HMAC-SHA256 over bytes 0..479, key HKDF(volume key, salt, "nvkeep reference sector
 * 1")
 *
 * The record key is HKDF(volume key, salt, "nvkeep record store 1"), 32 bytes, made an HMAC key;
 * the instance uuid is authenticated by the reference sector and bound into every record by the
 * key.
 *
 * The MAC is verified before the body is decoded. Where it does not match, the rest only decides
 * which refusal is given:
 * - The two magics lie in different cipher blocks, so that one damaged block leaves the other and
 *   damage to our sector (ERR_STATE_CORRUPT) is told from a volume that never was ours
 *   (ERR_STATE_FOREIGN).
 * - The checksum has no key. Where it matches, salt and key id are what was once written, and a key
 *   id that is not ours means that the content was copied from a volume with another volume key
 *   (ERR_STATE_FOREIGN, and the message says so). Where it does not match, something is damaged,
 *   be it salt, key id or the checksum itself: ERR_STATE_CORRUPT.
 */
#ifndef NVKEEP_CRYPTO_REF_SECTOR_H
#define NVKEEP_CRYPTO_REF_SECTOR_H

#include "crypto/sector_cipher.h"

enum device_kind { DEVICE_TPM12 = 1, DEVICE_TPM20 = 2 };
/* Its object identifier, wherever one is written; NULL and 0 for what is unknown. */
const char *device_oid(enum device_kind device);
enum device_kind device_of_oid(const char *oid);

/* Where things lie on the decrypted disk; all in sectors of 512 bytes, all multiples of 8. */
struct store_layout {
    uint64_t checkpoint[2]; /* first sector of each checkpoint area */
    uint64_t checkpoint_sectors;
    uint64_t log;
    uint64_t log_sectors;
};

struct ref_facts {
    uint8_t instance[16]; /* uuid of this TPM */
    enum device_kind device;
    struct store_layout layout;
    uint8_t header_digest[SHA256_BYTES]; /* of the clear-text header fields that matter */
};

/* Draws a fresh salt; derives the record key that belongs to it. */
int ref_sector_encode(const struct ref_facts *facts, const struct volume_key *key,
                      uint8_t ret[SECTOR_BYTES], struct mac_key **ret_record_key,
                      struct err *e) MUST_CHECK;

/* sector: decrypted. Verifies, then decodes, then checks the layout for overlaps (not against the
 * disk's size; the caller knows that). On success also derives the store's record key. */
int ref_sector_verify(const uint8_t sector[SECTOR_BYTES], const struct volume_key *key,
                      struct ref_facts *ret_facts, struct mac_key **ret_record_key,
                      struct err *e) MUST_CHECK;

#endif
