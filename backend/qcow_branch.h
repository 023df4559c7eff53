/* Branches: which of the trees in an image is the one that lives. Pure.
 *
 * A tree (L1 and L2 tables and what they lead to) that nvkeep writes for a snapshot, or in place of
 * the living one, bears a random name in sector 1 of its disk, and the header names the tree that
 * lives. Whoever puts another tree in its place (`qemu-img snapshot -a` does) changes one and not
 * the other: that is how a state of the past is told from the present one. A tree that is as old as
 * the image has no name: zeroes.
 *
 * In the header, an extension "nvkb" of 56 bytes, big-endian:
 *
 *     0   4  version, 1
 *     4   4  zero
 *     8  16  name
 *    24   8  generation of the state when this tree began to live
 *    32   8  its epoch
 *    40  16  the first bytes of HMAC("nvkeep-B" || name || generation || epoch)
 *
 * Sector 1:
 *
 *     0   8  magic "nvkeepBR"
 *     8   8  zero
 *    16  16  name
 *    32 432  zeroes
 *   464  16  second magic "nvkeepBR-the-end"
 *   480  32  HMAC("nvkeep-b" || bytes 0 to 479)
 *
 * Both under the record key.
 */
#ifndef NVKEEP_BACKEND_QCOW_BRANCH_H
#define NVKEEP_BACKEND_QCOW_BRANCH_H

#include "crypto/sector_cipher.h"

enum { QCOW_BRANCH_BYTES = 16, QCOW_BRANCH_MAC_BYTES = 16, QCOW_BRANCH_EXT_BYTES = 56 };

/* Of the header. */
struct qcow_branch {
    uint8_t name[QCOW_BRANCH_BYTES];
    uint64_t generation, epoch;
    uint8_t mac[QCOW_BRANCH_MAC_BYTES];
};
void qcow_branch_seal(const struct mac_key *key, struct qcow_branch *b); /* fills b->mac */
bool qcow_branch_verify(const struct mac_key *key, const struct qcow_branch *b);

void branch_sector_encode(const struct mac_key *key, const uint8_t name[QCOW_BRANCH_BYTES],
                          uint8_t ret[SECTOR_BYTES]);
enum branch_verdict {
    BRANCH_NAMED,
    BRANCH_NONE,    /* zeroes */
    BRANCH_NOTHING, /* something that we did not write */
    BRANCH_DAMAGED,
};
/* *ret is filled in any case: zeroes unless BRANCH_NAMED. */
enum branch_verdict branch_sector_decode(const struct mac_key *key,
                                         const uint8_t sector[SECTOR_BYTES],
                                         uint8_t ret[QCOW_BRANCH_BYTES]);

#endif
