/* A prepared hand-over: offer, ready, arm; and what does not arm. */
#include <time.h>

#include "tests/migration/custody_hosts.h"

#define OLD ERR_STATE_ROLLED_BACK

enum { LIBRARY = 0x000902 };

struct token {
    char text[CUSTODY_TOKEN_MAX];
};

static struct token offer_of(struct side *h)
{
    struct token t;
    struct err e;
    assert_done(custody_offer(h->c, h->s, LIBRARY, t.text, &e), e);
    return t;
}

/* As prepare-incoming does it. */
static int answer(struct side *h, const struct token *offer, uint32_t library, struct token *ret,
                  struct err *e)
{
    OWNED(store_look) look = NULL;
    if (custody_prepare_load(h->c, NULL, &look, e) < 0)
        return -1;
    return custody_ready(h->c, offer->text, look, library, ret->text, e);
}

static struct token ready_of(struct side *h, const struct token *offer)
{
    struct token t;
    struct err e;
    assert_done(answer(h, offer, LIBRARY, &t, &e), e);
    return t;
}

static void not_ready(struct side *h, const struct token *offer, enum err_kind kind,
                      const char *says)
{
    struct token t = {"untouched"};
    struct err e;
    assert_refused(answer(h, offer, LIBRARY, &t, &e), e, kind, says);
    assert_string_equal(t.text, "untouched");
}

static void not_armed(struct side *h, const char *text, enum err_kind kind, const char *says)
{
    struct err e;
    assert_refused(custody_arm(h->c, text, &e), e, kind, says);
    assert_false(custody_is_armed(h->c));
}

static int begin_export(struct side *h, struct err *e)
{
    return custody_export_begin(h->c, h->s, PERMANENT_ONLY, LIBRARY, e);
}

/* A runs, B waits. */
static int ready_to_prepare(void **state)
{
    set_up(state);
    at.a.rules.armed_ms = 60000;
    serve(&at.a);
    await(&at.b);
    return 0;
}

/* --- the way it goes --- */

static void offer_ready_and_arm_let_the_state_go_once(void **state)
{
    struct err e;
    (void)state;
    assert_refused(begin_export(&at.a, &e), e, ERR_USAGE, "--migration require-prepare");
    struct token offer = offer_of(&at.a), ready = ready_of(&at.b, &offer);
    assert_false(custody_is_armed(at.a.c));
    assert_refused(begin_export(&at.a, &e), e, ERR_USAGE, "prepare-outgoing here");
    assert_refused(custody_check_save(at.a.c, &e), e, ERR_USAGE, "prepare-outgoing");
    assert_done(custody_arm(at.a.c, ready.text, &e), e);
    assert_true(custody_is_armed(at.a.c));
    assert_done(custody_check_save(at.a.c, &e), e);

    struct set set = give(&at.a);
    let_go(&at.a, true);
    assert_false(custody_is_armed(at.a.c));
    assert_done(take_over(&at.b, &set, &e), e);
    assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
    custody_enter(at.a.c, HO_RUNNING);
    assert_refused(begin_export(&at.a, &e), e, ERR_USAGE, "none is");
    not_armed(&at.a, ready.text, ERR_USAGE, "nothing was offered");
    drop_set(&set);
}

/* S3.1: both are told before anything is given away, and neither image changed. */
static void preparing_changes_nothing_and_may_be_repeated(void **state)
{
    struct err e;
    (void)state;
    uint64_t before = generation(&at.a);
    struct token ready = {0};
    for (unsigned i = 0; i < 3; i++) {
        struct token offer = offer_of(&at.a);
        (void)ready_of(&at.b, &offer);
        ready = ready_of(&at.b, &offer);
    }
    assert_done(custody_arm(at.a.c, ready.text, &e), e);
    assert_int_equal(generation(&at.a), before);
    stop(&at.b);
    serve(&at.b);
    assert_int_equal(generation(&at.b), 1);
}

