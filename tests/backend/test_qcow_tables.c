/* Snapshots, bitmaps and refcounts that opening meets: what is counted, and what is refused. */
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

#include "tests/backend/qcow_image_helpers.h"

/* ---- snapshots and bitmaps ---- */

static void count(struct mem_disk *d, struct qcow_check *ret)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct err e;
    assert_int_equal(mem_disk_blk(d, &b, &e), 0);
    if (qcow_open(b, &img, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(qcow_check_image(img, ret, &e), 0);
}

static void a_snapshot_shares_and_is_counted(void **state)
{
    OWNED(mem_disk) d = with_snapshot();
    struct qcow_check check;
    (void)state;
    count(d, &check);
    assert_string_equal(check.first, "");
    assert_int_equal(check.leaks + check.corruptions, 0);
    assert_int_equal(check.clusters, mem_disk_size(d) / C);
}

static void tables_of_snapshots_never_lie_over_anything_active(void **state)
{
    uint64_t table = mem_disk_size(im.disk), l1 = table + C;
    const struct qcow_header *h = &im.header;
    const uint64_t over[] = {h->l1.byte, h->reftable.byte, h->luks.byte, 2 * C};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(over); i++) {
        OWNED(mem_disk) d = with_snapshot();
        set64(d, table, over[i]); /* its L1 */
        refused(d, ERR_STATE_CORRUPT, "is used twice");
        set64(d, table, l1);
        set64(d, l1, over[i]); /* its L2 */
        refused(d, ERR_STATE_CORRUPT, "is used twice");
        set64(d, l1, l1); /* its L1 is its L2 */
        refused(d, ERR_STATE_CORRUPT, "is used twice");
        set64(d, table, table); /* its L1 is the snapshot table */
        refused(d, ERR_STATE_CORRUPT, "");
    }
    OWNED(mem_disk) d = with_snapshot();
    set64(d, table, l1 + 512);
    refused(d, ERR_STATE_CORRUPT, "not at the begin of a cluster");
    set64(d, table, UINT64_C(0xfffffffffffff000));
    refused(d, ERR_STATE_CORRUPT, "beyond the end");
    set64(d, table, l1);
    put_be32(mem_disk_bytes(d) + table + 8, 0xffffffff);
    refused(d, ERR_UNSUPPORTED, "entries of L1 tables");
    put_be32(mem_disk_bytes(d) + table + 8, 1);
    put_be32(mem_disk_bytes(d) + table + 36, 1025);
    refused(d, ERR_STATE_CORRUPT, "snapshot 1 has 1025 bytes of extra data");
    put_be32(mem_disk_bytes(d) + table + 36, 16);
    put_be32(mem_disk_bytes(d) + 60, 8193);
    refused(d, ERR_UNSUPPORTED, "snapshots: 8193, at most 8192");
    put_be32(mem_disk_bytes(d) + 60, 8192);
    refused(d, ERR_STATE_CORRUPT, "snapshot"); /* reads on into what follows */
}

/* Names as long as they can be, of more snapshots than fit into what is read. */
static void a_snapshot_table_without_end_is_refused(void **state)
{
    enum { N = 512, LONGEST = UINT16_MAX, EXTRA = 1024 };
    const uint64_t entry = (40 + EXTRA + 2 * LONGEST + 7) / 8 * 8;
    uint64_t table = mem_disk_size(im.disk);
    OWNED(mem_disk) d = mem_disk_new(table + (N * entry + C) / C * C);
    uint8_t *b = mem_disk_bytes(d);
    (void)state;
    memcpy(b, mem_disk_bytes(im.disk), table);
    put_be32(b + 60, N);
    put_be64(b + 64, table);
    for (uint64_t i = 0; i < N; i++) {
        put_be16(b + table + i * entry + 12, LONGEST);
        put_be16(b + table + i * entry + 14, LONGEST);
        put_be32(b + table + i * entry + 36, EXTRA);
    }
    assert_true(N * entry > 64 << 20 && (N - 8) * entry < 64 << 20);
    refused(d, ERR_STATE_CORRUPT, "longer than 64 MiB");
}

