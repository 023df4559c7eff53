/* Which blobs make a set, with and without a seal. */
#include "tests/migration/custody_hosts.h"

/* --- without a seal --- */

/* Nothing is known about a plain set: the clock there goes on by one, and whoever was ahead of it
 * is asked for `rewind`. */
static void a_hop_without_a_seal_keeps_lineage_and_clock_of_the_image(void **state)
{
    struct set back;
    struct err e;
    (void)state;
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    move_unseen(&at.b, &at.a);
    run(&at.a, 9, "newest");
    stop(&at.a);
    at.a.rules = (struct custody_rules){.seal = SEAL_OFF};
    at.b.rules = at.a.rules;
    serve(&at.a);
    serve(&at.b);
    uint64_t clock = clock_of(&at.b);
    stop(&at.b);
    move_unseen(&at.a, &at.b);
    assert_holds(at.b.s, "newest");
    assert_int_equal(clock_of(&at.b), clock + 2);
    stop(&at.b);

    at.a.rules = at.b.rules = (struct custody_rules){.migration_key = at.way};
    serve(&at.b);
    back = give(&at.b);
    stop(&at.b);
    not_taken(&at.a, &back, ERR_STATE_ROLLED_BACK, "`rewind`");
    at.a.rules.rewind = true;
    await(&at.a);
    assert_done(take_over(&at.a, &back, &e), e);
    use(&at.a);
    move_unseen(&at.a, &at.b);
    drop_set(&back);
}

/* S3.8 */
static void in_the_clear_a_tpm_is_replaced_only_where_that_was_asked_for(void **state)
{
    struct set set;
    struct err e;
    (void)state;
    at.a.rules = (struct custody_rules){.seal = SEAL_OFF};
    at.b.rules = at.c.rules = (struct custody_rules){.seal = SEAL_AUTO};
    new_image(&at.b, DEVICE_TPM20, "made in B");
    serve(&at.a);
    set = give(&at.a);
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "`--migration-seal off`");
    at.b.rules.rewind = true;
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "cannot be known");
    at.b.rules = at.a.rules;
    await(&at.b);
    assert_done(take_over(&at.b, &set, &e), e);
    for (unsigned i = 0; i < 2; i++) { /* waits for a TPM; has one that came so */
        await(&at.c);
        assert_done(take_over(&at.c, &set, &e), e);
        use(&at.c);
        stop(&at.c);
    }
    drop_set(&set);
}

/* S3.8: what came sealed is not replaced by something of which nothing is known. */
static void in_the_clear_nothing_replaces_what_came_sealed(void **state)
{
    struct set set;
    (void)state;
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    stop(&at.b);
    new_image(&at.c, DEVICE_TPM20, "made in C");
    at.c.rules = (struct custody_rules){.seal = SEAL_OFF};
    at.b.rules = (struct custody_rules){.seal = SEAL_AUTO};
    serve(&at.c);
    set = give(&at.c);
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "cannot be known");
    drop_set(&set);
}

/* swtpm's own layer: whoever made it has the key. */
static void what_is_sealed_as_swtpm_does_it_is_not_in_the_clear(void **state)
{
    struct err e;
    (void)state;
    new_image(&at.b, DEVICE_TPM20, "made in B");
    at.a.rules.seal = SEAL_OFF;
    serve(&at.a);
    struct set set = give(&at.a);
    await(&at.b);
    assert_done(take_over(&at.b, &set, &e), e);
    assert_holds(at.b.s, "made in A");
    drop_set(&set);
}

static void who_requires_a_seal_takes_nothing_plain(void **state)
{
    struct set set;
    (void)state;
    at.a.rules = (struct custody_rules){.seal = SEAL_OFF};
    at.b.rules = (struct custody_rules){.seal = SEAL_REQUIRED};
    serve(&at.a);
    set = give(&at.a);
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "--migration-seal required");
    drop_set(&set);
}

/* --- one set, whole --- */

static struct set blob_of(struct side *h, enum blob_kind kind)
{
    struct set set = {0};
    struct err e;
    bool encrypted;
    assert_done(custody_export(h->c, kind, (const uint8_t *)"a state", 8, &set.blob, &set.n,
                               &encrypted, &e),
                e);
    return set;
}

static int stage_as(struct side *h, enum blob_kind kind, const struct set *set, struct err *e)
{
    OWNED(secret) content = NULL;
    size_t n = 0;
    return custody_stage(h->c, kind, set ? secret_peek(set->blob) : NULL, set ? set->n : 0,
                         &content, &n, e);
}

static void begin_export_of(struct side *h, unsigned kinds)
{
    struct err e;
    assert_done(custody_export_begin(h->c, h->s, kinds, 0x902, &e), e);
}

