/* Opening: what hostile and damaged tables are refused for, in which words, how fast, and that
 * nothing is touched. */
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

static void a_sound_image_opens_and_tells_its_facts(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct qcow_check check;
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_blk(im.disk, &b, &e), 0);
    assert_int_equal(qcow_open(b, &img, &e), 0);
    assert_int_equal(qcow_image_header(img)->size, SIZE);
    assert_string_equal(qcow_image_luks(img)->cipher_name, "aes");
    assert_int_equal(qcow_check_image(img, &check, &e), 0);
    assert_int_equal(check.leaks, 0);
    assert_int_equal(check.corruptions, 0);
    assert_int_equal(check.clusters, mem_disk_size(im.disk) / C);
    assert_string_equal(check.first, "");
}

/* S1.19 */
static void an_image_without_encryption_makes_the_key_unexpected(void **state)
{
    OWNED(mem_disk) d = copy_of(&im);
    (void)state;
    put_be32(mem_disk_bytes(d) + 32, 0);
    put_be32(mem_disk_bytes(d) + 112, 0x12345678); /* no LUKS pointer either */
    refused(d, ERR_KEY_UNEXPECTED, "a key was given, but this qcow2 image");
}

/* Self-overlap: every kind of table laid over every other. S2.6 */
static void no_cluster_has_two_uses(void **state)
{
    const struct qcow_header *h = &im.header;
    const uint8_t *bytes = mem_disk_bytes(im.disk);
    uint64_t l2 = get_be64(bytes + h->l1.byte) & QCOW_OFFSET;
    uint64_t refblock = get_be64(bytes + h->reftable.byte);
    (void)state;
    const uint64_t tables[] = {h->reftable.byte,       refblock, h->luks.byte,
                               h->luks.byte + 100 * C, l2,       h->l1.byte};
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        bool is_l2 = tables[i] == l2, is_l1 = tables[i] == h->l1.byte;
        refused_with64(mem_image_l2_entry(&im, 1), tables[i] | QCOW_COPIED, ERR_STATE_CORRUPT,
                       "is used twice");
        refused_with64(h->reftable.byte + 8, tables[i], ERR_STATE_CORRUPT, "is used twice");
        if (!is_l2)
            refused_with64(h->l1.byte, tables[i] | QCOW_COPIED, ERR_STATE_CORRUPT, "is used twice");
        if (!is_l1 && !is_l2)
            refused_with64(40, tables[i], ERR_STATE_CORRUPT, "is used twice");
    }
    refused_with64(48, h->l1.byte, ERR_STATE_CORRUPT, "");
    refused_with64(48, h->luks.byte, ERR_STATE_CORRUPT, "is used twice");
    refused_with64(120, h->l1.byte, ERR_STATE_CORRUPT, "");
}

/* Data in the place of a table: whatever it decrypts to, as a table it is noise. */
static void data_in_the_place_of_a_table_is_refused(void **state)
{
    uint64_t l2 = get_be64(mem_disk_bytes(im.disk) + im.header.l1.byte) & QCOW_OFFSET;
    uint64_t data = get_be64(mem_disk_bytes(im.disk) + mem_image_l2_entry(&im, 0)) & QCOW_OFFSET;
    static const uint64_t fields[] = {40, 48, 120};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        OWNED(mem_disk) d = copy_of(&im);
        set64(d, fields[i], data);
        assert_int_equal(try_open(d, &e), -1);
    }
    OWNED(mem_disk) d = copy_of(&im);
    set64(d, im.header.l1.byte, data);
    assert_int_equal(try_open(d, &e), -1);
    OWNED(mem_disk) d2 = copy_of(&im);
    set64(d2, 40, l2); /* an L2 table as L1: data become L2 tables */
    assert_int_equal(try_open(d2, &e), -1);
}