static void in_one_image_the_destination_may_be_ahead_of_the_offer_and_not_behind(void **state)
{
    struct side same = beside(&at.a), copy = same;
    (void)state;
    snprintf(copy.path, sizeof(copy.path), "%s/copy", at.folder);
    copy_file(at.a.path, copy.path);
    struct token offer = offer_of(&at.a);
    run(&at.a, 1, "the guest goes on");
    await(&same);
    (void)ready_of(&same, &offer);
    stop(&same);
    await(&copy);
    (void)ready_of(&copy, &offer);
    offer = offer_of(&at.a);
    not_ready(&copy, &offer, OLD, "generation 1");
    stop(&copy);
}

/* --- what is refused --- */

static void only_the_last_offer_is_answered(void **state)
{
    struct err e;
    (void)state;
    not_armed(&at.a, "00", ERR_USAGE, "call prepare-outgoing first");
    struct token first = offer_of(&at.a), ready = ready_of(&at.b, &first);
    struct token second = offer_of(&at.a);
    not_armed(&at.a, ready.text, ERR_USAGE, "another offer");
    ready = ready_of(&at.b, &second);
    assert_done(custody_arm(at.a.c, ready.text, &e), e);
    (void)offer_of(&at.a); /* it disarms */
    assert_false(custody_is_armed(at.a.c));
}

static void it_does_not_stay_armed(void **state)
{
    struct err e;
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 2000; /* time enough to answer on a busy host */
    serve(&at.a);
    struct token offer = offer_of(&at.a), ready = ready_of(&at.b, &offer);
    assert_done(custody_arm(at.a.c, ready.text, &e), e);
    nanosleep(&(struct timespec){2, 10 * 1000 * 1000}, NULL);
    assert_false(custody_is_armed(at.a.c));
    assert_refused(begin_export(&at.a, &e), e, ERR_USAGE, "require-prepare");
    not_armed(&at.a, ready.text, ERR_USAGE, "nothing was offered"); /* an answer arms once */
}

static void an_answer_that_comes_late_does_not_arm(void **state)
{
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 30;
    serve(&at.a);
    struct token offer = offer_of(&at.a), ready = ready_of(&at.b, &offer);
    nanosleep(&(struct timespec){.tv_nsec = 40 * 1000 * 1000}, NULL);
    not_armed(&at.a, ready.text, ERR_USAGE, "prepare anew");
}

static void a_token_of_another_use_is_told(void **state)
{
    (void)state;
    struct token offer = offer_of(&at.a), ready = ready_of(&at.b, &offer);
    not_armed(&at.a, offer.text, ERR_STATE_FOREIGN, "the token of prepare-outgoing");
    not_ready(&at.b, &ready, ERR_STATE_FOREIGN, "the token of prepare-incoming");
}

