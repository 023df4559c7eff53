#include <string.h>

#include "src/serve/session_priv.h"

/* --- telling --- */

void session_tell(struct session *s, int what, const struct err *why)
{
    struct session_event event = {.what = what};
    session_see_store(s);
    if (s->seen) {
        event.generation = s->last.generation;
        event.epoch = s->last.epoch;
    }
    event.sealed = custody_set_is_sealed(s->custody);
    if (why)
        event.error = *why;
    if (s->o.tell)
        s->o.tell(s->o.ctx, &event);
}

/* --- the actions --- */

void session_drop_export(struct session *s)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(MOVE(s->out[i]));
    s->asked = 0;
    custody_export_end(s->custody);
}

static void drop_set(struct session *s)
{
    tpm_stage_forget(s->tpm);
    custody_forget_set(s->custody);
    s->refused.kind = ERR_NONE;
}

static void power_off(struct session *s)
{
    session_drop_export(s);
    tpm_power_off(s->tpm);
    drop_set(s);
}

/* Lets the claim go, where there is one. */
static void let_go(struct session *s, bool remember)
{
    session_see_store(s);
    struct store *store = tpm_lend_store(s->tpm);
    if (!store)
        return;
    custody_release(s->custody, &store, remember);
    log_line(s->o.log, 1, "let the image go at generation %llu",
             (unsigned long long)s->last.generation);
    session_tell(s, EVENT_RELEASED, NULL);
}

static int start(struct session *s, bool drop_volatile, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    session_drop_export(s);
    session_shut_down_orderly(s);
    if (custody_unused(tpm_store(s->tpm), origin))
        tpm_set_origin(s->tpm, origin);
    if (tpm_power_on(s->tpm, drop_volatile, e) < 0)
        return -1;
    s->waits = false;
    return 0;
}

static int start_set(struct session *s, bool used, bool drop_volatile, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    custody_set_origin(s->custody, tpm_store(s->tpm), used, origin);
    tpm_set_origin(s->tpm, origin);
    if (tpm_power_on(s->tpm, drop_volatile, e) < 0)
        return -1;
    custody_forget_set(s->custody);
    return 0;
}

static int take_back(struct session *s, struct err *e)
{
    OWNED(store) store = NULL;
    if (custody_take_back(s->custody, &store, e) < 0)
        return -1;
    if (tpm_take_store(s->tpm, &store, e) < 0) {
        custody_release(s->custody, &store, true);
        return -1;
    }
    session_drop_export(s);
    session_tell(s, EVENT_CLAIMED, NULL);
    log_line(s->o.log, 1, "took the state back at generation %llu",
             (unsigned long long)s->last.generation);
    return 0;
}

static int claim_start(struct session *s, bool drop_volatile, struct err *e)
{
    OWNED(store) store = NULL;
    power_off(s);
    if (custody_claim(s->custody, &store, e) < 0)
        return -1;
    if (tpm_take_store(s->tpm, &store, e) < 0) {
        custody_release(s->custody, &store, false);
        return -1;
    }
    if (start(s, drop_volatile, e) < 0) {
        let_go(s, false);
        return -1;
    }
    session_tell(s, EVENT_CLAIMED, NULL);
    return 0;
}

static int take_back_start(struct session *s, bool drop_volatile, struct err *e)
{
    power_off(s);
    if (take_back(s, e) < 0)
        return -1;
    if (start(s, drop_volatile, e) == 0)
        return 0;
    let_go(s, true);
    return -1;
}

/* The load hook: nothing that was looked at before the claim counts. */
static int take_over(struct session *s, bool drop_volatile, struct err *e)
{
    OWNED(store) store = NULL;
    if (custody_take_over(s->custody, &store, e) < 0)
        return -1;
    if (tpm_take_store(s->tpm, &store, e) < 0) {
        custody_release(s->custody, &store, false);
        return -1;
    }
    if (start_set(s, false, drop_volatile, e) < 0) {
        let_go(s, false);
        return -1;
    }
    session_tell(s, EVENT_CLAIMED, NULL);
    session_tell(s, EVENT_COMMITTED, NULL);
    log_line(s->o.log, 1, "took the handed-over state into generation %llu",
             (unsigned long long)s->last.generation);
    return 0;
}

static int mark_used(struct session *s, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    if (custody_unused(tpm_store(s->tpm), origin) && tpm_commit_origin(s->tpm, origin, e) < 0)
        return -1;
    s->waits =
        false; /* until now whoever gave it away could have it back, and we would wait again */
    return 0;
}

