#include <stdlib.h>
#include <string.h>

#include "src/nvkeep_priv.h"

/* Each call is an event of the table of migration/handover.h: the library's handles are its states,
 * seen from outside. */

struct nvkeep_target {
    struct custody *custody;
    struct secret *set[N_TPM_BLOBS];
    size_t n_set[N_TPM_BLOBS];
    unsigned got; /* bit (kind - 1) */
};

struct nvkeep_released {
    struct custody *custody;
};

static const struct custody_rules sealed = {.seal = SEAL_REQUIRED};

static int rule_for(const struct custody *c, enum handover_event v, struct handover_rule *ret,
                    struct err *e)
{
    *ret = custody_rule(c, v, e);
    return ret->verdict == HO_YES ? 0 : -1;
}

static int check_kind(enum nvkeep_blob blob, struct err *e)
{
    if (blob < NVKEEP_PERMANENT || blob > NVKEEP_SAVESTATE)
        return err_set(e, ERR_USAGE, "there is no blob of kind %d", (int)blob);
    return 0;
}

/* --- the source --- */

static void end_export(struct nvkeep *h)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        secret_free(MOVE(h->out[i]));
        h->n_out[i] = 0;
    }
    h->asked = 0;
    custody_export_end(h->custody);
}

/* A commit that finds another owner: this one may not go on. */
static int note_failure(struct nvkeep *h, const struct err *e)
{
    if (e->kind == ERR_FENCED)
        custody_enter(h->custody, HO_FENCED);
    return -1;
}

int library_commit(struct nvkeep *h, struct state_change *change, struct err *e)
{
    struct handover_rule rule;
    uint8_t origin[ORIGIN_BYTES];
    if (rule_for(h->custody, HO_COMMAND, &rule, e) < 0)
        return err_set(e, ERR_FENCED, "another owner has taken the state over; close the handle");
    if (custody_unused(h->store, origin))
        change->blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    if (store_commit(h->store, change, e) < 0)
        return note_failure(h, e);
    end_export(h);
    custody_enter(h->custody, rule.next);
    return 0;
}

int nvkeep_mark_used(struct nvkeep *h, struct nvkeep_error *err)
{
    struct err e = {0};
    struct state_change nothing = {0};
    uint8_t ignored[ORIGIN_BYTES];
    if (!custody_unused(h->store, ignored) && custody_state(h->custody) != HO_FENCED)
        return 0;
    return library_commit(h, &nothing, &e) < 0 ? library_report(&e, err) : 0;
}

int nvkeep_prepare_save(struct nvkeep *h, struct nvkeep_error *err)
{
    struct err e = {0};
    return custody_check_save(h->custody, &e) < 0 ? library_report(&e, err) : 0;
}

static unsigned kinds_of(const struct store *s)
{
    unsigned kinds = 0;
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        size_t n = 0;
        if (store_get(s, (enum blob_kind)(i + 1), &n))
            kinds |= 1u << i;
    }
    return kinds;
}

/* All at once: what is handed out later is of this instant, and cannot fail any more. What a commit
 * that failed has left to be written again is durable first, or its mark would soon be another. */
static int begin_export(struct nvkeep *h, struct err *e)
{
    const unsigned kinds = kinds_of(h->store);
    struct state_change nothing = {0};
    if (library_commit(h, &nothing, e) < 0)
        return -1;
    if (custody_export_begin(h->custody, h->store, kinds, 0, e) < 0)
        return -1;
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        const enum blob_kind kind = (enum blob_kind)(i + 1);
        bool ignored_flag;
        size_t n = 0;
        const uint8_t *p = store_get(h->store, kind, &n);
        if (p && custody_export(h->custody, kind, p, n, &h->out[i], &h->n_out[i], &ignored_flag,
                                e) < 0) {
            end_export(h);
            return -1;
        }
    }
    return 0;
}