/* The crafted image that lets a guest write destroy the LUKS header under stock tools. */
static void data_in_the_luks_area_is_refused_and_named(void **state)
{
    (void)state;
    refused_with64(mem_image_l2_entry(&im, 3), im.header.luks.byte | QCOW_COPIED, ERR_STATE_CORRUPT,
                   "is used twice: as the LUKS area and as data");
}

static void two_guest_clusters_never_share_one_place(void **state)
{
    uint64_t data = get_be64(mem_disk_bytes(im.disk) + mem_image_l2_entry(&im, 5));
    (void)state;
    refused_with64(mem_image_l2_entry(&im, 6), data, ERR_STATE_CORRUPT, "as data and as data");
}

static void entries_that_point_nowhere_are_refused(void **state)
{
    uint64_t l2 = mem_image_l2_entry(&im, 2), size = mem_disk_size(im.disk);
    const struct qcow_header *h = &im.header;
    (void)state;
    refused_with64(l2, size | QCOW_COPIED, ERR_STATE_CORRUPT, "beyond the end of the file");
    refused_with64(l2, QCOW_OFFSET & ~4095ul, ERR_STATE_CORRUPT, "beyond the end of the file");
    refused_with64(l2, 0x200 | QCOW_COPIED, ERR_STATE_CORRUPT, "not at the begin of a cluster");
    refused_with64(h->l1.byte, size | QCOW_COPIED, ERR_STATE_CORRUPT, "an L2 table");
    refused_with64(h->l1.byte, 0x200, ERR_STATE_CORRUPT, "not at the begin of a cluster");
    refused_with64(h->reftable.byte, size, ERR_STATE_CORRUPT, "a refcount block");
    refused_with64(h->reftable.byte, UINT64_C(0xfffffffffffff000), ERR_STATE_CORRUPT, "");
}

static void reserved_bits_are_refused(void **state)
{
    const uint8_t *bytes = mem_disk_bytes(im.disk);
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t flip = UINT64_C(1) << bit, at = im.header.l1.byte;
        if (QCOW_L1_RESERVED & flip)
            refused_with64(at, get_be64(bytes + at) | flip, ERR_STATE_CORRUPT, "L1 table");
        at = mem_image_l2_entry(&im, 7);
        if (QCOW_L2_RESERVED & flip)
            refused_with64(at, get_be64(bytes + at) | flip, ERR_STATE_CORRUPT, "reserved bits");
        at = im.header.reftable.byte;
        if (QCOW_REF_RESERVED & flip)
            refused_with64(at, get_be64(bytes + at) | flip, ERR_STATE_CORRUPT, "refcount table");
    }
}

/* Stock tools store such clusters in clear and read them back. */
static void compressed_clusters_are_refused(void **state)
{
    uint64_t at = mem_image_l2_entry(&im, 7), entry = get_be64(mem_disk_bytes(im.disk) + at);
    (void)state;
    refused_with64(
        at, (entry & ~QCOW_COPIED) | QCOW_COMPRESSED, ERR_UNSUPPORTED,
        "cluster 7 of the disk is compressed, and compressed clusters are not encrypted");
}

static void a_cluster_in_use_with_refcount_0_is_refused_unless_the_image_is_dirty(void **state)
{
    struct err e;
    (void)state;
    for (uint64_t c = 0; c < mem_disk_size(im.disk) / C; c += 5) {
        OWNED(mem_disk) d = copy_of(&im);
        memset(mem_disk_bytes(d) + mem_image_refcount(&im, c), 0, 2);
        refused(d, ERR_STATE_CORRUPT, "its refcount is 0");
        set64(d, 72, QCOW_DIRTY);
        assert_int_equal(try_open(d, &e), 0);
    }
}

