/* Records that verify and say nothing that a store could hold: only somebody with the key could
 * have written them. They are refused by name, and nothing is served in their place. */
#include "tests/backend/store_helpers.h"

#include "backend/store_recover.h"

enum { CHECKPOINT_B = 24, LOG = 40 }; /* where they begin in the small store */

/* As the owner of the image could: sealed with its key, for that place. */
static void put_record(struct store_image *im, enum record_area area, uint64_t first,
                       const struct record_head *head, const uint8_t *payload)
{
    struct qcow_disk_rw *d = NULL;
    OWNED(secret) buf = NULL;
    uint8_t before[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct record_sector base;
    struct err e;
    size_t n = record_sectors(head->bytes);
    assert_int_equal(store_image_arm(im, &d, &e), 0);
    assert_int_equal(secret_new(n * SECTOR_BYTES, &buf, &e), 0);
    memcpy(secret_bytes(buf), payload, head->bytes);
    assert_int_equal(qcow_disk_read(qcow_disk_of(d), (struct sector){8}, 1, before, &e), 0);
    assert_true(record_sector_decode(before, &base)); /* the first checkpoint */
    record_seal(qcow_disk_record_key(qcow_disk_of(d)), area, 0, head, base.mac, secret_bytes(buf),
                mac);
    assert_int_equal(qcow_disk_write(d, (struct sector){first}, n, secret_bytes(buf), &e), 0);
    qcow_disk_rw_free(d);
    power_settle(im->power);
}

static void assert_refused(struct store_image *im)
{
    static const char says[] = "the record of generation 2 verifies but does not make sense";
    struct store *s = NULL;
    struct store_look *look = NULL;
    struct recovery *r = NULL;
    struct qcow_disk *d = NULL;
    struct qcow_disk_rw *w = NULL;
    struct err e = {0};
    assert_int_equal(store_image_open(im, &s, &e), -1);
    assert_null(s);
    if (e.kind != ERR_STATE_CORRUPT || !strstr(e.text, says))
        fail_msg("%s: %s", err_class(e.kind)->name, e.text);
    assert_int_equal(store_image_disk(im, &d, &e), 0);
    assert_int_equal(store_look(d, &look, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_null(look);
    qcow_disk_free(d);
    assert_int_equal(store_image_arm(im, &w, &e), 0);
    assert_int_equal(recovery_new(&w, &r, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_null(r);
    qcow_disk_rw_free(w);
}

static void nonsense(enum record_kind kind, const uint8_t *payload, size_t n)
{
    struct store_image im = image_of(&store_image_small, "first", 5);
    const struct record_head head = {2, kind == RECORD_FULL ? 2 : 1, kind, (uint32_t)n};
    put_record(&im, kind == RECORD_FULL ? AREA_CHECKPOINT_B : AREA_LOG,
               kind == RECORD_FULL ? CHECKPOINT_B : LOG, &head, payload);
    assert_refused(&im);
    store_image_clear(&im);
}

static void a_checkpoint_without_a_state_in_it_is_refused(void **state)
{
    static const uint8_t kind_0[] = {1, 0, 0, 0, 0, 0}, kind_9[] = {1, 9, 0, 0, 0, 0},
                         twice[] = {2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0}, cut[] = {1, 1, 0, 0, 0, 2, 7},
                         more[] = {1, 1, 0, 0, 0, 1, 7, 7};
    uint8_t noise[700];
    (void)state;
    fill(noise, sizeof(noise), 3);
    noise[0] |= 0x80;
    nonsense(RECORD_FULL, noise, sizeof(noise));
    nonsense(RECORD_FULL, kind_0, sizeof(kind_0));
    nonsense(RECORD_FULL, kind_9, sizeof(kind_9));
    nonsense(RECORD_FULL, twice, sizeof(twice));
    nonsense(RECORD_FULL, cut, sizeof(cut));
    nonsense(RECORD_FULL, more, sizeof(more));
}

static void a_change_that_changes_nothing_known_is_refused(void **state)
{
    uint8_t noise[700];
    (void)state;
    fill(noise, sizeof(noise), 4);
    noise[0] |= 0x80;
    nonsense(RECORD_DELTA, noise, sizeof(noise));
    nonsense(RECORD_DELTA, noise, 1);
}

/* Beyond these numbers somebody could count until they run out, and then an acknowledged change
 * would look older than what it replaced. */
static void numbers_that_could_run_out_are_refused(void **state)
{
    static const uint8_t second[] = {1, 1, 0, 0, 0, 6, 's', 'e', 'c', 'o', 'n', 'd'};
    static const struct {
        uint64_t generation, epoch;
        bool opens;
    } each[] = {{UINT64_MAX, 2, false},
                {2, UINT64_MAX, false},
                {UINT64_MAX / 8 * 7 + 1, 2, false},
                {2, UINT64_MAX / 8 * 7 + 1, false},
                {UINT64_MAX / 8 * 7, UINT64_MAX / 8 * 7, true}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        struct store_image im = image_of(&store_image_small, "first", 5);
        const struct record_head head = {each[i].generation, each[i].epoch, RECORD_FULL,
                                         sizeof(second)};
        struct store *s = NULL;
        struct store_look *look = NULL;
        struct qcow_disk *d = NULL;
        struct err e = {0};
        put_record(&im, AREA_CHECKPOINT_B, CHECKPOINT_B, &head, second);
        assert_int_equal(store_image_open(&im, &s, &e), each[i].opens ? 0 : -1);
        assert_int_equal(store_image_disk(&im, &d, &e), 0);
        assert_int_equal(store_look(d, &look, &e), each[i].opens ? 0 : -1);
        if (!each[i].opens)
            assert_int_equal(e.kind, ERR_UNSUPPORTED);
        store_free(s);
        store_look_free(look);
        qcow_disk_free(d);
        store_image_clear(&im);
    }
}

/* What is right passes by the same way. */
static void a_record_that_makes_sense_is_found(void **state)
{
    static const uint8_t second[] = {1, 1, 0, 0, 0, 6, 's', 'e', 'c', 'o', 'n', 'd'};
    struct store_image im = image_of(&store_image_small, "first", 5);
    const struct record_head head = {2, 2, RECORD_FULL, sizeof(second)};
    (void)state;
    put_record(&im, AREA_CHECKPOINT_B, CHECKPOINT_B, &head, second);
    struct store *s = opened(&im);
    assert_blob(s, BLOB_PERMANENT, "second", 6);
    assert_int_equal(stats_of(s).generation, 2);
    /* A kind that there is not is no blob. */
    assert_no_blob(s, (enum blob_kind)0);
    assert_no_blob(s, (enum blob_kind)(N_BLOBS + 1));
    store_free(s);
    store_image_clear(&im);
}

static void marks_are_equal_in_everything_or_not_at_all(void **state)
{
    const struct store_mark a = {.generation = 5, .epoch = 3, .mac = {1, 2, 3}};
    struct store_mark b = a;
    (void)state;
    assert_true(store_mark_equal(&a, &b));
    b.generation++;
    assert_false(store_mark_equal(&a, &b));
    assert_false(store_mark_equal(&b, &a));
    b = a;
    b.epoch++;
    assert_false(store_mark_equal(&a, &b));
    assert_false(store_mark_equal(&b, &a));
    for (size_t i = 0; i < sizeof(b.mac); i++) {
        b = a;
        b.mac[i] ^= 0x80;
        assert_false(store_mark_equal(&a, &b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checkpoint_without_a_state_in_it_is_refused),
        cmocka_unit_test(a_change_that_changes_nothing_known_is_refused),
        cmocka_unit_test(numbers_that_could_run_out_are_refused),
        cmocka_unit_test(a_record_that_makes_sense_is_found),
        cmocka_unit_test(marks_are_equal_in_everything_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
