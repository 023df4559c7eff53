#include <string.h>

#include "src/serve/session_priv.h"

static bool is_blob_kind(uint32_t kind)
{
    return kind >= BLOB_PERMANENT && kind < BLOB_PERMANENT + N_TPM_BLOBS;
}

static uint32_t refused_load(struct session *s, const char *what, struct err *e)
{
    session_tell(s, EVENT_REFUSED, e);
    return session_refuse(s, what, e);
}

/* --- what is known of the image --- */

static void see(struct session *s, const struct store_mark *mark, const struct ref_facts *facts)
{
    s->seen = true;
    s->last.generation = mark->generation;
    s->last.epoch = mark->epoch;
    s->last.device = facts->device;
    memcpy(s->last.instance, facts->instance, sizeof(s->last.instance));
}

void session_see_store(struct session *s)
{
    const struct store *store = tpm_store(s->tpm);
    struct store_mark mark;
    if (!store)
        return;
    store_mark(store, &mark);
    see(s, &mark, store_facts(store));
}

/* --- out --- */

/* To ask for the state is to take it away, to lock the storage is to take it back: a stranger's
 * question would leave the guest without its TPM, or the next owner without his claim. */
bool session_is_stranger(const struct session *s, const struct ctrl_job *job, struct err *e)
{
    if (s->emulator == 0 || job->from == s->emulator)
        return false;
    (void)!err_set(e, ERR_LOCKED,
                   "another client than the emulator that is connected; only that one may take the "
                   "state away, or back");
    return true;
}

/* A client may come back for the rest of one blob: what it gets is a copy. */
static int give(const struct session *s, size_t i, struct ctrl_job *job, struct err *e)
{
    size_t total = s->n_out[i];
    size_t at = job->req.offset < total ? job->req.offset : total;
    if (secret_new(total, &job->state, e) < 0)
        return -1;
    memcpy(secret_bytes(job->state), secret_peek(s->out[i]), total);
    job->state_at = at;
    job->reply.bytes = job->reply.total = (uint32_t)(total - at);
    job->reply.state_flags = s->out_encrypted ? CTRL_STATE_ENCRYPTED : 0;
    return 0;
}

