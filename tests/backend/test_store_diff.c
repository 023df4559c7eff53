/* States and changes as payloads: what is encoded comes back, what is malformed is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/store_diff.h"

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? (uint32_t)(random_state >> 16) % n : 0;
}

static void random_fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)random_below(256);
}

/* Copies of the views' bytes, each in memory of its own length, so that a sanitizer sees a step
 * beyond it. */
static struct blob_view blob_new(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n > 0 && p)
        memcpy(copy, p, n);
    return (struct blob_view){true, copy, n};
}

static void state_drop(struct state_view *s)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        free((void *)(uintptr_t)s->blob[i].p);
    *s = (struct state_view){0};
}

static void assert_same_state(const struct state_view *a, const struct state_view *b)
{
    for (size_t i = 0; i < N_BLOBS; i++) {
        assert_int_equal(a->blob[i].present, b->blob[i].present);
        if (!a->blob[i].present)
            continue;
        assert_int_equal(a->blob[i].n, b->blob[i].n);
        if (a->blob[i].n > 0)
            assert_memory_equal(a->blob[i].p, b->blob[i].p, a->blob[i].n);
    }
}

enum { DELTA_ROOM = N_BLOBS * (BLOB_MAX_BYTES + 64) };
static uint8_t payload[DELTA_ROOM];

/* Encodes, decodes and applies; returns the delta's length. */
static size_t round_trip(const struct state_view *old, const struct state_view *now)
{
    struct state_edit edit;
    struct delta delta;
    struct bytes_out out = bytes_out(payload, sizeof(payload));
    state_compare(old, now, &edit);
    if (edit.n_changed == 0) {
        assert_same_state(old, now);
        return 0;
    }
    delta_encode(old, now, &edit, &out);
    assert_false(out.bad);
    struct blob_view exact = blob_new(payload, out.n);
    assert_true(delta_decode(bytes_in(exact.p, exact.n), old, &delta));

    struct state_view made = {0};
    for (size_t i = 0; i < N_BLOBS; i++) {
        const struct delta_blob *d = &delta.blob[i];
        if (!d->changed) {
            if (old->blob[i].present)
                made.blob[i] = blob_new(old->blob[i].p, old->blob[i].n);
            continue;
        }
        assert_int_equal(d->n_old, old->blob[i].present ? old->blob[i].n : 0);
        if (!d->present)
            continue;
        uint8_t *room = calloc(1, (d->n_old > d->n_new ? d->n_old : d->n_new) + 1);
        uint8_t *scratch = malloc(delta_scratch_bytes(d) + 1);
        assert_non_null(room);
        assert_non_null(scratch);
        if (d->n_old > 0)
            memcpy(room, old->blob[i].p, d->n_old);
        delta_apply(d, room, scratch);
        free(scratch);
        made.blob[i] = (struct blob_view){true, room, d->n_new};
    }
    assert_same_state(&made, now);
    state_drop(&made);
    free((void *)(uintptr_t)exact.p);
    return out.n;
}

static struct state_view random_state_view(void)
{
    static const uint32_t most[] = {0, 1, 40, 500, 3000, 20000};
    struct state_view s = {0};
    for (size_t i = 0; i < N_BLOBS; i++) {
        if (random_below(3) == 0)
            continue;
        s.blob[i] = blob_new(NULL, random_below(most[random_below(ARRAY_LEN(most))] + 1));
        if (random_below(4) > 0)
            random_fill((uint8_t *)(uintptr_t)s.blob[i].p, s.blob[i].n);
        else
            memset((uint8_t *)(uintptr_t)s.blob[i].p, (int)random_below(2), s.blob[i].n);
    }
    return s;
}

/* A few edits as a TPM makes them: bytes overwritten, a stretch inserted, one cut out. */
static struct blob_view random_edit(const struct blob_view *old)
{
    uint8_t *p = malloc(old->n + 5000);
    size_t n = old->n;
    assert_non_null(p);
    if (n > 0)
        memcpy(p, old->p, n);
    for (unsigned edits = random_below(4); edits > 0; edits--) {
        size_t at = random_below((uint32_t)n + 1), len = random_below(300);
        switch (random_below(3)) {
        case 0:
            random_fill(p + at, len < n - at ? len : n - at);
            break;
        case 1:
            memmove(p + at + len, p + at, n - at);
            random_fill(p + at, len);
            n += len;
            break;
        default:
            len = len < n - at ? len : n - at;
            memmove(p + at, p + at + len, n - at - len);
            n -= len;
        }
    }
    struct blob_view made = blob_new(p, n);
    free(p);
    return made;
}

