/* The state as a whole: what is exported, staged, stored to be resumed, and refused. */
#include <stdio.h>
#include <sys/wait.h>

#include "src/base/fd.h"
#include "store_double.h"

enum { INDEX = 0x01800001, ORDERLY = 0x01800002 };
static const uint8_t data[32] = {0xa1, 0xb2, 0xc3};

static int setup(void **state)
{
    *state = fixture_new(DEVICE_TPM20);
    return 0;
}

static int setup_started(void **state)
{
    struct fixture *f = fixture_new(DEVICE_TPM20);
    start_clear(f);
    *state = f;
    return 0;
}

/* --- what is moved from one TPM to another, as plain bytes --- */

struct parcel {
    uint8_t blob[N_TPM_BLOBS][32768];
    uint32_t n[N_TPM_BLOBS];
};

static void pack(struct fixture *f, struct parcel *ret)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        OWNED(secret) s = NULL;
        size_t n;
        assert_int_equal(tpm_export(f->run.t, (enum blob_kind)(i + 1), &s, &n, &f->e), 0);
        assert_in_range(n, 0, sizeof(ret->blob[i]));
        assert_int_equal(n == 0, !s);
        ret->n[i] = (uint32_t)n;
        if (s)
            memcpy(ret->blob[i], secret_peek(s), n);
    }
}

static int stage(struct fixture *f, enum blob_kind kind, const struct parcel *p)
{
    return tpm_stage(f->run.t, kind, p->blob[kind - 1], p->n[kind - 1], &f->e);
}

static void stage_all(struct fixture *f, const struct parcel *p)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (stage(f, (enum blob_kind)(i + 1), p) != 0)
            fail_msg("%s", f->e.text);
}

/* --- a living TPM moves --- */

/* What the source leaves behind; the handles are those libtpms gives first. */
enum { FIRST_OBJECT = 0x80000000, FIRST_POLICY = 0x03000000 };

static void busy(struct fixture *f)
{
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_write(&f->c, INDEX, data, 32, 0);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_define(&f->c, ORDERLY, 8, NV2_COUNTER, NV2_ORDERLY);
    TPM_OK(&f->run, &f->c);
    for (int i = 0; i < 5; i++) { /* all but the first are in memory only */
        cmd2_nv_increment(&f->c, ORDERLY);
        TPM_OK(&f->run, &f->c);
    }
    cmd2_pcr_extend(&f->c, 10, data);
    TPM_OK(&f->run, &f->c);
    cmd2_create_signer(&f->c);
    assert_int_equal(rsp2_handle(TPM_OK(&f->run, &f->c)), FIRST_OBJECT);
    cmd2_start_session(&f->c);
    assert_int_equal(rsp2_handle(TPM_OK(&f->run, &f->c)), FIRST_POLICY);
    cmd2_policy_pcr(&f->c, FIRST_POLICY, 10);
    TPM_OK(&f->run, &f->c);
}

/* Everything that busy() left, in one row of bytes. */
static size_t observe(struct fixture *f, uint8_t ret[1024])
{
    struct tpm_cmd each[5];
    size_t at = 0;
    cmd2_nv_read(&each[0], INDEX, 32, 0);
    cmd2_nv_read(&each[1], ORDERLY, 8, 0);
    cmd2_pcr_read(&each[2], 10);
    cmd2_read_public(&each[3], FIRST_OBJECT);
    cmd2_policy_get_digest(&each[4], FIRST_POLICY);
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        struct tpm_rsp r = TPM_OK(&f->run, &each[i]);
        assert_in_range(r.body.left, 1, 1024 - at);
        memcpy(ret + at, r.body.at, r.body.left);
        at += r.body.left;
    }
    return at;
}

