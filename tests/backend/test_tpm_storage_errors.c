/* What the TPM 2.0 promises when its store refuses: the command did not happen. */
#include "store_double.h"

static const uint8_t data[32] = {0xa1, 0xb2, 0xc3};

enum { INDEX = 0x01800001, COUNTER = 0x01800002, SECRET_INDEX = 0x01800003, KEY = 0x81000001 };

static int setup(void **state)
{
    *state = fixture_new(DEVICE_TPM20);
    return 0;
}

/* Started, with an index, a counter, and a protected index that has been read once (the first use
 * of a dictionary attack protected entity after Startup is stored by itself). */
static int setup_busy(void **state)
{
    struct fixture *f = fixture_new(DEVICE_TPM20);
    start_clear(f);
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_write(&f->c, INDEX, "first", 5, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_define(&f->c, COUNTER, 8, NV2_COUNTER, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_increment(&f->c, COUNTER);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_define_auth(&f->c, SECRET_INDEX, 8, 0, "right");
    TPM_OK(&f->run, &f->c);
    cmd2_nv_write(&f->c, SECRET_INDEX, data, 8, 0);
    TPM_OK(&f->run, &f->c);
    *state = f;
    return 0;
}

static uint64_t counter(struct fixture *f)
{
    cmd2_nv_read(&f->c, COUNTER, 8, 0);
    const uint8_t *p = rsp2_nv(TPM_OK(&f->run, &f->c), 8);
    assert_non_null(p);
    return get_be64(p);
}

static void pcr(struct fixture *f, uint32_t nr, uint8_t ret[32])
{
    cmd2_pcr_read(&f->c, nr);
    const uint8_t *p = rsp2_pcr(TPM_OK(&f->run, &f->c));
    assert_non_null(p);
    memcpy(ret, p, 32);
}

/* S1.12 S1.17 S0.13 */
static void refused_nv_write_has_no_effect_and_the_next_one_works(void **state)
{
    struct fixture *f = *state;
    f->store->refuse = 1;
    cmd2_nv_write(&f->c, INDEX, "second", 6, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_read(&f->c, INDEX, 5, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 5), "first", 5);

    cmd2_nv_write(&f->c, INDEX, "second", 6, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_read(&f->c, INDEX, 6, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 6), "second", 6);
}

static void refused_increment_counts_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t before = counter(f);
    f->store->refuse = 3;
    for (int i = 0; i < 3; i++) {
        cmd2_nv_increment(&f->c, COUNTER);
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
        assert_int_equal(counter(f), before);
    }
    cmd2_nv_increment(&f->c, COUNTER);
    TPM_OK(&f->run, &f->c);
    assert_int_equal(counter(f), before + 1);
}

/* The first increment of an orderly counter is stored, the others live in memory. */
static void refused_orderly_increment_counts_nothing(void **state)
{
    struct fixture *f = *state;
    cmd2_nv_define(&f->c, 0x01800009, 8, NV2_COUNTER, NV2_ORDERLY);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd2_nv_increment(&f->c, 0x01800009);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_read(&f->c, 0x01800009, 8, 0);
    assert_int_not_equal(tpm_run(&f->run, &f->c).rc, 0); /* never written */
    for (int i = 0; i < 5; i++) {
        cmd2_nv_increment(&f->c, 0x01800009);
        TPM_OK(&f->run, &f->c);
    }
    cmd2_nv_read(&f->c, 0x01800009, 8, 0);
    uint64_t five = get_be64(rsp2_nv(TPM_OK(&f->run, &f->c), 8));
    f->store->refuse = 1; /* something else fails: what lives in memory is still there */
    cmd2_nv_write(&f->c, INDEX, "x", 1, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_read(&f->c, 0x01800009, 8, 0);
    assert_int_equal(get_be64(rsp2_nv(TPM_OK(&f->run, &f->c), 8)), five);
}

static uint64_t clock_of(struct fixture *f)
{
    cmd2_read_clock(&f->c);
    return get_be64(TPM_OK(&f->run, &f->c).body.at + 8); /* behind the time */
}

/* libtpms stores nothing for it. */
static void clock_that_was_set_is_durable_or_was_not_set(void **state)
{
    enum { HOUR = 3600000 };
    struct fixture *f = *state;
    struct err e;
    f->store->refuse = 1;
    cmd2_clock_set(&f->c, 200 * HOUR);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    assert_in_range(clock_of(f), 0, HOUR);
    cmd2_clock_set(&f->c, 100 * HOUR);
    TPM_OK(&f->run, &f->c);
    assert_int_equal(tpm_power_on(f->run.t, false, &e), 0); /* nothing was shut down */
    start_clear(f);
    assert_in_range(clock_of(f), 100 * HOUR, 101 * HOUR);
}

static void objects_sessions_and_pcrs_survive_a_refused_commit(void **state)
{
    struct fixture *f = *state;
    uint8_t pcr_before[32], pcr_after[32], policy[34], name[300];
    cmd2_create_signer(&f->c);
    uint32_t key = rsp2_handle(TPM_OK(&f->run, &f->c));
    cmd2_read_public(&f->c, key);
    struct tpm_rsp public = TPM_OK(&f->run, &f->c);
    size_t name_bytes = public.body.left;
    assert_in_range(name_bytes, 1, sizeof(name));
    memcpy(name, public.body.at, name_bytes);
    cmd2_pcr_extend(&f->c, 10, data);
    TPM_OK(&f->run, &f->c);
    cmd2_pcr_extend(&f->c, 16, data);
    TPM_OK(&f->run, &f->c);
    pcr(f, 10, pcr_before);
    cmd2_start_session(&f->c);
    uint32_t session = rsp2_handle(TPM_OK(&f->run, &f->c));
    cmd2_policy_pcr(&f->c, session, 10);
    TPM_OK(&f->run, &f->c);
    cmd2_policy_get_digest(&f->c, session);
    struct tpm_rsp digest = TPM_OK(&f->run, &f->c);
    bytes_copy_out(&digest.body, policy, sizeof(policy));
    assert_true(bytes_done(&digest.body));

    f->store->refuse = -1;
    for (int i = 0; i < 20; i++) {
        cmd2_nv_write(&f->c, INDEX, "second", 6, 0);
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
    }
    f->store->refuse = 0;

    cmd2_read_public(&f->c, key);
    public = TPM_OK(&f->run, &f->c);
    assert_int_equal(public.body.left, name_bytes);
    assert_memory_equal(public.body.at, name, name_bytes);
    cmd2_sign(&f->c, key, data);
    TPM_OK(&f->run, &f->c);
    pcr(f, 10, pcr_after);
    assert_memory_equal(pcr_after, pcr_before, 32);
    cmd2_policy_get_digest(&f->c, session);
    digest = TPM_OK(&f->run, &f->c);
    assert_memory_equal(digest.body.at, policy, sizeof(policy));
    cmd2_flush(&f->c, session);
    TPM_OK(&f->run, &f->c);
    cmd2_evict(&f->c, key, KEY);
    TPM_OK(&f->run, &f->c);
}

/* Each kind of command that stores: refused, and then the same command works. */
static void every_command_that_stores_can_be_refused(void **state)
{
    struct fixture *f = *state;
    cmd2_create_primary(&f->c);
    uint32_t key = rsp2_handle(TPM_OK(&f->run, &f->c));
    struct tpm_cmd each[10];
    size_t n = 0;
    cmd2_nv_define(&each[n++], 0x01800005, 16, NV2_ORDINARY, 0);
    cmd2_nv_write(&each[n++], 0x01800005, data, 16, 0);
    cmd2_nv_increment(&each[n++], COUNTER);
    cmd2_nv_undefine(&each[n++], 0x01800005);
    cmd2_evict(&each[n++], key, KEY);
    cmd2_evict(&each[n++], KEY, KEY); /* gone again */
    cmd2_da_reset(&each[n++]);
    cmd2_shutdown(&each[n++], SU_CLEAR);
    cmd2_shutdown(&each[n++], SU_STATE);
    cmd2_clear(&each[n++]);
    assert_int_equal(n, ARRAY_LEN(each));
    for (size_t i = 0; i < n; i++) {
        bool stores = get_be32(each[i].b + 6) != 0x139; /* nothing to reset */
        f->c = each[i];
        if (stores) {
            f->store->refuse = 1;
            refused_for_storage(f, RC2_NV_UNAVAILABLE);
        }
        unsigned changes = f->store->changes;
        f->c = each[i];
        TPM_OK(&f->run, &f->c);
        assert_int_equal(f->store->changes, changes + stores);
    }
}

static void refused_startup_leaves_the_tpm_not_started(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    f->store->refuse = 1;
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), -1);
    assert_int_equal(f->e.kind, ERR_STORAGE);
    cmd2_get_random(&f->c, 8);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, RC2_INITIALIZE);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), 0);
    TPM_OK(&f->run, &f->c);
}

