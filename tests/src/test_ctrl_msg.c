#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "src/base/bytes.h"
#include "src/serve/ctrl_msg.h"

/* One message at p; the rest is expected to begin right behind it. */
static struct ctrl_request whole(const void *p, size_t n, size_t bytes, bool *padding)
{
    struct ctrl_request r;
    size_t used = 0;
    assert_int_equal(ctrl_request_decode(p, n, padding, &r, &used), CTRL_WHOLE);
    assert_int_equal(used, bytes);
    return r;
}

#define WHOLE(bytes, used, padding) whole(bytes, sizeof(bytes) - 1, used, padding)

static void every_command_is_decoded_and_waited_for_until_it_is_whole(void **state)
{
    (void)state;
    static const struct {
        enum ctrl_code code;
        size_t body;
    } rows[] = {
        {CTRL_GET_CAPABILITY, 0},
        {CTRL_INIT, 4},
        {CTRL_SHUTDOWN, 0},
        {CTRL_GET_TPMESTABLISHED, 0},
        {CTRL_SET_LOCALITY, 1},
        {CTRL_HASH_START, 0},
        {CTRL_HASH_DATA, 4},
        {CTRL_HASH_END, 0},
        {CTRL_CANCEL_TPM_CMD, 0},
        {CTRL_STORE_VOLATILE, 0},
        {CTRL_RESET_TPMESTABLISHED, 1},
        {CTRL_GET_STATEBLOB, 12},
        {CTRL_SET_STATEBLOB, 12},
        {CTRL_STOP, 0},
        {CTRL_GET_CONFIG, 0},
        {CTRL_SET_DATAFD, 0},
        {CTRL_SET_BUFFERSIZE, 4},
        {CTRL_GET_INFO, 16},
        {CTRL_LOCK_STORAGE, 4},
    };
    assert_int_equal(ARRAY_LEN(rows), CTRL_N_CODES - 1);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t m[32] = {0};
        struct ctrl_request r;
        size_t used, n = 4 + rows[i].body;
        put_be32(m, rows[i].code);
        for (size_t part = 0; part < n; part++) {
            bool padding = false;
            assert_int_equal(ctrl_request_decode(m, part, &padding, &r, &used), CTRL_MORE);
            assert_false(padding);
        }
        bool padding = false;
        assert_int_equal(whole(m, n, n, &padding).code, rows[i].code);
        assert_string_not_equal(ctrl_code_name(rows[i].code), "?");
    }
    assert_string_equal(ctrl_code_name((enum ctrl_code)0), "?");
    assert_string_equal(ctrl_code_name((enum ctrl_code)0x14), "?");
}

static void fields_are_where_swtpm_has_them(void **state)
{
    (void)state;
    bool padding = false;
    assert_int_equal(WHOLE("\0\0\0\2\0\0\0\1", 8, &padding).flags, CTRL_INIT_DELETE_VOLATILE);
    assert_int_equal(WHOLE("\0\0\0\5\3", 5, &padding).locality, 3);
    padding = false;
    assert_int_equal(WHOLE("\0\0\0\x11\0\0\x0f\x80", 8, &padding).size, 3968);
    assert_int_equal(WHOLE("\0\0\0\x13\0\0\1\x2c", 8, &padding).retries, 300);
    struct ctrl_request r = WHOLE("\0\0\0\x0c\0\0\0\1\0\0\0\2\0\0\1\0", 16, &padding);
    assert_int_equal(r.flags, CTRL_STATE_DECRYPTED);
    assert_int_equal(r.kind, 2);
    assert_int_equal(r.offset, 256);
    r = WHOLE("\0\0\0\x0d\0\0\0\2\0\0\0\3\0\0\1\0xyz", 16, &padding);
    assert_int_equal(r.flags, CTRL_STATE_ENCRYPTED);
    assert_int_equal(r.kind, 3);
    assert_int_equal(r.bytes, 256);
    r = WHOLE("\0\0\0\x12\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\0", 20, &padding);
    assert_true(r.info == 0x100000002);
    assert_int_equal(r.offset, 3);
    r = WHOLE("\0\0\0\7\0\0\0\3abc\0\0\0\x08", 11, &padding);
    assert_int_equal(r.bytes, 3);
    assert_memory_equal(r.data, "abc", 3);
}

static void locality_of_one_byte_or_of_four_both_end_where_the_next_message_begins(void **state)
{
    (void)state;
    for (uint8_t code = CTRL_SET_LOCALITY; code <= CTRL_RESET_TPMESTABLISHED; code += 6) {
        const uint8_t bare[] = {0, 0, 0, code, 2, 0, 0, 0, 1};
        const uint8_t padded[] = {0, 0, 0, code, 2, 0xde, 0xad, 0xbe, 0, 0, 0, 1};
        const uint8_t zeroes[] = {0, 0, 0, code, 2, 0, 0, 0, 0, 0, 0, 1};
        bool padding = false;
        assert_int_equal(whole(bare, 9, 5, &padding).locality, 2);
        padding = false;
        assert_int_equal(whole(padded, 12, 8, &padding).locality, 2);
        assert_false(padding);
        assert_int_equal(whole(zeroes, 12, 8, &padding).locality, 2);
        assert_false(padding);
        /* alone */
        whole(padded, 8, 8, &padding);
        assert_false(padding);
        whole(padded, 5, 5, &padding);
        assert_true(padding);
    }
}

