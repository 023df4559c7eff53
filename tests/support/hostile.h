/* A known image somebody has tampered with: bytes of the file, and bytes of the decrypted disk,
 * which are encrypted to where the tampered tables put them. One at a time; each begins with the
 * image as it was.
 *
 *     hostile_begin(kind);  hostile_file(...), hostile_disk(...);  hostile_seal(...);
 *     hostile_open(...)
 *
 * The storage counts what is read, and breaks off the program where a write does not go to a
 * cluster of data.
 */
#ifndef NVKEEP_TESTS_HOSTILE_H
#define NVKEEP_TESTS_HOSTILE_H

#include "tests/support/known_image.h"

/* What was made right again after the decrypted disk was changed. */
enum {
    SEAL_REFERENCE = 1, /* checksum and MAC of the reference sector */
    SEAL_RECORDS = 2,   /* MACs of the records, under the key that belongs to the sector's salt */
    SEAL_DIGEST = 4,    /* header digest in the reference sector, of the header as it is now */
    SEAL_ALL = 8,       /* every sector is encrypted anew, not only those that were changed */
    SEAL_FLAGS = 15,
};

void hostile_begin(enum known_kind kind);
void hostile_file(uint64_t at, const void *p, size_t n); /* what lies beyond the file is left out */
void hostile_disk(uint64_t at, const void *p, size_t n); /* and beyond the disk */
void hostile_resize(uint64_t size);                      /* cut off; grown a little, by zeroes */
/* Encrypts what was changed. Nothing happens where the clear text is refused. */
void hostile_seal(unsigned flags);

/* The n-th write or flush from now (1 is the next) fails, for_good: and all after it; 0: none. What
 * fails has written its first `partial` sectors. */
void hostile_fail(unsigned nth, bool for_good, size_t partial);

/* The image as it is now, its size too. */
uint8_t *hostile_bytes(void);
uint64_t hostile_size(void);
enum known_kind hostile_kind(void);
bool hostile_was_sealed(void);  /* the content was changed by somebody who has the key */
bool hostile_was_written(void); /* through a claim, since hostile_begin() */

struct hostile_cost {
    uint64_t reads, bytes;
};
struct hostile_cost hostile_cost(void); /* of reading, since hostile_begin() */

int hostile_blk(struct blk **ret, struct err *e) MUST_CHECK;
/* The way of the daemon, with the volume key that a passphrase would have given: claim, open,
 * unlock, reference sector, whole, arm; then the store, or what can be recovered of it. */
int hostile_arm(struct qcow_disk_rw **ret, struct err *e) MUST_CHECK;
int hostile_open(struct store **ret, struct err *e) MUST_CHECK;
/* Without the claim, as prepare and verify do. */
int hostile_disk_of(const struct blk *b, struct qcow_disk **ret, struct err *e) MUST_CHECK;

#endif
