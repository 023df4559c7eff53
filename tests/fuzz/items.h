/* Inputs that are items of {u8 what, u16 length, bytes} behind a byte of options, for targets that
 * play a peer; and a mutator for libFuzzer that knows this, so that an item stays an item when one
 * of them grows. The target says what is worth inserting: items_template().
 *
 * For one target per program.
 */
#ifndef NVKEEP_TESTS_FUZZ_ITEMS_H
#define NVKEEP_TESTS_FUZZ_ITEMS_H

#include <stdbool.h>
#include <string.h>

#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

enum { ITEMS_MAX = 64, ITEM_MAX_BYTES = 4096, ITEMS_BYTES = 1 << 16 };

struct item {
    uint8_t what;
    const uint8_t *p;
    size_t n;
};

/* False: that was all. What is cut off is shorter. */
static inline bool item_next(struct bytes_in *in, struct item *ret)
{
    if (in->left < 3)
        return false;
    ret->what = bytes_u8(in);
    ret->n = bytes_be16(in);
    if (ret->n > in->left)
        ret->n = in->left;
    ret->p = bytes_take(in, ret->n);
    return true;
}

static inline size_t item_put(uint8_t *at, uint8_t what, const void *p, size_t n)
{
    at[0] = what;
    put_be16(at + 1, (uint16_t)n);
    if (n > 0)
        memcpy(at + 3, p, n);
    return n + 3;
}

/* The which-th thing worth inserting, modulo how many there are: what it is, and its bytes. The
 * target's. */
static size_t items_template(unsigned which, uint8_t *ret_what, uint8_t ret[ITEM_MAX_BYTES]);

/* --- the mutator --- */

/* libFuzzer's and AFL++'s; not there in a program that only replays. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t max) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed);

struct items {
    uint8_t options;
    struct item item[ITEMS_MAX + 1];
    size_t n;
};

static inline struct items items_decode(const uint8_t *data, size_t n)
{
    struct bytes_in in = bytes_in(data, n);
    struct items all = {.options = bytes_u8(&in)};
    while (all.n < ITEMS_MAX && item_next(&in, &all.item[all.n]))
        all.n++;
    return all;
}

/* As many as fit. */
static inline size_t items_encode(const struct items *all, uint8_t *ret, size_t max)
{
    size_t n = 0;
    ret[n++] = all->options;
    for (size_t i = 0; i < all->n && n + 3 + all->item[i].n <= max; i++)
        n += item_put(ret + n, all->item[i].what, all->item[i].p, all->item[i].n);
    return n;
}

static inline void items_insert(struct items *all, size_t at, struct item item)
{
    memmove(&all->item[at + 1], &all->item[at], (all->n - at) * sizeof(item));
    all->item[at] = item;
    if (all->n < ITEMS_MAX)
        all->n++;
}

/* Numbers that mean something in a command or message, where one of their size begins. */
static inline void items_tell(uint8_t *p, size_t n, unsigned seed)
{
    static const uint32_t telling[] = {
        0,          1,          0x7fffffff, 0x80000000, 0xffffffff, 0x01800001, 0x01800002,
        0x01800003, 0x81000001, 0x80000000, 0x80000001, 0x02000000, 0x03000000, 0x40000001,
        0x40000007, 0x40000009, 0x4000000a, 0x4000000c, 0x4000000b, 0x00001000, 0x00080001,
    };
    if (n >= 4)
        put_be32(p + seed / 64 % (n - 3), telling[seed % ARRAY_LEN(telling)]);
}

/* One change of whole items; scratch for what is made. */
static inline void items_change(struct items *all, unsigned seed, uint8_t scratch[ITEM_MAX_BYTES])
{
    size_t at = all->n ? seed / 16 % all->n : 0;
    struct item *item = &all->item[at], made = {.p = scratch};
    unsigned how = seed % 8;
    if (all->n == 0 || how < 2) {
        made.n = items_template(seed / 1024, &made.what, scratch);
        items_insert(all, all->n ? seed / 16 % (all->n + 1) : 0, made);
    } else if (how == 2) {
        items_insert(all, at, all->item[seed / 1024 % all->n]);
    } else if (how == 3) {
        memmove(item, item + 1, (--all->n - at) * sizeof(*item));
    } else if (how == 4) {
        struct item other = all->item[seed / 1024 % all->n];
        all->item[seed / 1024 % all->n] = *item;
        *item = other;
    } else if (how == 5) {
        item->what = (uint8_t)(item->what + 1 + seed / 1024 % 7);
    } else {
        size_t n = item->n < ITEM_MAX_BYTES ? item->n : ITEM_MAX_BYTES;
        memcpy(scratch, item->p, n);
        if (how == 6)
            items_tell(scratch, n, seed / 1024);
        else
            n = LLVMFuzzerMutate(scratch, n, ITEM_MAX_BYTES);
        item->p = scratch;
        item->n = n;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed)
{
    static uint8_t out[ITEMS_BYTES], scratch[ITEM_MAX_BYTES];
    unsigned mixed = seed * 2654435761u ^ seed >> 7;
    if (n < 4 || mixed >> 29 == 0)
        return LLVMFuzzerMutate(data, n, max);
    struct items all = items_decode(data, n);
    items_change(&all, mixed % 0x10000000, scratch);
    size_t used = items_encode(&all, out, max < sizeof(out) ? max : sizeof(out));
    memcpy(data, out, used);
    return used;
}

#endif