static void any_change_survives_the_round_trip(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3000; i++) {
        struct state_view old = random_state_view(), now = random_state_view();
        round_trip(&old, &now);
        for (size_t b = 0; b < N_BLOBS; b++) {
            free((void *)(uintptr_t)now.blob[b].p);
            now.blob[b] = (struct blob_view){0};
            if (old.blob[b].present && random_below(8) > 0)
                now.blob[b] = random_edit(&old.blob[b]);
        }
        round_trip(&old, &now);
        state_drop(&old);
        state_drop(&now);
    }
}

static void equal_states_have_no_edit(void **state)
{
    struct state_view old = {0}, now = {0};
    struct state_edit edit;
    uint8_t bytes[5000];
    (void)state;
    random_fill(bytes, sizeof(bytes));
    state_compare(&old, &now, &edit);
    assert_int_equal(edit.n_changed, 0);
    old.blob[0] = blob_new(bytes, sizeof(bytes));
    now.blob[0] = blob_new(bytes, sizeof(bytes));
    old.blob[2] = now.blob[2] = (struct blob_view){true, NULL, 0};
    state_compare(&old, &now, &edit);
    assert_int_equal(edit.n_changed, 0);
    state_compare(&old, &old, &edit);
    assert_int_equal(edit.n_changed, 0);
    now.blob[2].present = false; /* empty is not absent */
    state_compare(&old, &now, &edit);
    assert_int_equal(edit.n_changed, 1);
    state_drop(&old);
    state_drop(&now);
}

static void every_single_changed_byte_is_found_where_it_is(void **state)
{
    uint8_t a[9000], b[9000];
    struct state_view old = {{{true, a, sizeof(a)}}}, now = {{{true, b, sizeof(b)}}};
    struct state_edit edit;
    (void)state;
    random_fill(a, sizeof(a));
    memcpy(b, a, sizeof(a));
    for (size_t i = 0; i < sizeof(b); i++) {
        b[i] ^= 1;
        state_compare(&old, &now, &edit);
        assert_int_equal(edit.n_changed, 1);
        assert_int_equal(edit.blob[0].prefix, i);
        assert_int_equal(edit.blob[0].suffix, sizeof(b) - i - 1);
        b[i] ^= 1;
    }
}

enum { FULL_NV = 147388 };
static uint8_t full_nv[FULL_NV + 8192], changed_nv[FULL_NV + 8192];

static size_t delta_of_full_nv(size_t n_now)
{
    struct state_view old = {{{true, full_nv, FULL_NV}}}, now = {{{true, changed_nv, n_now}}};
    return round_trip(&old, &now);
}

/* The changes that a TPM's commands make to 147 KB of state, and what they may cost. */
static void small_changes_to_a_large_state_stay_small(void **state)
{
    (void)state;
    random_fill(full_nv, sizeof(full_nv));
    memcpy(changed_nv, full_nv, sizeof(full_nv));
    random_fill(changed_nv + 90000, 64); /* NV_Write */
    assert_in_range(delta_of_full_nv(FULL_NV), 1, 64 + 40);

    memcpy(changed_nv, full_nv, sizeof(full_nv));
    memmove(changed_nv + 20000, full_nv + 22000, FULL_NV - 22000); /* NV_UndefineSpace */
    assert_in_range(delta_of_full_nv(FULL_NV - 2000), 1, 40);

    /* Defining an orderly index: one edit near the start, one near the end, and all between has
     * moved. */
    memcpy(changed_nv, full_nv, 1000);
    random_fill(changed_nv + 1000, 40);
    memcpy(changed_nv + 1040, full_nv + 1000, FULL_NV - 1500);
    random_fill(changed_nv + FULL_NV - 460, 80);
    memcpy(changed_nv + FULL_NV - 380, full_nv + FULL_NV - 500, 500);
    assert_in_range(delta_of_full_nv(FULL_NV + 120), 1, 40 + 80 + 80);

    /* The same among long runs of one byte, where a piece would be found anywhere. */
    memset(full_nv + 2000, 0xff, 140000);
    memcpy(changed_nv, full_nv, 1000);
    random_fill(changed_nv + 1000, 40);
    memcpy(changed_nv + 1040, full_nv + 1000, FULL_NV - 1500);
    random_fill(changed_nv + FULL_NV - 460, 80);
    memcpy(changed_nv + FULL_NV - 380, full_nv + FULL_NV - 500, 500);
    assert_in_range(delta_of_full_nv(FULL_NV + 120), 1, 2500);
}

