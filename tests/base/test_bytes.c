#include "src/base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void numbers_are_read_big_endian(void **state)
{
    static const uint8_t b[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct bytes_in in = bytes_in(b, sizeof(b));
    (void)state;
    assert_int_equal(bytes_u8(&in), 1);
    assert_int_equal(bytes_be16(&in), 0x0203);
    assert_int_equal(bytes_be32(&in), 0x04050607);
    assert_false(bytes_done(&in));
    assert_true(bytes_be64(&in) == UINT64_C(0x08090a0b0c0d0e0f));
    assert_true(bytes_done(&in));
}

static void highest_bits_do_not_become_signs(void **state)
{
    static const uint8_t b[8] = {0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8};
    (void)state;
    assert_true(get_be16(b) == UINT16_C(0xfffe));
    assert_true(get_be32(b) == UINT32_C(0xfffefdfc));
    assert_true(get_be64(b) == UINT64_C(0xfffefdfcfbfaf9f8));
}

static void reading_past_the_end_stays_bad_and_gives_zeroes(void **state)
{
    static const uint8_t b[3] = {1, 2, 3};
    struct bytes_in in = bytes_in(b, sizeof(b));
    uint8_t out[4] = {9, 9, 9, 9};
    (void)state;
    assert_int_equal(bytes_be32(&in), 0);
    assert_true(in.bad);
    assert_int_equal(bytes_u8(&in), 0); /* though three bytes are left */
    assert_null(bytes_take(&in, 0));
    bytes_copy_out(&in, out, sizeof(out));
    assert_true(bytes_all_zero(out, sizeof(out)));
    assert_false(bytes_done(&in));
}

static void huge_lengths_do_not_wrap(void **state)
{
    static const uint8_t b[3] = {1, 2, 3};
    struct bytes_in in = bytes_in(b, sizeof(b));
    uint8_t room[4];
    struct bytes_out out = bytes_out(room, sizeof(room));
    (void)state;
    bytes_skip(&in, SIZE_MAX);
    assert_true(in.bad);
    bytes_put_u8(&out, 7);
    bytes_put_zero(&out, SIZE_MAX);
    assert_true(out.bad);
    assert_int_equal(out.n, 1);
}

static void nothing_can_be_taken_from_nothing(void **state)
{
    struct bytes_in in = bytes_in(NULL, 0);
    (void)state;
    assert_non_null(bytes_take(&in, 0));
    assert_true(bytes_done(&in));
    assert_null(bytes_take(&in, 1));
}

static void what_is_put_is_what_is_got(void **state)
{
    uint8_t room[24];
    struct bytes_out out = bytes_out(room, sizeof(room));
    (void)state;
    bytes_put_u8(&out, 0xa5);
    bytes_put_be16(&out, 0xbeef);
    bytes_put_be32(&out, UINT32_C(0xdeadbeef));
    bytes_put_be64(&out, UINT64_C(0x8000000000000001));
    bytes_put(&out, "xyz", 3);
    bytes_put_zero(&out, 6);
    assert_false(out.bad);
    assert_int_equal(out.n, sizeof(room));

    struct bytes_in in = bytes_in(room, sizeof(room));
    char text[3];
    assert_int_equal(bytes_u8(&in), 0xa5);
    assert_int_equal(bytes_be16(&in), 0xbeef);
    assert_true(bytes_be32(&in) == UINT32_C(0xdeadbeef));
    assert_true(bytes_be64(&in) == UINT64_C(0x8000000000000001));
    bytes_copy_out(&in, text, sizeof(text));
    assert_memory_equal(text, "xyz", 3);
    bytes_skip(&in, 6);
    assert_true(bytes_done(&in));
}

static void writing_past_the_end_writes_nothing(void **state)
{
    uint8_t room[4] = {1, 2, 3, 4};
    struct bytes_out out = bytes_out(room, 3);
    (void)state;
    bytes_put_be32(&out, UINT32_MAX);
    assert_true(out.bad);
    bytes_put_u8(&out, 0xff); /* it would fit, but bad stays bad */
    assert_int_equal(out.n, 0);
    assert_memory_equal(room, "\1\2\3\4", 4);
}

static void ranges_are_compared_without_wrapping(void **state)
{
    (void)state;
    assert_true(range_within(0, 0, 0));
    assert_true(range_within(10, 0, 10));
    assert_true(range_within(4, 6, 10));
    assert_false(range_within(4, 7, 10));
    assert_false(range_within(11, 0, 10));
    assert_false(range_within(UINT64_MAX, 2, 10));
    assert_false(range_within(2, UINT64_MAX, 10));
    assert_true(range_within(1, UINT64_MAX - 1, UINT64_MAX));
}

static void sums_and_products_that_do_not_fit_are_told(void **state)
{
    uint64_t r;
    (void)state;
    assert_true(add_fits(UINT64_MAX - 1, 1, &r));
    assert_true(r == UINT64_MAX);
    assert_false(add_fits(UINT64_MAX, 1, &r));
    assert_true(mul_fits(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r));
    assert_false(mul_fits(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
}

static void one_bit_is_seen_among_zeroes(void **state)
{
    uint8_t b[65] = {0};
    (void)state;
    assert_true(bytes_all_zero(b, sizeof(b)));
    assert_true(bytes_all_zero(b, 0));
    for (size_t i = 0; i < sizeof(b) * 8; i++) {
        b[i / 8] = (uint8_t)(1 << i % 8);
        assert_false(bytes_all_zero(b, sizeof(b)));
        b[i / 8] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_big_endian),
        cmocka_unit_test(highest_bits_do_not_become_signs),
        cmocka_unit_test(reading_past_the_end_stays_bad_and_gives_zeroes),
        cmocka_unit_test(huge_lengths_do_not_wrap),
        cmocka_unit_test(nothing_can_be_taken_from_nothing),
        cmocka_unit_test(what_is_put_is_what_is_got),
        cmocka_unit_test(writing_past_the_end_writes_nothing),
        cmocka_unit_test(ranges_are_compared_without_wrapping),
        cmocka_unit_test(sums_and_products_that_do_not_fit_are_told),
        cmocka_unit_test(one_bit_is_seen_among_zeroes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