/* A PCR extend stores only where it ends the orderly state that a Shutdown began. */
static void refused_extend_after_shutdown_extends_nothing(void **state)
{
    struct fixture *f = *state;
    uint8_t before[32], after[32];
    cmd2_pcr_extend(&f->c, 10, data);
    TPM_OK(&f->run, &f->c);
    for (int i = 0; i < 3; i++) {
        cmd2_shutdown(&f->c, SU_STATE);
        TPM_OK(&f->run, &f->c);
        pcr(f, 10, before);
        cmd2_pcr_extend(&f->c, 23, data); /* not a saved one: nothing to store */
        TPM_OK(&f->run, &f->c);
        f->store->refuse = 1;
        cmd2_pcr_extend(&f->c, 10, data);
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
        pcr(f, 10, after);
        assert_memory_equal(before, after, 32);
        unsigned changes = f->store->changes;
        cmd2_pcr_extend(&f->c, 10, data);
        TPM_OK(&f->run, &f->c);
        pcr(f, 10, after);
        assert_memory_not_equal(before, after, 32);
        assert_int_equal(f->store->changes, changes + 1);
    }
}

/* A store that refuses must not make guessing free: failures that could not be stored count all the
 * same, through a power cycle, and reach the store when it works again. */
static void guesses_are_counted_while_the_store_refuses(void **state)
{
    enum { LOCKOUT = 0x921, MAX_TRIES = 3 };
    struct fixture *f = *state;
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    (void)tpm_run(&f->run, &f->c);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = -1;
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "wrong");
    for (int i = 0; i < MAX_TRIES; i++)
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_write(&f->c, INDEX, "second", 6, 0); /* going back for others forgets nothing */
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    assert_int_equal(tpm_run(&f->run, &f->c).rc, LOCKOUT);

    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    f->store->refuse = 0;
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), 0);
    cmd2_nv_read(&f->c, INDEX, 5, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 5), "first", 5);
    start_clear(f); /* from the store alone now */
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    assert_int_equal(tpm_run(&f->run, &f->c).rc, LOCKOUT);
    cmd2_da_reset(&f->c);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    (void)tpm_run(&f->run, &f->c);
    TPM_OK(&f->run, &f->c);
}