/* S2.10, S4.13: cut off at every sector. */
static void every_truncation_is_refused_and_never_read_as_zeroes(void **state)
{
    (void)state;
    uint64_t full = mem_disk_size(im.disk);
    for (uint64_t n = 0; n < full; n += 512) {
        OWNED(mem_disk) d = mem_disk_of(mem_disk_bytes(im.disk), n);
        OWNED(blk) b = NULL;
        struct err e;
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        OWNED(qcow_image) img = NULL;
        int64_t from = now_us();
        int r = qcow_open(b, &img, &e);
        assert_true(now_us() - from < 50000);
        if (n > full - C) { /* the last cluster of data is short: legal, but not to be written */
            assert_int_equal(r, 0);
            continue;
        }
        assert_int_equal(r, -1);
        if (n == 0 || e.kind != ERR_STATE_CORRUPT)
            assert_int_equal(e.kind, n == 0 ? ERR_STATE_FOREIGN : ERR_STATE_CORRUPT);
    }
}

/* ---- sizes ---- */

/* An image of the least that opens, with tables where they can be made to grow. */
struct sketch {
    struct qcow_header h;
    struct mem_disk *d;
};

static void sketch_of(unsigned bits, uint64_t file_clusters, struct sketch *s)
{
    uint64_t c = UINT64_C(1) << bits;
    uint64_t luks_clusters = (2068480 + c - 1) / c;
    uint8_t header[QCOW_HEADER_MAX];
    s->h = im.header;
    s->h.cluster_bits = bits;
    s->h.reftable.byte = c;
    s->h.luks.byte = 3 * c;
    s->h.l1.byte = (3 + luks_clusters) * c;
    s->h.l1_size = 1;
    s->h.size = 0;
    s->d = mem_disk_new(file_clusters * c);
    uint8_t *bytes = mem_disk_bytes(s->d);
    memcpy(bytes + s->h.luks.byte, mem_disk_bytes(im.disk) + im.header.luks.byte, 592);
    put_be64(bytes + c, 2 * c);
    memset(bytes + 2 * c, 0xff, c);
    qcow_header_encode(&s->h, header);
    memcpy(bytes, header, 512);
}

static void encode_again(struct sketch *s)
{
    uint8_t header[QCOW_HEADER_MAX];
    qcow_header_encode(&s->h, header);
    memcpy(mem_disk_bytes(s->d), header, 512);
}

/* S2.10 */
static void degenerate_sizes_have_their_results(void **state)
{
    static const uint64_t sizes[] = {0, 1, 511, 512, 513, 65535, 65536, 65537};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct sketch s;
        sketch_of(16, 40, &s);
        s.h.size = sizes[i];
        encode_again(&s);
        OWNED(mem_disk) d = s.d;
        OWNED(blk) b = NULL;
        OWNED(qcow_image) img = NULL;
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        assert_int_equal(qcow_open(b, &img, &e), 0);
        assert_int_equal(qcow_image_header(img)->size, sizes[i]);
    }
}

static void a_disk_of_more_clusters_than_supported_is_refused(void **state)
{
    struct sketch s;
    (void)state;
    sketch_of(9, 8192, &s);
    OWNED(mem_disk) d = s.d;
    s.h.size = (UINT64_C(1) << 29) + 512; /* 2^20 clusters, and one more */
    s.h.l1_size = 16385;
    encode_again(&s);
    refused(d, ERR_UNSUPPORTED, "clusters of the disk: 1048577, at most 1048576");
    s.h.size = 512;
    s.h.l1_size = 1 << 18;
    encode_again(&s);
    refused(d, ERR_UNSUPPORTED, "entries of the L1 table: 262144, at most 131072");
}

/* Reads beyond a limit come back as zeroes: a file of any size without its memory. */
struct sparse {
    struct mem_disk *d;
};
static int sparse_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    const struct sparse *s = ctx;
    uint64_t size = mem_disk_size(s->d);
    (void)e;
    memset(buf, 0, n);
    if (off < size)
        memcpy(buf, mem_disk_bytes(s->d) + off, n < size - off ? n : size - off);
    return 0;
}
static void sparse_close(void *ctx)
{
    (void)ctx;
}
static const struct blk_ops sparse_ops = {.pread = sparse_pread, .close = sparse_close};

