/* Recovery keys: what is typed wrongly is found, and what is typed differently is not. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "src/key/recovery_key.h"

static const char alphabet[] = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/* Made by another program. */
static const char known[] = "r23cl-xd5mz-fsh79-vn6pg-0kayt-jeq8w-4ur2v-wcdh0";

static int read_text(const char *text, char ret[RECOVERY_TEXT_BYTES + 1], struct err *e)
{
    OWNED(secret) s = NULL;
    if (recovery_key_read((const uint8_t *)text, strlen(text), &s, e) < 0)
        return -1;
    memcpy(ret, secret_peek(s), RECOVERY_TEXT_BYTES);
    ret[RECOVERY_TEXT_BYTES] = 0;
    return 0;
}

static void assert_refused(const char *text, const char *why)
{
    char got[RECOVERY_TEXT_BYTES + 1];
    struct err e = {0};
    if (read_text(text, got, &e) == 0)
        fail_msg("\"%s\" is taken", text);
    assert_int_equal(e.kind, ERR_USAGE);
    if (!strstr(e.text, why))
        fail_msg("no \"%s\" in: %s", why, e.text);
}

static void new_one(char ret[RECOVERY_TEXT_BYTES + 1])
{
    OWNED(secret) s = NULL;
    struct err e;
    assert_int_equal(recovery_key_new(&s, &e), 0);
    memcpy(ret, secret_peek(s), RECOVERY_TEXT_BYTES);
    ret[RECOVERY_TEXT_BYTES] = 0;
}

static void key_of_another_program_is_read(void **state)
{
    (void)state;
    char got[RECOVERY_TEXT_BYTES + 1];
    struct err e;
    assert_int_equal(strlen(known), RECOVERY_TEXT_BYTES);
    assert_int_equal(read_text(known, got, &e), 0);
    assert_string_equal(got, known);
}

static void new_keys_differ_and_are_read_as_they_were_printed(void **state)
{
    (void)state;
    char a[RECOVERY_TEXT_BYTES + 1], b[RECOVERY_TEXT_BYTES + 1], got[RECOVERY_TEXT_BYTES + 1];
    struct err e;
    unsigned seen[32] = {0};
    for (unsigned i = 0; i < 200; i++) {
        new_one(a);
        new_one(b);
        assert_string_not_equal(a, b);
        assert_int_equal(read_text(a, got, &e), 0);
        assert_string_equal(got, a);
        for (size_t at = 0; at < RECOVERY_TEXT_BYTES; at++)
            if (at % 6 == 5)
                assert_int_equal(a[at], '-');
            else
                seen[strchr(alphabet, a[at]) - alphabet]++;
    }
    for (unsigned v = 0; v < 32; v++)
        assert_in_range(seen[v], 100, 500);
}

static void every_wrong_character_is_found(void **state)
{
    (void)state;
    char key[RECOVERY_TEXT_BYTES + 1];
    new_one(key);
    for (size_t at = 0; at < RECOVERY_TEXT_BYTES; at++) {
        char was = key[at];
        for (size_t v = 0; v < 32 && was != '-'; v++) {
            key[at] = alphabet[v];
            if (key[at] != was)
                assert_refused(key, "there is a mistake in it");
        }
        key[at] = was;
    }
}

static void every_swap_of_neighbours_is_found(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        char key[RECOVERY_TEXT_BYTES + 1];
        new_one(key);
        for (size_t at = 0; at + 1 < RECOVERY_TEXT_BYTES; at++) {
            size_t next = key[at + 1] == '-' ? at + 2 : at + 1;
            char was = key[at], other = key[next];
            if (was == '-' || was == other)
                continue;
            key[at] = other;
            key[next] = was;
            assert_refused(key, "there is a mistake in it");
            key[at] = was;
            key[next] = other;
        }
    }
}

static void capitals_blanks_and_dashes_do_not_matter(void **state)
{
    (void)state;
    char text[3 * RECOVERY_TEXT_BYTES] = "  ", got[RECOVERY_TEXT_BYTES + 1];
    struct err e;
    size_t n = 2;
    for (size_t i = 0; i < RECOVERY_TEXT_BYTES; i++) {
        if (i % 7 == 0)
            text[n++] = ' ';
        if (known[i] != '-')
            text[n++] = (char)toupper((unsigned char)known[i]);
    }
    memcpy(text + n, "\r\n", 3);
    assert_int_equal(read_text(text, got, &e), 0);
    assert_string_equal(got, known);
}

static void what_cannot_be_one_is_told_apart(void **state)
{
    (void)state;
    char key[RECOVERY_TEXT_BYTES + 2];
    new_one(key);
    assert_refused("", "it has 0 characters");
    key[RECOVERY_TEXT_BYTES - 1] = 0;
    assert_refused(key, "it has 39 characters");
    memcpy(key, known, RECOVERY_TEXT_BYTES);
    memcpy(key + RECOVERY_TEXT_BYTES, "q", 2);
    assert_refused(key, "it has 41 characters");
    memcpy(key, known, sizeof(known));
    key[6] = 'o';
    assert_refused(key, "character 6 (in group 2) is \"o\"");
    key[6] = '\xc3';
    assert_refused(key, "\\xc3");
    key[6] = 'B';
    assert_refused(key, "\"B\"");
}

static bool is_meant(const char *text)
{
    return recovery_key_is_meant((const uint8_t *)text, strlen(text));
}

static void passphrase_that_only_has_letters_is_no_recovery_key(void **state)
{
    (void)state;
    assert_true(is_meant(known));
    assert_true(is_meant("bbbbb-zzzzz-11111-zzzzz zzzzz zzzzz zzzzz zzzzz"));
    assert_false(is_meant("correct horse battery staple"));
    assert_false(is_meant("qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")); /* 40, in one piece */
    assert_false(is_meant("qqqqq-qqqqq-qqqqq-qqqqq-qqqqq-qqqqq-qqqqq-qqqq!"));
    assert_false(is_meant(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key_of_another_program_is_read),
        cmocka_unit_test(new_keys_differ_and_are_read_as_they_were_printed),
        cmocka_unit_test(every_wrong_character_is_found),
        cmocka_unit_test(every_swap_of_neighbours_is_found),
        cmocka_unit_test(capitals_blanks_and_dashes_do_not_matter),
        cmocka_unit_test(what_cannot_be_one_is_told_apart),
        cmocka_unit_test(passphrase_that_only_has_letters_is_no_recovery_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
