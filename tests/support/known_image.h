/* Images whose volume key is known, the same in every run but for the salt of the reference sector:
 * what hostile images are made of. The empty passphrase opens them, with one iteration.
 *
 * Each holds a small store with five generations: the first checkpoint, the one of the owner who
 * came after, and three records of the log. Where snapshots, bitmaps and old versions of the format
 * come in, they are written by hand here, from the text of the format.
 */
#ifndef NVKEEP_TESTS_KNOWN_IMAGE_H
#define NVKEEP_TESTS_KNOWN_IMAGE_H

#include "backend/store.h"
#include "crypto/luks_key.h"

enum known_kind {
    KNOWN_4K,
    KNOWN_512,
    KNOWN_64K,
    KNOWN_SNAPSHOT, /* clusters of 4 KiB; a snapshot that shares the L2 table */
    KNOWN_BITMAP,   /* clusters of 4 KiB; one dirty bitmap */
    KNOWN_V2,       /* version 2 of the format, clusters of 4 KiB */
    KNOWN_CBC,      /* clusters of 4 KiB; aes-256 in mode cbc-essiv */
    KNOWN_KINDS,
};

/* 16 sectors to a checkpoint, 24 to the log. */
enum { KNOWN_SECTORS = 64, KNOWN_GENERATIONS = 5 };
extern const struct store_layout known_layout;

struct known_image {
    uint8_t *bytes;
    uint64_t size;
    unsigned cluster_bits;
    struct ref_facts facts;
    uint8_t plain[KNOWN_SECTORS][512];        /* the decrypted disk */
    uint8_t state[KNOWN_GENERATIONS + 1][32]; /* digest of each generation's state */
};

/* Made at the first call, and kept. Aborts where it cannot be made. */
const struct known_image *known_image(enum known_kind kind);
const char *known_image_name(enum known_kind kind);
/* For a volume of this cipher; kept. NULL: no reference sector can be made for it. */
const struct volume_key *known_image_key(const struct luks_cipher *how);

/* Equal for equal presence, lengths and bytes of a state's blobs. get: as store_get(). */
void known_state_digest(const uint8_t *(*get)(const void *of, enum blob_kind kind, size_t *ret_n),
                        const void *of, uint8_t ret[32]);

#endif
