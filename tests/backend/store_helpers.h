/* What the tests of the store share: an image in memory, and its stores opened and changed. */
#ifndef NVKEEP_TESTS_STORE_HELPERS_H
#define NVKEEP_TESTS_STORE_HELPERS_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/store_record.h"
#include "src/base/bytes.h"
#include "tests/support/store_image.h"

enum { DISK_SECTORS = 2048, FULL_NV = 147388 };

static uint8_t big[BLOB_MAX_BYTES + 1] __attribute__((unused));

static inline void fill(uint8_t *p, size_t n, unsigned seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)(x >> 24);
    }
}

static inline struct state_change set(enum blob_kind kind, const void *p, size_t n)
{
    struct state_change c = {0};
    c.blob[kind - 1] = (struct blob_change){BLOB_SET, p, n};
    return c;
}

static inline struct state_change deleted(enum blob_kind kind)
{
    struct state_change c = {0};
    c.blob[kind - 1].what = BLOB_DELETE;
    return c;
}

static inline struct store_image image_of(const struct store_layout *layout, const void *p,
                                          size_t n)
{
    struct store_image im;
    struct err e;
    struct state_change first = set(BLOB_PERMANENT, p, n);
    if (store_image_new(layout, layout ? STORE_IMAGE_SMALL_SECTORS : DISK_SECTORS, &first, &im,
                        &e) < 0)
        fail_msg("%s", e.text);
    return im;
}

static inline struct store *opened(struct store_image *im)
{
    struct store *s = NULL;
    struct err e;
    if (store_image_open(im, &s, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static inline void commit(struct store *s, struct state_change c)
{
    struct err e;
    if (store_commit(s, &c, &e) < 0)
        fail_msg("%s", e.text);
}

static inline void assert_blob(const struct store *s, enum blob_kind kind, const void *p, size_t n)
{
    size_t got = SIZE_MAX;
    const uint8_t *found = store_get(s, kind, &got);
    assert_non_null(found);
    assert_int_equal(got, n);
    if (n > 0)
        assert_memory_equal(found, p, n);
}

static inline void assert_no_blob(const struct store *s, enum blob_kind kind)
{
    size_t got = 77;
    assert_null(store_get(s, kind, &got));
    assert_int_equal(got, 77);
}

static inline struct store_stats stats_of(const struct store *s)
{
    struct store_stats st;
    store_stats(s, &st);
    return st;
}

static inline struct power_counts since(const struct store_image *im, struct power_counts before)
{
    struct power_counts now = power_counts(im->power);
    now.reads -= before.reads;
    now.writes -= before.writes;
    now.flushes -= before.flushes;
    now.sectors_written -= before.sectors_written;
    return now;
}

#endif
