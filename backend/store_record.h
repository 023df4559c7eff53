/* A record, as bytes and as numbers: the codec of the record store. Pure.
 *
 * A record is one state (RECORD_FULL, lies in a checkpoint area) or one change to the state before
 * it (RECORD_DELTA, lies in the log). It is cut into sectors of 512 bytes, the unit that a disk
 * writes whole or not at all, and every sector is authenticated on its own. Big-endian:
 *
 *     0   16  head mark: u32 0x6e766b48 "nvkH", u64 generation, u16 index, u16 count
 *    16   16  u64 owner epoch, u32 payload bytes of the record, u8 kind, 3 zeroes
 *    32   32  record MAC: HMAC("nvkeep-R" || MAC of the record before || epoch || generation ||
 *             u8 kind || u32 payload bytes || payload); a full record starts a chain, the MAC
 *             before it counts as 32 zeroes
 *    64  400  this sector's part of the payload; zeroes up to 464 in the last one
 *   464   16  tail mark: u32 0x6e766b54 "nvkT", the rest as in the head
 *   480   32  sector MAC: HMAC("nvkeep-S" || u8 area || u32 position in the area || bytes 0..479)
 *
 * All HMACs are HMAC-SHA256 under the record key. The record MAC in every sector ties the sectors
 * of one record together: those of two attempts at the same generation never pass for one record.
 * Each mark fills one cipher block and they are far from each other: whatever single bit of the
 * ciphertext is flipped, the sector no longer verifies and at least one mark still says which
 * sector of which record this was. That is how damage is told from a write that never arrived.
 */
#ifndef NVKEEP_BACKEND_STORE_RECORD_H
#define NVKEEP_BACKEND_STORE_RECORD_H

#include "crypto/prim.h"
#include "crypto/sector_cipher.h"

enum {
    RECORD_PART_BYTES = 400, /* of payload in one sector */
    RECORD_MAC_BYTES = SHA256_BYTES,
    RECORD_MAX_SECTORS = 65535,
};

enum record_area { AREA_CHECKPOINT_A = 0, AREA_CHECKPOINT_B = 1, AREA_LOG = 2 };
enum record_kind { RECORD_FULL = 1, RECORD_DELTA = 2 };

struct record_head {
    uint64_t generation;
    uint64_t epoch;
    enum record_kind kind;
    uint32_t bytes; /* of payload, at least 1 */
};

/* What a sector says about itself. Authentic only if the sector's MAC was found right. */
struct record_mark {
    uint64_t generation;
    uint16_t index;
    uint16_t count;
};

struct record_sector {
    struct record_mark mark;
    struct record_head head;
    uint8_t mac[RECORD_MAC_BYTES]; /* of the record */
};

/* Sectors that a payload takes. */
static inline size_t record_sectors(size_t payload_bytes)
{
    return (payload_bytes + RECORD_PART_BYTES - 1) / RECORD_PART_BYTES;
}

/* buf holds the payload (head->bytes) at its start and has room for all sectors
 * (record_sectors() * 512 bytes, at most RECORD_MAX_SECTORS); it becomes those sectors, ready for
 * `position` of the area. before: the MAC of the record before, ignored for a full record. */
void record_seal(const struct mac_key *key, enum record_area area, uint32_t position,
                 const struct record_head *head, const uint8_t before[RECORD_MAC_BYTES],
                 uint8_t *buf, uint8_t ret_mac[RECORD_MAC_BYTES]);

/* The marks that can be read, whether or not the MAC is right: 0, 1 or 2 of them in ret. Noise and
 * zeroes have none. */
unsigned record_marks(const uint8_t sector[SECTOR_BYTES], struct record_mark ret[2]);

/* True when the fields agree with each other. Where they do not, the sector was not written by us,
 * even if its MAC is right. Says nothing about the MAC. */
bool record_sector_decode(const uint8_t sector[SECTOR_BYTES], struct record_sector *ret);
/* True when the MAC is right (for this very place) and the fields agree with each other. */
bool record_sector_verify(const struct mac_key *key, enum record_area area, uint32_t position,
                          const uint8_t sector[SECTOR_BYTES], struct record_sector *ret);

enum record_verdict {
    RECORD_INTACT,
    RECORD_INCOMPLETE, /* not every sector of a record is there */
    RECORD_UNCHAINED,  /* every sector is there, but the record MAC does not fit what is before */
};
/* The record whose first sector lies at `sectors`, `position` of the area, with n_sectors to the
 * end of the area. before: as for record_seal. spans: scratch, n_sectors + 1 of them. *ret is the
 * first sector's facts, filled unless RECORD_INCOMPLETE. */
enum record_verdict record_verify(const struct mac_key *key, enum record_area area,
                                  uint32_t position, const uint8_t *sectors, size_t n_sectors,
                                  const uint8_t before[RECORD_MAC_BYTES], struct span *spans,
                                  struct record_sector *ret);

/* Puts the payload of a record that was found intact together. ret has room for `bytes`. */
void record_payload(const uint8_t *sectors, size_t bytes, uint8_t *ret);

#endif