static void padding_that_comes_late_is_skipped_before_the_next_message(void **state)
{
    (void)state;
    static const uint8_t late[] = {0xde, 0xad, 0xbe, 0, 0, 0, CTRL_STOP};
    static const uint8_t none[] = {0, 0, 0, CTRL_STOP};
    struct ctrl_request r;
    size_t used;
    bool padding = true;
    for (size_t n = 0; n < sizeof(late); n++)
        assert_int_equal(ctrl_request_decode(late, n, &padding, &r, &used), CTRL_MORE);
    assert_true(padding);
    assert_int_equal(whole(late, sizeof(late), sizeof(late), &padding).code, CTRL_STOP);
    assert_false(padding);
    padding = true;
    assert_int_equal(whole(none, sizeof(none), sizeof(none), &padding).code, CTRL_STOP);
    assert_false(padding);
}

static void unknown_codes_are_named_so(void **state)
{
    (void)state;
    static const uint32_t codes[] = {0, 0x14, 0x100, 0x01000000, 0x80010000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        uint8_t m[4];
        struct ctrl_request r;
        size_t used;
        bool padding = false;
        put_be32(m, codes[i]);
        assert_int_equal(ctrl_request_decode(m, 4, &padding, &r, &used), CTRL_UNKNOWN);
    }
}

static void hash_data_longer_than_swtpms_is_refused_before_it_is_read(void **state)
{
    (void)state;
    static const uint8_t most[8 + CTRL_HASH_MAX_BYTES] = {0, 0, 0, 7, 0, 0, 0x10, 0};
    struct ctrl_request r;
    size_t used;
    bool padding = false;
    assert_int_equal(whole(most, sizeof(most), CTRL_REQUEST_MAX, &padding).bytes, 4096);
    assert_int_equal(ctrl_request_decode(most, sizeof(most) - 1, &padding, &r, &used), CTRL_MORE);
    assert_int_equal(
        ctrl_request_decode((const uint8_t *)"\0\0\0\7\0\0\x10\1", 8, &padding, &r, &used),
        CTRL_TOO_BIG);
    assert_int_equal(r.code, CTRL_HASH_DATA);
    assert_int_equal(
        ctrl_request_decode((const uint8_t *)"\0\0\0\7\xff\xff\xff\xff", 8, &padding, &r, &used),
        CTRL_TOO_BIG);
}

static void replies_have_their_full_length_whatever_the_result(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < CTRL_N_CODES + 2; code++) {
        uint8_t m[CTRL_REPLY_MAX];
        const struct ctrl_reply failed = {.result = CTRL_FAIL};
        const struct ctrl_reply done = {.result = CTRL_OK};
        size_t want = code == CTRL_SET_BUFFERSIZE || code == CTRL_GET_STATEBLOB ? 16
                      : code == CTRL_GET_INFO                                   ? 12
                      : code == CTRL_GET_CAPABILITY || code == CTRL_GET_TPMESTABLISHED ||
                              code == CTRL_GET_CONFIG
                          ? 8
                          : 4;
        assert_int_equal(ctrl_reply_encode((enum ctrl_code)code, &failed, m), want);
        assert_int_equal(get_be32(m), CTRL_FAIL);
        assert_int_equal(ctrl_reply_encode((enum ctrl_code)code, &done, m), want);
    }
}

static void replies_are_swtpms_byte_for_byte(void **state)
{
    (void)state;
    uint8_t m[CTRL_REPLY_MAX];
    ctrl_reply_encode(CTRL_GET_CAPABILITY, &(struct ctrl_reply){.capabilities = 0xffff}, m);
    assert_memory_equal(m, "\0\0\0\0\0\0\xff\xff", 8);
    ctrl_reply_encode(CTRL_GET_TPMESTABLISHED, &(struct ctrl_reply){.established = true}, m);
    assert_memory_equal(m, "\0\0\0\0\1\0\0\0", 8);
    ctrl_reply_encode(CTRL_SET_BUFFERSIZE,
                      &(struct ctrl_reply){.size = 4096, .min_size = 2808, .max_size = 4096}, m);
    assert_memory_equal(m, "\0\0\0\0\0\0\x10\0\0\0\x0a\xf8\0\0\x10\0", 16);
    ctrl_reply_encode(CTRL_GET_STATEBLOB,
                      &(struct ctrl_reply){.state_flags = 2, .total = 0x0203, .bytes = 0x0203}, m);
    assert_memory_equal(m, "\0\0\0\0\0\0\0\2\0\0\2\3\0\0\2\3", 16);
    ctrl_reply_encode(CTRL_GET_INFO, &(struct ctrl_reply){.total = 0x0203, .bytes = 4}, m);
    assert_memory_equal(m, "\0\0\0\0\0\0\2\3\0\0\0\4", 12);
    ctrl_reply_encode(CTRL_GET_CONFIG, &(struct ctrl_reply){.config = 1}, m);
    assert_memory_equal(m, "\0\0\0\0\0\0\0\1", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_is_decoded_and_waited_for_until_it_is_whole),
        cmocka_unit_test(fields_are_where_swtpm_has_them),
        cmocka_unit_test(locality_of_one_byte_or_of_four_both_end_where_the_next_message_begins),
        cmocka_unit_test(padding_that_comes_late_is_skipped_before_the_next_message),
        cmocka_unit_test(unknown_codes_are_named_so),
        cmocka_unit_test(hash_data_longer_than_swtpms_is_refused_before_it_is_read),
        cmocka_unit_test(replies_have_their_full_length_whatever_the_result),
        cmocka_unit_test(replies_are_swtpms_byte_for_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