static void bitmaps_are_counted(void **state)
{
    uint64_t size = mem_disk_size(im.disk);
    OWNED(mem_disk) d = mem_disk_new(size + 3 * C);
    uint8_t *b = mem_disk_bytes(d);
    struct qcow_check check;
    (void)state;
    memcpy(b, mem_disk_bytes(im.disk), size);
    put_be64(b + 88, 1);
    put_be32(b + 168, 0x23852875);
    put_be32(b + 172, 24);
    put_be32(b + 176, 1);
    put_be64(b + 184, 32);
    put_be64(b + 192, size);
    put_be64(b + size, size + C); /* its table */
    put_be32(b + size + 8, 1);
    put_be16(b + size + 18, 4);
    put_be64(b + size + C, size + 2 * C); /* its data */
    for (uint64_t i = 0; i < 3; i++)
        put_be16(b + mem_image_refcount(&im, size / C + i), 1);
    count(d, &check);
    assert_string_equal(check.first, "");
    assert_int_equal(check.leaks + check.corruptions, 0);

    put_be64(b + size + C, 1); /* all ones, no cluster */
    count(d, &check);
    assert_int_equal(check.leaks, 1);
    put_be64(b + size, size + 30 * C);
    count(d, &check);
    assert_int_equal(check.corruptions, 1);
    assert_non_null(strstr(check.first, "a bitmap table at offset"));
}

/* ---- counting ---- */

static void leaks_and_corruptions_are_told_apart_and_described(void **state)
{
    struct qcow_check check;
    uint64_t last = mem_disk_size(im.disk) / C - 1;
    (void)state;
    {
        OWNED(mem_disk) d = copy_of(&im);
        put_be16(mem_disk_bytes(d) + mem_image_refcount(&im, last), 2);
        count(d, &check);
        assert_int_equal(check.leaks, 1);
        assert_int_equal(check.corruptions, 1); /* and marked as not shared, which it now is */
        assert_non_null(strstr(check.first, "is marked as not shared, its refcount is 2"));
    }
    {
        OWNED(mem_disk) d = copy_of(&im);
        uint64_t at = mem_image_l2_entry(&im, 9);
        set64(d, at, get_be64(mem_disk_bytes(d) + at) & ~QCOW_COPIED);
        count(d, &check);
        assert_int_equal(check.corruptions, 1);
        assert_non_null(strstr(check.first, "cluster 9 of the disk is not marked as not shared"));
        set64(d, at, 0);
        count(d, &check);
        assert_int_equal(check.corruptions, 0);
        assert_int_equal(check.leaks, 1);
        assert_non_null(strstr(check.first, "0 references and a refcount of 1"));
        set64(d, at, QCOW_ZERO);
        count(d, &check);
        assert_int_equal(check.leaks, 1);
    }
    {
        OWNED(mem_disk) d = with_snapshot();
        uint64_t at = mem_image_refcount(&im, last);
        put_be16(mem_disk_bytes(d) + at, 1);
        count(d, &check);
        assert_true(check.corruptions >= 1);
        assert_non_null(strstr(check.first, "has 2 references and a refcount of 1"));
    }
}

/* S2.15: whatever the cluster size, what we make has exact refcounts. */
static void what_we_make_has_exact_refcounts_at_every_cluster_size(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits++) {
        struct mem_image made;
        struct qcow_check check;
        mem_image_new(bits, bits == 9 ? 4 << 20 : 1 << 20, &made);
        count(made.disk, &check);
        assert_string_equal(check.first, "");
        assert_int_equal(check.clusters << bits, mem_disk_size(made.disk));
        mem_image_clear(&made);
    }
}

/* Refcount width is another's choice: the same image with each of them. */
static void every_refcount_width_is_read(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        OWNED(mem_disk) d = copy_of(&im);
        uint8_t *b = mem_disk_bytes(d);
        uint64_t n = mem_disk_size(d) / C, per_block = C * 8ul >> order;
        uint64_t block = get_be64(b + im.header.reftable.byte);
        struct qcow_check check;
        struct err e;
        if (per_block < n)
            continue; /* would need more blocks than there are */
        put_be32(b + 96, order);
        memset(b + block, 0, C);
        for (uint64_t i = 0; i < n; i++) {
            if (order < 3)
                b[block + (i << order) / 8] |= (uint8_t)(1u << ((i << order) % 8));
            else
                b[block + ((i + 1) << order) / 8 - 1] = 1;
        }
        count(d, &check);
        assert_int_equal(check.leaks + check.corruptions, 0);
        uint64_t i = n - 3;
        if (order < 3)
            b[block + (i << order) / 8] &= (uint8_t) ~(1u << ((i << order) % 8));
        else
            b[block + ((i + 1) << order) / 8 - 1] = 0;
        assert_int_equal(try_open(d, &e), -1);
        assert_non_null(strstr(e.text, "its refcount is 0"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_shares_and_is_counted),
        cmocka_unit_test(a_snapshot_table_without_end_is_refused),
        cmocka_unit_test(tables_of_snapshots_never_lie_over_anything_active),
        cmocka_unit_test(bitmaps_are_counted),
        cmocka_unit_test(leaks_and_corruptions_are_told_apart_and_described),
        cmocka_unit_test(what_we_make_has_exact_refcounts_at_every_cluster_size),
        cmocka_unit_test(every_refcount_width_is_read),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
