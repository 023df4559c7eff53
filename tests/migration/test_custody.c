/* What a state that is handed over may replace: the order of all states of one TPM, over separate
 * images and in one. */
#include <signal.h>
#include <sys/resource.h>

#include "tests/migration/custody_hosts.h"

#define OLD ERR_STATE_ROLLED_BACK

/* --- the way of a TPM through separate images --- */

static void a_tpm_goes_there_and_back_again_and_its_clock_only_grows(void **state)
{
    (void)state;
    serve(&at.a);
    uint64_t before = clock_of(&at.a);
    assert_int_equal(before, generation(&at.a));
    for (unsigned i = 0; i < 3; i++) {
        char text[64];
        snprintf(text, sizeof(text), "round %u", i);
        run(&at.a, 1 + 3 * i, text);
        assert_true(clock_of(&at.a) > before);
        before = clock_of(&at.a);
        move_unseen(&at.a, &at.b);
        assert_holds(at.b.s, text);
        assert_int_equal(clock_of(&at.b), before + 2); /* taken over, used */
        run(&at.b, 5 - 2 * i, text);
        before = clock_of(&at.b);
        move_unseen(&at.b, &at.a);
        assert_holds(at.a.s, text);
        assert_int_equal(clock_of(&at.a), before + 2);
        before = clock_of(&at.a);
    }
}

/* The guest did not touch its TPM. */
static void hosts_in_a_ring_may_pass_a_tpm_on_at_once(void **state)
{
    struct side *ring[] = {&at.a, &at.b, &at.c};
    (void)state;
    serve(&at.a);
    for (size_t i = 0; i < 9; i++)
        move_unseen(ring[i % 3], ring[(i + 1) % 3]);
    assert_holds(at.a.s, "made in A");
}

static void an_image_that_waits_for_a_tpm_takes_any(void **state)
{
    (void)state;
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    struct store_origin o;
    assert_true(read_origin(at.b.s, &o));
    assert_memory_equal(o.lineage, o.image, 16);
    assert_int_equal(o.clock, 2);
    assert_int_equal(o.at, 2);
    assert_int_equal(o.from.generation, 1);
}

/* S3.8 */
static void an_old_set_is_refused_whatever_image_came_between(void **state)
{
    struct set captured;
    (void)state;
    serve(&at.a);
    run(&at.a, 5, "months ago");
    move(&at.a, &at.b, &captured);
    move_unseen(&at.b, &at.c);
    run(&at.c, 1, "newest");
    move_unseen(&at.c, &at.b);
    stop(&at.b);
    not_taken(&at.b, &captured, OLD, "`rewind`");
    not_taken(&at.c, &captured, OLD, "clock 6");
    at.b.rules.seal = SEAL_REQUIRED;
    not_taken(&at.b, &captured, OLD, "not later");
    drop_set(&captured);
}

/* A was given away, and is started again all the same. */
static void a_copy_that_was_overtaken_is_refused(void **state)
{
    struct set fork;
    (void)state;
    serve(&at.a);
    run(&at.a, 3, "common");
    move_unseen(&at.a, &at.b);
    run(&at.b, 50, "the guest's");
    stop(&at.b);
    serve(&at.a);
    run(&at.a, 20, "a fork");
    fork = give(&at.a);
    stop(&at.a);
    not_taken(&at.b, &fork, OLD, "clock 24");
    drop_set(&fork);
}

/* An equal number of commits is not more. */
static void the_clock_must_be_greater(void **state)
{
    struct set fork;
    struct err e;
    (void)state;
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    run(&at.b, 4, "the guest's");
    uint64_t here = clock_of(&at.b);
    stop(&at.b);
    serve(&at.a);
    run(&at.a, (unsigned)(here - clock_of(&at.a)), "as far");
    fork = give(&at.a);
    let_go(&at.a, true);
    not_taken(&at.b, &fork, OLD, "not later");
    drop_set(&fork);
    assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
    assert_int_equal(clock_of(&at.a), here + 1);
    move_unseen(&at.a, &at.b);
    assert_holds(at.b.s, "as far");
}

/* --- on purpose --- */

static void rewind_takes_an_older_state_and_goes_on_behind_both(void **state)
{
    struct set captured, overtaken;
    struct err e;
    (void)state;
    serve(&at.a);
    run(&at.a, 5, "saved");
    move(&at.a, &at.b, &captured);
    run(&at.b, 30, "newest");
    overtaken = give(&at.b);
    uint64_t before = clock_of(&at.b);
    stop(&at.b);
    at.b.rules.rewind = true;
    await(&at.b);
    assert_done(take_over(&at.b, &captured, &e), e);
    assert_holds(at.b.s, "saved");
    assert_int_equal(clock_of(&at.b), before + 1);
    use(&at.b);
    move_unseen(&at.b, &at.c); /* it is the newest one now */
    stop(&at.c);
    not_taken(&at.c, &overtaken, OLD, "not later");
    drop_set(&captured);
    drop_set(&overtaken);
}

