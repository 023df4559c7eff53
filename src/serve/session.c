#include <string.h>

#include "src/serve/clock.h"
#include "src/serve/serve.h"
#include "src/serve/session_priv.h"

enum { RC2_LOCALITY = 0x907, LOCALITY_HARDWARE = 4, LOST_LINE_MS = 10000 };

/* --- jobs --- */

struct ctrl_job *ctrl_job_new(const struct ctrl_request *req)
{
    OWNED(ctrl_job) job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    job->req = *req;
    job->req.data = NULL;
    job->fd = -1;
    if (!req->data)
        return MOVE(job);
    job->data = malloc(req->bytes ? req->bytes : 1);
    if (!job->data)
        return NULL;
    memcpy(job->data, req->data, req->bytes);
    job->req.data = job->data;
    return MOVE(job);
}

void ctrl_job_free(struct ctrl_job *job)
{
    if (!job)
        return;
    if (job->fd >= 0)
        close(job->fd);
    if (job->data)
        wipe(job->data, job->req.bytes);
    free(job->data);
    secret_free(job->blob);
    secret_free(job->state);
    if (job->admin)
        snapshot_list_clear(&job->admin->snapshots);
    free(job->admin);
    free(job);
}

bool session_is_on(const struct session *s)
{
    return tpm_is_on(s->tpm);
}

enum device_kind session_kind(const struct session *s)
{
    return tpm_kind(s->tpm);
}

size_t session_command_max(const struct session *s)
{
    uint32_t least, most;
    return tpm_buffer_size(s->tpm, 0, &least, &most);
}

/* --- control commands --- */

uint32_t session_refuse(const struct session *s, const char *what, struct err *e)
{
    err_prefix(e, "%s", what);
    log_err(s->o.log, e);
    return err_class(e->kind)->ctrl;
}

static bool locality_is_allowed(const struct session *s, uint8_t locality)
{
    return locality <= TPM_LOCALITY_MAX &&
           !(locality == LOCALITY_HARDWARE && s->o.flags & SERVE_REJECT_LOCALITY_4);
}

static uint32_t set_locality(struct session *s, struct ctrl_job *job)
{
    if (!locality_is_allowed(s, job->req.locality))
        return CTRL_BAD_LOCALITY;
    s->locality = job->req.locality;
    return CTRL_OK;
}

static uint32_t power_on(struct session *s, struct ctrl_job *job)
{
    struct err e = {0};
    bool load =
        custody_state(s->custody) == HO_AWAY_SET || custody_state(s->custody) == HO_RELEASED_SET;
    if (s->refused.kind != ERR_NONE) {
        e = s->refused;
        return session_refuse(s, "INIT", &e);
    }
    if (session_step(s, s->waits ? HO_INIT_LOAD : HO_INIT,
                     job->req.flags & CTRL_INIT_DELETE_VOLATILE, &e) == 0)
        return CTRL_OK;
    if (load)
        session_tell(s, EVENT_REFUSED, &e);
    return session_refuse(s, "INIT", &e);
}

/* The first thing that an emulator does on a target: what has gone wrong since the start is told
 * while it can still give up, and its guest runs elsewhere. */
static int check_before_load(struct session *s, struct err *e)
{
    OWNED(store_look) look = NULL;
    if (!s->waits || s->probed || s->o.copied || custody_state(s->custody) != HO_AWAY)
        return 0;
    return session_prepare_load(s, &s->watch, &look, e);
}

static uint32_t power_off(struct session *s, struct ctrl_job *job)
{
    struct err e = {0};
    (void)job;
    if (check_before_load(s, &e) < 0) {
        session_tell(s, EVENT_REFUSED, &e);
        return session_refuse(s, "STOP", &e);
    }
    return session_step(s, HO_STOP, false, &e) < 0 ? session_refuse(s, "STOP", &e)
                                                   : (uint32_t)CTRL_OK;
}

/* For what is no TPM command and may change the state as well. */
static bool may_act(struct session *s)
{
    struct err e = {0};
    if (session_may_run(s, &e))
        return true;
    if (e.kind != ERR_NONE)
        log_err(s->o.log, &e);
    return false;
}

static uint32_t get_established(struct session *s, struct ctrl_job *job)
{
    return tpm_established(s->tpm, &job->reply.established);
}

static uint32_t reset_established(struct session *s, struct ctrl_job *job)
{
    if (tpm_is_on(s->tpm) && job->req.locality > TPM_LOCALITY_MAX)
        return CTRL_BAD_LOCALITY;
    return may_act(s) ? tpm_reset_established(s->tpm, job->req.locality) : (uint32_t)CTRL_IO_ERROR;
}

