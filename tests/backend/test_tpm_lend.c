/* A TPM without its store: while another host may have it, and before it has come. */
#include "store_double.h"

enum { INDEX = 0x01800001, SECRET_INDEX = 0x01800003, RC2_UNAVAILABLE = 0x923, PCR = 10 };
static const uint8_t data[32] = {0xa1, 0xb2, 0xc3};

static int setup_started(void **state)
{
    struct fixture *f = fixture_new(DEVICE_TPM20);
    start_clear(f);
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_pcr_extend(&f->c, PCR, data);
    TPM_OK(&f->run, &f->c);
    *state = f;
    return 0;
}

static void read_pcr(struct fixture *f, uint8_t ret[32])
{
    cmd2_pcr_read(&f->c, PCR);
    memcpy(ret, rsp2_pcr(TPM_OK(&f->run, &f->c)), 32);
}

static void lent_store_stops_commands_and_nothing_is_forgotten(void **state)
{
    struct fixture *f = *state;
    uint8_t before[32], after[32];
    read_pcr(f, before);
    struct store *s = tpm_lend_store(f->run.t);
    assert_ptr_equal(s, f->store);
    assert_null(tpm_store(f->run.t));
    assert_null(tpm_lend_store(f->run.t));
    assert_true(tpm_is_on(f->run.t));
    unsigned changes = s->changes;
    cmd2_pcr_extend(&f->c, PCR, data);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, RC2_UNAVAILABLE);
    cmd2_get_random(&f->c, 8);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, RC2_UNAVAILABLE);
    assert_int_equal(tpm_hash_start(f->run.t), 0x1f);
    assert_int_equal(tpm_reset_established(f->run.t, 3), 0x1f);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), -1);
    assert_int_equal(tpm_settle(f->run.t, &f->e), -1);
    assert_int_equal(s->changes, changes);

    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), 0);
    assert_null(s);
    read_pcr(f, after);
    assert_memory_equal(before, after, 32);
    cmd2_nv_write(&f->c, INDEX, data, 32, 0);
    TPM_OK(&f->run, &f->c);
    assert_int_equal(f->store->changes, changes + 1);
}

static void store_is_lent_for_good_when_the_tpm_is_stopped(void **state)
{
    struct fixture *f = *state;
    struct store *s = tpm_lend_store(f->run.t);
    tpm_power_off(f->run.t);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_says(&f->e, ERR_USAGE, "has no store");
    assert_false(tpm_is_on(f->run.t));
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
}

/* What a storage that refused has left behind belongs to that state of the store alone. */
static void failed_authorization_is_not_owed_to_another_state(void **state)
{
    struct fixture *f = *state;
    size_t n = 0;
    cmd2_nv_define_auth(&f->c, SECRET_INDEX, 8, 0, "right");
    TPM_OK(&f->run, &f->c);
    cmd2_nv_write(&f->c, SECRET_INDEX, data, 8, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    (void)tpm_run(&f->run, &f->c); /* the first use is stored, and to be repeated */
    TPM_OK(&f->run, &f->c);
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "wrong");
    f->store->refuse = -1;
    refused_for_storage(f, RC2_UNAVAILABLE);
    f->store->refuse = 0;
    uint8_t before[8192];
    const uint8_t *p = store_get(f->store, BLOB_PERMANENT, &n);
    assert_in_range(n, 1, sizeof(before));
    memcpy(before, p, n);
    struct store *s = tpm_lend_store(f->run.t);
    tpm_power_off(f->run.t);
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    p = store_get(f->store, BLOB_PERMANENT, &n);
    assert_memory_equal(p, before, n);
}

static void store_of_another_kind_of_tpm_is_not_taken(void **state)
{
    struct fixture *f = *state;
    struct store *own = tpm_lend_store(f->run.t);
    own->facts.device = DEVICE_TPM12;
    struct store *s = own;
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), -1);
    assert_says(&f->e, ERR_STATE_FOREIGN, "is for a TPM 1.2");
    assert_ptr_equal(s, own);
    own->facts.device = DEVICE_TPM20;
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), 0);
}