/* The source lives in a process of its own, so that nothing but the blobs can get across. */
static void living_tpm_moves_with_pcrs_objects_sessions_and_orderly_counters(void **state)
{
    struct parcel *parcel = calloc(1, sizeof(*parcel));
    uint8_t before[1024], after[1024];
    uint32_t n_before;
    int pipe_fd[2], status;
    (void)state;
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t child = fork();
    if (child == 0) {
        struct fixture *f = fixture_new(DEVICE_TPM20);
        start_clear(f);
        busy(f);
        n_before = (uint32_t)observe(f, before);
        pack(f, parcel);
        bool sent = fd_write_full(pipe_fd[1], &n_before, 4) == 0 &&
                    fd_write_full(pipe_fd[1], before, n_before) == 0 &&
                    fd_write_full(pipe_fd[1], parcel, sizeof(*parcel)) == 0;
        _exit(sent ? 0 : 1);
    }
    close(pipe_fd[1]);
    assert_int_equal(fd_read_full(pipe_fd[0], &n_before, 4), 4);
    assert_in_range(n_before, 1, sizeof(before));
    assert_int_equal(fd_read_full(pipe_fd[0], before, n_before), n_before);
    assert_int_equal(fd_read_full(pipe_fd[0], parcel, sizeof(*parcel)), sizeof(*parcel));
    close(pipe_fd[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(parcel->n[BLOB_SAVESTATE - 1], 0);

    struct fixture *f = fixture_new(DEVICE_TPM20);
    stage_all(f, parcel);
    assert_int_equal(f->store->changes, 0);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_int_equal(f->store->changes, 1); /* one generation */
    assert_int_equal(observe(f, after), n_before);
    assert_memory_equal(after, before, n_before);
    cmd2_sign(&f->c, FIRST_OBJECT, data);
    TPM_OK(&f->run, &f->c);
    cmd2_nv_write(&f->c, INDEX, "moved", 5, 0);
    TPM_OK(&f->run, &f->c);
    assert_null(f->store->blob[BLOB_VOLATILE - 1]);
    void *fixture = f;
    teardown(&fixture);
    free(parcel);
}

static size_t read_golden(const char *name, uint8_t *ret, size_t room)
{
    enum { ENVELOPE = 22 }; /* of swtpm's wire form; migration/blob.h */
    char path[4096];
    const char *top = getenv("NVKEEP_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/blob/%s", top ? top : ".", name);
    FILE *in = fopen(path, "rb");
    if (!in || fseek(in, ENVELOPE, SEEK_SET) != 0)
        fail_msg("cannot read %s", path);
    size_t n = fread(ret, 1, room, in);
    fclose(in);
    return n;
}

static void state_saved_by_swtpm_is_resumed(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    p->n[0] = (uint32_t)read_golden("wire_tpm2_permanent", p->blob[0], sizeof(p->blob[0]));
    p->n[1] = (uint32_t)read_golden("wire_tpm2_volatile", p->blob[1], sizeof(p->blob[1]));
    stage_all(f, p);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    cmd2_get_random(&f->c, 8);
    TPM_OK(&f->run, &f->c); /* it was started up there */
    free(p);
}

/* --- export --- */

static void export_gives_what_is_stored_and_the_living_volatile_state(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    pack(f, p);
    assert_int_equal(p->n[0], f->store->n[0]);
    assert_memory_equal(p->blob[0], f->store->blob[0], p->n[0]);
    assert_in_range(p->n[1], 1000, 32768);
    tpm_power_off(f->run.t);
    pack(f, p);
    assert_int_equal(p->n[0], f->store->n[0]);
    assert_int_equal(p->n[1], 0); /* it was not stored */
    free(p);
}

/* A write that was refused must not travel. */
static void refused_write_is_not_exported(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd2_nv_write(&f->c, INDEX, "REFUSED-REFUSED-REFUSED-REFUSED", 31, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    pack(f, p);
    assert_null(memmem(p->blob[0], p->n[0], "REFUSED-", 8));
    assert_null(memmem(p->blob[1], p->n[1], "REFUSED-", 8));
    cmd2_nv_write(&f->c, INDEX, "REFUSED-REFUSED-REFUSED-REFUSED", 31, 0);
    TPM_OK(&f->run, &f->c);
    pack(f, p);
    assert_non_null(memmem(p->blob[0], p->n[0], "REFUSED-", 8));
    free(p);
}

/* --- a volatile state in the store --- */

static void stored_volatile_state_is_resumed_and_may_be_kept_or_dropped(void **state)
{
    struct fixture *f = *state;
    uint8_t before[1024], after[1024];
    busy(f);
    size_t n = observe(f, before);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    for (int keep = 1; keep >= 0; keep--) {
        tpm_power_off(f->run.t);
        assert_int_equal(tpm_power_on(f->run.t, !keep, &f->e), 0);
        assert_int_equal(observe(f, after), n);
        assert_memory_equal(before, after, n);
        assert_int_equal(f->store->blob[BLOB_VOLATILE - 1] != NULL, keep);
        assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), -1);
        assert_says(&f->e, ERR_USAGE, "started already");
    }
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), 0);
}