static uint32_t hash_start(struct session *s, struct ctrl_job *job)
{
    (void)job;
    return may_act(s) ? tpm_hash_start(s->tpm) : (uint32_t)CTRL_IO_ERROR;
}

static uint32_t hash_data(struct session *s, struct ctrl_job *job)
{
    return may_act(s) ? tpm_hash_data(s->tpm, job->req.data, job->req.bytes)
                      : (uint32_t)CTRL_IO_ERROR;
}

static uint32_t hash_end(struct session *s, struct ctrl_job *job)
{
    (void)job;
    return may_act(s) ? tpm_hash_end(s->tpm) : (uint32_t)CTRL_IO_ERROR;
}

static uint32_t store_volatile(struct session *s, struct ctrl_job *job)
{
    struct err e = {0};
    (void)job;
    if (!tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (!may_act(s))
        return CTRL_IO_ERROR;
    if (tpm_store_volatile(s->tpm, &e) == 0)
        return CTRL_OK;
    session_note_failure(s, &e);
    return session_refuse(s, "STORE_VOLATILE", &e);
}

static uint32_t set_buffer_size(struct session *s, struct ctrl_job *job)
{
    struct ctrl_reply *r = &job->reply;
    bool asked = job->req.size > 0;
    bool allowed = !asked || !tpm_is_on(s->tpm);
    r->size = tpm_buffer_size(s->tpm, allowed ? job->req.size : 0, &r->min_size, &r->max_size);
    s->probed = s->probed || asked;
    return allowed ? CTRL_OK : CTRL_BAD_ORDINAL;
}

/* Text in pieces, each no longer than swtpm's; its terminating NUL counts. */
static uint32_t get_info(struct session *s, struct ctrl_job *job)
{
    OWNED_HEAP char *text = NULL;
    struct err e = {0};
    if (tpm_info(s->tpm, job->req.info, &text, &e) < 0)
        return session_refuse(s, "GET_INFO", &e);
    size_t total = strlen(text) + 1;
    if (job->req.offset >= total)
        return CTRL_BAD_PARAMETER;
    size_t n = total - job->req.offset;
    if (n > CTRL_INFO_MAX_BYTES)
        n = CTRL_INFO_MAX_BYTES;
    if (secret_new(n, &job->state, &e) < 0)
        return session_refuse(s, "GET_INFO", &e);
    memcpy(secret_bytes(job->state), text + job->req.offset, n);
    job->reply.total = (uint32_t)total;
    job->reply.bytes = (uint32_t)n;
    return CTRL_OK;
}

/* "Go on": after a migration that failed, and whenever a guest that was saved continues. */
static uint32_t lock_storage(struct session *s, struct ctrl_job *job)
{
    struct err e = {0};
    if (session_is_stranger(s, job, &e))
        return session_refuse(s, "LOCK_STORAGE", &e);
    return session_step(s, HO_LOCK_STORAGE, false, &e) < 0 ? session_refuse(s, "LOCK_STORAGE", &e)
                                                           : (uint32_t)CTRL_OK;
}

static uint32_t nothing_to_do(struct session *s, struct ctrl_job *job)
{
    (void)s;
    (void)job;
    return CTRL_OK;
}

static uint32_t (*const handlers[CTRL_N_CODES])(struct session *s, struct ctrl_job *job) = {
    [CTRL_INIT] = power_on,
    [CTRL_STOP] = power_off,
    [CTRL_GET_TPMESTABLISHED] = get_established,
    [CTRL_SET_LOCALITY] = set_locality,
    [CTRL_HASH_START] = hash_start,
    [CTRL_HASH_DATA] = hash_data,
    [CTRL_HASH_END] = hash_end,
    [CTRL_STORE_VOLATILE] = store_volatile,
    [CTRL_RESET_TPMESTABLISHED] = reset_established,
    [CTRL_GET_STATEBLOB] = session_get_state,
    [CTRL_SET_STATEBLOB] = session_set_state,
    [CTRL_SET_BUFFERSIZE] = set_buffer_size,
    [CTRL_GET_INFO] = get_info,
    [CTRL_LOCK_STORAGE] = lock_storage,
    [CTRL_SET_DATAFD] = nothing_to_do,
    [CTRL_SHUTDOWN] = nothing_to_do,
};

void session_control(struct session *s, struct ctrl_job *job)
{
    if (session_answer_at_once(session_kind(s), tpm_is_on(s->tpm), s->o.rules.migration_key, job))
        return;
    uint32_t (*run)(struct session *, struct ctrl_job *) = handlers[job->req.code];
    job->reply.result = run ? run(s, job) : CTRL_BAD_ORDINAL;
}

/* Only a TPM 2.0 of libtpms looks, while it works, whether it shall stop. */
static uint32_t capabilities(enum device_kind kind)
{
    uint32_t both =
        CTRL_CAP_INIT | CTRL_CAP_SHUTDOWN | CTRL_CAP_GET_TPMESTABLISHED | CTRL_CAP_SET_LOCALITY |
        CTRL_CAP_HASHING | CTRL_CAP_STORE_VOLATILE | CTRL_CAP_RESET_TPMESTABLISHED |
        CTRL_CAP_GET_STATEBLOB | CTRL_CAP_SET_STATEBLOB | CTRL_CAP_STOP | CTRL_CAP_GET_CONFIG |
        CTRL_CAP_SET_DATAFD | CTRL_CAP_SET_BUFFERSIZE | CTRL_CAP_GET_INFO | CTRL_CAP_LOCK_STORAGE;
    uint32_t tpm20 = CTRL_CAP_CANCEL_TPM_CMD | CTRL_CAP_SEND_COMMAND_HEADER;
    return kind == DEVICE_TPM20 ? both | tpm20 : both;
}

static uint32_t cancel_result(enum device_kind kind, bool is_on)
{
    if (!is_on)
        return CTRL_BAD_ORDINAL;
    return kind == DEVICE_TPM20 ? CTRL_OK : CTRL_FAIL;
}

bool session_answer_at_once(enum device_kind kind, bool is_on, bool migration_key,
                            struct ctrl_job *job)
{
    switch (job->req.code) {
    case CTRL_GET_CAPABILITY:
        job->reply.capabilities = capabilities(kind);
        return true;
    case CTRL_GET_CONFIG:
        job->reply.config = CTRL_CONFIG_STATE_KEY | (migration_key ? CTRL_CONFIG_MIGRATION_KEY : 0);
        return true;
    case CTRL_CANCEL_TPM_CMD:
        job->reply.result = cancel_result(kind, is_on);
        return true;
    default:
        return false;
    }
}

/* --- commands --- */

/* A guest may try again as fast as it can: one line in ten seconds. */
static void log_lost(struct session *s, struct err *e)
{
    int64_t now = now_ms();
    if (s->n_lost++ > 0 && now - s->lost_since < LOST_LINE_MS)
        return;
    s->lost_since = now;
    if (s->n_lost > 1)
        err_prefix(e, "%llu commands had no effect so far", (unsigned long long)s->n_lost);
    log_err(s->o.log, e);
}

static bool change_locality(struct session *s, const uint8_t *cmd, size_t n, uint8_t *resp,
                            size_t *ret_resp_bytes)
{
    uint8_t locality;
    if (!(s->o.flags & SERVE_ALLOW_SET_LOCALITY) || session_kind(s) != DEVICE_TPM20 ||
        !tpm_is_on(s->tpm) || !data_is_set_locality(cmd, n, &locality))
        return false;
    bool allowed = locality_is_allowed(s, locality);
    if (allowed)
        s->locality = locality;
    data_response(allowed ? 0 : RC2_LOCALITY, resp);
    *ret_resp_bytes = DATA_HEADER_BYTES;
    return true;
}

void session_command(struct session *s, const struct data_frame *f, const uint8_t *in,
                     uint8_t *resp, size_t *ret_resp_bytes)
{
    struct err e = {0};
    const uint8_t *cmd = in + f->offset;
    size_t n = f->cmd_bytes < TPM_BUFFER_BYTES ? f->cmd_bytes : TPM_BUFFER_BYTES;
    /* As with SET_LOCALITY it stays until it is changed again. */
    if (f->framed && locality_is_allowed(s, f->locality))
        s->locality = f->locality;
    uint8_t locality = f->framed ? f->locality : s->locality;
    if (f->framed && !locality_is_allowed(s, locality))
        locality = TPM_LOCALITY_MAX + 1; /* which the TPM refuses in its own words */
    if (change_locality(s, cmd, n, resp, ret_resp_bytes))
        return;
    if (!session_may_run(s, &e)) {
        tpm_refuse(s->tpm, resp, ret_resp_bytes);
        if (e.kind != ERR_NONE)
            log_lost(s, &e);
        return;
    }
    if (tpm_process(s->tpm, locality, cmd, n, resp, ret_resp_bytes, &e) < 0) {
        session_note_failure(s, &e);
        log_lost(s, &e);
    }
}
