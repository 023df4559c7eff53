/* The record store where things go wrong: storage that fails, states and disks of the wrong size,
 * damage. */
#include "tests/backend/store_helpers.h"

/* S0.13, S1.12, S1.17: an error reply means the change did not happen. W5 */
static void failed_commit_changes_nothing_and_the_next_one_works(void **state)
{
    static const struct {
        unsigned nth;
        size_t partial;
        const char *what;
    } faults[] = {
        {1, 0, "writing"},
        {1, 1, "writing"},
        {2, 0, "flushing"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct store_image im = image_of(NULL, "first", 5);
        struct store *s = opened(&im);
        struct err e = {0};
        commit(s, set(BLOB_PERMANENT, "second", 6));
        struct state_change c = set(BLOB_PERMANENT, "third", 5);
        power_fail(im.power, faults[i].nth, false, ENOSPC, faults[i].partial);
        assert_int_equal(store_commit(s, &c, &e), -1);
        assert_int_equal(e.kind, ERR_STORAGE);
        assert_int_equal(e.os, ENOSPC);
        assert_non_null(strstr(e.text, "generation 3 could not be made durable"));
        assert_non_null(strstr(e.text, faults[i].what));
        assert_blob(s, BLOB_PERMANENT, "second", 6);
        assert_int_equal(stats_of(s).generation, 2);

        /* Nothing changed against memory, but the disk may hold "third". */
        struct power_counts before = power_counts(im.power);
        commit(s, set(BLOB_PERMANENT, "second", 6));
        assert_int_equal(since(&im, before).writes, 1);
        assert_int_equal(stats_of(s).generation, 3);
        assert_int_equal(stats_of(s).n_records, 0);
        commit(s, c);
        store_free(s);
        s = opened(&im);
        assert_blob(s, BLOB_PERMANENT, "third", 5);
        store_free(s);
        store_image_clear(&im);
    }
}

static void storage_that_fails_for_good_fails_every_commit_and_loses_nothing(void **state)
{
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    (void)state;
    power_fail(im.power, 1, true, EIO, 0);
    for (unsigned i = 0; i < 5; i++) {
        struct state_change c = set(BLOB_PERMANENT, "other", 5);
        struct err e = {0};
        assert_int_equal(store_commit(s, &c, &e), -1);
        assert_int_equal(e.kind, ERR_STORAGE);
        assert_blob(s, BLOB_PERMANENT, "first", 5);
    }
    power_fail(im.power, 0, false, 0, 0);
    commit(s, set(BLOB_PERMANENT, "other", 5));
    assert_blob(s, BLOB_PERMANENT, "other", 5);
    store_free(s);
    store_image_clear(&im);
}

static void disk_that_cannot_flush_is_not_opened_for_use(void **state)
{
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = NULL;
    struct err e = {0};
    (void)state;
    power_fail(im.power, 1, false, EIO, 0);
    assert_int_equal(store_image_open(&im, &s, &e), -1);
    assert_null(s);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_non_null(strstr(e.text, "making generation 1 durable before use"));
    store_image_clear(&im);
}

static void state_that_does_not_fit_is_refused_by_name_and_changes_nothing(void **state)
{
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    struct err e = {0};
    size_t most = stats_of(s).checkpoint_bytes;
    (void)state;
    fill(big, sizeof(big), 6);
    struct power_counts before = power_counts(im.power);
    struct state_change c = set(BLOB_PERMANENT, big, most + 20);
    assert_int_equal(store_commit(s, &c, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "make a larger image"));
    c = set(BLOB_PERMANENT, big, BLOB_MAX_BYTES + 1);
    assert_int_equal(store_commit(s, &c, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "524289 bytes is larger than the 524288"));
    assert_int_equal(since(&im, before).writes, 0);
    assert_blob(s, BLOB_PERMANENT, "first", 5);

    commit(s, set(BLOB_PERMANENT, big, most));
    store_free(s);
    s = opened(&im);
    assert_blob(s, BLOB_PERMANENT, big, most);
    store_free(s);
    store_image_clear(&im);
}

static void first_state_that_does_not_fit_makes_no_image(void **state)
{
    struct store_image im;
    struct err e = {0};
    struct state_change first = set(BLOB_PERMANENT, big, 300 * 1024);
    (void)state;
    assert_int_equal(store_image_new(NULL, DISK_SECTORS, &first, &im, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "choose a larger size"));
}

/* S1.9, S0.6: damage is an error, not data, and the image stays as it is. */
static void damaged_state_is_reported_and_nothing_is_touched(void **state)
{
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    struct err e = {0};
    (void)state;
    commit(s, set(BLOB_PERMANENT, "second", 6));
    uint64_t at = store_image_host_sector(store_disk(s), im.facts.layout.checkpoint[1]);
    store_free(s);

    power_disk_bytes(im.power)[at * SECTOR_BYTES + 333] ^= 4;
    struct power_counts before = power_counts(im.power);
    s = NULL;
    assert_int_equal(store_image_open(&im, &s, &e), -1);
    assert_null(s);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_non_null(strstr(e.text, "sector 0 of checkpoint B is damaged"));
    assert_non_null(strstr(e.text, "the newest state that verifies is generation 1"));
    assert_int_equal(since(&im, before).writes, 0);
    assert_int_equal(since(&im, before).flushes, 0);

    OWNED(qcow_disk) d = NULL;
    struct store_look *look = NULL;
    assert_int_equal(store_image_disk(&im, &d, &e), 0);
    assert_int_equal(store_look(d, &look, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_null(look);
    qcow_disk_free(d);
    d = NULL;
    store_image_clear(&im);
}

static void layout_that_leaves_the_disk_is_damage(void **state)
{
    struct store_layout l = store_image_small;
    struct store_image im;
    struct store *s = NULL;
    struct err e = {0};
    struct state_change first = set(BLOB_PERMANENT, "x", 1);
    (void)state;
    l.log_sectors += 8;
    assert_int_equal(store_image_new(&l, STORE_IMAGE_SMALL_SECTORS, &first, &im, &e), 0);
    assert_int_equal(store_image_open(&im, &s, &e), -1);
    assert_null(s);
    assert_true(e.kind == ERR_STATE_CORRUPT);
    store_image_clear(&im);
}

static void store_larger_than_we_hold_in_memory_is_unsupported(void **state)
{
    struct store_layout l = {
        .checkpoint = {8, 32008}, .checkpoint_sectors = 32000, .log = 64008, .log_sectors = 8000};
    struct store_image im;
    struct store *s = NULL;
    struct err e = {0};
    struct state_change first = set(BLOB_PERMANENT, "x", 1);
    (void)state;
    assert_int_equal(store_image_new(&l, 72008, &first, &im, &e), 0);
    assert_int_equal(store_image_open(&im, &s, &e), -1);
    assert_null(s);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "72000 sectors long; this version handles 65536"));
    store_image_clear(&im);
}

static void plan_gives_every_disk_room_for_a_tpm_or_refuses(void **state)
{
    struct store_layout l = {.log = 77};
    struct err e = {0};
    (void)state;
    assert_int_equal(store_plan(2048, &l, &e), 0);
    assert_int_equal(l.checkpoint[0], 8);
    assert_int_equal(l.checkpoint[1], 8 + l.checkpoint_sectors);
    assert_int_equal(l.log, 8 + 2 * l.checkpoint_sectors);
    assert_int_equal(l.log + l.log_sectors, 2048);
    assert_true(l.checkpoint_sectors * RECORD_PART_BYTES >= 256 * 1024);

    uint64_t least = 8 + 2 * 416 + 128;
    for (uint64_t n = 0; n < 3000; n++) {
        struct store_layout got = {.log = 77};
        if (n < least) {
            assert_int_equal(store_plan(n, &got, &e), -1);
            assert_int_equal(e.kind, ERR_USAGE);
            assert_int_equal(got.log, 77);
            continue;
        }
        assert_int_equal(store_plan(n, &got, &e), 0);
        assert_true(got.checkpoint_sectors * RECORD_PART_BYTES >= 160 * 1024);
        assert_true(got.log_sectors >= 128);
        assert_true(got.log + got.log_sectors <= n);
        assert_int_equal((got.checkpoint[0] | got.checkpoint[1] | got.checkpoint_sectors | got.log |
                          got.log_sectors) %
                             8,
                         0);
    }
    assert_int_equal(store_plan(0, &l, &e), -1);
    assert_non_null(strstr(e.text, "a disk of 0 bytes is too small for a TPM: at least 495616"));
    assert_int_equal(store_plan(UINT64_MAX, &l, &e), 0);
    assert_int_equal(l.log_sectors, 4096); /* opening reads all of it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failed_commit_changes_nothing_and_the_next_one_works),
        cmocka_unit_test(storage_that_fails_for_good_fails_every_commit_and_loses_nothing),
        cmocka_unit_test(disk_that_cannot_flush_is_not_opened_for_use),
        cmocka_unit_test(state_that_does_not_fit_is_refused_by_name_and_changes_nothing),
        cmocka_unit_test(first_state_that_does_not_fit_makes_no_image),
        cmocka_unit_test(damaged_state_is_reported_and_nothing_is_touched),
        cmocka_unit_test(layout_that_leaves_the_disk_is_damage),
        cmocka_unit_test(store_larger_than_we_hold_in_memory_is_unsupported),
        cmocka_unit_test(plan_gives_every_disk_room_for_a_tpm_or_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
