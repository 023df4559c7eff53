/* A disk in memory that remembers what was done to it, and fails when told.
 *
 * It is storage below a blk: reads and writes go to an array, every write and flush is appended to
 * a log with its bytes, and any one operation (or every one from some point on) can be made to
 * fail. A crash test replays the log up to a point onto the bytes from before; a fault loop asks
 * mem_disk_n_ops() how many operations a run took and lets each of them fail once.
 *
 *     d = mem_disk_new(bytes);  mem_disk_blk(d, &b, &e);  ...  blk_free(b);  mem_disk_free(d);
 *
 * Several blks may be open on one disk at a time; only one of them can be claimed.
 */
#ifndef NVKEEP_TESTS_MEM_DISK_H
#define NVKEEP_TESTS_MEM_DISK_H

#include "backend/blk.h"

struct mem_disk;

struct mem_disk *mem_disk_new(uint64_t size); /* zeroes */
struct mem_disk *mem_disk_of(const void *bytes, uint64_t size);
void mem_disk_free(struct mem_disk *d); /* all blks on it must be gone */
DEFINE_OWNED(mem_disk);

int mem_disk_blk(struct mem_disk *d, struct blk **ret, struct err *e) MUST_CHECK;
/* The same, claimed. */
int mem_disk_claimed(struct mem_disk *d, struct blk_rw **ret, struct err *e) MUST_CHECK;

uint8_t *mem_disk_bytes(struct mem_disk *d);
uint64_t mem_disk_size(const struct mem_disk *d);
void mem_disk_truncate(struct mem_disk *d, uint64_t size); /* for blks opened from now on */
bool mem_disk_is_claimed(const struct mem_disk *d);

/* ---- the log ---- */

struct mem_op {
    enum { MEM_WRITE, MEM_FLUSH } what;
    uint64_t off;
    size_t n;
    uint8_t *data; /* what was written; NULL for a flush */
};
/* Everything that succeeded since the last mem_disk_forget(). */
const struct mem_op *mem_disk_log(const struct mem_disk *d, size_t *ret_n);
void mem_disk_forget(struct mem_disk *d);

/* Applies operations [from, to) to bytes of the disk's size. */
void mem_replay(const struct mem_op *ops, size_t from, size_t to, uint8_t *bytes, uint64_t size);
/* Only the sectors (of 512 bytes, counted from the begin of the write) for which keep() is true. */
void mem_replay_torn(const struct mem_op *op, bool (*keep)(void *ctx, size_t sector), void *ctx,
                     uint8_t *bytes, uint64_t size);

/* ---- faults ---- */

enum mem_fault {
    MEM_FAIL_ONCE,  /* the k-th operation */
    MEM_FAIL_AFTER, /* the k-th and all after it */
};
/* Operations are reads, writes, flushes and claims, counted from now; k = 0 is the next one. A
 * failing write writes its first partial_bytes (at most what it has). Until mem_disk_heal(). */
void mem_disk_fail(struct mem_disk *d, size_t k, enum mem_fault how, int os, size_t partial_bytes);
void mem_disk_heal(struct mem_disk *d);
/* Operations since the last mem_disk_fail(), mem_disk_heal() or mem_disk_forget(). */
size_t mem_disk_n_ops(const struct mem_disk *d);
size_t mem_disk_n_reads(const struct mem_disk *d);

#endif
