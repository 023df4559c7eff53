/* Two owners where no lock keeps them apart: the one who was taken over writes nothing any more.
 *
 * The test's disk grants every claim. What it does not simulate is two writes at the very same
 * moment: between looking and writing there is a gap that only locks close.
 */
#include <errno.h>

#include "tests/backend/store_helpers.h"

static struct store_image shared_image(void)
{
    struct store_image im = image_of(&store_image_small, "first", 5);
    power_share(im.power);
    return im;
}

static void refused(struct store *s, const char *text, const char *says)
{
    struct state_change c = set(BLOB_PERMANENT, text, strlen(text));
    struct err e;
    assert_int_equal(store_commit(s, &c, &e), -1);
    assert_string_equal(err_class(e.kind)->name, "FENCED");
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void put(struct store *s, const char *text)
{
    commit(s, set(BLOB_PERMANENT, text, strlen(text)));
}

/* S3.24 */
static void who_was_taken_over_writes_nothing_any_more(void **state)
{
    struct store_image im = shared_image();
    (void)state;
    {
        OWNED(store) stale = opened(&im);
        put(stale, "second");
        put(stale, "third");
        OWNED(store) owner = opened(&im);
        assert_blob(owner, BLOB_PERMANENT, "third", 5);
        put(stale, "fourth"); /* an owner who has not written anything has taken nothing over */
        store_free(MOVE(owner));
        owner = opened(&im);
        put(owner, "fifth");

        struct power_counts before = power_counts(im.power);
        refused(stale, "lost", "somebody else has taken this TPM over");
        assert_int_equal(since(&im, before).writes, 0);
        assert_int_equal(since(&im, before).flushes, 0);
        assert_blob(stale, BLOB_PERMANENT, "fourth", 6);
        put(owner, "sixth");
        store_free(MOVE(stale));
    }
    OWNED(store) s = opened(&im);
    assert_blob(s, BLOB_PERMANENT, "sixth", 5);
    store_free(MOVE(s));
    store_image_clear(&im);
}

/* Whatever the new owner does meanwhile: checkpoints in both areas, a full log, an end. */
static void no_number_of_commits_of_the_new_owner_hides_him(void **state)
{
    uint8_t noise[3000];
    (void)state;
    for (unsigned n = 1; n < 40; n++) {
        struct store_image im = shared_image();
        OWNED(store) stale = opened(&im);
        put(stale, "second");
        OWNED(store) owner = opened(&im);
        for (unsigned i = 0; i < n; i++) {
            fill(noise, sizeof(noise), 100 * n + i);
            commit(owner, set(BLOB_VOLATILE, noise, i % 3 ? sizeof(noise) : 400));
        }
        if (n % 2)
            store_free(MOVE(owner));
        refused(stale, "lost", "owner epoch");
        store_free(MOVE(stale));
        store_free(MOVE(owner));
        OWNED(store) s = opened(&im);
        assert_int_equal(stats_of(s).generation, 2 + n);
        store_free(MOVE(s));
        store_image_clear(&im);
    }
}

/* For good: not even what would have written nothing new, and not after the new owner has gone. */
static void fenced_once_is_fenced_for_good(void **state)
{
    struct store_image im = shared_image();
    struct state_change nothing = {0};
    struct err e;
    (void)state;
    OWNED(store) stale = opened(&im);
    put(stale, "second");
    OWNED(store) owner = opened(&im);
    put(owner, "third");
    store_free(MOVE(owner));
    refused(stale, "lost", "taken this TPM over");
    refused(stale, "second", "taken this TPM over");
    assert_int_equal(store_commit(stale, &nothing, &e), -1);
    assert_int_equal(e.kind, ERR_FENCED);
    assert_blob(stale, BLOB_PERMANENT, "second", 6); /* it can still be looked at */
    store_free(MOVE(stale));
    store_image_clear(&im);
}

/* Both have the same epoch. */
static void of_two_who_opened_the_same_state_the_first_to_commit_stays(void **state)
{
    struct store_image im = shared_image();
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        OWNED(store) a = opened(&im);
        OWNED(store) b = opened(&im);
        put(a, "by a");
        refused(b, "by b", "taken this TPM over");
        put(a, "by a again");
        refused(b, "by b", "taken this TPM over");
        store_free(MOVE(a));
        a = opened(&im);
        assert_blob(a, BLOB_PERMANENT, "by a again", 10);
    }
    store_image_clear(&im);
}

static void three_owners_in_a_row_fence_all_but_the_last(void **state)
{
    struct store_image im = shared_image();
    OWNED(store) a = opened(&im);
    (void)state;
    put(a, "by a");
    OWNED(store) b = opened(&im);
    put(b, "by b");
    OWNED(store) c = opened(&im);
    put(c, "by c");
    refused(a, "lost", "of owner epoch 3, and this one is epoch 2");
    refused(b, "lost", "of owner epoch 4, and this one is epoch 3");
    put(c, "by c again");
    store_free(MOVE(a));
    store_free(MOVE(b));
    store_free(MOVE(c));
    store_image_clear(&im);
}