static int export_blob(struct nvkeep *h, enum nvkeep_blob blob, struct err *e)
{
    struct handover_rule rule;
    if (check_kind(blob, e) < 0 || rule_for(h->custody, HO_GET_PART, &rule, e) < 0 ||
        (h->asked == 0 && begin_export(h, e) < 0))
        return -1;
    h->asked |= 1u << (blob - 1);
    custody_enter(h->custody, rule.next);
    return 0;
}

int nvkeep_export(struct nvkeep *h, enum nvkeep_blob blob, const void **ret, size_t *ret_bytes,
                  struct nvkeep_error *err)
{
    struct err e = {0};
    if (export_blob(h, blob, &e) < 0)
        return library_report(&e, err);
    *ret = h->out[blob - 1] ? secret_peek(h->out[blob - 1]) : NULL;
    *ret_bytes = h->n_out[blob - 1];
    return 0;
}

static int release(struct nvkeep *h, struct nvkeep_released **ret, struct err *e)
{
    const unsigned kinds = kinds_of(h->store);
    if (h->asked == 0 || (h->asked & kinds) != kinds)
        return err_set(e, ERR_USAGE,
                       "the state was not exported whole: nothing is let go (blobs that exist: "
                       "mask %u, exported: mask %u)",
                       kinds, h->asked & kinds);
    struct nvkeep_released *r = calloc(1, sizeof(*r));
    if (!r)
        return err_nomem(e, "the handle of a released image");
    custody_release(h->custody, &h->store, true);
    end_export(h);
    custody_enter(h->custody, HO_RELEASED);
    r->custody = MOVE(h->custody);
    *ret = r;
    return 0;
}

int nvkeep_release(struct nvkeep **h, struct nvkeep_released **ret, struct nvkeep_error *err)
{
    struct err e = {0};
    if (release(*h, ret, &e) < 0)
        return library_report(&e, err);
    free(MOVE(*h));
    return 0;
}

static int take_back(struct nvkeep_released *r, struct nvkeep **ret, struct err *e)
{
    struct handover_rule rule;
    struct store *store = NULL;
    if (rule_for(r->custody, HO_LOCK_STORAGE, &rule, e) < 0)
        return -1;
    if (custody_take_back(r->custody, &store, e) < 0) {
        custody_enter(r->custody, e->kind == ERR_FENCED ? HO_FENCED : rule.failed);
        return -1;
    }
    custody_enter(r->custody, rule.next);
    if (library_handle(&r->custody, &store, ret, e) == 0)
        return 0;
    custody_release(r->custody, &store, true);
    custody_enter(r->custody, HO_RECLAIMING);
    return -1;
}

int nvkeep_take_back(struct nvkeep_released **r, struct nvkeep **ret, struct nvkeep_error *err)
{
    struct err e = {0};
    if (take_back(*r, ret, &e) < 0)
        return library_report(&e, err);
    free(MOVE(*r));
    return 0;
}

void nvkeep_released_close(struct nvkeep_released *r)
{
    if (!r)
        return;
    custody_free(r->custody);
    free(r);
}

/* --- the destination --- */

static void forget_set(struct nvkeep_target *t)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        secret_free(MOVE(t->set[i]));
        t->n_set[i] = 0;
    }
    t->got = 0;
    custody_forget_set(t->custody);
}

static int target_open(const char *path, const struct nvkeep_key *key, struct nvkeep_target **ret,
                       struct err *e)
{
    OWNED(secret) pass = NULL;
    OWNED(image_file) file = NULL;
    OWNED(image) image = NULL;
    OWNED(store_look) look = NULL;
    OWNED(custody) custody = NULL;
    struct watch watch;
    if (!path)
        return err_set(e, ERR_USAGE, "no path was given");
    if (library_take_key(key, &pass, &watch, e) < 0 || image_file_open(path, &file, e) < 0 ||
        image_unlock(&file, pass, key->n_bytes, watch.go_on ? &watch : NULL, &image, e) < 0 ||
        image_look(image, &look, e) < 0 || custody_new(&image, &sealed, HO_AWAY, &custody, e) < 0)
        return -1;
    struct nvkeep_target *t = calloc(1, sizeof(*t));
    if (!t)
        return err_nomem(e, "the handle of an image that waits");
    t->custody = MOVE(custody);
    *ret = t;
    return 0;
}

