/* What the machine itself allows: one durable write in place, and one round trip through a socket
 * to a process that does nothing.
 */
#ifndef NVKEEP_TESTS_BENCH_FLOOR_H
#define NVKEEP_TESTS_BENCH_FLOOR_H

#include "compare_stats.h"

enum floor_kind {
    FLOOR_DIRECT_4K,
    FLOOR_DIRECT_512,
    FLOOR_BUFFERED_4K,
    FLOOR_BUFFERED_512,
    FLOOR_N
};
extern const char *const floor_names[FLOOR_N];

struct floor {
    int direct, buffered; /* -1: direct I/O is not possible here */
    void *block;
    uint64_t at;
    int echo;
};

/* A preallocated file in the directory `work`, and a child that echoes. */
void floor_open(struct floor *f, const char *work);
void floor_close(struct floor *f);
/* Writes at the next place and makes it durable; microseconds, or -1 where it cannot be done. */
double floor_write(struct floor *f, enum floor_kind kind);
double floor_echo(struct floor *f);

#endif