static void stored_volatile_state_goes_when_the_permanent_state_moves_on(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    cmd2_pcr_extend(&f->c, 10, data);
    TPM_OK(&f->run, &f->c);
    assert_non_null(f->store->blob[BLOB_VOLATILE - 1]);
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    f->store->refuse = 1;
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    assert_non_null(f->store->blob[BLOB_VOLATILE - 1]);
    TPM_OK(&f->run, &f->c);
    assert_null(f->store->blob[BLOB_VOLATILE - 1]);
}

static void volatile_state_that_cannot_be_dropped_keeps_the_tpm_off(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    f->store->refuse = 1;
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), -1);
    assert_int_equal(f->e.kind, ERR_STORAGE);
    assert_false(tpm_is_on(f->run.t));
    assert_non_null(f->store->blob[BLOB_VOLATILE - 1]);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_null(f->store->blob[BLOB_VOLATILE - 1]);
}

/* --- what is refused --- */

struct damage {
    size_t at;
    uint8_t bits;
    enum err_kind kind;
    const char *says;
};
static const struct damage damages[] = {
    {2, 0x01, ERR_STATE_CORRUPT, "result 0x1e"},                  /* magic */
    {9, 0x08, ERR_UNSUPPORTED, "was written by a newer libtpms"}, /* least version */
    {100, 0x01, ERR_STATE_CORRUPT, "restore a good copy"},
};

/* S1.9 S3.10 */
static void unreadable_stored_state_is_refused_before_there_is_a_tpm(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(damages); i++) {
        struct store *s = new_store(DEVICE_TPM20), *seen = s;
        struct tpm *t = NULL;
        struct err e = {0};
        s->blob[0][damages[i].at] ^= damages[i].bits;
        assert_int_equal(tpm_new(&s, &t, &e), -1);
        assert_says(&e, damages[i].kind, damages[i].says);
        assert_null(t);
        assert_ptr_equal(s, seen);
        assert_int_equal(s->changes, 0);
        s->blob[0][damages[i].at] ^= damages[i].bits;
        for (size_t n = 0; n < s->n[0]; n += 1 + n / 3) {
            size_t whole = s->n[0];
            s->n[0] = n;
            assert_int_equal(tpm_new(&s, &t, &e), -1);
            assert_int_equal(e.kind, ERR_STATE_CORRUPT);
            s->n[0] = whole;
        }
        assert_int_equal(tpm_new(&s, &t, &e), 0);
        tpm_free(t);
    }
}

static void vanished_state_is_not_replaced_by_a_new_tpm(void **state)
{
    struct fixture *f = *state;
    uint8_t *kept = f->store->blob[0];
    f->store->blob[0] = NULL;
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_int_equal(f->e.kind, ERR_STATE_EMPTY);
    assert_false(tpm_is_on(f->run.t));
    assert_int_equal(f->store->changes, 0);
    f->store->blob[0] = kept;
    start_clear(f);
}

static void damaged_staged_blob_forgets_the_set_until_a_new_one_is_begun(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    pack(f, p);
    tpm_power_off(f->run.t);
    for (size_t i = 0; i < ARRAY_LEN(damages); i++) {
        stage_all(f, p);
        p->blob[0][damages[i].at] ^= damages[i].bits;
        assert_int_equal(stage(f, BLOB_PERMANENT, p), -1);
        assert_says(&f->e, damages[i].kind, damages[i].says);
        p->blob[0][damages[i].at] ^= damages[i].bits;
        assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
        assert_says(&f->e, damages[i].kind, damages[i].says);
        assert_int_equal(stage(f, BLOB_VOLATILE, p), -1);
        assert_says(&f->e, damages[i].kind, damages[i].says);
        OWNED(secret) shown = NULL;
        size_t n;
        assert_int_equal(tpm_export(f->run.t, BLOB_VOLATILE, &shown, &n, &f->e), 0);
        assert_null(shown);
    }
    stage_all(f, p);
    p->blob[1][500] ^= 1;
    assert_int_equal(stage(f, BLOB_VOLATILE, p), -1);
    assert_says(&f->e, ERR_STATE_CORRUPT, "volatile state handed in");
    OWNED(secret) forgotten = NULL;
    size_t n;
    assert_int_equal(tpm_export(f->run.t, BLOB_VOLATILE, &forgotten, &n, &f->e), 0);
    assert_null(forgotten);
    p->blob[1][500] ^= 1;
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    unsigned changes = f->store->changes;
    stage_all(f, p);
    assert_int_equal(f->store->changes, changes);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    free(p);
}