int nvkeep_target_open(const char *path, const struct nvkeep_key *key, struct nvkeep_target **ret,
                       struct nvkeep_error *err)
{
    struct err e = {0};
    return target_open(path, key, ret, &e) < 0 ? library_report(&e, err) : 0;
}

void nvkeep_target_close(struct nvkeep_target *t)
{
    if (!t)
        return;
    forget_set(t);
    custody_free(t->custody);
    free(t);
}

int nvkeep_prepare_load(struct nvkeep_target *t, struct nvkeep_error *err)
{
    struct err e = {0};
    OWNED(store_look) look = NULL;
    return custody_prepare_load(t->custody, NULL, &look, &e) < 0 ? library_report(&e, err) : 0;
}

static int stage(struct nvkeep_target *t, enum nvkeep_blob blob, const void *bytes, size_t n,
                 struct err *e)
{
    struct handover_rule rule;
    OWNED(secret) content = NULL;
    size_t n_content = 0;
    if (check_kind(blob, e) < 0 || rule_for(t->custody, HO_STAGE_PART, &rule, e) < 0)
        return -1;
    if (!bytes || n == 0)
        return err_set(e, ERR_USAGE,
                       "blob %d: no bytes were given; one that does not exist is not "
                       "staged",
                       (int)blob);
    if (blob == NVKEEP_PERMANENT)
        forget_set(t);
    custody_enter(t->custody, rule.next);
    if (custody_stage(t->custody, (enum blob_kind)blob, bytes, n, &content, &n_content, e) < 0) {
        forget_set(t);
        return -1;
    }
    secret_free(MOVE(t->set[blob - 1]));
    t->set[blob - 1] = MOVE(content);
    t->n_set[blob - 1] = n_content;
    t->got |= 1u << (blob - 1);
    if (custody_set_is_whole(t->custody))
        custody_enter(t->custody, HO_AWAY_SET);
    return 0;
}

int nvkeep_stage(struct nvkeep_target *t, enum nvkeep_blob blob, const void *bytes, size_t n_bytes,
                 struct nvkeep_error *err)
{
    struct err e = {0};
    return stage(t, blob, bytes, n_bytes, &e) < 0 ? library_report(&e, err) : 0;
}

void nvkeep_abort_load(struct nvkeep_target *t)
{
    forget_set(t);
    custody_enter(t->custody, HO_AWAY);
}

/* The whole set is one generation; what is not in it is not in the image any more. */
static int commit_set(struct nvkeep_target *t, struct store *store, struct err *e)
{
    struct state_change change = {0};
    uint8_t origin[ORIGIN_BYTES];
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        const uint8_t *p = t->set[i] ? secret_peek(t->set[i]) : (const uint8_t *)"";
        change.blob[i] = t->got & 1u << i ? (struct blob_change){BLOB_SET, p, t->n_set[i]}
                                          : (struct blob_change){.what = BLOB_DELETE};
    }
    custody_set_origin(t->custody, store, false, origin);
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    return store_commit(store, &change, e);
}

static int commit_load(struct nvkeep_target *t, struct nvkeep **ret, struct err *e)
{
    struct handover_rule rule;
    struct store *store = NULL;
    if (rule_for(t->custody, HO_INIT_LOAD, &rule, e) < 0 ||
        custody_take_over(t->custody, &store, e) < 0)
        return -1;
    if (commit_set(t, store, e) < 0 || library_handle(&t->custody, &store, ret, e) < 0) {
        custody_release(t->custody, &store, false);
        return -1;
    }
    custody_enter((*ret)->custody, rule.next);
    return 0;
}

int nvkeep_commit_load(struct nvkeep_target **t, struct nvkeep **ret, struct nvkeep_error *err)
{
    struct err e = {0};
    if (commit_load(*t, ret, &e) < 0)
        return library_report(&e, err);
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free((*t)->set[i]);
    custody_forget_set((*ret)->custody);
    free(MOVE(*t));
    return 0;
}