uint32_t session_get_state(struct session *s, struct ctrl_job *job)
{
    enum { ALL = (1 << N_TPM_BLOBS) - 1 };
    struct err e = {0}, ignored;
    if (!tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (!is_blob_kind(job->req.kind))
        return CTRL_FAIL;
    if (session_is_stranger(s, job, &e))
        return session_refuse(s, "GET_STATEBLOB", &e);
    size_t i = job->req.kind - BLOB_PERMANENT;
    unsigned bit = 1u << i;
    /* Asked for the same again: that is another export, of another instant. */
    if (s->asked & bit && job->req.offset == 0 && custody_state(s->custody) == HO_EXPORTING)
        (void)!session_step(s, HO_GET_FAILED, false, &ignored);
    bool last = (s->asked | bit) == ALL;
    if (session_step(s, last ? HO_GET_LAST : HO_GET_PART, false, &e) < 0)
        return session_refuse(s, "GET_STATEBLOB", &e);
    s->asked |= bit;
    if (s->out[i] && give(s, i, job, &e) < 0) {
        (void)!session_step(s, last ? HO_UNSENT : HO_GET_FAILED, false, &ignored);
        return session_refuse(s, "GET_STATEBLOB", &e);
    }
    job->is_last = last;
    return s->out[i] ? CTRL_OK : CTRL_NO_SUCH_STATE;
}

/* --- in --- */

int session_prepare_load(struct session *s, const struct watch *watch, struct store_look **ret,
                         struct err *e)
{
    OWNED(store_look) look = NULL;
    struct store_mark mark;
    size_t n;
    if (custody_prepare_load(s->custody, watch, &look, e) < 0)
        return -1;
    if (store_look_facts(look)->device != session_kind(s))
        return err_set(e, ERR_STATE_FOREIGN,
                       "the image is for a TPM %s, and this is a TPM %s (--tpm2, --tpm12)",
                       store_look_facts(look)->device == DEVICE_TPM20 ? "2.0" : "1.2",
                       session_kind(s) == DEVICE_TPM20 ? "2.0" : "1.2");
    if (custody_state(s->custody) == HO_AWAY && store_look_get(look, BLOB_PERMANENT, &n) &&
        tpm_try(s->tpm, look, e) < 0)
        return -1;
    store_look_mark(look, &mark);
    see(s, &mark, store_look_facts(look));
    *ret = MOVE(look);
    return 0;
}

static bool is_there(struct session *s, struct err *e)
{
    OWNED(store_look) look = NULL;
    return session_prepare_load(s, &s->watch, &look, e) == 0;
}

static int stage(struct session *s, const struct ctrl_job *job, struct err *e)
{
    enum blob_kind kind = (enum blob_kind)job->req.kind;
    OWNED(secret) state = NULL;
    size_t n = 0;
    const uint8_t *p = job->req.bytes > 0 ? secret_peek(job->blob) : NULL;
    int r = 0;
    /* What is copied is there by now, or never was; what was there before may be another now. */
    if ((s->o.copied && kind == BLOB_PERMANENT && !is_there(s, e)) ||
        (!custody_has_image(s->custody) && !is_there(s, e)))
        r = -1;
    else if (job->req.flags & CTRL_STATE_ENCRYPTED && job->req.bytes > 0 &&
             !envelope_is(p, job->req.bytes))
        r = err_set(
            e, ERR_KEY_MISSING,
            "the state is encrypted with a key that belongs to another TPM emulator (swtpm's "
            "--key)");
    if (r < 0 || custody_stage(s->custody, kind, p, job->req.bytes, &state, &n, e) < 0) {
        tpm_stage_abort(s->tpm, e);
        return -1;
    }
    if (tpm_stage(s->tpm, kind, state ? secret_peek(state) : NULL, n, e) == 0)
        return 0;
    custody_forget_set(s->custody);
    return -1;
}

uint32_t session_set_state(struct session *s, struct ctrl_job *job)
{
    struct err e = {0}, ignored;
    if (tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (!is_blob_kind(job->req.kind))
        return CTRL_FAIL;
    if (custody_rule(s->custody, HO_STAGE_PART, &e).verdict == HO_NO)
        return session_refuse(s, "SET_STATEBLOB", &e);
    if (job->req.kind == BLOB_PERMANENT)
        s->refused.kind = ERR_NONE;
    if (stage(s, job, &e) < 0) {
        s->refused = e;
        (void)!session_step(s, HO_STAGE_BAD, false, &ignored);
        return refused_load(s, "SET_STATEBLOB", &e);
    }
    bool whole = custody_set_is_whole(s->custody);
    if (session_step(s, whole ? HO_STAGE_LAST : HO_STAGE_PART, false, &e) < 0)
        return refused_load(s, "SET_STATEBLOB", &e);
    if (whole) {
        log_line(s->o.log, 1, "a whole state was handed in, %s",
                 custody_set_is_sealed(s->custody) ? "sealed" : "not sealed");
        session_tell(s, EVENT_STAGED, NULL);
    }
    return CTRL_OK;
}

/* --- the admin socket --- */

bool session_looks_for_image(const struct session *s)
{
    return !custody_has_image(s->custody);
}

void session_look_for_image(struct session *s)
{
    enum { SKIPPED = 15 };
    struct err e = {0};
    if (s->to_skip > 0) {
        s->to_skip--;
        return;
    }
    if (is_there(s, &e)) {
        log_line(s->o.log, 1, "verified: the image was copied up to generation %llu",
                 (unsigned long long)s->last.generation);
        return;
    }
    if (e.kind == ERR_STATE_EMPTY || e.kind == ERR_STATE_CORRUPT || e.kind == ERR_USAGE)
        return; /* not yet; or interrupted */
    /* It may be half there all the same. To be looked at again, but not to be stretched for all the
     * time. */
    s->to_skip = SKIPPED;
    if (s->was_refused)
        return;
    s->was_refused = true;
    session_tell(s, EVENT_REFUSED, &e);
    log_err(s->o.log, &e);
}

/* Whoever still has an emulator that gave the state away gets no other. */
static int may_load(const struct session *s, struct err *e)
{
    enum handover_state state = custody_state(s->custody);
    if (state == HO_AWAY)
        return 0;
    if (state == HO_FENCED)
        return err_set(e, ERR_FENCED, "another owner has taken the TPM's state over");
    return err_set(e, ERR_USAGE,
                   "the TPM's state is %s here: nothing can be loaded before the emulator that is "
                   "connected has gone",
                   handover_state_name(state));
}

static int prepare(struct session *s, struct err *e)
{
    OWNED(store_look) look = NULL;
    if (handover_is_claimed(custody_state(s->custody))) {
        if (custody_check_save(s->custody, e) < 0)
            return -1;
        return tpm_settle(s->tpm, e);
    }
    if (may_load(s, e) < 0)
        return -1;
    return session_prepare_load(s, &s->watch, &look, e);
}

static int offer(struct session *s, struct admin_call *call, struct err *e)
{
    if (!tpm_store(s->tpm))
        return err_set(e, ERR_USAGE, "the image is not claimed here: there is nothing to offer");
    return custody_offer(s->custody, tpm_store(s->tpm), tpm_library_version(), call->token, e);
}

static int ready(struct session *s, struct admin_call *call, struct err *e)
{
    OWNED(store_look) look = NULL;
    char token[CUSTODY_TOKEN_MAX];
    if (may_load(s, e) < 0 || session_prepare_load(s, &s->watch, &look, e) < 0 ||
        custody_ready(s->custody, call->token, look, tpm_library_version(), token, e) < 0)
        return -1;
    memcpy(call->token, token, sizeof(token));
    return 0;
}

/* What was prepared or handed in is forgotten; a state that was given away stays given away. */
static int abort_all(struct session *s, struct err *e)
{
    custody_disarm(s->custody);
    switch (custody_state(s->custody)) {
    case HO_IDLE_PART:
    case HO_IDLE_SET:
    case HO_RELEASED_PART:
    case HO_RELEASED_SET:
    case HO_AWAY_PART:
    case HO_AWAY_SET:
        return session_step(s, HO_STOP, false, e);
    case HO_EXPORTING:
        return session_step(s, HO_GET_FAILED, false, e);
    default:
        return 0;
    }
}

static void fill_status(struct session *s, struct session_status *ret)
{
    session_see_store(s);
    *ret = s->last;
    ret->state = custody_state(s->custody);
    ret->is_on = tpm_is_on(s->tpm);
    ret->armed = custody_is_armed(s->custody);
    ret->has_image = s->seen;
}

void session_admin(struct session *s, struct admin_call *call)
{
    struct err e = {0};
    int r = 0;
    switch (call->what) {
    case ADMIN_QUERY_STATUS:
        break;
    case ADMIN_MIGRATE_PREPARE:
        r = prepare(s, &e);
        break;
    case ADMIN_PREPARE_OUTGOING:
        r = offer(s, call, &e);
        break;
    case ADMIN_PREPARE_INCOMING:
        r = ready(s, call, &e);
        break;
    case ADMIN_COMMIT_OUTGOING:
        r = custody_arm(s->custody, call->token, &e);
        break;
    case ADMIN_MIGRATE_ABORT:
        r = abort_all(s, &e);
        break;
    case ADMIN_SNAPSHOT_LIST:
    case ADMIN_SNAPSHOT_CREATE:
    case ADMIN_SNAPSHOT_APPLY:
    case ADMIN_SNAPSHOT_DELETE:
        r = session_snapshot(s, call, &e);
        break;
    }
    if (r < 0) {
        call->error = e;
        if (call->what < ADMIN_SNAPSHOT_LIST)
            session_tell(s, EVENT_REFUSED, &e);
        log_err(s->o.log, &e);
    }
    fill_status(s, &call->status);
}
