/* The TPM over a store that refuses when it is told to. The store is this file's: what the TPM asks
 * of it can be counted, and every commit can fail. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "tpm_run.h"

struct store {
    struct ref_facts facts;
    uint8_t *blob[N_BLOBS];
    size_t n[N_BLOBS];
    unsigned commits, changes;
    int fail; /* so many commits fail; -1: all */
};

const uint8_t *store_get(const struct store *s, enum blob_kind kind, size_t *ret_bytes)
{
    *ret_bytes = s->n[kind - 1];
    return s->blob[kind - 1];
}

static bool same(const struct store *s, size_t i, const struct blob_change *c)
{
    if (c->what == BLOB_KEEP)
        return true;
    if (c->what == BLOB_DELETE)
        return !s->blob[i];
    return s->blob[i] && s->n[i] == c->n && memcmp(s->blob[i], c->p, c->n) == 0;
}

int store_commit(struct store *s, const struct state_change *change, struct err *e)
{
    bool all_same = true;
    s->commits++;
    for (size_t i = 0; i < N_BLOBS; i++)
        all_same &= same(s, i, &change->blob[i]);
    if (all_same)
        return 0;
    if (s->fail != 0) {
        if (s->fail > 0)
            s->fail--;
        return err_set(e, ERR_STORAGE, "the disk is full, says the test");
    }
    s->changes++;
    for (size_t i = 0; i < N_BLOBS; i++) {
        if (change->blob[i].what == BLOB_KEEP)
            continue;
        free(s->blob[i]);
        s->blob[i] = NULL;
        if (change->blob[i].what == BLOB_DELETE)
            continue;
        s->n[i] = change->blob[i].n;
        s->blob[i] = malloc(s->n[i] + 1);
        memcpy(s->blob[i], change->blob[i].p, s->n[i]);
    }
    return 0;
}

const struct ref_facts *store_facts(const struct store *s)
{
    return &s->facts;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < N_BLOBS; i++)
        free(s->blob[i]);
    free(s);
}

static struct store *store_with(enum device_kind kind, const struct tpm_blobs *b)
{
    struct store *s = calloc(1, sizeof(*s));
    s->facts.device = kind;
    for (size_t i = 0; i < N_BLOBS; i++) {
        if (!b->blob[i])
            continue;
        s->n[i] = b->n[i];
        s->blob[i] = malloc(b->n[i] + 1);
        memcpy(s->blob[i], secret_peek(b->blob[i]), b->n[i]);
    }
    return s;
}

/* --- one fixture per test: a new TPM, off, and its store, which stays in sight --- */

struct fixture {
    struct tpm_run run;
    struct store *store;
    struct tpm_cmd c;
};

static struct fixture *fixture_new(enum device_kind kind)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct tpm_blobs blobs = {0};
    struct err e;
    assert_int_equal(tpm_manufacture(kind, &blobs, &e), 0);
    f->store = store_with(kind, &blobs);
    tpm_blobs_clear(&blobs);
    struct store *s = f->store;
    assert_int_equal(tpm_new(&s, &f->run.t, &e), 0);
    assert_null(s);
    return f;
}

static int setup2(void **state)
{
    *state = fixture_new(DEVICE_TPM20);
    return 0;
}

static int setup2_started(void **state)
{
    struct err e;
    struct fixture *f = fixture_new(DEVICE_TPM20);
    assert_int_equal(tpm_power_on(f->run.t, false, &e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &e), 0);
    *state = f;
    return 0;
}

static int setup1(void **state)
{
    *state = fixture_new(DEVICE_TPM12);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tpm_free(f->run.t);
    free(f);
    return 0;
}

static void smoke(void **state)
{
    struct fixture *f = *state;
    cmd2_get_random(&f->c, 16);
    struct tpm_rsp r = TPM_OK(&f->run, &f->c);
    assert_int_equal(bytes_be16(&r.body), 16);
}

static void smoke1(void **state)
{
    struct fixture *f = *state;
    struct err e;
    assert_int_equal(tpm_power_on(f->run.t, false, &e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &e), 0);
    cmd1_get_random(&f->c, 16);
    TPM_OK(&f->run, &f->c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(smoke, setup2_started, teardown),
        cmocka_unit_test_setup_teardown(smoke1, setup1, teardown),
    };
    (void)setup2;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