static void blob_that_was_never_read_refuses_power_on_as_well(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    struct err why;
    start_clear(f);
    pack(f, p);
    tpm_power_off(f->run.t);
    err_set(&why, ERR_STATE_CORRUPT, "its envelope is broken, says the test");
    assert_int_equal(stage(f, BLOB_PERMANENT, p), 0);
    tpm_stage_abort(f->run.t, &why);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_says(&f->e, ERR_STATE_CORRUPT, "says the test");
    stage_all(f, p);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    free(p);
}

static void impossible_blobs_are_refused_by_name(void **state)
{
    struct fixture *f = *state;
    static uint8_t big[BLOB_MAX_BYTES + 1];
    assert_int_equal(tpm_stage(f->run.t, BLOB_PERMANENT, NULL, 0, &f->e), -1);
    assert_says(&f->e, ERR_STATE_EMPTY, "empty permanent state");
    assert_int_equal(tpm_stage(f->run.t, BLOB_PERMANENT, big, sizeof(big), &f->e), -1);
    assert_says(&f->e, ERR_UNSUPPORTED, "at most");
    struct parcel *p = calloc(1, sizeof(*p));
    memcpy(p->blob[0], f->store->blob[0], f->store->n[0]);
    p->n[0] = (uint32_t)f->store->n[0];
    assert_int_equal(stage(f, BLOB_PERMANENT, p), 0);
    assert_int_equal(tpm_stage(f->run.t, BLOB_SAVESTATE, data, 1, &f->e), -1);
    assert_says(&f->e, ERR_UNSUPPORTED, "no saved state");
    assert_int_equal(stage(f, BLOB_PERMANENT, p), 0);
    start_clear(f);
    assert_int_equal(stage(f, BLOB_PERMANENT, p), -1);
    assert_says(&f->e, ERR_USAGE, "stop it before");
    cmd2_get_random(&f->c, 8);
    TPM_OK(&f->run, &f->c);
    free(p);
}

static void volatile_state_of_another_tpm_is_refused(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    pack(f, p);
    /* Another one can only be made when this one is gone. */
    tpm_free(f->run.t);
    struct store *other = new_store(DEVICE_TPM20), *s = f->store = new_store(DEVICE_TPM20);
    assert_int_equal(tpm_new(&s, &f->run.t, &f->e), 0);
    assert_int_equal(tpm_stage(f->run.t, BLOB_PERMANENT, other->blob[0], other->n[0], &f->e), 0);
    assert_int_equal(stage(f, BLOB_VOLATILE, p), -1);
    assert_int_equal(f->e.kind, ERR_STATE_CORRUPT);
    store_free(other);
    free(p);
}

static void staged_state_survives_a_store_that_refuses(void **state)
{
    struct fixture *f = *state;
    uint8_t before[1024], after[1024];
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    busy(f);
    size_t n = observe(f, before);
    pack(f, p);
    cmd2_clear(&f->c);
    TPM_OK(&f->run, &f->c);
    tpm_power_off(f->run.t);
    stage_all(f, p);
    f->store->refuse = 2;
    unsigned changes = f->store->changes;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tpm_power_on(f->run.t, true, &f->e), -1);
        assert_int_equal(f->e.kind, ERR_STORAGE);
        assert_false(tpm_is_on(f->run.t));
        assert_int_equal(f->store->changes, changes);
    }
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    assert_int_equal(observe(f, after), n);
    assert_memory_equal(before, after, n);
    free(p);
}

static void staged_state_is_used_once(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    cmd2_nv_define(&f->c, INDEX, 32, NV2_ORDINARY, 0);
    TPM_OK(&f->run, &f->c);
    pack(f, p);
    tpm_power_off(f->run.t);
    stage_all(f, p);
    assert_int_equal(tpm_power_on(f->run.t, true, &f->e), 0);
    cmd2_nv_write(&f->c, INDEX, "later", 5, 0);
    TPM_OK(&f->run, &f->c);
    f->store->refuse = 1;
    cmd2_nv_write(&f->c, INDEX, "never", 5, 0);
    refused_for_storage(f, RC2_NV_UNAVAILABLE);
    for (int i = 0; i < 2; i++) {
        cmd2_nv_read(&f->c, INDEX, 5, 0);
        assert_memory_equal(rsp2_nv(TPM_OK(&f->run, &f->c), 5), "later", 5);
        start_clear(f);
    }
    free(p);
}

/* libtpms could read it when it was handed in, and cannot when it is to run: the old state must not
 * quietly take its place. */
