/* Cursors over bytes that came from outside, or go there.
 *
 * A cursor goes bad once (read or write past its end) and stays bad: a decoder reads all its fields
 * and asks once, at the end. A bad reading cursor yields zeroes. No function here allocates, and
 * none looks at what the bytes mean.
 */
#ifndef NVKEEP_BASE_BYTES_H
#define NVKEEP_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/own.h"

struct bytes_in {
    const uint8_t *at;
    size_t left;
    bool bad;
};

struct bytes_out {
    uint8_t *start;
    size_t n;   /* written so far */
    size_t cap; /* room in all */
    bool bad;
};

static inline struct bytes_in bytes_in(const void *p, size_t n)
{
    return (struct bytes_in){p, n, false};
}
static inline struct bytes_out bytes_out(void *p, size_t cap)
{
    return (struct bytes_out){p, 0, cap, false};
}

/* `n` bytes in place, or NULL (and bad) where fewer are left. n = 0 gives a non-NULL pointer. */
const uint8_t *bytes_take(struct bytes_in *in, size_t n);
void bytes_copy_out(struct bytes_in *in, void *ret, size_t n); /* zeroes when bad */
void bytes_skip(struct bytes_in *in, size_t n);
uint8_t bytes_u8(struct bytes_in *in);
uint16_t bytes_be16(struct bytes_in *in);
uint32_t bytes_be32(struct bytes_in *in);
uint64_t bytes_be64(struct bytes_in *in);

/* True when everything was read, nothing is left and no read failed. */
static inline bool bytes_done(const struct bytes_in *in)
{
    return !in->bad && in->left == 0;
}

void bytes_put(struct bytes_out *out, const void *p, size_t n);
void bytes_put_zero(struct bytes_out *out, size_t n);
void bytes_put_u8(struct bytes_out *out, uint8_t v);
void bytes_put_be16(struct bytes_out *out, uint16_t v);
void bytes_put_be32(struct bytes_out *out, uint32_t v);
void bytes_put_be64(struct bytes_out *out, uint64_t v);

uint16_t get_be16(const uint8_t *p);
uint32_t get_be32(const uint8_t *p);
uint64_t get_be64(const uint8_t *p);
void put_be16(uint8_t *p, uint16_t v);
void put_be32(uint8_t *p, uint32_t v);
void put_be64(uint8_t *p, uint64_t v);

bool bytes_all_zero(const void *p, size_t n);

/* [off, off + n) lies inside [0, limit), without wrapping. */
static inline bool range_within(uint64_t off, uint64_t n, uint64_t limit)
{
    return off <= limit && n <= limit - off;
}
static inline MUST_CHECK bool add_fits(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}
static inline MUST_CHECK bool mul_fits(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

#endif
