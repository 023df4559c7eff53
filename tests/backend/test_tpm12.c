/* TPM 1.2: three blobs, and a store that refuses. */
#include "store_double.h"

enum { INDEX = 0x10, NV_LOCK = 0xffffffff };
static const uint8_t digest[20] = {0xd1, 0xd2};

static int setup(void **state)
{
    *state = fixture_new(DEVICE_TPM12);
    return 0;
}

static int setup_started(void **state)
{
    struct fixture *f = fixture_new(DEVICE_TPM12);
    start_clear(f);
    *state = f;
    return 0;
}

static void pcr(struct fixture *f, uint8_t ret[20])
{
    cmd1_pcr_read(&f->c, 10);
    const uint8_t *p = rsp1_pcr(TPM_OK(&f->run, &f->c));
    assert_non_null(p);
    memcpy(ret, p, 20);
}

static void off_tpm_answers_every_command_with_fail(void **state)
{
    struct fixture *f = *state;
    bool established;
    cmd1_startup(&f->c, ST_CLEAR);
    struct tpm_rsp r = tpm_run(&f->run, &f->c);
    assert_int_equal(r.rc, RC1_FAIL);
    assert_int_equal(r.tag, 0xc4);
    assert_int_equal(tpm_established(f->run.t, &established), RC1_BAD_ORDINAL);
    assert_int_equal(f->store->changes, 0);
}

static void nv_survives_a_power_cut(void **state)
{
    struct fixture *f = *state;
    cmd1_nv_define(&f->c, INDEX, 16);
    TPM_OK(&f->run, &f->c);
    assert_int_equal(f->store->changes, 1);
    cmd1_nv_write(&f->c, INDEX, "written", 7, 0);
    TPM_OK(&f->run, &f->c);
    start_clear(f);
    cmd1_nv_read(&f->c, INDEX, 7, 0);
    assert_memory_equal(rsp1_nv(TPM_OK(&f->run, &f->c), 7), "written", 7);
}

static void saved_state_comes_and_goes_in_the_store(void **state)
{
    struct fixture *f = *state;
    uint8_t **saved = &f->store->blob[BLOB_SAVESTATE - 1];
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    pcr(f, before);
    cmd1_save_state(&f->c);
    TPM_OK(&f->run, &f->c);
    assert_non_null(*saved);
    cmd1_get_random(&f->c, 8); /* whatever comes next makes it void */
    TPM_OK(&f->run, &f->c);
    assert_null(*saved);
    cmd1_save_state(&f->c);
    TPM_OK(&f->run, &f->c);
    tpm_power_off(f->run.t);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_STATE, &f->e), 0);
    assert_null(*saved);
    pcr(f, after);
    assert_memory_equal(before, after, 20);
}

static void all_three_blobs_move_to_another_tpm(void **state)
{
    struct fixture *f = *state;
    struct secret *blob[N_TPM_BLOBS] = {NULL};
    size_t n[N_TPM_BLOBS];
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    pcr(f, before);
    cmd1_oiap(&f->c);
    TPM_OK(&f->run, &f->c);
    cmd1_save_state(&f->c);
    TPM_OK(&f->run, &f->c);
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        assert_int_equal(tpm_export(f->run.t, (enum blob_kind)(i + 1), &blob[i], &n[i], &f->e), 0);
        assert_in_range(n[i], 900, 2000);
    }

    tpm_free(f->run.t);
    struct store *s = f->store = new_store(DEVICE_TPM12);
    assert_int_equal(tpm_new(&s, &f->run.t, &f->e), 0);
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        assert_int_equal(
            tpm_stage(f->run.t, (enum blob_kind)(i + 1), secret_peek(blob[i]), n[i], &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_int_equal(f->store->changes, 1);
    assert_non_null(f->store->blob[BLOB_SAVESTATE - 1]);
    pcr(f, after);
    assert_memory_equal(before, after, 20);
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(blob[i]);
}

static void stored_volatile_state_is_resumed(void **state)
{
    struct fixture *f = *state;
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    pcr(f, before);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), -1);
    assert_says(&f->e, ERR_USAGE, "started already");
    pcr(f, after);
    assert_memory_equal(before, after, 20);
}

