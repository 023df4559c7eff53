/* Where a state came from, as bytes: what is encoded comes back, what contradicts itself is
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/store_origin.h"

enum { AT_HOW = 1, AT_USED = 2, AT_IMAGE = 36, AT_GENERATION = 52, AT_EPOCH = 60, AT_MAC = 68 };
enum { AT_CLOCK = 100, AT_AT = 108, AT_TAIL = 116 };

static struct store_origin example(void)
{
    struct store_origin o = {.how = ORIGIN_HANDED_OVER,
                             .from = {.generation = 0x1122, .epoch = 7},
                             .clock = 0x3344,
                             .at = 0x55};
    memset(o.lineage, 0xa1, sizeof(o.lineage));
    memset(o.set, 0xb2, sizeof(o.set));
    memset(o.image, 0xc3, sizeof(o.image));
    memset(o.from.mac, 0xd4, sizeof(o.from.mac));
    return o;
}

static void assert_same(const struct store_origin *a, const struct store_origin *b)
{
    assert_int_equal(a->how, b->how);
    assert_int_equal(a->used, b->used);
    assert_memory_equal(a->lineage, b->lineage, 16);
    assert_memory_equal(a->set, b->set, 16);
    assert_memory_equal(a->image, b->image, 16);
    assert_true(store_mark_equal(&a->from, &b->from));
    assert_true(a->clock == b->clock && a->at == b->at);
}

static void round_trip(const struct store_origin *o)
{
    uint8_t bytes[ORIGIN_BYTES];
    struct store_origin got;
    struct err e;
    origin_encode(o, bytes);
    if (origin_decode(bytes, sizeof(bytes), &got, &e) < 0)
        fail_msg("%s", e.text);
    assert_same(o, &got);
}

static void every_kind_of_origin_comes_back(void **state)
{
    struct store_origin o = example();
    (void)state;
    round_trip(&o);
    o.used = true;
    round_trip(&o);
    o.how = ORIGIN_RESTORED;
    round_trip(&o);
    o.from = (struct store_mark){0}; /* the image is known, which state of it is not */
    round_trip(&o);
    memset(o.image, 0, sizeof(o.image));
    round_trip(&o);
}

/* S2.14: as the header and src/doc/format.md say it. */
static void written_origin_has_the_documented_layout(void **state)
{
    struct store_origin o = example();
    uint8_t bytes[ORIGIN_BYTES], want[ORIGIN_BYTES] = {1, 1, 0, 0};
    (void)state;
    memset(want + 4, 0xa1, 16);
    memset(want + 20, 0xb2, 16);
    memset(want + AT_IMAGE, 0xc3, 16);
    want[AT_GENERATION + 6] = 0x11;
    want[AT_GENERATION + 7] = 0x22;
    want[AT_EPOCH + 7] = 7;
    memset(want + AT_MAC, 0xd4, 32);
    want[AT_CLOCK + 6] = 0x33;
    want[AT_CLOCK + 7] = 0x44;
    want[AT_AT + 7] = 0x55;
    origin_encode(&o, bytes);
    assert_memory_equal(bytes, want, sizeof(want));
}

static void refused(const uint8_t *bytes, size_t n, enum err_kind kind, const char *says)
{
    struct store_origin got, untouched;
    struct err e;
    memset(&got, 0x5a, sizeof(got));
    memcpy(&untouched, &got, sizeof(got));
    assert_int_equal(origin_decode(bytes, n, &got, &e), -1);
    assert_int_equal(e.kind, kind);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
    assert_memory_equal(&got, &untouched, sizeof(got));
}

static void contradictions_are_refused(void **state)
{
    static const struct {
        size_t at, n;
        uint8_t value;
    } cases[] = {
        {0, 1, 0},
        {AT_HOW, 1, 0},
        {AT_HOW, 1, 3},
        {AT_HOW, 1, ORIGIN_RESTORED}, /* and not used */
        {AT_USED, 1, 2},
        {3, 1, 1},
        {AT_IMAGE, 16, 0},     /* a generation of no image */
        {AT_GENERATION, 8, 0}, /* an epoch of no generation */
        {AT_EPOCH, 8, 0},
        {AT_CLOCK, 8, 0},
        {AT_AT, 8, 0},
        {AT_TAIL, 1, 1},
        {131, 1, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct store_origin o = example();
        uint8_t bytes[ORIGIN_BYTES];
        origin_encode(&o, bytes);
        memset(bytes + cases[i].at, cases[i].value, cases[i].n);
        refused(bytes, sizeof(bytes), ERR_STATE_CORRUPT, "contradicts itself");
    }
}

/* Where no generation is known, neither is what would follow from it. */
static void a_digest_or_an_epoch_of_no_generation_is_refused(void **state)
{
    struct store_origin o = example();
    uint8_t bytes[ORIGIN_BYTES];
    (void)state;
    o.from = (struct store_mark){.mac = {[31] = 1}};
    origin_encode(&o, bytes);
    refused(bytes, sizeof(bytes), ERR_STATE_CORRUPT, "contradicts itself");
    o.from = (struct store_mark){.epoch = 1};
    origin_encode(&o, bytes);
    refused(bytes, sizeof(bytes), ERR_STATE_CORRUPT, "contradicts itself");
}

static void nothing_but_the_whole_length_is_taken(void **state)
{
    struct store_origin o = example();
    uint8_t bytes[ORIGIN_BYTES + 1] = {0};
    (void)state;
    origin_encode(&o, bytes);
    for (size_t n = 0; n <= sizeof(bytes); n++)
        if (n != ORIGIN_BYTES)
            refused(bytes, n, ERR_STATE_CORRUPT, "it has 132");
    memset(bytes, 0, sizeof(bytes));
    refused(bytes, ORIGIN_BYTES, ERR_STATE_CORRUPT, "contradicts itself");
}

static void another_version_is_not_damage(void **state)
{
    struct store_origin o = example();
    uint8_t bytes[ORIGIN_BYTES];
    (void)state;
    origin_encode(&o, bytes);
    bytes[0] = 2;
    refused(bytes, sizeof(bytes), ERR_UNSUPPORTED, "version 2");
    refused(bytes, 40, ERR_UNSUPPORTED, "version 2");
}

static void a_tpm_that_never_moved_counts_by_its_generation(void **state)
{
    (void)state;
    assert_true(origin_clock(NULL, 1) == 1);
    assert_true(origin_clock(NULL, UINT64_MAX) == UINT64_MAX);
}

static void the_clock_goes_on_with_the_commits_since_the_origin(void **state)
{
    struct store_origin o = example();
    (void)state;
    assert_true(origin_clock(&o, 0x55) == 0x3344);
    assert_true(origin_clock(&o, 0x56) == 0x3345);
    assert_true(origin_clock(&o, 0x54) == 0x3344); /* there is no such store; it does not wrap */
    o.clock = UINT64_MAX - 1;
    assert_true(origin_clock(&o, 0x56) == UINT64_MAX);
    assert_true(origin_clock(&o, 0x57) == UINT64_MAX);
    assert_true(origin_clock(&o, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_origin_comes_back),
        cmocka_unit_test(written_origin_has_the_documented_layout),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(a_digest_or_an_epoch_of_no_generation_is_refused),
        cmocka_unit_test(nothing_but_the_whole_length_is_taken),
        cmocka_unit_test(another_version_is_not_damage),
        cmocka_unit_test(a_tpm_that_never_moved_counts_by_its_generation),
        cmocka_unit_test(the_clock_goes_on_with_the_commits_since_the_origin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