static void change_without_room_makes_the_cursor_bad(void **state)
{
    uint8_t a[2000], b[2000], small[100];
    struct state_view old = {{{true, a, sizeof(a)}}}, now = {{{true, b, sizeof(b)}}};
    struct state_edit edit;
    struct bytes_out out = bytes_out(small, sizeof(small));
    (void)state;
    random_fill(a, sizeof(a));
    random_fill(b, sizeof(b));
    state_compare(&old, &now, &edit);
    delta_encode(&old, &now, &edit, &out);
    assert_true(out.bad);
}

static void full_state_comes_back_and_its_length_is_foretold(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        struct state_view s = random_state_view(), got;
        struct bytes_out out = bytes_out(payload, sizeof(payload));
        state_encode(&s, &out);
        assert_false(out.bad);
        assert_int_equal(out.n, state_encoded_bytes(&s));
        struct blob_view exact = blob_new(payload, out.n);
        assert_true(state_decode(bytes_in(exact.p, exact.n), &got));
        assert_same_state(&s, &got);
        for (size_t n = 0; n < exact.n && n < 200; n++)
            assert_false(state_decode(bytes_in(exact.p, n), &got));
        free((void *)(uintptr_t)exact.p);
        state_drop(&s);
    }
}

static void malformed_full_states_are_refused(void **state)
{
    static const struct {
        const char *what;
        uint8_t bytes[32];
        size_t n;
    } cases[] = {
        {"nothing", {0}, 0},
        {"trailing byte", {0, 0}, 2},
        {"kind 0", {1, 0, 0, 0, 0, 0}, 6},
        {"kind 5", {1, 5, 0, 0, 0, 0}, 6},
        {"a kind twice", {2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0}, 11},
        {"descending kinds", {2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0}, 11},
        {"length beyond the end", {1, 1, 0, 0, 0, 2, 7}, 7},
        {"length of 4 GiB", {1, 1, 0xff, 0xff, 0xff, 0xff, 7}, 7},
        {"five blobs", {5, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0}, 21},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct state_view got, untouched;
        memset(&got, 0x5a, sizeof(got));
        memcpy(&untouched, &got, sizeof(got));
        if (state_decode(bytes_in(cases[i].bytes, cases[i].n), &got))
            fail_msg("accepted: %s", cases[i].what);
        assert_memory_equal(&got, &untouched, sizeof(got));
    }
}

