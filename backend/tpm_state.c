#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/store_snapshot.h"
#include "backend/tpm_priv.h"

/* --- what libtpms is shown --- */

const uint8_t *tpm_shown(const struct tpm *t, enum blob_kind kind, size_t *ret_bytes)
{
    const uint8_t *p = NULL;
    *ret_bytes = 0;
    if (blob_set_get(&t->pending, kind, &p, ret_bytes))
        return p;
    if (t->putting_back && kind == BLOB_VOLATILE) {
        *ret_bytes = t->before_bytes;
        return t->before;
    }
    if (blob_set_get(&t->staged, kind, &p, ret_bytes) ||
        blob_set_get(&t->owed, kind, &p, ret_bytes))
        return p;
    return t->store ? store_get(t->store, kind, ret_bytes) : NULL;
}

bool tpm_is_shown(const struct tpm *t, enum blob_kind kind)
{
    size_t n;
    return tpm_shown(t, kind, &n) != NULL;
}

bool tpm_has_pending(const struct tpm *t)
{
    return !blob_set_is_empty(&t->pending) || t->lost.kind != ERR_NONE;
}

void tpm_forget_pending(struct tpm *t)
{
    blob_set_reset(&t->pending);
    t->lost.kind = ERR_NONE;
}

/* --- making and ending --- */

static int bare_new(enum device_kind kind, struct tpm **ret, struct err *e)
{
    struct tpm *t = calloc(1, sizeof(*t));
    if (!t)
        return err_nomem(e, "the TPM");
    t->kind = kind;
    t->quiet_fd = -1;
    *ret = t;
    return 0;
}

/* libtpms ignores it when storing fails here, so what it stored is looked at afterwards. */
static int manufacture(struct tpm *t, struct err *e)
{
    if (tpm_lib_attach(t, e) < 0)
        return -1;
    uint32_t rc = tpm_lib_init();
    tpm_lib_terminate();
    if (t->lost.kind != ERR_NONE) {
        *e = t->lost;
        return -1;
    }
    if (rc != 0 || !tpm_is_shown(t, BLOB_PERMANENT))
        return err_set(e, ERR_STORAGE, "libtpms could not manufacture a TPM %s (result 0x%x)",
                       t->kind == DEVICE_TPM20 ? "2.0" : "1.2", rc);
    return tpm_lib_validate(t, TPM_ALL_BLOBS, "the TPM that it has just manufactured", e);
}

int tpm_manufacture(enum device_kind kind, struct tpm_blobs *ret, struct err *e)
{
    OWNED(tpm) t = NULL;
    if (bare_new(kind, &t, e) < 0)
        return -1;
    t->manufacturing = true;
    if (manufacture(t, e) < 0)
        return -1;
    struct tpm_blobs blobs = {0};
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        size_t n;
        if (!tpm_shown(t, (enum blob_kind)(i + 1), &n))
            continue;
        blobs.blob[i] = MOVE(t->pending.blob[i].at);
        blobs.n[i] = n;
    }
    tpm_forget_pending(t);
    *ret = blobs;
    return 0;
}

void tpm_blobs_clear(struct tpm_blobs *b)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(b->blob[i]);
    *b = (struct tpm_blobs){0};
}

void tpm_blobs_change(const struct tpm_blobs *b, struct state_change *ret)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (b->blob[i])
            ret->blob[i] = (struct blob_change){BLOB_SET, secret_peek(b->blob[i]), b->n[i]};
}

int tpm_check_blobs(enum device_kind kind, const struct tpm_blobs *b, struct err *e)
{
    OWNED(tpm) t = NULL;
    if (!b->blob[BLOB_PERMANENT - 1])
        return err_set(e, ERR_STATE_EMPTY, "there is no permanent state, and so no TPM");
    if (tpm_new_waiting(kind, &t, e) < 0)
        return -1;
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (b->blob[i] && blob_set_put(&t->staged, (enum blob_kind)(i + 1), secret_peek(b->blob[i]),
                                       b->n[i], e) < 0)
            return -1;
    if (tpm_lib_validate(t, TPM_ALL_BLOBS, "the TPM state", e) < 0 || tpm_start_shown(t, e) < 0)
        return -1;
    tpm_lib_terminate();
    return 0;
}

int tpm_new(struct store **s, struct tpm **ret, struct err *e)
{
    OWNED(tpm) t = NULL;
    size_t n;
    if (!store_get(*s, BLOB_PERMANENT, &n))
        return err_set(
            e, ERR_STATE_EMPTY,
            "the store holds no TPM yet; a migration is to bring it (--migration incoming)");
    if (bare_new(store_facts(*s)->device, &t, e) < 0)
        return -1;
    t->store = *s;
    if (tpm_lib_attach(t, e) < 0 ||
        tpm_lib_validate(t, TPM_ALL_BLOBS, "the stored TPM state", e) < 0) {
        t->store = NULL; /* stays with the caller */
        return -1;
    }
    *s = NULL;
    *ret = MOVE(t);
    return 0;
}

