/* Sound and broken images for the tests of what opening checks; included by test_qcow_image.c and
 * test_qcow_tables.c. */
#ifndef NVKEEP_TESTS_QCOW_IMAGE_HELPERS_H
#define NVKEEP_TESTS_QCOW_IMAGE_HELPERS_H

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backend/qcow_priv.h"
#include "mem_image.h"
#include "src/base/bytes.h"

enum { C = 4096, SIZE = 256 * 1024 };

static struct mem_image im; /* sound, 4 KiB clusters */

static inline int make(void **state)
{
    (void)state;
    mem_image_new(12, SIZE, &im);
    return 0;
}

static inline int clear(void **state)
{
    (void)state;
    mem_image_clear(&im);
    return 0;
}

/* A copy that a test may spoil. */
static inline struct mem_disk *copy_of(const struct mem_image *of)
{
    return mem_disk_of(mem_disk_bytes(of->disk), mem_disk_size(of->disk));
}

static inline int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline int try_open(struct mem_disk *d, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    if (mem_disk_blk(d, &b, e) < 0)
        return -1;
    return qcow_open(b, &img, e);
}

/* S0.6, S2.11: refused, in time, in words, and not a byte has changed. */
static inline void refused(struct mem_disk *d, enum err_kind kind, const char *says)
{
    struct err e = {0};
    size_t n_log;
    OWNED(mem_disk) before = mem_disk_of(mem_disk_bytes(d), mem_disk_size(d));
    int64_t from = now_us();
    if (try_open(d, &e) == 0)
        fail_msg("taken, should say \"%s\"", says);
    int64_t took = now_us() - from;
    if (e.kind != kind || !strstr(e.text, says) || !strstr(e.text, "memory: "))
        fail_msg("%s \"%s\" is not %s \"%s\"", err_class(e.kind)->name, e.text,
                 err_class(kind)->name, says);
    assert_true(took < 50000);
    (void)mem_disk_log(d, &n_log);
    assert_int_equal(n_log, 0);
    assert_memory_equal(mem_disk_bytes(d), mem_disk_bytes(before), mem_disk_size(d));
}

static inline void set64(struct mem_disk *d, uint64_t at, uint64_t v)
{
    put_be64(mem_disk_bytes(d) + at, v);
}

static inline void refused_with64(uint64_t at, uint64_t v, enum err_kind kind, const char *says)
{
    OWNED(mem_disk) d = copy_of(&im);
    set64(d, at, v);
    refused(d, kind, says);
}

/* The image with one snapshot in it, as qemu-img makes them: shared L2, shared data. */
static inline struct mem_disk *with_snapshot(void)
{
    uint64_t size = mem_disk_size(im.disk), table = size, l1 = size + C;
    struct mem_disk *d = mem_disk_new(size + 2 * C);
    uint8_t *b = mem_disk_bytes(d);
    memcpy(b, mem_disk_bytes(im.disk), size);
    put_be32(b + 60, 1);
    put_be64(b + 64, table);
    put_be64(b + table, l1);
    put_be32(b + table + 8, im.header.l1_size);
    put_be16(b + table + 12, 1);
    put_be16(b + table + 14, 4);
    put_be32(b + table + 36, 16);
    memcpy(b + table + 56, "1name", 5);
    memcpy(b + l1, b + im.header.l1.byte, 8);
    put_be16(b + mem_image_refcount(&im, table / C), 1);
    put_be16(b + mem_image_refcount(&im, l1 / C), 1);
    uint64_t l2 = get_be64(b + l1) & QCOW_OFFSET;
    put_be64(b + im.header.l1.byte, l2);
    put_be16(b + mem_image_refcount(&im, l2 / C), 2);
    for (uint64_t i = 0; i < SIZE / C; i++) {
        uint64_t entry = get_be64(b + l2 + 8 * i) & QCOW_OFFSET;
        put_be64(b + l2 + 8 * i, entry);
        put_be16(b + mem_image_refcount(&im, entry / C), 2);
    }
    return d;
}

#endif