/* What was owed is forgotten once it was stored: going back later leads to the newest state. */
static void counted_guesses_are_stored_once(void **state)
{
    struct fixture *f = *state;
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    (void)tpm_run(&f->run, &f->c);
    f->store->refuse = 1;
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "wrong");
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_write(&f->c, INDEX, "newer", 5, 0);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd2_nv_write(&f->c, INDEX, "never", 5, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    cmd2_nv_read(&f->c, INDEX, 5, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 5), "newer", 5);
}

static void protected_index_is_refused_where_failures_cannot_be_counted(void **state)
{
    struct fixture *f = *state;
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    f->store->refuse = 1; /* the first use since Startup is stored by itself */
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    assert_int_equal(tpm_run(&f->run, &f->c).rc, 0x922); /* TPM_RC_RETRY, as libtpms has it */
    TPM_OK(&f->run, &f->c);
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "wrong");
    assert_int_equal(tpm_run(&f->run, &f->c).rc, 0x98e); /* TPM_RC_AUTH_FAIL, session 1 */
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 8), data, 8);
}

static void refused_extend_of_a_resumed_orderly_tpm_extends_nothing(void **state)
{
    struct fixture *f = *state;
    uint8_t before[32], after[32];
    cmd2_pcr_extend(&f->c, 10, data);
    TPM_OK(&f->run, &f->c);
    cmd2_shutdown(&f->c, SU_STATE);
    TPM_OK(&f->run, &f->c);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    /* In another process, as it were: nothing is known about its last command. */
    struct store *s = calloc(1, sizeof(*s));
    s->facts = f->store->facts;
    for (size_t i = 0; i < 2; i++)
        double_put(s, (enum blob_kind)(i + 1), f->store->blob[i], f->store->n[i]);
    tpm_free(f->run.t);
    f->store = s;
    assert_int_equal(tpm_new(&s, &f->run.t, &f->e), 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    pcr(f, 10, before);
    f->store->refuse = 1;
    cmd2_pcr_extend(&f->c, 10, data);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    pcr(f, 10, after);
    assert_memory_equal(before, after, 32);
}

/* --- what writes nothing --- */

static void reading_and_extending_commit_nothing(void **state)
{
    struct fixture *f = *state;
    cmd2_create_primary(&f->c);
    uint32_t key = rsp2_handle(TPM_OK(&f->run, &f->c));
    cmd2_nv_read_auth(&f->c, SECRET_INDEX, 8, "right");
    (void)tpm_run(&f->run, &f->c);
    struct tpm_cmd each[12];
    size_t n = 0;
    cmd2_get_random(&each[n++], 32);
    cmd2_pcr_extend(&each[n++], 0, data);
    cmd2_pcr_extend(&each[n++], 16, data);
    cmd2_pcr_read(&each[n++], 0);
    cmd2_get_capability(&each[n++], 6, 0x100, 20);
    cmd2_read_clock(&each[n++]);
    cmd2_self_test(&each[n++]);
    cmd2_read_public(&each[n++], key);
    cmd2_nv_read(&each[n++], INDEX, 5, 0);
    cmd2_nv_read_auth(&each[n++], SECRET_INDEX, 8, "right");
    cmd2_nv_write(&each[n++], INDEX, "first", 5, 0); /* what is there already */
    cmd2_da_reset(&each[n++]);                       /* nothing to reset */
    assert_int_equal(n, ARRAY_LEN(each));
    f->store->refuse = -1; /* whoever stores is caught */
    for (size_t i = 0; i < n * 3; i++) {
        f->c = each[i % n];
        TPM_OK(&f->run, &f->c);
    }
}

/* --- where even the way back fails --- */

static void tpm_that_cannot_go_back_says_so_until_it_can(void **state)
{
    struct fixture *f = *state;
    struct secret *copy = NULL;
    bool established;
    size_t n;
    f->store->refuse = 1;
    f->store->spoil = true;
    cmd2_nv_write(&f->c, INDEX, "second", 6, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    assert_says(&f->run.e, ERR_STORAGE, "could not be put back yet");

    for (int i = 0; i < 3; i++) {
        cmd2_get_random(&f->c, 8);
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
        assert_says(&f->run.e, ERR_STORAGE, "could not be put back yet");
    }
    assert_true(tpm_is_on(f->run.t));
    assert_int_equal(tpm_established(f->run.t, &established), 0x1f);
    assert_int_equal(tpm_hash_start(f->run.t), 0x1f);
    assert_int_equal(tpm_reset_established(f->run.t, 4), 0x1f);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), -1);
    assert_int_equal(tpm_orderly_shutdown(f->run.t, &f->e), -1);
    assert_int_equal(tpm_export(f->run.t, BLOB_VOLATILE, &copy, &n, &f->e), -1);
    assert_null(copy);
    assert_int_equal(tpm_export(f->run.t, BLOB_PERMANENT, &copy, &n, &f->e), 0);
    assert_int_equal(n, f->store->n[0]);
    secret_free(copy);

    /* What stood in the way is gone: it goes on from before that command, without a restart. */
    f->store->spoil = false;
    f->store->blob[0][2] ^= 1;
    cmd2_nv_read(&f->c, INDEX, 5, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 5), "first", 5);
    cmd2_nv_write(&f->c, INDEX, "second", 6, 0);
    TPM_OK(&f->run, &f->c);
    start_clear(f);
    cmd2_nv_read(&f->c, INDEX, 6, 0);
    assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 6), "second", 6);
}