static void only_the_blobs_of_one_export_make_a_set(void **state)
{
    struct err e;
    (void)state;
    serve(&at.a);
    await(&at.b);
    begin_export_of(&at.a, 3);
    struct set permanent = blob_of(&at.a, BLOB_PERMANENT), now = blob_of(&at.a, BLOB_VOLATILE),
               save = blob_of(&at.a, BLOB_SAVESTATE);
    begin_export_of(&at.a, 3);
    struct set later = blob_of(&at.a, BLOB_VOLATILE);

    assert_refused(stage_as(&at.b, BLOB_VOLATILE, &permanent, &e), e, ERR_STATE_FOREIGN, "kind 1");
    assert_refused(stage_as(&at.b, BLOB_SAVESTATE, &save, &e), e, ERR_STATE_CORRUPT, "kind 3");
    assert_done(stage_as(&at.b, BLOB_PERMANENT, &permanent, &e), e);
    assert_false(custody_set_is_whole(at.b.c));
    assert_refused(stage_as(&at.b, BLOB_VOLATILE, &later, &e), e, ERR_STATE_FOREIGN, "not of the");
    assert_false(custody_set_is_whole(at.b.c));

    assert_done(stage_as(&at.b, BLOB_PERMANENT, &permanent, &e), e);
    assert_refused(stage_as(&at.b, BLOB_VOLATILE, NULL, &e), e, ERR_STATE_FOREIGN, "none");
    assert_done(stage_as(&at.b, BLOB_PERMANENT, &permanent, &e), e);
    assert_done(stage_as(&at.b, BLOB_VOLATILE, &now, &e), e);
    assert_true(custody_set_is_whole(at.b.c));
    struct set *all[] = {&permanent, &now, &save, &later};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        drop_set(all[i]);
}

/* Sealed, something of no length has a length. */
static void an_empty_blob_is_part_of_its_set(void **state)
{
    struct set permanent, empty = {0};
    OWNED(secret) content = NULL;
    struct err e;
    bool encrypted;
    size_t n = 1;
    (void)state;
    serve(&at.a);
    await(&at.b);
    begin_export_of(&at.a, 3);
    permanent = blob_of(&at.a, BLOB_PERMANENT);
    assert_done(custody_export(at.a.c, BLOB_VOLATILE, (const uint8_t *)"", 0, &empty.blob, &empty.n,
                               &encrypted, &e),
                e);
    assert_true(encrypted && empty.n > 0);
    assert_done(stage_as(&at.b, BLOB_PERMANENT, &permanent, &e), e);
    assert_done(
        custody_stage(at.b.c, BLOB_VOLATILE, secret_peek(empty.blob), empty.n, &content, &n, &e),
        e);
    assert_null(content);
    assert_int_equal(n, 0);
    assert_true(custody_set_is_whole(at.b.c));
    drop_set(&permanent);
    drop_set(&empty);
}

/* By which a set that was stored and not used is known again. */
static void sets_in_the_clear_have_names_that_differ(void **state)
{
    static const uint8_t none[16];
    struct store_origin first, second;
    struct err e;
    (void)state;
    at.a.rules = at.b.rules = (struct custody_rules){.seal = SEAL_OFF};
    for (unsigned i = 0; i < 2; i++) {
        serve(&at.a);
        run(&at.a, 1, i == 0 ? "the first" : "the other");
        struct set set = give(&at.a);
        stop(&at.a);
        await(&at.b);
        assert_done(take_over(&at.b, &set, &e), e);
        assert_true(read_origin(at.b.s, i == 0 ? &first : &second));
        stop(&at.b);
        drop_set(&set);
    }
    assert_memory_not_equal(first.set, none, sizeof(none));
    assert_memory_not_equal(first.set, second.set, sizeof(none));
}

static void without_a_permanent_state_no_set_is_whole(void **state)
{
    struct err e;
    (void)state;
    at.a.rules = at.b.rules = (struct custody_rules){.seal = SEAL_OFF};
    serve(&at.a);
    await(&at.b);
    begin_export_of(&at.a, 2);
    struct set now = blob_of(&at.a, BLOB_VOLATILE);
    assert_done(stage_as(&at.b, BLOB_VOLATILE, &now, &e), e);
    assert_false(custody_set_is_whole(at.b.c));
    drop_set(&now);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_hop_without_a_seal_keeps_lineage_and_clock_of_the_image),
        TEST(in_the_clear_a_tpm_is_replaced_only_where_that_was_asked_for),
        TEST(in_the_clear_nothing_replaces_what_came_sealed),
        TEST(what_is_sealed_as_swtpm_does_it_is_not_in_the_clear),
        TEST(who_requires_a_seal_takes_nothing_plain),
        TEST(only_the_blobs_of_one_export_make_a_set),
        TEST(an_empty_blob_is_part_of_its_set),
        TEST(sets_in_the_clear_have_names_that_differ),
        TEST(without_a_permanent_state_no_set_is_whole),
    };
    return cmocka_run_group_tests(tests, open_folder, drop_folder);
}
