/* A store of the tests' own, to be included by one file of a program: it takes the place of the
 * real one. It counts what it is asked, refuses when it is told to, and can be tampered with.
 */
#ifndef NVKEEP_TESTS_STORE_DOUBLE_H
#define NVKEEP_TESTS_STORE_DOUBLE_H

#include <string.h>

#include "backend/store_snapshot.h"
#include "tpm_run.h"

struct store {
    struct ref_facts facts;
    uint8_t *blob[N_BLOBS];
    size_t n[N_BLOBS];
    unsigned changes; /* commits that changed something and were taken */
    int refuse;       /* so many commits that would change something fail; -1: all */
    bool spoil;       /* ... and the permanent state is lost on the way */
};

const uint8_t *store_get(const struct store *s, enum blob_kind kind, size_t *ret_bytes)
{
    *ret_bytes = s->blob[kind - 1] ? s->n[kind - 1] : 0;
    return s->blob[kind - 1];
}

/* A look at a double is the double. */
const uint8_t *store_look_get(const struct store_look *l, enum blob_kind kind, size_t *ret_bytes)
{
    return store_get((const struct store *)l, kind, ret_bytes);
}

static void double_put(struct store *s, enum blob_kind kind, const uint8_t *p, size_t n)
{
    free(s->blob[kind - 1]);
    s->blob[kind - 1] = NULL;
    s->n[kind - 1] = n;
    if (!p)
        return;
    s->blob[kind - 1] = malloc(n + 1);
    assert_non_null(s->blob[kind - 1]);
    memcpy(s->blob[kind - 1], p, n);
}

static bool double_has(const struct store *s, size_t i, const struct blob_change *c)
{
    if (c->what == BLOB_KEEP)
        return true;
    if (c->what == BLOB_DELETE)
        return !s->blob[i];
    return s->blob[i] && s->n[i] == c->n && memcmp(s->blob[i], c->p, c->n) == 0;
}

int store_commit(struct store *s, const struct state_change *change, struct err *e)
{
    bool same = true;
    for (size_t i = 0; i < N_BLOBS; i++)
        same = same && double_has(s, i, &change->blob[i]);
    if (same)
        return 0;
    if (s->refuse != 0) {
        s->refuse -= s->refuse > 0;
        if (s->spoil)
            s->blob[0][2] ^= 1; /* libtpms' magic */
        return err_set(e, ERR_STORAGE, "the disk is full, says the test");
    }
    s->changes++;
    for (size_t i = 0; i < N_BLOBS; i++)
        if (change->blob[i].what != BLOB_KEEP)
            double_put(s, (enum blob_kind)(i + 1),
                       change->blob[i].what == BLOB_SET ? change->blob[i].p : NULL,
                       change->blob[i].n);
    return 0;
}

const struct ref_facts *store_facts(const struct store *s)
{
    return &s->facts;
}

int store_key_area(struct store *s, struct key_area *ret, struct err *e)
{
    (void)s;
    (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "a store in memory has no keys");
}

int store_snapshot_create(struct store *s, const char *name, struct err *e)
{
    (void)s;
    return err_set(e, ERR_UNSUPPORTED, "a double keeps no snapshot %s", name);
}

int store_snapshot_delete(struct store *s, const char *id_or_name, struct err *e)
{
    return store_snapshot_create(s, id_or_name, e);
}

void store_free(struct store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < N_BLOBS; i++)
        free(s->blob[i]);
    free(s);
}

static struct store *double_with(enum device_kind kind, const struct tpm_blobs *b)
{
    struct store *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->facts.device = kind;
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (b->blob[i])
            double_put(s, (enum blob_kind)(i + 1), secret_peek(b->blob[i]), b->n[i]);
    return s;
}

/* --- one fixture per test: a new TPM and its store, which stays in sight --- */

struct fixture {
    struct tpm_run run;
    struct store *store;
    struct tpm_cmd c;
    struct err e;
};

static struct store *new_store(enum device_kind kind)
{
    struct tpm_blobs blobs = {0};
    struct err e;
    assert_int_equal(tpm_manufacture(kind, &blobs, &e), 0);
    struct store *s = double_with(kind, &blobs);
    tpm_blobs_clear(&blobs);
    return s;
}

/* Making a TPM 1.2 takes a good part of a second: each fixture begins with a copy of the first. */
static struct store *store_for_fixture(enum device_kind kind)
{
    static uint8_t first[8192];
    static size_t n;
    if (kind == DEVICE_TPM20 || n == 0) {
        struct store *s = new_store(kind);
        if (kind == DEVICE_TPM12) {
            assert_in_range(s->n[0], 1, sizeof(first));
            n = s->n[0];
            memcpy(first, s->blob[0], n);
        }
        return s;
    }
    struct store *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->facts.device = kind;
    double_put(s, BLOB_PERMANENT, first, n);
    return s;
}

static struct fixture *fixture_new(enum device_kind kind)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    struct store *s = f->store = store_for_fixture(kind);
    assert_int_equal(tpm_new(&s, &f->run.t, &f->e), 0);
    assert_null(s);
    return f;
}

static void start_clear(struct fixture *f)
{
    assert_int_equal(tpm_power_on(f->run.t, false, &f->e), 0);
    assert_int_equal(tpm_startup(f->run.t, STARTUP_CLEAR, &f->e), 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tpm_free(f->run.t);
    free(f);
    return 0;
}

/* The command in f->c is answered with "NV is not available", the error has the store's text, and
 * the store is as it was. */
static void refused_for_storage(struct fixture *f, uint32_t rc)
{
    unsigned changes = f->store->changes;
    struct tpm_rsp r = tpm_run(&f->run, &f->c);
    assert_int_equal(r.rc, rc);
    assert_int_equal(r.size, 10);
    assert_int_equal(f->run.result, -1);
    assert_int_equal(f->run.e.kind, ERR_STORAGE);
    assert_non_null(strstr(f->run.e.text, "the disk is full, says the test"));
    assert_int_equal(f->store->changes, changes);
}

static void assert_says(const struct err *e, enum err_kind kind, const char *says)
{
    assert_string_equal(err_class(e->kind)->name, err_class(kind)->name);
    if (!strstr(e->text, says))
        fail_msg("\"%s\" does not say \"%s\"", e->text, says);
}

#endif
