/* A disk whose power can be cut: what was flushed stays, what was not may or may not be there.
 *
 * The disk is a struct blk in memory. Every write is remembered sector by sector until a flush
 * succeeds. A flush that fails leaves what it should have made durable in limbo: a later,
 * successful flush does not vouch for it (the kernel marks such pages clean), only writing it anew
 * does.
 *
 * power_cut() then puts the disk into one of the states that it may have after the power came back;
 * power_restore() brings back what was there before the cut. Offsets are those of the image file,
 * contents are ciphertext.
 */
#ifndef NVKEEP_TESTS_POWER_H
#define NVKEEP_TESTS_POWER_H

#include "backend/blk.h"

enum { POWER_SECTOR = 512, POWER_PAGE_SECTORS = 8 };

struct power_disk;

/* A disk of so many zero bytes, a multiple of 512; lives until power_disk_free(). */
struct power_disk *power_disk_new(uint64_t bytes);
void power_disk_free(struct power_disk *p);
/* A blk over it, which does not own it; any number, one after the other. */
int power_disk_blk(struct power_disk *p, struct blk **ret, struct err *e);

/* From now on the claim does not keep others out (blk_claim_is_enough): as on a block device that
 * has two names. */
void power_share(struct power_disk *p);

/* What the running system sees. */
uint8_t *power_disk_bytes(struct power_disk *p);
uint64_t power_disk_size(const struct power_disk *p);

/* The sectors that may be lost if power fails now: written since the last good flush, or in limbo.
 * In the order in which they were first written. */
size_t power_n_volatile(struct power_disk *p);
/* Was one of them written more than once? Then it has versions between the durable and the newest.
 */
bool power_has_versions(struct power_disk *p);
uint64_t power_volatile_sector(const struct power_disk *p, size_t i);

/* What a sector may hold that did not arrive. */
enum power_lost { LOST_STALE, LOST_ZERO, LOST_NOISE, LOST_KINDS };

/* arrived[i]: the i-th volatile sector holds the newest that was written to it; otherwise what
 * `lost` says: what was durable, zeroes, noise. With LOST_STALE, a sector that was written several
 * times may hold an earlier version instead: version 0 is what was durable. */
void power_cut(struct power_disk *p, const bool *arrived, enum power_lost lost, unsigned version);
/* Back to before the cut. What was written after the cut is undone. */
void power_restore(struct power_disk *p);
/* The cut becomes the past: everything on the disk is durable now. */
void power_settle(struct power_disk *p);

/* Everything about the disk put aside, and taken back; as deep as one likes. */
void power_push(struct power_disk *p);
void power_pop(struct power_disk *p);

/* Called at every flush that is asked for while the power is on, before it takes effect: the moment
 * at which most may be lost. NULL: nobody. */
void power_on_flush(struct power_disk *p, void (*fn)(void *ctx), void *ctx);

/* Faults: the n-th write or flush from now (1 is the next) fails with errno `os`, and, with
 * `persistent`, all after it; 0: none. A failing write writes only its first `partial` sectors. */
void power_fail(struct power_disk *p, unsigned nth, bool persistent, int os, size_t partial);

struct power_counts {
    unsigned reads, writes, flushes;
    uint64_t sectors_written;
};
struct power_counts power_counts(const struct power_disk *p);

#endif