/* In a running daemon: loadvm. */
static void a_restored_state_goes_on_behind_the_one_it_replaces(void **state)
{
    struct store_origin o;
    struct set saved;
    struct err e;
    (void)state;
    serve(&at.a);
    saved = give(&at.a);
    run(&at.a, 10, "later");
    uint64_t before = clock_of(&at.a);
    assert_done(stage(&at.a, &saved, &e), e);
    assert_refused(custody_accepts_set(at.a.c, at.a.s, false, &e), e, OLD, "`rewind`");
    assert_done(custody_accepts_set(at.a.c, at.a.s, true, &e), e);
    commit_set(&at.a, true);
    assert_holds(at.a.s, "made in A");
    assert_int_equal(clock_of(&at.a), before + 1);
    assert_true(read_origin(at.a.s, &o));
    assert_int_equal(o.how, ORIGIN_RESTORED);
    drop_set(&saved);
}

/* --- targets that fail --- */

/* It has stored the set, and then it died, or gave up. */
static void a_set_that_was_stored_and_never_used_is_stored_again(void **state)
{
    struct set set;
    struct err e;
    (void)state;
    serve(&at.a);
    set = give(&at.a);
    let_go(&at.a, true);
    uint64_t clock = 0;
    for (unsigned i = 0; i < 3; i++) {
        await(&at.b);
        assert_done(take_over(&at.b, &set, &e), e);
        assert_true(clock == 0 || clock_of(&at.b) == clock);
        clock = clock_of(&at.b);
        stop(&at.b);
    }
    await(&at.b);
    assert_done(take_over(&at.b, &set, &e), e);
    use(&at.b);
    stop(&at.b);
    not_taken(&at.b, &set, OLD, "not later"); /* used: no more */
    drop_set(&set);
}

/* S3.6 */
static void after_a_target_that_failed_the_source_hands_over_anew(void **state)
{
    struct err e;
    (void)state;
    serve(&at.a);
    for (unsigned i = 0; i < 4; i++) {
        struct set set = give(&at.a);
        let_go(&at.a, true);
        for (unsigned tries = 0; tries <= i; tries++) {
            await(&at.b);
            assert_done(take_over(&at.b, &set, &e), e);
            stop(&at.b);
        }
        assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
        if (i > 0) {
            stop(&at.a);
            not_taken(&at.a, &set, OLD, "older generation");
            serve(&at.a);
        }
        drop_set(&set);
    }
    move_unseen(&at.a, &at.b);
    assert_holds(at.b.s, "made in A");
}

/* Its image held an older state of this TPM, not nothing. */
static void a_target_that_failed_goes_on_refusing_what_is_older(void **state)
{
    struct set first, second;
    struct err e;
    (void)state;
    serve(&at.a);
    move(&at.a, &at.b, &first);
    move_unseen(&at.b, &at.a);
    run(&at.a, 9, "newest");
    second = give(&at.a);
    let_go(&at.a, true);
    await(&at.b);
    assert_done(take_over(&at.b, &second, &e), e);
    stop(&at.b);
    not_taken(&at.b, &first, OLD, "not later");
    assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
    move_unseen(&at.a, &at.b);
    assert_holds(at.b.s, "newest");
    drop_set(&first);
    drop_set(&second);
}

/* --- taking back --- */

static void what_nobody_used_is_taken_back_and_the_set_comes_too_late(void **state)
{
    struct side target = beside(&at.a); /* shared storage */
    struct store_origin o;
    struct set set;
    struct err e;
    (void)state;
    serve(&at.a);
    uint64_t clock = clock_of(&at.a);
    set = give(&at.a);
    let_go(&at.a, true);
    await(&target);
    assert_done(take_over(&target, &set, &e), e);
    assert_refused(custody_take_back(at.a.c, &at.a.s, &e), e, ERR_LOCKED, "");
    let_go(&target, true);
    assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
    assert_int_equal(clock_of(&at.a), clock + 2);
    assert_true(read_origin(at.a.s, &o) && o.used);
    let_go(&at.a, false);
    assert_refused(take_over(&target, &set, &e), e, OLD, "older generation");
    assert_refused(custody_take_back(target.c, &target.s, &e), e, ERR_FENCED, "another owner");
    stop(&target);
    drop_set(&set);
}

/* S3.24 */
static void what_somebody_else_used_is_not_taken_back(void **state)
{
    struct side target = beside(&at.a);
    struct set set;
    struct err e;
    (void)state;
    serve(&at.a);
    assert_refused(custody_take_back(at.a.c, &at.a.s, &e), e, ERR_USAGE, "nothing was given away");
    set = give(&at.a);
    let_go(&at.a, true);
    await(&target);
    assert_done(take_over(&target, &set, &e), e);
    use(&target);
    stop(&target);
    assert_refused(custody_take_back(at.a.c, &at.a.s, &e), e, ERR_FENCED, "generation 1 then, 3");
    assert_null(at.a.s);
    drop_set(&set);
}

