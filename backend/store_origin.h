/* Where the state in a store came from: a small blob beside the TPM's own (BLOB_ORIGIN), written in
 * the same commit. Pure.
 *
 * A state without one was made here and has only ever been here. Big-endian, 132 bytes:
 *
 *     0   1  version, 1
 *     1   1  how: 1 handed over by a migration, 2 restored (an older state, because somebody asked)
 *     2   1  used: 0 until the first command after a hand-over, then 1; restored: 1
 *     3   1  zero
 *     4  16  lineage: instance of the image in which this TPM was made
 *    20  16  set: random, of the export that brought the state here
 *    36  16  image: instance of the image it was exported from; zero: not known (plain blobs)
 *    52   8  generation, of that image when it was exported; 0: not known
 *    60   8  epoch
 *    68  32  MAC of its newest record
 *   100   8  clock, of the TPM when this was committed; never 0
 *   108   8  generation, of the record of this image that was committed with it; never 0
 *   116  16  zero
 *
 * The clock orders all states of one TPM (lineage), whatever image they are in: it counts its
 * commits, and a state that is taken over goes on behind both the state that it replaces and the
 * one that it is. Of two copies the one with the smaller clock is the older.
 */
#ifndef NVKEEP_BACKEND_STORE_ORIGIN_H
#define NVKEEP_BACKEND_STORE_ORIGIN_H

#include "backend/store.h"

enum { ORIGIN_BYTES = 132 };

struct store_origin {
    enum { ORIGIN_HANDED_OVER = 1, ORIGIN_RESTORED = 2 } how;
    bool used;
    uint8_t lineage[16];
    uint8_t set[16];
    uint8_t image[16];
    struct store_mark from;
    uint64_t clock, at;
};

void origin_encode(const struct store_origin *o, uint8_t ret[ORIGIN_BYTES]);
/* ERR_UNSUPPORTED: another version; ERR_STATE_CORRUPT: contradictory. */
int origin_decode(const uint8_t *p, size_t n, struct store_origin *ret, struct err *e) MUST_CHECK;

/* The clock now, in a store of that generation. NULL: the TPM was made there, and its clock is the
 * generation. Never wraps. */
uint64_t origin_clock(const struct store_origin *o, uint64_t generation);

#endif