static void malformed_deltas_are_refused(void **state)
{
    static uint8_t old_bytes[10];
    static const struct {
        const char *what;
        uint8_t bytes[40];
        size_t n;
    } cases[] = {
        {"nothing", {0}, 0},
        {"no blob", {0}, 1},
        {"kind 0", {1, 0, 0}, 3},
        {"kind 5", {1, 5, 0}, 3},
        {"present is 2", {1, 1, 2, 0, 0, 0, 0, 0, 0}, 9},
        {"a kind twice", {2, 1, 0, 1, 0}, 5},
        {"trailing byte", {1, 1, 0, 0}, 4},
        {"fewer blobs than said", {2, 1, 0}, 3},
        {"op 0", {1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 7}, 15},
        {"op 3", {1, 1, 1, 0, 0, 0, 1, 0, 1, 3, 0, 0, 0, 1, 7}, 15},
        {"literal of 0", {1, 1, 1, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0}, 14},
        {"copy of 0", {1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 18},
        {"literal beyond the end", {1, 1, 1, 0, 0, 0, 2, 0, 1, 2, 0, 0, 0, 2, 7}, 15},
        {"more than the new length", {1, 1, 1, 0, 0, 0, 1, 0, 1, 2, 0, 0, 0, 2, 7, 7}, 16},
        {"less than the new length", {1, 1, 1, 0, 0, 0, 3, 0, 1, 2, 0, 0, 0, 2, 7, 7}, 16},
        {"copy from beyond the old end",
         {1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 10, 0, 0, 0, 1},
         18},
        {"copy across the old end", {1, 1, 1, 0, 0, 0, 2, 0, 1, 1, 0, 0, 0, 9, 0, 0, 0, 2}, 18},
        {"copy whose end wraps",
         {1, 1, 1, 0, 0, 0, 2, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2},
         18},
        {"copy from a blob that was not there",
         {1, 2, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1},
         18},
        {"new length above the limit", {1, 1, 1, 0, 8, 0, 1, 0, 0}, 9},
        {"op cut off", {1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0}, 12},
    };
    const struct state_view old = {{{true, old_bytes, sizeof(old_bytes)}}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct delta got, untouched;
        memset(&got, 0x5a, sizeof(got));
        memcpy(&untouched, &got, sizeof(got));
        struct blob_view exact = blob_new(cases[i].bytes, cases[i].n);
        if (delta_decode(bytes_in(exact.p, exact.n), &old, &got))
            fail_msg("accepted: %s", cases[i].what);
        assert_memory_equal(&got, &untouched, sizeof(got));
        free((void *)(uintptr_t)exact.p);
    }
}

/* Ops that no encoder of ours makes: copies that cross, that repeat, that go backwards. */
static void ops_in_any_order_are_applied_as_written(void **state)
{
    static const uint8_t ops[] = {
        1, 1, 1, 0, 0, 0,   13,  0, 5, /* blob 1, 13 bytes, 5 ops */
        2, 0, 0, 0, 2, 'x', 'y',       /* overwrites old[0..2) in place */
        1, 0, 0, 0, 2, 0,   0,   0, 3, /* stays: old[2..5) */
        1, 0, 0, 0, 0, 0,   0,   0, 4, /* reads what the literal overwrote */
        1, 0, 0, 0, 6, 0,   0,   0, 2, /* */
        1, 0, 0, 0, 1, 0,   0,   0, 2,
    };
    uint8_t old_bytes[] = "abcdefgh", room[16], scratch[16];
    const struct state_view old = {{{true, old_bytes, 8}}};
    struct delta d;
    (void)state;
    assert_true(delta_decode(bytes_in(ops, sizeof(ops)), &old, &d));
    assert_int_equal(delta_scratch_bytes(&d.blob[0]), 13 - 5);
    memcpy(room, old_bytes, 8);
    delta_apply(&d.blob[0], room, scratch);
    assert_memory_equal(room, "xycdeabcdghbc", 13);
}

/* S2.14: the vector in src/doc/format.md. */
static void documented_delta_gives_the_documented_blob(void **state)
{
    static const uint8_t bytes[] = {
        1, 1, 1, 0, 0,   0,   0x12, 0,   3,   1,   0, 0, 0, 0, 0, 0, 0, 4, 2,
        0, 0, 0, 6, '*', '*', '*',  '*', '*', '*', 1, 0, 0, 0, 8, 0, 0, 0, 8,
    };
    uint8_t room[] = "0123456789abcdef\0", scratch[18];
    const struct state_view old = {{{true, room, 16}}};
    struct delta d;
    (void)state;
    assert_true(delta_decode(bytes_in(bytes, sizeof(bytes)), &old, &d));
    delta_apply(&d.blob[0], room, scratch);
    assert_int_equal(d.blob[0].n_new, 18);
    assert_memory_equal(room, "0123******89abcdef", 18);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_change_survives_the_round_trip),
        cmocka_unit_test(equal_states_have_no_edit),
        cmocka_unit_test(every_single_changed_byte_is_found_where_it_is),
        cmocka_unit_test(small_changes_to_a_large_state_stay_small),
        cmocka_unit_test(change_without_room_makes_the_cursor_bad),
        cmocka_unit_test(full_state_comes_back_and_its_length_is_foretold),
        cmocka_unit_test(malformed_full_states_are_refused),
        cmocka_unit_test(malformed_deltas_are_refused),
        cmocka_unit_test(documented_delta_gives_the_documented_blob),
        cmocka_unit_test(ops_in_any_order_are_applied_as_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
