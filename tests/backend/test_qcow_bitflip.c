/* S2.6: the clear text of an image is authenticated where it matters. Every single bit of header,
 * tables, refcounts and LUKS header is flipped; each flip is refused, or it has no effect: the same
 * payload, the same places, a write goes where it went before.
 *
 * By default every bit of header and tables, and samples of what repeats itself (refcounts, unused
 * key slots, salts); NVKEEP_LONG=1: all. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow_priv.h"
#include "mem_image.h"
#include "src/base/bytes.h"

enum { C = 4096, SIZE = 64 * 1024, MUST_BE_WRITABLE = 8 };

static struct mem_image im;
static uint32_t map[SIZE / C];

static int make(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct err e;
    (void)state;
    mem_image_new(12, SIZE, &im);
    if (mem_disk_blk(im.disk, &b, &e) < 0 || qcow_open(b, &img, &e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(map); i++)
        map[i] = img->map[i] & MAP_HOST;
    return 0;
}

static int clear(void **state)
{
    (void)state;
    mem_image_clear(&im);
    return 0;
}

struct tally {
    unsigned by_kind[ERR_N_KINDS]; /* ERR_NONE: accepted, without effect */
};

static uint64_t place_of(uint64_t sector)
{
    return map[sector / (C / 512)] * (uint64_t)C + sector % (C / 512) * 512;
}

/* A write through an image with a flipped bit: to the same place, and nowhere else. */
static void writes_where_it_should(struct mem_disk *d, struct qcow_disk_rw *rw)
{
    uint8_t buf[512];
    struct err e;
    size_t n;
    mem_image_pattern(MUST_BE_WRITABLE, buf);
    mem_disk_forget(d);
    assert_int_equal(qcow_disk_write(rw, (struct sector){MUST_BE_WRITABLE}, 1, buf, &e), 0);
    const struct mem_op *log = mem_disk_log(d, &n);
    assert_int_equal(n, 1);
    assert_int_equal(log[0].off, place_of(MUST_BE_WRITABLE));
    assert_int_equal(log[0].n, 512);
    assert_memory_equal(log[0].data, mem_disk_bytes(im.disk) + log[0].off, 512);
}

static void flip(uint64_t byte, unsigned bit, struct tally *t)
{
    const uint8_t *bytes = mem_disk_bytes(im.disk);
    struct err e = {0};
    OWNED(mem_disk) d = mem_disk_of(bytes, mem_disk_size(im.disk));
    OWNED(qcow_disk_rw) rw = NULL;
    mem_disk_bytes(d)[byte] ^= (uint8_t)(1u << bit);

    if (mem_image_arm(d, MEM_IMAGE_PASS, &rw, &e) < 0) {
        size_t n;
        (void)mem_disk_log(d, &n);
        assert_int_equal(n, 0);
        if (e.kind == ERR_STORAGE || e.kind == ERR_NONE)
            fail_msg("byte %" PRIu64 " bit %u: %s", byte, bit, e.text);
        t->by_kind[e.kind]++;
        return;
    }
    if (!mem_image_intact(qcow_disk_of(rw), im.sectors))
        fail_msg("byte %" PRIu64 " bit %u: other content, and nobody said so", byte, bit);
    writes_where_it_should(d, rw);
    t->by_kind[ERR_NONE]++;
}

/* The upper half of an iteration count: the key is wrong in the end, after up to a minute. */
static bool only_takes_long(uint64_t byte)
{
    uint64_t at = byte - im.header.luks.byte;
    return at == 164 || at == 165 || at == 212 || at == 213;
}

static void flip_range(uint64_t at, uint64_t n, unsigned step, struct tally *t)
{
    for (uint64_t i = 0; i < n * 8; i += step)
        if (!only_takes_long(at + i / 8))
            flip(at + i / 8, i % 8, t);
}

