#include "src/base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* S1.14 */
static void every_class_has_its_own_name_and_exit_code(void **state)
{
    (void)state;
    for (int i = 0; i < ERR_N_KINDS; i++) {
        const struct err_class *c = err_class((enum err_kind)i);
        assert_non_null(c->name);
        assert_true(strlen(c->brief) > 0);
        assert_int_equal(c->exit_code == 0, i == ERR_NONE);
        assert_int_equal(c->ctrl == 0, i == ERR_NONE);
        assert_in_range(c->exit_code, 0, 63); /* below what shells and signals use */
        for (int j = 0; j < i; j++) {
            const struct err_class *d = err_class((enum err_kind)j);
            assert_string_not_equal(c->name, d->name);
            assert_int_not_equal(c->exit_code, d->exit_code);
            assert_int_not_equal(c->ctrl, d->ctrl);
        }
    }
}

static void the_published_classes_keep_their_spelling(void **state)
{
    static const struct {
        enum err_kind kind;
        const char *name;
        int exit_code;
    } published[] = {
        {ERR_NONE, "OK", 0},
        {ERR_USAGE, "USAGE", 2},
        {ERR_KEY_MISSING, "KEY_MISSING", 10},
        {ERR_KEY_WRONG, "KEY_WRONG", 11},
        {ERR_KEY_UNEXPECTED, "KEY_UNEXPECTED", 12},
        {ERR_STATE_EMPTY, "STATE_EMPTY", 20},
        {ERR_STATE_CORRUPT, "STATE_CORRUPT", 21},
        {ERR_STATE_FOREIGN, "STATE_FOREIGN", 22},
        {ERR_STATE_ROLLED_BACK, "STATE_ROLLED_BACK", 23},
        {ERR_FENCED, "FENCED", 30},
        {ERR_LOCKED, "LOCKED", 31},
        {ERR_UNSUPPORTED, "UNSUPPORTED", 40},
        {ERR_STORAGE, "STORAGE_ERROR", 41},
    };
    (void)state;
    assert_int_equal(ARRAY_LEN(published), ERR_N_KINDS);
    for (size_t i = 0; i < ARRAY_LEN(published); i++) {
        assert_string_equal(err_class(published[i].kind)->name, published[i].name);
        assert_int_equal(err_class(published[i].kind)->exit_code, published[i].exit_code);
    }
}

static void an_unknown_kind_is_a_failure_all_the_same(void **state)
{
    (void)state;
    assert_ptr_equal(err_class((enum err_kind)1000), err_class(ERR_STORAGE));
    assert_ptr_equal(err_class((enum err_kind) - 1), err_class(ERR_STORAGE));
}

static void setting_an_error_says_kind_and_text(void **state)
{
    struct err e = {.os = 5};
    (void)state;
    assert_int_equal(err_set(&e, ERR_LOCKED, "%s is used by %d", "a.qcow2", 42), -1);
    assert_int_equal(e.kind, ERR_LOCKED);
    assert_int_equal(e.os, 0);
    assert_string_equal(e.text, "a.qcow2 is used by 42");
}

static void system_errors_keep_their_number_and_name(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(err_sys(&e, ERR_STORAGE, ENOSPC, "cannot write %s", "x"), -1);
    assert_int_equal(e.os, ENOSPC);
    assert_string_equal(e.text, "cannot write x: No space left on device");
    assert_int_equal(err_sys(&e, ERR_STORAGE, 4000, "odd"), -1);
    assert_string_equal(e.text, "odd: unknown error");
    assert_int_equal(err_nomem(&e, "a thing"), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(e.os, ENOMEM);
    assert_string_equal(e.text, "no memory for a thing: Cannot allocate memory");
}

static void a_wrong_name_is_not_a_failing_system(void **state)
{
    (void)state;
    static const int named_wrong[] = {EACCES, ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, EISDIR, EROFS};
    static const int system[] = {EIO, ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM, EINTR};
    for (size_t i = 0; i < ARRAY_LEN(named_wrong); i++) {
        assert_int_equal(err_kind_of_path(named_wrong[i]), ERR_USAGE);
        assert_int_equal(err_kind_of_path(system[i]), ERR_STORAGE);
    }
}

static void a_prefix_keeps_kind_and_number(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(err_sys(&e, ERR_STORAGE, EIO, "read"), -1);
    assert_int_equal(err_prefix(&e, "%s", "image"), -1);
    assert_string_equal(e.text, "image: read: Input/output error");
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(e.os, EIO);
}

static void long_texts_are_cut_and_terminated(void **state)
{
    char big[2000];
    struct err e;
    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    assert_int_equal(err_set(&e, ERR_USAGE, "%s", big), -1);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_int_equal(err_sys(&e, ERR_USAGE, EIO, "%s", big), -1);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_int_equal(err_prefix(&e, "short"), -1);
    assert_int_equal(strncmp(e.text, "short: xxx", 10), 0);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_int_equal(err_prefix(&e, "%s", big), -1);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

static void foreign_bytes_are_quoted(void **state)
{
    char q[32];
    (void)state;
    assert_string_equal(err_quote(q, sizeof(q), "a b", 3), "a b");
    assert_string_equal(err_quote(q, sizeof(q), "\0\n\x7f\xff\\%", 6),
                        "\\x00\\x0a\\x7f\\xff\\x5c%");
    assert_string_equal(err_quote(q, sizeof(q), "\033[31m", 5), "\\x1b[31m");
    assert_string_equal(err_quote(q, sizeof(q), NULL, 0), "");
}

static void quoting_never_leaves_its_buffer(void **state)
{
    (void)state;
    for (size_t room = 0; room < 40; room++)
        for (size_t n = 0; n < 40; n++) {
            char text[40], q[44];
            for (size_t i = 0; i < n; i++)
                text[i] = i % 3 ? 'x' : '\1';
            memset(q, '#', sizeof(q));
            assert_ptr_equal(err_quote(q, room, text, n), q);
            for (size_t i = room; i < sizeof(q); i++)
                assert_int_equal(q[i], '#');
            if (room > 0)
                assert_non_null(memchr(q, 0, room));
        }
}

static void what_was_cut_ends_in_dots(void **state)
{
    char q[12];
    (void)state;
    assert_string_equal(err_quote(q, sizeof(q), "abcdefghijklmn", 14), "abcdefgh...");
    assert_string_equal(err_quote(q, sizeof(q), "abcdefg\1", 8), "abcdefg...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_class_has_its_own_name_and_exit_code),
        cmocka_unit_test(the_published_classes_keep_their_spelling),
        cmocka_unit_test(an_unknown_kind_is_a_failure_all_the_same),
        cmocka_unit_test(setting_an_error_says_kind_and_text),
        cmocka_unit_test(system_errors_keep_their_number_and_name),
        cmocka_unit_test(a_wrong_name_is_not_a_failing_system),
        cmocka_unit_test(a_prefix_keeps_kind_and_number),
        cmocka_unit_test(long_texts_are_cut_and_terminated),
        cmocka_unit_test(foreign_bytes_are_quoted),
        cmocka_unit_test(quoting_never_leaves_its_buffer),
        cmocka_unit_test(what_was_cut_ends_in_dots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