/* --- a store that refuses --- */

/* S1.12 S1.17 */
static void refused_commands_have_no_effect_and_work_later(void **state)
{
    struct fixture *f = *state;
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    pcr(f, before);
    f->store->refuse = 1;
    cmd1_nv_define(&f->c, INDEX, 16);
    refused_for_storage(f, RC1_RETRY);
    assert_int_equal(rsp_of(f->run.resp, 10).tag, 0xc4);
    pcr(f, after);
    assert_memory_equal(before, after, 20);
    cmd1_nv_read(&f->c, INDEX, 4, 0);
    assert_int_not_equal(tpm_run(&f->run, &f->c).rc, 0); /* there is no such index */
    cmd1_nv_define(&f->c, INDEX, 16);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd1_nv_write(&f->c, INDEX, "lost", 4, 0);
    refused_for_storage(f, RC1_RETRY);
    cmd1_nv_write(&f->c, INDEX, "kept", 4, 0);
    TPM_OK(&f->run, &f->c);
    cmd1_nv_read(&f->c, INDEX, 4, 0);
    assert_memory_equal(rsp1_nv(TPM_OK(&f->run, &f->c), 4), "kept", 4);
}

/* Even GetRandom stores, where it makes a saved state void. */
static void saved_state_that_cannot_be_dropped_refuses_the_next_command(void **state)
{
    struct fixture *f = *state;
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd1_save_state(&f->c);
    refused_for_storage(f, RC1_RETRY);
    assert_null(f->store->blob[BLOB_SAVESTATE - 1]);
    pcr(f, before);
    cmd1_save_state(&f->c);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd1_extend(&f->c, 10, digest);
    refused_for_storage(f, RC1_RETRY);
    assert_non_null(f->store->blob[BLOB_SAVESTATE - 1]);
    pcr(f, after); /* this one drops it */
    assert_memory_equal(before, after, 20);
    assert_null(f->store->blob[BLOB_SAVESTATE - 1]);
}

static void refused_startup_leaves_the_saved_state(void **state)
{
    struct fixture *f = *state;
    uint8_t before[20], after[20];
    cmd1_extend(&f->c, 10, digest);
    TPM_OK(&f->run, &f->c);
    pcr(f, before);
    cmd1_save_state(&f->c);
    TPM_OK(&f->run, &f->c);
    tpm_power_off(f->run.t);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    f->store->refuse = 1;
    assert_int_equal(tpm_startup(f->run.t, STARTUP_STATE, &f->e), -1);
    assert_int_equal(f->e.kind, ERR_STORAGE);
    assert_non_null(f->store->blob[BLOB_SAVESTATE - 1]);
    cmd1_get_random(&f->c, 8);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, RC1_INVALID_POSTINIT);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_STATE, &f->e), 0);
    pcr(f, after);
    assert_memory_equal(before, after, 20);
}

static void session_survives_a_refused_commit(void **state)
{
    enum { FLUSH_SPECIFIC = 0xba, RT_AUTH = 2 };
    struct fixture *f = *state;
    cmd1_oiap(&f->c);
    uint32_t session = rsp2_handle(TPM_OK(&f->run, &f->c));
    f->store->refuse = 1;
    cmd1_nv_define(&f->c, INDEX, 16);
    refused_for_storage(f, RC1_RETRY);
    uint8_t flush[18] = {0, 0xc1, 0, 0, 0, sizeof(flush)};
    put_be32(flush + 6, FLUSH_SPECIFIC);
    put_be32(flush + 10, session);
    put_be32(flush + 14, RT_AUTH);
    assert_int_equal(tpm_run_bytes(&f->run, flush, sizeof(flush)).rc, 0);
    assert_int_not_equal(tpm_run_bytes(&f->run, flush, sizeof(flush)).rc, 0); /* it is gone now */
}

