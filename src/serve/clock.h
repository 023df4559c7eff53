/* Milliseconds that only go forward, for time limits. */
#ifndef NVKEEP_SRC_CLOCK_H
#define NVKEEP_SRC_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* For poll(): milliseconds from now to `until`; -1 where that is -1, for ever. */
static inline int ms_left(int64_t until, int64_t now)
{
    if (until < 0)
        return -1;
    int64_t left = until > now ? until - now : 0;
    return left < 60000 ? (int)left : 60000;
}

/* The earlier of two, where -1 is never. */
static inline int64_t sooner(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

#endif
