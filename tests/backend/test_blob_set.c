#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/blob_set.h"

static void empty_set_has_no_say(void **state)
{
    struct blob_set b = {0};
    struct state_change change = {.blob = {{.what = BLOB_DELETE}}};
    const uint8_t *p = (const uint8_t *)"x";
    size_t n = 77;
    (void)state;
    assert_true(blob_set_is_empty(&b));
    for (int kind = 1; kind <= N_BLOBS; kind++)
        assert_false(blob_set_get(&b, (enum blob_kind)kind, &p, &n));
    assert_int_equal(n, 77);
    blob_set_overlay(&b, &change);
    assert_int_equal(change.blob[0].what, BLOB_DELETE);
    assert_int_equal(change.blob[1].what, BLOB_KEEP);
    blob_set_clear(&b);
}

static void blobs_are_copied_replaced_deleted_and_grow(void **state)
{
    static uint8_t big[BLOB_MAX_BYTES];
    struct blob_set b = {0};
    struct err e;
    const uint8_t *p;
    size_t n;
    (void)state;
    memset(big, 7, sizeof(big));
    for (size_t size = 1; size <= sizeof(big); size *= 8) {
        assert_int_equal(blob_set_put(&b, BLOB_VOLATILE, big, size, &e), 0);
        assert_true(blob_set_get(&b, BLOB_VOLATILE, &p, &n));
        assert_ptr_not_equal(p, big);
        assert_int_equal(n, size);
        assert_memory_equal(p, big, n);
    }
    assert_int_equal(blob_set_put(&b, BLOB_VOLATILE, (const uint8_t *)"ab", 2, &e), 0);
    assert_true(blob_set_get(&b, BLOB_VOLATILE, &p, &n));
    assert_int_equal(n, 2);
    assert_false(blob_set_get(&b, BLOB_PERMANENT, &p, &n));
    blob_set_delete(&b, BLOB_VOLATILE);
    assert_true(blob_set_get(&b, BLOB_VOLATILE, &p, &n));
    assert_null(p);
    assert_int_equal(n, 0);
    assert_false(blob_set_is_empty(&b));
    blob_set_reset(&b);
    assert_true(blob_set_is_empty(&b));
    blob_set_clear(&b);
}

static void empty_blob_is_there(void **state)
{
    struct blob_set b = {0};
    struct state_change change = {0};
    struct err e;
    (void)state;
    assert_int_equal(blob_set_put(&b, BLOB_SAVESTATE, NULL, 0, &e), 0);
    blob_set_overlay(&b, &change);
    assert_int_equal(change.blob[BLOB_SAVESTATE - 1].what, BLOB_SET);
    assert_int_equal(change.blob[BLOB_SAVESTATE - 1].n, 0);
    assert_non_null(change.blob[BLOB_SAVESTATE - 1].p);
    blob_set_clear(&b);
}

static void oversized_blob_leaves_the_set_as_it_was(void **state)
{
    static uint8_t big[BLOB_MAX_BYTES + 1];
    struct blob_set b = {0};
    struct err e = {0};
    const uint8_t *p;
    size_t n;
    (void)state;
    assert_int_equal(blob_set_put(&b, BLOB_PERMANENT, (const uint8_t *)"old", 3, &e), 0);
    assert_int_equal(blob_set_put(&b, BLOB_PERMANENT, big, sizeof(big), &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "524289 bytes; at most 524288"));
    assert_true(blob_set_get(&b, BLOB_PERMANENT, &p, &n));
    assert_int_equal(n, 3);
    assert_memory_equal(p, "old", 3);
    blob_set_clear(&b);
}

static void upper_set_overrides_the_lower_kind_by_kind(void **state)
{
    struct blob_set low = {0}, high = {0};
    struct state_change change = {0};
    struct err e;
    (void)state;
    assert_int_equal(blob_set_put(&low, BLOB_PERMANENT, (const uint8_t *)"low", 3, &e), 0);
    assert_int_equal(blob_set_put(&low, BLOB_VOLATILE, (const uint8_t *)"low", 3, &e), 0);
    assert_int_equal(blob_set_put(&high, BLOB_PERMANENT, (const uint8_t *)"upper", 5, &e), 0);
    blob_set_delete(&high, BLOB_SAVESTATE);
    blob_set_overlay(&low, &change);
    blob_set_overlay(&high, &change);
    assert_int_equal(change.blob[0].what, BLOB_SET);
    assert_int_equal(change.blob[0].n, 5);
    assert_memory_equal(change.blob[0].p, "upper", 5);
    assert_int_equal(change.blob[1].n, 3);
    assert_int_equal(change.blob[2].what, BLOB_DELETE);
    blob_set_clear(&low);
    blob_set_clear(&high);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_set_has_no_say),
        cmocka_unit_test(blobs_are_copied_replaced_deleted_and_grow),
        cmocka_unit_test(empty_blob_is_there),
        cmocka_unit_test(oversized_blob_leaves_the_set_as_it_was),
        cmocka_unit_test(upper_set_overrides_the_lower_kind_by_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