/* The flag is kept in NV, and set by the hash sequence, which is no command. */
static void refused_measured_launch_sets_nothing(void **state)
{
    struct fixture *f = *state;
    bool established = true;
    assert_int_equal(tpm_established(f->run.t, &established), 0);
    assert_false(established);
    f->store->refuse = 1;
    assert_int_equal(tpm_hash_start(f->run.t), 0x1f);
    assert_int_equal(tpm_established(f->run.t, &established), 0);
    assert_false(established);
    assert_int_equal(tpm_hash_start(f->run.t), 0);
    assert_int_equal(tpm_hash_data(f->run.t, digest, sizeof(digest)), 0);
    assert_int_equal(tpm_hash_end(f->run.t), 0);
    assert_int_equal(tpm_established(f->run.t, &established), 0);
    assert_true(established);
    f->store->refuse = 1;
    assert_int_equal(tpm_reset_established(f->run.t, 3), 0x1f);
    assert_int_equal(tpm_established(f->run.t, &established), 0);
    assert_true(established);
    assert_int_equal(tpm_reset_established(f->run.t, 1), 0x3d);
    assert_int_equal(tpm_reset_established(f->run.t, 3), 0);
    assert_int_equal(tpm_established(f->run.t, &established), 0);
    assert_false(established);
}

static void damaged_state_is_refused(void **state)
{
    struct fixture *f = *state;
    tpm_free(f->run.t);
    f->run.t = NULL;
    struct store *s = f->store = new_store(DEVICE_TPM12);
    for (size_t at = 0; at < s->n[0]; at += 101) {
        s->blob[0][at] ^= 4;
        assert_int_equal(tpm_new(&s, &f->run.t, &f->e), -1);
        assert_says(&f->e, ERR_STATE_CORRUPT, "cannot read the stored TPM state");
        s->blob[0][at] ^= 4;
    }
    assert_int_equal(s->changes, 0);
    assert_int_equal(tpm_new(&s, &f->run.t, &f->e), 0);
}

/* A TPM 2.0's state in an image that says TPM 1.2, and the reverse. */
static void state_of_the_other_kind_is_refused(void **state)
{
    struct fixture *f = *state;
    tpm_free(f->run.t);
    f->run.t = NULL;
    for (int i = 1; i <= 2; i++) {
        struct store *s = new_store((enum device_kind)i);
        s->facts.device = (enum device_kind)(3 - i);
        assert_int_equal(tpm_new(&s, &f->run.t, &f->e), -1);
        assert_int_equal(f->e.kind, ERR_STATE_CORRUPT);
        store_free(s);
    }
}

static void deactivated_startup_deactivates(void **state)
{
    struct fixture *f = *state;
    enum { DEACTIVATED = 6 };
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_DEACTIVATED, &f->e), 0);
    cmd1_get_random(&f->c, 8);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, DEACTIVATED);
    assert_int_equal(tpm_orderly_shutdown(f->run.t, &f->e), 0); /* nothing to do for a 1.2 */
}

#define WITH(setup_fn, test) cmocka_unit_test_setup_teardown(test, setup_fn, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(setup, off_tpm_answers_every_command_with_fail),
        WITH(setup_started, nv_survives_a_power_cut),
        WITH(setup_started, saved_state_comes_and_goes_in_the_store),
        WITH(setup_started, all_three_blobs_move_to_another_tpm),
        WITH(setup_started, stored_volatile_state_is_resumed),
        WITH(setup_started, refused_commands_have_no_effect_and_work_later),
        WITH(setup_started, saved_state_that_cannot_be_dropped_refuses_the_next_command),
        WITH(setup_started, refused_startup_leaves_the_saved_state),
        WITH(setup_started, session_survives_a_refused_commit),
        WITH(setup_started, refused_measured_launch_sets_nothing),
        WITH(setup, damaged_state_is_refused),
        WITH(setup, state_of_the_other_kind_is_refused),
        WITH(setup, deactivated_startup_deactivates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
