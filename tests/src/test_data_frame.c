#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "src/base/bytes.h"
#include "src/serve/data_frame.h"

enum { MAX = 4096 };

static const uint8_t get_random[] = {0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8};
static const uint8_t framed[] = {0, 0, 0, 8,  3, 0, 0, 0,    12, 0x80, 1,
                                 0, 0, 0, 12, 0, 0, 1, 0x7b, 0,  8};

static enum data_found decode(const void *p, size_t n, struct data_frame *ret)
{
    return data_frame_decode(p, n, MAX, true, ret);
}

static void command_is_as_long_as_its_size_field_says(void **state)
{
    (void)state;
    struct data_frame f;
    uint8_t two[24];
    for (size_t n = 0; n < sizeof(get_random); n++)
        assert_int_equal(decode(get_random, n, &f), DATA_MORE);
    memcpy(two, get_random, 12);
    memcpy(two + 12, get_random, 12);
    assert_int_equal(decode(two, 24, &f), DATA_COMMAND);
    assert_false(f.framed);
    assert_int_equal(f.offset, 0);
    assert_int_equal(f.cmd_bytes, 12);
    assert_int_equal(f.bytes, 12);
}

static void framed_command_carries_its_locality(void **state)
{
    (void)state;
    struct data_frame f;
    for (size_t n = 0; n < sizeof(framed); n++)
        assert_int_equal(decode(framed, n, &f), DATA_MORE);
    assert_int_equal(decode(framed, sizeof(framed), &f), DATA_COMMAND);
    assert_true(f.framed);
    assert_int_equal(f.locality, 3);
    assert_int_equal(f.offset, 9);
    assert_int_equal(f.cmd_bytes, 12);
    assert_int_equal(f.bytes, sizeof(framed));
}

/* What a TPM 1.2 is sent that way is no command of its own. */
static void framing_is_only_known_to_a_tpm_2(void **state)
{
    (void)state;
    struct data_frame f;
    assert_int_equal(data_frame_decode(framed, sizeof(framed), MAX, false, &f), DATA_BAD);
    assert_false(f.framed);
    assert_int_equal(f.bytes, sizeof(framed));
}

/* The guest writes the size field, and the emulator sends no more than its buffer holds. */
static void size_that_cannot_be_right_is_never_waited_for(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 9, MAX + 1, 8000, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t m[3968] = {0x80, 1};
        struct data_frame f = {0};
        put_be32(m + 2, sizes[i]);
        assert_int_equal(decode(m, 5, &f), DATA_MORE);
        for (size_t n = 6; n < sizeof(m); n += 997) {
            assert_int_equal(decode(m, n, &f), DATA_BAD);
            assert_int_equal(f.bytes, n);
            assert_int_equal(f.cmd_bytes, n);
        }
        uint8_t inside[600] = {0, 0, 0, 8, 1};
        put_be32(inside + 5, sizes[i]);
        assert_int_equal(decode(inside, sizeof(inside), &f), DATA_BAD);
        assert_true(f.framed);
        assert_int_equal(f.bytes, sizeof(inside));
        assert_int_equal(f.offset + f.cmd_bytes, sizeof(inside));
    }
}

static void size_is_measured_by_what_the_tpm_takes_now(void **state)
{
    (void)state;
    uint8_t m[MAX] = {0x80, 1, 0, 0, 0x0f, 0x81};
    struct data_frame f;
    assert_int_equal(data_frame_decode(m, 3969, 3968, true, &f), DATA_BAD);
    assert_int_equal(data_frame_decode(m, 3969, 3969, true, &f), DATA_COMMAND);
}

static void what_was_cut_off_is_one_bad_command(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof(framed); n++) {
        struct data_frame f = data_frame_cut(framed, n, true);
        assert_int_equal(f.framed, n >= 4);
        assert_int_equal(f.bytes, n);
        assert_int_equal(f.offset + f.cmd_bytes, n);
        assert_int_equal(f.locality, n >= 5 ? 3 : 0);
    }
}

static void set_locality_command_is_recognised_only_whole(void **state)
{
    (void)state;
    uint8_t m[12] = {0x80, 1, 0, 0, 0, 11, 0x20, 0, 0x10, 0, 4};
    uint8_t locality = 9;
    assert_true(data_is_set_locality(m, 11, &locality));
    assert_int_equal(locality, 4);
    assert_false(data_is_set_locality(m, 10, &locality));
    assert_false(data_is_set_locality(m, 12, &locality));
    m[1] = 2;
    assert_false(data_is_set_locality(m, 11, &locality));
    assert_false(data_is_set_locality(get_random, sizeof(get_random), &locality));
    uint8_t r[DATA_HEADER_BYTES];
    data_response(0x907, r);
    assert_memory_equal(r, "\x80\1\0\0\0\x0a\0\0\x09\x07", 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(command_is_as_long_as_its_size_field_says),
        cmocka_unit_test(framed_command_carries_its_locality),
        cmocka_unit_test(framing_is_only_known_to_a_tpm_2),
        cmocka_unit_test(size_that_cannot_be_right_is_never_waited_for),
        cmocka_unit_test(size_is_measured_by_what_the_tpm_takes_now),
        cmocka_unit_test(what_was_cut_off_is_one_bad_command),
        cmocka_unit_test(set_locality_command_is_recognised_only_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
