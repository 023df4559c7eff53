/* Counting references: what only other tools write, tables that nobody made in good faith, and
 * storage that fails in the middle. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow_priv.h"
#include "mem_image.h"
#include "src/base/bytes.h"
#include "tests/support/known_image.h"

enum { C = 4096, SIZE = 256 * 1024, L1_MANY = 70000 };

static struct mem_image im;

static int make(void **state)
{
    (void)state;
    mem_image_new(12, SIZE, &im);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    mem_image_clear(&im);
    return 0;
}

static void set64(struct mem_disk *d, uint64_t at, uint64_t v)
{
    put_be64(mem_disk_bytes(d) + at, v);
}

static void set_refs(struct mem_disk *d, uint64_t cluster, uint16_t refs)
{
    put_be16(mem_disk_bytes(d) + mem_image_refcount(&im, cluster), refs);
}

/* A snapshot that shares the data and has tables of its own, all behind the end of the image: the
 * snapshot table, an L1 table of `n_l1` entries that all name the one L2 table, and that. */
struct own_tables {
    uint64_t table, l1, l2;
};

static struct mem_disk *with_own_tables(uint32_t n_l1, struct own_tables *ret)
{
    uint64_t size = mem_disk_size(im.disk), l1_clusters = (n_l1 * UINT64_C(8) + C - 1) / C;
    uint64_t active = get_be64(mem_disk_bytes(im.disk) + im.header.l1.byte) & QCOW_OFFSET;
    struct mem_disk *d = mem_disk_new(size + (l1_clusters + 2) * C);
    uint8_t *b = mem_disk_bytes(d);
    *ret = (struct own_tables){size, size + C, size + (l1_clusters + 1) * C};
    memcpy(b, mem_disk_bytes(im.disk), size);
    put_be32(b + 60, 1);
    set64(d, 64, ret->table);
    set64(d, ret->table, ret->l1);
    put_be32(b + ret->table + 8, n_l1);
    put_be32(b + ret->table + 36, 16);
    for (uint32_t i = 0; i < n_l1; i++)
        set64(d, ret->l1 + 8 * UINT64_C(1) * i, ret->l2);
    for (uint64_t at = ret->table; at < ret->l2; at += C)
        set_refs(d, at / C, 1);
    set_refs(d, ret->l2 / C, n_l1 > UINT16_MAX ? UINT16_MAX : (uint16_t)n_l1);
    for (uint64_t i = 0; i < SIZE / C; i++) {
        uint64_t to = get_be64(b + active + 8 * i) & QCOW_OFFSET;
        uint32_t refs = n_l1 + 1;
        set64(d, active + 8 * i, to);
        set64(d, ret->l2 + 8 * i, to);
        set_refs(d, to / C, refs > UINT16_MAX ? UINT16_MAX : (uint16_t)refs);
    }
    return d;
}

static int check(struct mem_disk *d, struct qcow_check *ret, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    assert_int_equal(mem_disk_blk(d, &b, e), 0);
    if (qcow_open(b, &img, e) < 0)
        fail_msg("%s", e->text);
    return qcow_check_image(img, ret, e);
}

static void found(struct mem_disk *d, uint64_t corruptions, uint64_t leaks, const char *says)
{
    struct qcow_check c;
    struct err e;
    assert_int_equal(check(d, &c, &e), 0);
    if (c.corruptions != corruptions || c.leaks != leaks || !strstr(c.first, says))
        fail_msg("%llu corruptions, %llu leaks, \"%s\" are not %llu, %llu, \"%s\"",
                 (unsigned long long)c.corruptions, (unsigned long long)c.leaks, c.first,
                 (unsigned long long)corruptions, (unsigned long long)leaks, says);
}

static void entries_of_a_snapshot_that_make_no_sense_are_corruptions(void **state)
{
    struct own_tables t;
    OWNED(mem_disk) d = with_own_tables(1, &t);
    uint64_t entry = get_be64(mem_disk_bytes(d) + t.l2 + 8 * 7), end = mem_disk_size(d);
    (void)state;
    found(d, 0, 0, "");
    set64(d, t.l2 + 8 * 7, entry | QCOW_COMPRESSED);
    found(d, 1, 1, "has a compressed cluster");
    set64(d, t.l2 + 8 * 7, entry | 2);
    found(d, 1, 1, "reserved bits");
    set64(d, t.l2 + 8 * 7, entry + 512);
    found(d, 1, 1, "is not at the begin of a cluster");
    set64(d, t.l2 + 8 * 7, end);
    found(d, 1, 1, "data at offset");
    set64(d, t.l2 + 8 * 7, end - C); /* a table */
    found(d, 1, 1, "has 2 references and a refcount of 1");
    set64(d, t.l2 + 8 * 7, 0);
    found(d, 0, 1, "has 1 references and a refcount of 2");
    set64(d, t.l2 + 8 * 7, QCOW_ZERO | entry);
    found(d, 0, 0, "");
    set64(d, t.l1, t.l2 | 1);
    found(d, 1, 0, "an L1 table has reserved bits set");
    set64(d, t.l1, t.l2);
    put_be32(mem_disk_bytes(d) + t.table + 36, 15);
    found(d, 1, 0, "a snapshot has 15 bytes of extra data");
    put_be32(mem_disk_bytes(d) + t.table + 36, 16);
    put_be32(mem_disk_bytes(d) + t.table + 8, 0); /* no L1 table: nothing of it is referred to */
    found(d, 0, 2 + SIZE / C, "");
}