int tpm_new_waiting(enum device_kind kind, struct tpm **ret, struct err *e)
{
    OWNED(tpm) t = NULL;
    if (bare_new(kind, &t, e) < 0 || tpm_lib_attach(t, e) < 0)
        return -1;
    *ret = MOVE(t);
    return 0;
}

/* What is owed is owed to this store, in this state of it. Over another one it would be a state of
 * the past in place of the present. */
struct store *tpm_lend_store(struct tpm *t)
{
    blob_set_clear(&t->owed);
    return MOVE(t->store);
}

static bool is_staged(const struct tpm *t, enum blob_kind kind)
{
    const uint8_t *p = NULL;
    size_t n;
    return blob_set_get(&t->staged, kind, &p, &n) && p;
}

int tpm_take_store(struct tpm *t, struct store **s, struct err *e)
{
    size_t n;
    if (store_facts(*s)->device != t->kind)
        return err_set(e, ERR_STATE_FOREIGN, "the image is for a TPM %s, and this is a TPM %s",
                       store_facts(*s)->device == DEVICE_TPM20 ? "2.0" : "1.2",
                       t->kind == DEVICE_TPM20 ? "2.0" : "1.2");
    t->store = *s;
    if (t->power == TPM_OFF && !is_staged(t, BLOB_PERMANENT)) {
        int r = store_get(*s, BLOB_PERMANENT, &n)
                    ? tpm_lib_validate(t, TPM_ALL_BLOBS, "the stored TPM state", e)
                    : err_set(e, ERR_STATE_EMPTY, "the store holds no TPM");
        if (r < 0) {
            t->store = NULL; /* stays with the caller */
            return -1;
        }
    }
    *s = NULL;
    return 0;
}

int tpm_try(struct tpm *t, const struct store_look *l, struct err *e)
{
    int r = 0;
    if (t->power != TPM_OFF || !blob_set_is_empty(&t->staged))
        return err_set(e, ERR_USAGE, "the TPM is on, or a state was handed in");
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS && r == 0; kind++) {
        size_t n = 0;
        const uint8_t *p = store_look_get(l, (enum blob_kind)kind, &n);
        if (p)
            r = blob_set_put(&t->staged, (enum blob_kind)kind, p, n, e);
        else
            blob_set_delete(&t->staged, (enum blob_kind)kind);
    }
    if (r == 0)
        r = tpm_lib_validate(t, TPM_ALL_BLOBS, "the stored TPM state", e);
    blob_set_clear(&t->staged);
    return r;
}

void tpm_set_origin(struct tpm *t, const uint8_t origin[ORIGIN_BYTES])
{
    memcpy(t->origin, origin, sizeof(t->origin));
    t->has_origin = true;
}

int tpm_commit_origin(struct tpm *t, const uint8_t origin[ORIGIN_BYTES], struct err *e)
{
    struct state_change change = {0};
    if (!t->store)
        return err_set(e, ERR_USAGE, "the TPM has no store");
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, ORIGIN_BYTES};
    return store_commit(t->store, &change, e);
}

int tpm_settle(struct tpm *t, struct err *e)
{
    struct state_change change = {0};
    if (!t->store)
        return err_set(e, ERR_USAGE, "the TPM has no store");
    if (tpm_is_stuck(t)) {
        *e = t->stuck;
        return -1;
    }
    blob_set_overlay(&t->owed, &change);
    if (store_commit(t->store, &change, e) < 0)
        return -1;
    blob_set_clear(&t->owed);
    return 0;
}

int tpm_snapshot_create(struct tpm *t, const char *name, struct err *e)
{
    return tpm_settle(t, e) < 0 ? -1 : store_snapshot_create(t->store, name, e);
}

int tpm_snapshot_delete(struct tpm *t, const char *id_or_name, struct err *e)
{
    if (!t->store)
        return err_set(e, ERR_USAGE, "the TPM has no store");
    return store_snapshot_delete(t->store, id_or_name, e);
}

unsigned tpm_kinds(const struct tpm *t)
{
    unsigned kinds = t->power == TPM_OFF ? 0 : 1u << (BLOB_VOLATILE - 1);
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (tpm_is_shown(t, (enum blob_kind)kind))
            kinds |= 1u << (kind - 1);
    return kinds;
}

void tpm_free(struct tpm *t)
{
    if (!t)
        return;
    tpm_power_off(t);
    tpm_lib_detach(t);
    blob_set_clear(&t->pending);
    blob_set_clear(&t->staged);
    blob_set_clear(&t->owed);
    secret_free(t->cmd);
    if (t->resp)
        wipe(t->resp, t->resp_room);
    tpm_lib_free(t->resp);
    if (t->quiet_fd >= 0)
        close(t->quiet_fd);
    store_free(t->store);
    free(t);
}

enum device_kind tpm_kind(const struct tpm *t)
{
    return t->kind;
}

const struct store *tpm_store(const struct tpm *t)
{
    return t->store;
}