static void refused_volatile_store_changes_nothing(void **state)
{
    struct fixture *f = *state;
    f->store->refuse = 1;
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), -1);
    assert_int_equal(f->e.kind, ERR_STORAGE);
    assert_null(f->store->blob[BLOB_VOLATILE - 1]);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    assert_non_null(f->store->blob[BLOB_VOLATILE - 1]);
}

static void refused_orderly_shutdown_is_reported(void **state)
{
    struct fixture *f = *state;
    f->store->refuse = 1;
    assert_int_equal(tpm_orderly_shutdown(f->run.t, &f->e), -1);
    assert_says(&f->e, ERR_STORAGE, "the disk is full");
    unsigned changes = f->store->changes;
    assert_int_equal(tpm_orderly_shutdown(f->run.t, &f->e), 0);
    assert_int_equal(f->store->changes, changes + 1);
    f->store->refuse = -1; /* the second time there is nothing to do */
    assert_int_equal(tpm_orderly_shutdown(f->run.t, &f->e), 0);
}

/* Nothing in libtpms' hands is half done when a long run of refusals ends. */
static void thousand_refusals_leave_the_tpm_as_it_was(void **state)
{
    struct fixture *f = *state;
    uint64_t before = counter(f);
    uint8_t random[2][32];
    f->store->refuse = -1;
    for (int i = 0; i < 1000; i++) {
        cmd2_nv_increment(&f->c, COUNTER);
        refused_for_storage(f, RC2_NV_UNAVAILABLE);
    }
    f->store->refuse = 0;
    assert_int_equal(counter(f), before);
    for (int i = 0; i < 2; i++) {
        cmd2_get_random(&f->c, 32);
        struct tpm_rsp r = TPM_OK(&f->run, &f->c);
        bytes_skip(&r.body, 2);
        bytes_copy_out(&r.body, random[i], 32);
    }
    assert_memory_not_equal(random[0], random[1], 32);
}