/* As on a file system that has become full, and is not any more. */
static void files_cannot_be_written(bool yes)
{
    const struct rlimit r = {yes ? 0 : RLIM_INFINITY, RLIM_INFINITY};
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

/* An attempt that did not reach the disk remembers which generation it would have made. Somebody
 * else's of that number is not it, whether he came by a set or just ran. */
static void what_somebody_else_made_is_not_taken_for_an_attempt_of_ours(void **state)
{
    (void)state;
    serve(&at.a);
    move_unseen(&at.a, &at.b); /* whose state says where it came from; the one of C does not */
    new_image(&at.c, DEVICE_TPM20, "made in C");
    serve(&at.c);
    struct side *all[] = {&at.b, &at.c};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct side *h = all[i], other = beside(h);
        struct set set = give(h);
        struct err e;
        uint64_t given = generation(h);
        let_go(h, true);
        files_cannot_be_written(true);
        assert_refused(custody_take_back(h->c, &h->s, &e), e, ERR_STORAGE, "File too large");
        files_cannot_be_written(false);
        serve(&other);
        run(&other, 1, "ran elsewhere");
        assert_int_equal(generation(&other), given + 1);
        stop(&other);
        assert_refused(custody_take_back(h->c, &h->s, &e), e, ERR_FENCED, "another owner");
        assert_null(h->s);
        drop_set(&set);
    }
}

/* --- one image on both sides --- */

/* S3.20 */
static void the_own_image_must_be_at_the_very_state_of_the_set(void **state)
{
    struct side copy = beside(&at.a);
    struct set set, other;
    (void)state;
    snprintf(copy.path, sizeof(copy.path), "%s/copy", at.folder);
    copy_file(at.a.path, copy.path);
    serve(&at.a);
    run(&at.a, 1, "one further");
    set = give(&at.a);
    stop(&at.a);
    not_taken(&copy, &set, OLD, "the copy is not finished");
    serve(&copy);
    run(&copy, 1, "another way");
    stop(&copy);
    not_taken(&copy, &set, OLD, "two owners went on");
    serve(&copy);
    run(&copy, 1, "two further");
    other = give(&copy);
    stop(&copy);
    not_taken(&copy, &set, OLD, "older generation 2");
    not_taken(&at.a, &other, OLD, "the copy is not finished");
    drop_set(&set);
    drop_set(&other);
}

/* S3.20: of the same generation, and the one with another owner in between. */
static void the_own_image_must_have_been_of_the_same_owners(void **state)
{
    struct side copy = beside(&at.a);
    struct set set;
    (void)state;
    snprintf(copy.path, sizeof(copy.path), "%s/copy", at.folder);
    copy_file(at.a.path, copy.path);
    serve(&copy);
    run(&copy, 1, "one further");
    stop(&copy);
    serve(&copy);
    run(&copy, 1, "two further");
    stop(&copy);
    serve(&at.a);
    run(&at.a, 2, "two further");
    set = give(&at.a);
    stop(&at.a);
    not_taken(&copy, &set, OLD, "two owners went on");
    drop_set(&set);
}

/* --- not ours --- */

static void another_tpm_is_refused_also_by_rewind(void **state)
{
    struct set set;
    (void)state;
    new_image(&at.b, DEVICE_TPM20, "made in B");
    serve(&at.a);
    run(&at.a, 9, "far ahead");
    set = give(&at.a);
    stop(&at.a);
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "another TPM");
    at.b.rules.rewind = true;
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "another TPM");
    drop_set(&set);
}

static void another_kind_of_tpm_is_refused(void **state)
{
    struct set set;
    (void)state;
    new_image(&at.b, DEVICE_TPM12, NULL);
    at.b.rules.rewind = true;
    serve(&at.a);
    set = give(&at.a);
    not_taken(&at.b, &set, ERR_STATE_FOREIGN, "for a TPM 1.2");
    drop_set(&set);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_tpm_goes_there_and_back_again_and_its_clock_only_grows),
        TEST(hosts_in_a_ring_may_pass_a_tpm_on_at_once),
        TEST(an_image_that_waits_for_a_tpm_takes_any),
        TEST(an_old_set_is_refused_whatever_image_came_between),
        TEST(a_copy_that_was_overtaken_is_refused),
        TEST(the_clock_must_be_greater),
        TEST(rewind_takes_an_older_state_and_goes_on_behind_both),
        TEST(a_restored_state_goes_on_behind_the_one_it_replaces),
        TEST(a_set_that_was_stored_and_never_used_is_stored_again),
        TEST(after_a_target_that_failed_the_source_hands_over_anew),
        TEST(a_target_that_failed_goes_on_refusing_what_is_older),
        TEST(what_nobody_used_is_taken_back_and_the_set_comes_too_late),
        TEST(what_somebody_else_used_is_not_taken_back),
        TEST(what_somebody_else_made_is_not_taken_for_an_attempt_of_ours),
        TEST(the_own_image_must_be_at_the_very_state_of_the_set),
        TEST(the_own_image_must_have_been_of_the_same_owners),
        TEST(another_tpm_is_refused_also_by_rewind),
        TEST(another_kind_of_tpm_is_refused),
    };
    return cmocka_run_group_tests(tests, open_folder, drop_folder);
}