static void staged_state_refused_at_power_on_is_refused_until_a_new_set_is_begun(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p)), *shown = calloc(1, sizeof(*shown));
    start_clear(f);
    pack(f, p);
    tpm_power_off(f->run.t);
    assert_int_equal(stage(f, BLOB_VOLATILE, p), 0);
    f->store->blob[0][2] ^= 1;
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_says(&f->e, ERR_STATE_CORRUPT, "cannot read the TPM state");
    f->store->blob[0][2] ^= 1;
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), -1);
    assert_says(&f->e, ERR_STATE_CORRUPT, "cannot read the TPM state");
    pack(f, shown);
    assert_int_equal(shown->n[1], 0); /* forgotten */
    stage_all(f, p);
    pack(f, shown);
    assert_int_equal(shown->n[1], p->n[1]); /* while off: what is staged */
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    free(p);
    free(shown);
}

/* Without a volatile state the TPM that was handed in has to be started up; a stored one of the TPM
 * that was there before must not be resumed. */
static void permanent_state_alone_brings_no_volatile_state(void **state)
{
    struct fixture *f = *state;
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    pack(f, p);
    assert_int_equal(tpm_store_volatile(f->run.t, &f->e), 0);
    tpm_power_off(f->run.t);
    assert_int_equal(stage(f, BLOB_PERMANENT, p), 0);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_null(f->store->blob[BLOB_VOLATILE - 1]);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), 0);
    free(p);
}

/* As `swtpm_ioctl --load volatile` onto the TPM that is there. */
static void volatile_state_alone_is_laid_over_the_stored_permanent_state(void **state)
{
    struct fixture *f = *state;
    uint8_t before[1024], after[1024];
    struct parcel *p = calloc(1, sizeof(*p));
    start_clear(f);
    busy(f);
    size_t n = observe(f, before);
    pack(f, p);
    tpm_power_off(f->run.t);
    assert_int_equal(stage(f, BLOB_VOLATILE, p), 0);
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_int_equal(observe(f, after), n);
    assert_memory_equal(before, after, n);
    assert_non_null(f->store->blob[BLOB_VOLATILE - 1]);
    free(p);
}

static void manufactured_tpms_differ(void **state)
{
    struct tpm_blobs a = {{NULL}, {0}}, b = {{NULL}, {0}};
    struct err e;
    (void)state;
    assert_int_equal(tpm_manufacture(DEVICE_TPM20, &a, &e), 0);
    assert_int_equal(tpm_manufacture(DEVICE_TPM20, &b, &e), 0);
    assert_null(a.blob[1]);
    assert_null(a.blob[2]);
    assert_int_equal(a.n[0], b.n[0]);
    assert_memory_not_equal(secret_peek(a.blob[0]), secret_peek(b.blob[0]), a.n[0]);
    tpm_blobs_clear(&a);
    tpm_blobs_clear(&b);
    assert_null(a.blob[0]);
}

#define WITH(setup_fn, test) cmocka_unit_test_setup_teardown(test, setup_fn, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(living_tpm_moves_with_pcrs_objects_sessions_and_orderly_counters),
        WITH(setup, state_saved_by_swtpm_is_resumed),
        WITH(setup_started, export_gives_what_is_stored_and_the_living_volatile_state),
        WITH(setup_started, refused_write_is_not_exported),
        WITH(setup_started, stored_volatile_state_is_resumed_and_may_be_kept_or_dropped),
        WITH(setup_started, stored_volatile_state_goes_when_the_permanent_state_moves_on),
        WITH(setup_started, volatile_state_that_cannot_be_dropped_keeps_the_tpm_off),
        cmocka_unit_test(unreadable_stored_state_is_refused_before_there_is_a_tpm),
        WITH(setup, vanished_state_is_not_replaced_by_a_new_tpm),
        WITH(setup, damaged_staged_blob_forgets_the_set_until_a_new_one_is_begun),
        WITH(setup, blob_that_was_never_read_refuses_power_on_as_well),
        WITH(setup, impossible_blobs_are_refused_by_name),
        WITH(setup, volatile_state_of_another_tpm_is_refused),
        WITH(setup, staged_state_survives_a_store_that_refuses),
        WITH(setup, staged_state_is_used_once),
        WITH(setup, staged_state_refused_at_power_on_is_refused_until_a_new_set_is_begun),
        WITH(setup, permanent_state_alone_brings_no_volatile_state),
        WITH(setup, volatile_state_alone_is_laid_over_the_stored_permanent_state),
        cmocka_unit_test(manufactured_tpms_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