static void what_is_no_token_is_refused(void **state)
{
    static const char *const texts[] = {"3", "3g", "3081E6", " 30", "a token", "30 ", "-1"};
    struct token offer = offer_of(&at.a);
    char longest[CUSTODY_TOKEN_MAX + 10];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        not_armed(&at.a, texts[i], ERR_USAGE, "not a token");
    memset(longest, '3', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    not_armed(&at.a, longest, ERR_USAGE, "not a token");
    not_armed(&at.a, "", ERR_STATE_FOREIGN, "the token");
    not_armed(&at.a, "00", ERR_STATE_FOREIGN, "the token");
    struct token cut = offer;
    cut.text[strlen(cut.text) - 2] = 0;
    not_ready(&at.b, &cut, ERR_STATE_CORRUPT, "cut off");
    char *last = &offer.text[strlen(offer.text) - 1];
    *last = *last == '0' ? '1' : '0';
    not_ready(&at.b, &offer, ERR_STATE_CORRUPT, "not authentic");
}

/* Sealed as it should be, by somebody with the key, and not what a token is. */
static void a_token_with_another_content_is_damage(void **state)
{
    struct envelope_head h = known_head(ENVELOPE_OFFER, ENVELOPE_MIGRATION_KEY);
    const struct envelope_keys keys = {NULL, at.way};
    (void)state;
    for (size_t n = 0; n <= 9; n++) {
        uint8_t content[9] = {0}, raw[sizeof(content) + ENVELOPE_OVERHEAD_MAX];
        struct token t = {0};
        struct err e;
        char says[60];
        size_t raw_n = 0;
        if (n == 8)
            continue;
        assert_done(envelope_seal(&h, &keys, content, n, raw, &raw_n, &e), e);
        for (size_t i = 0; i < raw_n; i++)
            snprintf(t.text + 2 * i, 3, "%02x", raw[i]);
        snprintf(says, sizeof(says), "the token: its content has %zu bytes", n);
        not_ready(&at.b, &t, ERR_STATE_CORRUPT, says);
    }
}

/* The destination is the image that is offered, as it was when it waited for a TPM. */
static void a_copy_from_before_there_was_a_tpm_is_not_finished(void **state)
{
    struct side copy = beside(&at.b);
    (void)state;
    snprintf(copy.path, sizeof(copy.path), "%s/copy", at.folder);
    copy_file(at.b.path, copy.path);
    stop(&at.b);
    at.a.rules.armed_ms = 0;
    stop(&at.a);
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    struct token offer = offer_of(&at.b);
    await(&copy);
    not_ready(&copy, &offer, ERR_STATE_EMPTY, "the copy is not finished");
    stop(&copy);
}

/* S3.3 */
static void a_token_under_another_key_is_told_from_damage(void **state)
{
    OWNED(migration_key) other = known_migration_key(256, 2);
    struct token offer = offer_of(&at.a);
    (void)state;
    stop(&at.b);
    at.b.rules.migration_key = other;
    await(&at.b);
    not_ready(&at.b, &offer, ERR_KEY_WRONG, "another migration key");
    stop(&at.b);
    at.b.rules.migration_key = NULL;
    await(&at.b);
    not_ready(&at.b, &offer, ERR_KEY_MISSING, "--migration-key");
}

/* Before switchover, what would be refused after it. */
static void an_offer_that_is_not_later_is_refused(void **state)
{
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 0;
    serve(&at.a);
    stop(&at.b);
    move_unseen(&at.a, &at.b);
    run(&at.b, 9, "the guest's");
    stop(&at.b);
    serve(&at.a);
    run(&at.a, 11, "a fork");
    struct token offer = offer_of(&at.a); /* as far as B */
    await(&at.b);
    not_ready(&at.b, &offer, OLD, "clock 12");
    run(&at.a, 1, "a longer fork");
    offer = offer_of(&at.a);
    (void)ready_of(&at.b, &offer);
}

static void rewind_says_that_an_offer_may_be_older(void **state)
{
    struct token offer = offer_of(&at.a);
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 0;
    stop(&at.b);
    serve(&at.a);
    move_unseen(&at.a, &at.b);
    stop(&at.b);
    await(&at.b);
    not_ready(&at.b, &offer, OLD, "`rewind`");
    stop(&at.b);
    at.b.rules.rewind = true;
    await(&at.b);
    (void)ready_of(&at.b, &offer);
}

/* A target failed, the source took back, and prepares anew. */
static void a_set_that_was_never_used_is_not_later_than_its_giver(void **state)
{
    struct err e;
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 0;
    serve(&at.a);
    struct set set = give(&at.a);
    let_go(&at.a, true);
    assert_done(take_over(&at.b, &set, &e), e);
    let_go(&at.b, true);
    assert_done(custody_take_back(at.a.c, &at.a.s, &e), e);
    custody_enter(at.a.c, HO_RUNNING);
    struct token offer = offer_of(&at.a), ready = ready_of(&at.b, &offer);
    assert_done(custody_arm(at.a.c, ready.text, &e), e);
    drop_set(&set);
}

/* Its guest has not run yet, and the next host is to have it. */
static void what_was_never_used_may_go_back_where_it_came_from(void **state)
{
    struct err e;
    (void)state;
    stop(&at.a);
    at.a.rules.armed_ms = 0;
    serve(&at.a);
    struct set set = give(&at.a);
    stop(&at.a);
    assert_done(take_over(&at.b, &set, &e), e);
    struct token offer = offer_of(&at.b);
    await(&at.a);
    (void)ready_of(&at.a, &offer);
    drop_set(&set);
}

static void another_tpm_or_kind_of_it_is_refused(void **state)
{
    struct token offer = offer_of(&at.a);
    (void)state;
    stop(&at.b);
    new_image(&at.b, DEVICE_TPM20, "made in B");
    await(&at.b);
    not_ready(&at.b, &offer, ERR_STATE_FOREIGN, "another TPM");
    stop(&at.b);
    new_image(&at.b, DEVICE_TPM12, NULL);
    await(&at.b);
    not_ready(&at.b, &offer, ERR_STATE_FOREIGN, "another kind of TPM");
}

/* Micro versions read each other's state. */
static void a_library_that_is_older_is_refused(void **state)
{
    struct token offer = offer_of(&at.a), ready;
    struct err e;
    (void)state;
    assert_refused(answer(&at.b, &offer, 0x000801, &ready, &e), e, ERR_UNSUPPORTED, "libtpms 0.9",
                   "here is 0.8");
    assert_done(answer(&at.b, &offer, 0x000900, &ready, &e), e);
    assert_done(answer(&at.b, &offer, 0x010000, &ready, &e), e);
}

static void a_state_without_room_is_refused(void **state)
{
    static uint8_t large[200000];
    struct state_change change = {{{BLOB_SET, large, sizeof(large)}}};
    struct err e;
    (void)state;
    stop(&at.a);
    unlink(at.a.path);
    const struct image_create what = {.path = at.a.path,
                                      .device = DEVICE_TPM20,
                                      .size = 4 << 20,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &change};
    assert_done(image_create(&what, at.pass, strlen(passphrase), NULL, NULL, &e), e);
    serve(&at.a);
    struct token offer = offer_of(&at.a);
    not_ready(&at.b, &offer, ERR_UNSUPPORTED, "make a larger one");
}

static void who_has_nothing_to_give_offers_nothing(void **state)
{
    struct token t = {"untouched"};
    struct err e;
    OWNED(store_look) look = NULL;
    (void)state;
    custody_release(at.a.c, &at.a.s, true);
    custody_enter(at.a.c, HO_RELEASED);
    assert_refused(custody_offer(at.a.c, NULL, LIBRARY, t.text, &e), e, ERR_USAGE, "RELEASED");
    assert_string_equal(t.text, "untouched");
    custody_enter(at.b.c, HO_RUNNING);
    assert_refused(custody_prepare_load(at.b.c, NULL, &look, &e), e, ERR_USAGE, "in use here");
    assert_null(look);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, ready_to_prepare, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(offer_ready_and_arm_let_the_state_go_once),
        TEST(preparing_changes_nothing_and_may_be_repeated),
        TEST(in_one_image_the_destination_may_be_ahead_of_the_offer_and_not_behind),
        TEST(only_the_last_offer_is_answered),
        TEST(it_does_not_stay_armed),
        TEST(an_answer_that_comes_late_does_not_arm),
        TEST(a_token_of_another_use_is_told),
        TEST(what_is_no_token_is_refused),
        TEST(a_token_with_another_content_is_damage),
        TEST(a_copy_from_before_there_was_a_tpm_is_not_finished),
        TEST(a_token_under_another_key_is_told_from_damage),
        TEST(an_offer_that_is_not_later_is_refused),
        TEST(rewind_says_that_an_offer_may_be_older),
        TEST(a_set_that_was_never_used_is_not_later_than_its_giver),
        TEST(what_was_never_used_may_go_back_where_it_came_from),
        TEST(another_tpm_or_kind_of_it_is_refused),
        TEST(a_library_that_is_older_is_refused),
        TEST(a_state_without_room_is_refused),
        TEST(who_has_nothing_to_give_offers_nothing),
    };
    return cmocka_run_group_tests(tests, open_folder, drop_folder);
}