/* What power_cut() left where the next checkpoint goes is nobody's. */
static void a_commit_that_was_cut_off_is_no_other_owner(void **state)
{
    uint8_t noise[3000];
    (void)state;
    fill(noise, sizeof(noise), 1);
    for (size_t n_arrived = 1; n_arrived < 8; n_arrived++) {
        struct store_image im = shared_image();
        bool arrived[8] = {false};
        struct err e;
        {
            OWNED(store) s = opened(&im);
            struct state_change c = set(BLOB_VOLATILE, noise, sizeof(noise));
            power_fail(im.power, 2, true, EIO, 0); /* the flush, and what would take it back */
            assert_int_equal(store_commit(s, &c, &e), -1);
            assert_int_equal(e.kind, ERR_STORAGE);
        }
        power_fail(im.power, 0, false, 0, 0);
        assert_int_equal(power_n_volatile(im.power), 8);
        for (size_t i = 0; i < n_arrived; i++)
            arrived[i] = true;
        power_cut(im.power, arrived, LOST_STALE, 0);
        power_settle(im.power);
        OWNED(store) s = opened(&im);
        assert_blob(s, BLOB_PERMANENT, "first", 5);
        put(s, "second");
        put(s, "third");
        store_free(MOVE(s));
        store_image_clear(&im);
    }
}

/* Nor is what a failed commit of one's own has left, whichever part of it. */
static void a_failed_commit_of_ones_own_is_no_other_owner(void **state)
{
    uint8_t noise[3000];
    (void)state;
    fill(noise, sizeof(noise), 1);
    for (unsigned committed = 0; committed < 2; committed++)
        for (unsigned nth = 1; nth <= 3; nth++)
            for (size_t partial = 0; partial < 9; partial += 4)
                for (unsigned times = 1; times < 3; times++) {
                    struct store_image im = shared_image();
                    OWNED(store) s = opened(&im);
                    struct state_change c = set(BLOB_VOLATILE, noise, sizeof(noise));
                    struct err e;
                    if (committed)
                        put(s, "second");
                    for (unsigned i = 0; i < times; i++) {
                        noise[0]++;
                        power_fail(im.power, nth, true, EIO, partial);
                        if (store_commit(s, &c, &e) < 0)
                            assert_int_equal(e.kind, ERR_STORAGE);
                    }
                    power_fail(im.power, 0, false, 0, 0);
                    commit(s, c);
                    put(s, "after all");
                    store_free(MOVE(s));
                    s = opened(&im);
                    assert_blob(s, BLOB_PERMANENT, "after all", 9);
                    store_free(MOVE(s));
                    store_image_clear(&im);
                }
}

/* Both have the same epoch, and what one of them tried says nothing of what the other did. */
static void who_failed_to_write_is_fenced_like_anybody_else(void **state)
{
    struct state_change c = set(BLOB_PERMANENT, "failed", 6);
    (void)state;
    for (unsigned nth = 1; nth <= 2; nth++) { /* its write, its flush */
        for (unsigned failures = 1; failures <= 12; failures++) {
            struct store_image im = shared_image();
            struct err e;
            OWNED(store) stale = opened(&im);
            for (unsigned i = 0; i < failures; i++) {
                power_fail(im.power, nth, false, EIO, 0);
                assert_int_equal(store_commit(stale, &c, &e), -1);
                assert_int_equal(e.kind, ERR_STORAGE);
            }
            OWNED(store) owner = opened(&im);
            put(owner, "second");
            refused(stale, "lost", "taken this TPM over");
            store_free(MOVE(stale));
            put(owner, "third");
            store_free(MOVE(owner));
            owner = opened(&im);
            assert_blob(owner, BLOB_PERMANENT, "third", 5);
            store_free(MOVE(owner));
            store_image_clear(&im);
        }
    }
}

static void damage_beside_the_base_is_no_other_owner(void **state)
{
    struct store_image im = shared_image();
    OWNED(store) s = opened(&im);
    (void)state;
    put(s, "second");
    uint64_t at = store_image_host_sector(store_disk(s), store_image_small.checkpoint[0]);
    memset(power_disk_bytes(im.power) + at * SECTOR_BYTES, 0x5a, SECTOR_BYTES);
    put(s, "third");
    store_free(MOVE(s));
    store_image_clear(&im);
}

/* Two sectors read before each write, and nothing where the claim is enough. */
static void looking_costs_two_reads_and_only_where_it_is_needed(void **state)
{
    (void)state;
    for (unsigned shared = 0; shared < 2; shared++) {
        struct store_image im = image_of(&store_image_small, "first", 5);
        if (shared)
            power_share(im.power);
        OWNED(store) s = opened(&im);
        char text[20];
        for (unsigned i = 0; i < 60; i++) {
            struct power_counts before = power_counts(im.power);
            snprintf(text, sizeof(text), "state %u", i);
            put(s, text);
            assert_int_equal(since(&im, before).reads, 2 * shared);
            assert_int_equal(since(&im, before).writes, 1);
            assert_int_equal(since(&im, before).flushes, 1);
            put(s, text); /* nothing changed: nothing is looked at */
            assert_int_equal(since(&im, before).reads, 2 * shared);
        }
        store_free(MOVE(s));
        store_image_clear(&im);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_was_taken_over_writes_nothing_any_more),
        cmocka_unit_test(no_number_of_commits_of_the_new_owner_hides_him),
        cmocka_unit_test(fenced_once_is_fenced_for_good),
        cmocka_unit_test(of_two_who_opened_the_same_state_the_first_to_commit_stays),
        cmocka_unit_test(three_owners_in_a_row_fence_all_but_the_last),
        cmocka_unit_test(a_commit_that_was_cut_off_is_no_other_owner),
        cmocka_unit_test(a_failed_commit_of_ones_own_is_no_other_owner),
        cmocka_unit_test(who_failed_to_write_is_fenced_like_anybody_else),
        cmocka_unit_test(damage_beside_the_base_is_no_other_owner),
        cmocka_unit_test(looking_costs_two_reads_and_only_where_it_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