static void a_huge_sparse_file_is_refused_in_little_memory_and_time(void **state)
{
    struct sketch s;
    struct err e;
    (void)state;
    sketch_of(9, 8192, &s);
    OWNED(mem_disk) d = s.d;
    struct sparse sparse = {d};
    for (unsigned bits = 20; bits < 62; bits += 3) {
        OWNED(blk) b = NULL;
        OWNED(qcow_image) img = NULL;
        uint64_t size = UINT64_C(1) << bits;
        assert_int_equal(blk_from_ops(&sparse_ops, &sparse, size, "sparse", &b, &e), 0);
        int64_t from = now_us();
        int r = qcow_open(b, &img, &e);
        assert_true(now_us() - from < 50000);
        if (size / 512 > QCOW_MAX_HOST) {
            assert_int_equal(r, -1);
            assert_int_equal(e.kind, ERR_UNSUPPORTED);
            assert_non_null(strstr(e.text, "clusters of the file"));
        }
    }
}

/* The most that is taken, all at once: 2^20 guest clusters of 512 bytes, all allocated. */
static void the_largest_image_that_is_taken_costs_less_than_16_mib(void **state)
{
    enum { N_L2 = 16384, PER_L2 = 64 };
    struct sketch s;
    struct err e;
    (void)state;
    uint64_t n = 8192 + N_L2 + (UINT64_C(1) << 20) + 20000;
    sketch_of(9, n, &s);
    OWNED(mem_disk) d = s.d;
    uint8_t *bytes = mem_disk_bytes(d);
    uint64_t at = s.h.l1.byte / 512 + N_L2 * 8 / 512;
    s.h.l1_size = N_L2;
    s.h.size = UINT64_C(1) << 29;
    /* one bit to a refcount: 4096 to a block */
    s.h.refcount_order = 0;
    uint64_t n_blocks = (n + 4095) / 4096;
    s.h.reftable.byte = (at + n_blocks) * 512;
    s.h.reftable_clusters = 8;
    for (uint64_t i = 0; i < n_blocks; i++) {
        put_be64(bytes + s.h.reftable.byte + 8 * i, (at + i) * 512);
        memset(bytes + (at + i) * 512, 0xff, 512);
    }
    at += n_blocks + 8;
    for (uint64_t i = 0; i < N_L2; i++)
        put_be64(bytes + s.h.l1.byte + 8 * i, (at + i) * 512 | QCOW_COPIED);
    for (uint64_t i = 0; i < (uint64_t)N_L2 * PER_L2; i++)
        put_be64(bytes + at * 512 + 8 * i, (at + N_L2 + i) * 512 | QCOW_COPIED);
    encode_again(&s);

    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    assert_int_equal(mem_disk_blk(d, &b, &e), 0);
    struct mallinfo2 before = mallinfo2();
    int64_t from = now_us();
    if (qcow_open(b, &img, &e) < 0)
        fail_msg("%s", e.text);
    print_message("the largest image took %" PRId64 " us\n", now_us() - from);
    struct mallinfo2 after = mallinfo2();
    assert_true(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd < 16 << 20);
    assert_int_equal(img->map[0] & MAP_HOST, at + N_L2);
    assert_int_equal(img->map[(1 << 20) - 1] & MAP_HOST, at + N_L2 + (1 << 20) - 1);
}

/* ---- inspecting ---- */