/* Everything durable first; then what is in memory is what is stored. */
static int export_all(struct session *s, struct err *e)
{
    if (s->asked != 0)
        return 0;
    session_drop_export(s);
    if (tpm_settle(s->tpm, e) < 0)
        return -1;
    if (custody_export_begin(s->custody, tpm_store(s->tpm), tpm_kinds(s->tpm),
                             tpm_library_version(), e) < 0)
        return -1;
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        OWNED(secret) state = NULL;
        size_t n = 0;
        enum blob_kind kind = (enum blob_kind)(i + 1);
        if (tpm_export(s->tpm, kind, &state, &n, e) < 0)
            return -1;
        if (n > 0 && custody_export(s->custody, kind, secret_peek(state), n, &s->out[i],
                                    &s->n_out[i], &s->out_encrypted, e) < 0)
            return -1;
    }
    return 0;
}

static int begin_export(struct session *s, struct err *e)
{
    if (export_all(s, e) == 0)
        return 0;
    session_drop_export(s);
    return -1;
}

static int take_back_export(struct session *s, struct err *e)
{
    if (take_back(s, e) < 0)
        return -1;
    if (begin_export(s, e) == 0)
        return 0;
    let_go(s, true);
    return -1;
}

static int act(struct session *s, enum handover_action what, bool drop_volatile, struct err *e)
{
    switch (what) {
    case HO_DO_NOTHING:
        return 0;
    case HO_DO_START:
        return start(s, drop_volatile, e);
    case HO_DO_START_SET:
        if (custody_accepts_set(s->custody, tpm_store(s->tpm), true, e) < 0)
            return -1;
        if (start_set(s, true, drop_volatile, e) < 0)
            return -1;
        session_tell(s, EVENT_COMMITTED, NULL);
        return 0;
    case HO_DO_CLAIM_START:
        return claim_start(s, drop_volatile, e);
    case HO_DO_TAKE_OVER:
        return take_over(s, drop_volatile, e);
    case HO_DO_TAKE_BACK:
        return take_back(s, e);
    case HO_DO_TAKE_BACK_START:
        return take_back_start(s, drop_volatile, e);
    case HO_DO_TAKE_BACK_EXPORT:
        return take_back_export(s, e);
    case HO_DO_MARK_USED:
        return mark_used(s, e);
    case HO_DO_USED_EXPORT:
        if (mark_used(s, e) < 0)
            return -1;
        return begin_export(s, e);
    case HO_DO_EXPORT:
        return begin_export(s, e);
    case HO_DO_DROP_EXPORT:
        session_drop_export(s);
        return 0;
    case HO_DO_DROP_SET:
        drop_set(s);
        return 0;
    case HO_DO_POWER_OFF:
        power_off(s);
        return 0;
    case HO_DO_SHUT_DOWN:
        session_shut_down_orderly(s);
        power_off(s);
        let_go(s, false);
        return 0;
    case HO_DO_LET_GO:
        power_off(s);
        let_go(s, true);
        return 0;
    case HO_DO_RELEASE:
        let_go(s, true);
        session_drop_export(s);
        return 0;
    }
    return 0;
}

/* --- events --- */

int session_step(struct session *s, enum handover_event v, bool drop_volatile, struct err *e)
{
    enum handover_state was = custody_state(s->custody);
    struct handover_rule rule = custody_rule(s->custody, v, e);
    if (rule.verdict != HO_YES)
        return -1;
    int r = act(s, rule.action, drop_volatile, e);
    custody_enter(s->custody, r == 0 ? rule.next : rule.failed);
    if (custody_state(s->custody) != was)
        log_line(s->o.log, 5, "%s: %s, was %s", handover_event_name(v),
                 handover_state_name(custody_state(s->custody)), handover_state_name(was));
    if (r < 0)
        session_note_failure(s, e);
    return r;
}

void session_note_failure(struct session *s, const struct err *e)
{
    struct err ignored;
    if (e->kind != ERR_FENCED || custody_state(s->custody) == HO_FENCED)
        return;
    (void)!session_step(s, HO_FENCE, false, &ignored);
    session_tell(s, EVENT_FENCED, e);
}

bool session_may_run(struct session *s, struct err *e)
{
    struct handover_rule rule = custody_rule(s->custody, HO_COMMAND, e);
    if (rule.verdict == HO_FROZEN) {
        e->kind = ERR_NONE;
        return false;
    }
    return session_step(s, HO_COMMAND, false, e) == 0;
}

void session_sent(struct session *s, bool sent)
{
    struct err e;
    if (session_step(s, sent ? HO_SENT : HO_UNSENT, false, &e) < 0)
        log_err(s->o.log, &e);
}

void session_note_emulator(struct session *s, uint64_t from)
{
    s->emulator = from;
}

void session_hangup(struct session *s)
{
    struct err e;
    s->probed = false;
    s->emulator = 0;
    if (session_step(s, HO_HANGUP, false, &e) < 0)
        log_err(s->o.log, &e);
}