static void what_the_l1_table_says_of_sharing_is_compared(void **state)
{
    OWNED(mem_disk) d = mem_disk_of(mem_disk_bytes(im.disk), mem_disk_size(im.disk));
    uint64_t entry = get_be64(mem_disk_bytes(d) + im.header.l1.byte);
    (void)state;
    set64(d, im.header.l1.byte, entry & ~QCOW_COPIED);
    found(d, 1, 0, "L1 entry 0 is not marked as not shared, its refcount is 1");
    set64(d, im.header.l1.byte, entry);
    set_refs(d, (entry & QCOW_OFFSET) / C, 2);
    found(d, 1, 1, "L1 entry 0 is marked as not shared, its refcount is 2");
}

/* 16 bits count no further: what has the highest refcount there is has no leak. */
static void references_beyond_what_can_be_counted_are_neither_lost_nor_leaks(void **state)
{
    struct own_tables t;
    OWNED(mem_disk) d = with_own_tables(L1_MANY, &t);
    (void)state;
    found(d, 0, 0, "");
    set_refs(d, t.l2 / C, UINT16_MAX - 1);
    found(d, 1, 0, "has 65535 references and a refcount of 65534");
}

/* As above, where refcounts have 32 bits and go on: more than can be counted is no leak. */
static void refcounts_beyond_what_can_be_counted_are_no_leaks(void **state)
{
    struct own_tables t;
    OWNED(mem_disk) d = with_own_tables(L1_MANY, &t);
    uint64_t block = mem_image_refcount(&im, 0), n = mem_disk_size(d) / C;
    uint8_t *b = mem_disk_bytes(d);
    (void)state;
    assert_true(n <= C / 4);
    for (uint64_t i = n; i-- > 0;) {
        uint16_t refs = get_be16(b + block + 2 * i);
        put_be32(b + block + 4 * i, refs == UINT16_MAX ? L1_MANY : refs);
    }
    put_be32(b + 96, 5);
    found(d, 0, 0, "");
    put_be32(b + block + 4 * (t.l1 / C), L1_MANY); /* this one can be counted */
    found(d, 0, 1, "has 1 references and a refcount of 70000");
}

static void clusters_without_any_refcount_are_told_in_an_image_that_is_marked(void **state)
{
    OWNED(mem_disk) d = mem_disk_of(mem_disk_bytes(im.disk), mem_disk_size(im.disk));
    struct qcow_check c;
    struct err e;
    (void)state;
    set64(d, 72, 1); /* dirty: or it would not be opened */
    set64(d, im.header.reftable.byte, 0);
    assert_int_equal(check(d, &c, &e), 0);
    assert_non_null(strstr(c.first, "marked dirty"));
    /* the mark, all clusters but the refcount block, and "not shared" of data and L2 */
    assert_int_equal(c.corruptions, 1 + (mem_disk_size(d) / C - 1) + SIZE / C + im.header.l1_size);
}

/* Every read fails once: a storage error, never a verdict. */
static void a_failing_read_is_no_verdict(void **state)
{
    (void)state;
    for (enum known_kind kind = KNOWN_4K; kind < KNOWN_KINDS; kind++) {
        const struct known_image *known = known_image(kind);
        OWNED(mem_disk) d = mem_disk_of(known->bytes, known->size);
        OWNED(blk) b = NULL;
        OWNED(qcow_image) img = NULL;
        struct qcow_check c, before;
        struct err e;
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        assert_int_equal(qcow_open(b, &img, &e), 0);
        mem_disk_heal(d);
        assert_int_equal(qcow_check_image(img, &c, &e), 0);
        assert_int_equal(c.corruptions, 0);
        size_t n = mem_disk_n_ops(d);
        assert_true(n > 3);
        memset(&before, 0x5a, sizeof(before));
        for (size_t k = 0; k < n; k++) {
            c = before;
            mem_disk_fail(d, k, MEM_FAIL_ONCE, EIO, 0);
            assert_int_equal(qcow_check_image(img, &c, &e), -1);
            assert_int_equal(e.kind, ERR_STORAGE);
            assert_int_equal(e.os, EIO);
            assert_memory_equal(&c, &before, sizeof(c));
        }
        print_message("%s: %zu reads\n", known_image_name(kind), n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_of_a_snapshot_that_make_no_sense_are_corruptions),
        cmocka_unit_test(what_the_l1_table_says_of_sharing_is_compared),
        cmocka_unit_test(references_beyond_what_can_be_counted_are_neither_lost_nor_leaks),
        cmocka_unit_test(refcounts_beyond_what_can_be_counted_are_no_leaks),
        cmocka_unit_test(clusters_without_any_refcount_are_told_in_an_image_that_is_marked),
        cmocka_unit_test(a_failing_read_is_no_verdict),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