int tpm_key_area(struct tpm *t, struct key_area *ret, struct err *e)
{
    if (t->store)
        return store_key_area(t->store, ret, e);
    return err_set(e, ERR_USAGE,
                   "the image is not claimed here now; where nobody has it, nvkeep key changes its "
                   "keys");
}

bool tpm_is_on(const struct tpm *t)
{
    return t->power != TPM_OFF;
}

/* --- the state as a whole --- */

static int copy_secret(const uint8_t *p, size_t n, struct secret **ret, size_t *ret_bytes,
                       struct err *e)
{
    OWNED(secret) copy = NULL;
    if (secret_new(n > 0 ? n : 1, &copy, e) < 0)
        return -1;
    if (n > 0)
        memcpy(secret_bytes(copy), p, n);
    *ret = MOVE(copy);
    *ret_bytes = n;
    return 0;
}

static int export_living_volatile(struct tpm *t, struct secret **ret, size_t *ret_bytes,
                                  struct err *e)
{
    if (tpm_is_stuck(t)) {
        *e = t->stuck;
        return -1;
    }
    tpm_lib_take_volatile(t);
    if (!t->before)
        return err_set(e, ERR_STORAGE, "libtpms does not give the TPM's volatile state");
    int result = copy_secret(t->before, t->before_bytes, ret, ret_bytes, e);
    tpm_lib_forget_volatile(t);
    return result;
}

/* The permanent state is taken from the store also while on: every change was committed before it
 * was answered, what libtpms has not stored yet (clock, orderly indices) is part of the volatile
 * state, and asking libtpms could give writes that were refused. */
int tpm_export(struct tpm *t, enum blob_kind kind, struct secret **ret, size_t *ret_bytes,
               struct err *e)
{
    if (kind == BLOB_VOLATILE && t->power != TPM_OFF)
        return export_living_volatile(t, ret, ret_bytes, e);
    size_t n;
    const uint8_t *p = tpm_shown(t, kind, &n);
    if (p)
        return copy_secret(p, n, ret, ret_bytes, e);
    *ret = NULL;
    *ret_bytes = 0;
    return 0;
}

int tpm_store_volatile(struct tpm *t, struct err *e)
{
    struct state_change change = {0};
    OWNED(secret) copy = NULL;
    size_t n;
    if (t->power == TPM_OFF)
        return err_set(e, ERR_USAGE, "the TPM is off and has no volatile state");
    if (!t->store)
        return err_set(e, ERR_USAGE, "the TPM's state was given away");
    if (export_living_volatile(t, &copy, &n, e) < 0)
        return -1;
    change.blob[BLOB_VOLATILE - 1] =
        (struct blob_change){.what = BLOB_SET, .p = secret_peek(copy), .n = n};
    return store_commit(t->store, &change, e);
}

/* A permanent state begins a new set: what else is not staged after it, the TPM does not have. */
static void begin_set(struct tpm *t)
{
    t->refused.kind = ERR_NONE;
    blob_set_delete(&t->staged, BLOB_VOLATILE);
    blob_set_delete(&t->staged, BLOB_SAVESTATE);
}

static int stage(struct tpm *t, enum blob_kind kind, const uint8_t *p, size_t n, struct err *e)
{
    static const char *const names[] = {"the permanent state handed in",
                                        "the volatile state handed in",
                                        "the saved state handed in"};
    if (kind == BLOB_PERMANENT && n == 0)
        return err_set(e, ERR_STATE_EMPTY, "an empty permanent state is not a TPM");
    if (kind == BLOB_SAVESTATE && n > 0 && t->kind == DEVICE_TPM20)
        return err_set(e, ERR_UNSUPPORTED, "a TPM 2.0 has no saved state of its own");
    if (kind == BLOB_PERMANENT)
        begin_set(t);
    if (n == 0) {
        blob_set_delete(&t->staged, kind);
        return 0;
    }
    if (blob_set_put(&t->staged, kind, p, n, e) < 0)
        return -1;
    /* The others are read together with the permanent state that they belong to. */
    unsigned kinds = 1u << (BLOB_PERMANENT - 1) | 1u << (kind - 1);
    return tpm_lib_validate(t, kinds, names[kind - 1], e);
}

int tpm_stage(struct tpm *t, enum blob_kind kind, const uint8_t *p, size_t n, struct err *e)
{
    if (t->power != TPM_OFF)
        return err_set(e, ERR_USAGE, "the TPM is on; stop it before handing in a state");
    if (t->refused.kind != ERR_NONE && kind != BLOB_PERMANENT) {
        *e = t->refused;
        return -1;
    }
    if (stage(t, kind, p, n, e) == 0)
        return 0;
    tpm_stage_abort(t, e);
    return -1;
}

void tpm_stage_abort(struct tpm *t, const struct err *why)
{
    if (t->power != TPM_OFF)
        return;
    blob_set_reset(&t->staged);
    t->refused = *why;
}

void tpm_stage_forget(struct tpm *t)
{
    if (t->power != TPM_OFF)
        return;
    blob_set_reset(&t->staged);
    t->refused.kind = ERR_NONE;
}