#define WITH(setup_fn, test) cmocka_unit_test_setup_teardown(test, setup_fn, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(setup_busy, refused_nv_write_has_no_effect_and_the_next_one_works),
        WITH(setup_busy, refused_increment_counts_nothing),
        WITH(setup_busy, refused_orderly_increment_counts_nothing),
        WITH(setup_busy, clock_that_was_set_is_durable_or_was_not_set),
        WITH(setup_busy, objects_sessions_and_pcrs_survive_a_refused_commit),
        WITH(setup_busy, every_command_that_stores_can_be_refused),
        WITH(setup, refused_startup_leaves_the_tpm_not_started),
        WITH(setup_busy, refused_extend_after_shutdown_extends_nothing),
        WITH(setup_busy, refused_extend_of_a_resumed_orderly_tpm_extends_nothing),
        WITH(setup_busy, guesses_are_counted_while_the_store_refuses),
        WITH(setup_busy, counted_guesses_are_stored_once),
        WITH(setup_busy, protected_index_is_refused_where_failures_cannot_be_counted),
        WITH(setup_busy, reading_and_extending_commit_nothing),
        WITH(setup_busy, tpm_that_cannot_go_back_says_so_until_it_can),
        WITH(setup_busy, refused_volatile_store_changes_nothing),
        WITH(setup_busy, refused_orderly_shutdown_is_reported),
        WITH(setup_busy, thousand_refusals_leave_the_tpm_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
