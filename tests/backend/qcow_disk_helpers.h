/* One small image in memory for the tests of its disk; included by test_qcow_disk.c and
 * test_qcow_armed.c. */
#ifndef NVKEEP_TESTS_QCOW_DISK_HELPERS_H
#define NVKEEP_TESTS_QCOW_DISK_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow_priv.h"
#include "mem_image.h"
#include "src/base/bytes.h"

enum { C = 4096, SIZE = 128 * 1024 };

static struct mem_image im;

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

static inline struct mem_disk *copy(void)
{
    return mem_disk_of(mem_disk_bytes(im.disk), mem_disk_size(im.disk));
}

static inline void says(const struct err *e, enum err_kind kind, const char *text)
{
    if (e->kind != kind || !strstr(e->text, text) || !strstr(e->text, "memory: "))
        fail_msg("%s \"%s\" is not %s \"%s\"", err_class(e->kind)->name, e->text,
                 err_class(kind)->name, text);
}

/* The mark of ours becomes an extension that nobody knows. */
static inline void take_mark_away(struct mem_disk *d)
{
    uint8_t *mark = mem_disk_bytes(d) + im.header.header_length + 24;
    assert_memory_equal(mark, "nvkp", 4);
    memcpy(mark, "none", 4);
}

static inline uint64_t sector_at(uint64_t guest)
{
    uint64_t entry = get_be64(mem_disk_bytes(im.disk) + mem_image_l2_entry(&im, guest / (C / 512)));
    return (entry & QCOW_OFFSET) + guest % (C / 512) * 512;
}

static inline void swap64(uint8_t *a, uint8_t *b)
{
    uint64_t v = get_be64(a);
    put_be64(a, get_be64(b));
    put_be64(b, v);
}

#endif