static void report(const char *what, const struct tally *t)
{
    print_message("%s:", what);
    for (size_t k = 0; k < ERR_N_KINDS; k++)
        if (t->by_kind[k])
            print_message(" %s %u", k ? err_class(k)->name : "without effect", t->by_kind[k]);
    print_message("\n");
}

/* A step that comes by every bit of a byte. */
static unsigned sampled(unsigned step)
{
    return getenv("NVKEEP_LONG") ? 1 : step;
}

static void each_bit_of_the_header_is_detected_or_without_effect(void **state)
{
    struct tally t = {0};
    (void)state;
    flip_range(0, 184, 1, &t);
    report("header", &t);
    assert_true(t.by_kind[ERR_STATE_CORRUPT] > 0 && t.by_kind[ERR_UNSUPPORTED] > 0);
    /* compatible features, the unused offset of snapshots' high bits, padding */
    assert_true(t.by_kind[ERR_NONE] < 184 * 8 / 3);
}

static void each_bit_of_the_tables_is_detected_or_without_effect(void **state)
{
    struct tally t = {0};
    uint64_t l2 = get_be64(mem_disk_bytes(im.disk) + im.header.l1.byte) & QCOW_OFFSET;
    (void)state;
    flip_range(im.header.l1.byte, 8, 1, &t);
    flip_range(l2, SIZE / C * 8, 1, &t);
    flip_range(im.header.reftable.byte, 8, 1, &t);
    report("tables", &t);
    assert_true(t.by_kind[ERR_STATE_CORRUPT] > 0);
}

static void each_bit_of_the_refcounts_is_detected_or_without_effect(void **state)
{
    struct tally t = {0};
    uint64_t first = mem_image_refcount(&im, 0), n = mem_disk_size(im.disk) / C;
    (void)state;
    flip_range(first, n * 2, sampled(29), &t);
    report("refcounts", &t);
    assert_true(t.by_kind[ERR_STATE_CORRUPT] > 0);
}

static void each_bit_of_the_luks_header_is_detected_or_without_effect(void **state)
{
    struct tally t = {0};
    (void)state;
    flip_range(im.header.luks.byte, 112, 1, &t);               /* names, sizes */
    flip_range(im.header.luks.byte + 112, 52, sampled(5), &t); /* digest and its salt */
    flip_range(im.header.luks.byte + 164, 44, 1, &t);          /* its cost, uuid */
    flip_range(im.header.luks.byte + 208, 48, sampled(5), &t); /* the slot in use */
    flip_range(im.header.luks.byte + 256, 336, sampled(5), &t);
    report("LUKS header", &t);
    assert_true(t.by_kind[ERR_KEY_WRONG] > 0 && t.by_kind[ERR_STATE_CORRUPT] > 0);
}

static void a_bit_of_the_key_material_makes_the_key_wrong(void **state)
{
    struct tally t = {0};
    (void)state;
    for (uint64_t i = 0; i < 256000; i += 12345)
        flip(im.header.luks.byte + 4096 + i, i % 8, &t);
    report("key material", &t);
    assert_int_equal(t.by_kind[ERR_NONE], 0);
    assert_int_equal(t.by_kind[ERR_KEY_WRONG], 21);
}

static void each_bit_of_the_reference_sector_is_detected(void **state)
{
    struct tally t = {0};
    (void)state;
    flip_range(place_of(0), 512, sampled(31), &t);
    report("reference sector", &t);
    assert_int_equal(t.by_kind[ERR_NONE], 0);
    assert_int_equal(t.by_kind[ERR_STATE_FOREIGN], 0); /* ours, and damaged */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_bit_of_the_header_is_detected_or_without_effect),
        cmocka_unit_test(each_bit_of_the_tables_is_detected_or_without_effect),
        cmocka_unit_test(each_bit_of_the_refcounts_is_detected_or_without_effect),
        cmocka_unit_test(each_bit_of_the_luks_header_is_detected_or_without_effect),
        cmocka_unit_test(a_bit_of_the_key_material_makes_the_key_wrong),
        cmocka_unit_test(each_bit_of_the_reference_sector_is_detected),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