/* S2.1, S4.12: what crashes `qemu-img info` is told about here. */
static void inspecting_survives_what_is_refused(void **state)
{
    struct err e;
    struct qcow_facts f;
    (void)state;
    {
        OWNED(blk) b = NULL;
        assert_int_equal(mem_disk_blk(im.disk, &b, &e), 0);
        assert_int_equal(qcow_inspect(b, &f, &e), 0);
        assert_int_equal(f.refused.kind, ERR_NONE);
        assert_true(f.has_luks && f.header.ours);
        assert_true(f.luks.slot[0].active);
    }
    {
        OWNED(mem_disk) d = copy_of(&im);
        OWNED(blk) b = NULL;
        put_be32(mem_disk_bytes(d) + 112, 0); /* encrypted, and no pointer */
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        assert_int_equal(qcow_inspect(b, &f, &e), 0);
        assert_int_equal(f.refused.kind, ERR_STATE_CORRUPT);
        assert_non_null(strstr(f.refused.text, "no LUKS area is named"));
        assert_false(f.has_luks);
        assert_int_equal(f.header.version, 3);
        assert_int_equal(f.header.size, SIZE);
    }
    {
        OWNED(mem_disk) d = copy_of(&im);
        OWNED(blk) b = NULL;
        set64(d, 8, 4096);
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        assert_int_equal(qcow_inspect(b, &f, &e), 0);
        assert_true(f.odd.backing);
        assert_int_equal(f.refused.kind, ERR_UNSUPPORTED);
    }
    {
        OWNED(mem_disk) d = mem_disk_new(4096);
        OWNED(blk) b = NULL;
        assert_int_equal(mem_disk_blk(d, &b, &e), 0);
        assert_int_equal(qcow_inspect(b, &f, &e), -1);
        assert_int_equal(e.kind, ERR_STATE_FOREIGN);
    }
}

/* Every read fails once: a storage error, never a verdict about the image. */
static void a_failing_read_is_a_storage_error_wherever_it_happens(void **state)
{
    OWNED(mem_disk) d = with_snapshot();
    struct err e;
    (void)state;
    mem_disk_heal(d);
    assert_int_equal(try_open(d, &e), 0);
    size_t n = mem_disk_n_ops(d);
    assert_true(n > 4);
    for (size_t k = 0; k < n; k++)
        for (enum mem_fault how = MEM_FAIL_ONCE; how <= MEM_FAIL_AFTER; how++) {
            struct qcow_facts f;
            OWNED(blk) b = NULL;
            mem_disk_fail(d, k, how, EIO, 0);
            assert_int_equal(try_open(d, &e), -1);
            assert_int_equal(e.kind, ERR_STORAGE);
            assert_int_equal(e.os, EIO);
            mem_disk_fail(d, k, how, EIO, 0);
            assert_int_equal(mem_disk_blk(d, &b, &e), 0);
            assert_int_equal(qcow_inspect(b, &f, &e), -1);
            assert_int_equal(e.kind, ERR_STORAGE);
        }
    mem_disk_heal(d);
    assert_int_equal(try_open(d, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_image_opens_and_tells_its_facts),
        cmocka_unit_test(an_image_without_encryption_makes_the_key_unexpected),
        cmocka_unit_test(no_cluster_has_two_uses),
        cmocka_unit_test(data_in_the_place_of_a_table_is_refused),
        cmocka_unit_test(data_in_the_luks_area_is_refused_and_named),
        cmocka_unit_test(two_guest_clusters_never_share_one_place),
        cmocka_unit_test(entries_that_point_nowhere_are_refused),
        cmocka_unit_test(reserved_bits_are_refused),
        cmocka_unit_test(compressed_clusters_are_refused),
        cmocka_unit_test(a_cluster_in_use_with_refcount_0_is_refused_unless_the_image_is_dirty),
        cmocka_unit_test(every_truncation_is_refused_and_never_read_as_zeroes),
        cmocka_unit_test(degenerate_sizes_have_their_results),
        cmocka_unit_test(a_disk_of_more_clusters_than_supported_is_refused),
        cmocka_unit_test(a_huge_sparse_file_is_refused_in_little_memory_and_time),
        cmocka_unit_test(the_largest_image_that_is_taken_costs_less_than_16_mib),
        cmocka_unit_test(inspecting_survives_what_is_refused),
        cmocka_unit_test(a_failing_read_is_a_storage_error_wherever_it_happens),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