/* A target: the blobs come before the claim. */
static void waiting_tpm_takes_a_set_and_then_the_store(void **state)
{
    struct fixture *f = *state;
    struct secret *blob[2] = {NULL};
    size_t n[2], empty = 0;
    uint8_t before[32], after[32], origin[ORIGIN_BYTES] = {1, 1};
    read_pcr(f, before);
    for (int i = 0; i < 2; i++)
        assert_int_equal(tpm_export(f->run.t, (enum blob_kind)(i + 1), &blob[i], &n[i], &f->e), 0);
    assert_int_equal(tpm_kinds(f->run.t), 3);
    tpm_free(f->run.t);

    assert_int_equal(tpm_new_waiting(DEVICE_TPM20, &f->run.t, &f->e), 0);
    assert_int_equal(tpm_kinds(f->run.t), 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), -1); /* never a new TPM */
    cmd2_read_clock(&f->c);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, 0x101);
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            tpm_stage(f->run.t, (enum blob_kind)(i + 1), secret_peek(blob[i]), n[i], &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), -1);
    assert_says(&f->e, ERR_USAGE, "has no store");

    struct store *s = f->store = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->facts.device = DEVICE_TPM20; /* one that holds no TPM yet */
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), 0);
    tpm_set_origin(f->run.t, origin);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_int_equal(f->store->changes, 1); /* the set and where it comes from: one commit */
    const uint8_t *p = store_get(f->store, BLOB_ORIGIN, &empty);
    assert_non_null(p);
    assert_memory_equal(p, origin, sizeof(origin));
    read_pcr(f, after);
    assert_memory_equal(before, after, 32);
    origin[2] = 1;
    assert_int_equal(tpm_commit_origin(f->run.t, origin, &f->e), 0);
    assert_int_equal(f->store->changes, 2);
    for (int i = 0; i < 2; i++)
        secret_free(blob[i]);
}

static void origin_of_a_start_that_failed_is_not_that_of_the_next(void **state)
{
    struct fixture *f = *state;
    uint8_t origin[ORIGIN_BYTES] = {1, 1};
    size_t n;
    f->store->refuse = 1;
    tpm_set_origin(f->run.t, origin);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_says(&f->e, ERR_STORAGE, "the disk is full");
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_null(store_get(f->store, BLOB_ORIGIN, &n));
}

static void store_without_a_tpm_is_not_taken_without_a_set(void **state)
{
    struct fixture *f = *state;
    tpm_free(f->run.t);
    assert_int_equal(tpm_new_waiting(DEVICE_TPM20, &f->run.t, &f->e), 0);
    struct store *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->facts.device = DEVICE_TPM20;
    assert_int_equal(tpm_take_store(f->run.t, &s, &f->e), -1);
    assert_says(&f->e, ERR_STATE_EMPTY, "holds no TPM");
    assert_non_null(s);
    store_free(s);
}

/* What a target does before it says that it is ready. */
static void state_is_tried_and_nothing_of_it_stays(void **state)
{
    struct fixture *f = *state;
    struct store *s = tpm_lend_store(f->run.t);
    tpm_free(f->run.t);
    assert_int_equal(tpm_new_waiting(DEVICE_TPM20, &f->run.t, &f->e), 0);
    const struct store_look *look = (const struct store_look *)s;
    assert_int_equal(tpm_try(f->run.t, look, &f->e), 0);
    assert_int_equal(tpm_kinds(f->run.t), 0);
    s->blob[0][2] ^= 1; /* libtpms' magic */
    assert_int_equal(tpm_try(f->run.t, look, &f->e), -1);
    assert_says(&f->e, ERR_STATE_CORRUPT, "libtpms cannot read");
    assert_int_equal(tpm_kinds(f->run.t), 0);
    store_free(s);
}

int main(void)
{
#define STARTED(f) cmocka_unit_test_setup_teardown(f, setup_started, teardown)
    const struct CMUnitTest tests[] = {
        STARTED(lent_store_stops_commands_and_nothing_is_forgotten),
        STARTED(store_is_lent_for_good_when_the_tpm_is_stopped),
        STARTED(failed_authorization_is_not_owed_to_another_state),
        STARTED(store_of_another_kind_of_tpm_is_not_taken),
        STARTED(waiting_tpm_takes_a_set_and_then_the_store),
        STARTED(origin_of_a_start_that_failed_is_not_that_of_the_next),
        STARTED(store_without_a_tpm_is_not_taken_without_a_set),
        STARTED(state_is_tried_and_nothing_of_it_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
