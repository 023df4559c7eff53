#include "src/session.h"

#include <stdio.h>
#include <string.h>

#include "backend/image.h"
#include "migration/blob.h"
#include "src/clock.h"
#include "src/serve.h"

struct session {
    struct tpm *tpm;
    const struct log *log;
    unsigned flags;
    bool opened; /* all of it; until then the end of it is nothing to tell */
    uint8_t locality;
    uint64_t n_lost;    /* commands that could not be made durable */
    int64_t lost_since; /* when the last line about them was logged */
};

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
    free(job);
}

/* --- from the image to a TPM --- */

static void log_start(const struct session *s, const char *image)
{
    struct store_stats stats;
    const uint8_t *u = store_facts(tpm_store(s->tpm))->instance;
    char name[200];
    store_stats(tpm_store(s->tpm), &stats);
    log_line(s->log, 1,
             "opened %s: TPM %s, instance "
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x, generation "
             "%llu%s",
             err_quote(name, sizeof(name), image, strlen(image)),
             session_kind(s) == DEVICE_TPM20 ? "2.0" : "1.2", u[0], u[1], u[2], u[3], u[4], u[5],
             u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
             (unsigned long long)stats.generation,
             stats.torn_sectors ? "; the last write was cut off, which is harmless" : "");
}

static int start_up(struct session *s, struct err *e)
{
    unsigned f = s->flags;
    if (!(f & (SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_STARTUP_STATE |
               SERVE_STARTUP_DEACTIVATED)))
        return 0;
    if (tpm_power_on(s->tpm, false, e) < 0)
        return -1;
    if (f & SERVE_STARTUP_CLEAR)
        return tpm_startup(s->tpm, STARTUP_CLEAR, e);
    if (f & SERVE_STARTUP_STATE)
        return tpm_startup(s->tpm, STARTUP_STATE, e);
    if (f & SERVE_STARTUP_DEACTIVATED)
        return tpm_startup(s->tpm, STARTUP_DEACTIVATED, e);
    return 0;
}

int session_open(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 const struct watch *watch, struct session **ret, struct err *e)
{
    OWNED(store) store = NULL;
    OWNED(session) s = NULL;
    int r = image_open_store(o->image, *pass, pass_bytes, watch, &store, e);
    secret_free(MOVE(*pass));
    if (r < 0)
        return -1;
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "a session");
    s->log = o->log;
    s->flags = o->flags;
    if (tpm_new(&store, &s->tpm, e) < 0 || start_up(s, e) < 0)
        return -1;
    s->opened = true;
    log_start(s, o->image);
    *ret = MOVE(s);
    return 0;
}

/* Without it a TPM 2.0 counts the power loss against dictionary attacks. That it cannot be stored
 * is no reason to go on: everything that was acknowledged is durable. */
static void shut_down_orderly(struct session *s)
{
    struct err e = {0};
    if (!tpm_is_on(s->tpm) || s->flags & SERVE_NO_AUTO_SHUTDOWN)
        return;
    if (tpm_orderly_shutdown(s->tpm, &e) < 0) {
        err_prefix(&e, "the orderly shutdown of the TPM was not stored");
        log_err(s->log, &e);
    }
}

static void log_end(const struct session *s)
{
    struct store_stats stats;
    store_stats(tpm_store(s->tpm), &stats);
    log_line(s->log, 1, "closed at generation %llu", (unsigned long long)stats.generation);
}

void session_free(struct session *s)
{
    if (!s)
        return;
    if (s->opened) {
        shut_down_orderly(s);
        tpm_power_off(s->tpm);
        log_end(s);
    }
    tpm_free(s->tpm);
    free(s);
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

static uint32_t refused(const struct session *s, const char *what, struct err *e)
{
    err_prefix(e, "%s", what);
    log_err(s->log, e);
    return err_class(e->kind)->ctrl;
}

static bool locality_is_allowed(const struct session *s, uint8_t locality)
{
    return locality <= TPM_LOCALITY_MAX &&
           !(locality == LOCALITY_HARDWARE && s->flags & SERVE_REJECT_LOCALITY_4);
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
    shut_down_orderly(s);
    if (tpm_power_on(s->tpm, job->req.flags & CTRL_INIT_DELETE_VOLATILE, &e) < 0)
        return refused(s, "INIT", &e);
    return CTRL_OK;
}

/* Whoever hands in a state stops the TPM first: what an earlier one left behind, half a set or a
 * refusal, is not this one's. */
static uint32_t power_off(struct session *s, struct ctrl_job *job)
{
    (void)job;
    tpm_power_off(s->tpm);
    tpm_stage_forget(s->tpm);
    return CTRL_OK;
}

static uint32_t get_established(struct session *s, struct ctrl_job *job)
{
    return tpm_established(s->tpm, &job->reply.established);
}

static uint32_t reset_established(struct session *s, struct ctrl_job *job)
{
    if (tpm_is_on(s->tpm) && job->req.locality > TPM_LOCALITY_MAX)
        return CTRL_BAD_LOCALITY;
    return tpm_reset_established(s->tpm, job->req.locality);
}

static uint32_t hash_start(struct session *s, struct ctrl_job *job)
{
    (void)job;
    return tpm_hash_start(s->tpm);
}

static uint32_t hash_data(struct session *s, struct ctrl_job *job)
{
    return tpm_hash_data(s->tpm, job->req.data, job->req.bytes);
}

static uint32_t hash_end(struct session *s, struct ctrl_job *job)
{
    (void)job;
    return tpm_hash_end(s->tpm);
}

static uint32_t store_volatile(struct session *s, struct ctrl_job *job)
{
    struct err e = {0};
    (void)job;
    if (!tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (tpm_store_volatile(s->tpm, &e) < 0)
        return refused(s, "STORE_VOLATILE", &e);
    return CTRL_OK;
}

static uint32_t set_buffer_size(struct session *s, struct ctrl_job *job)
{
    struct ctrl_reply *r = &job->reply;
    bool asked = job->req.size > 0;
    bool allowed = !asked || !tpm_is_on(s->tpm);
    r->size = tpm_buffer_size(s->tpm, allowed ? job->req.size : 0, &r->min_size, &r->max_size);
    return allowed ? CTRL_OK : CTRL_BAD_ORDINAL;
}

static bool is_blob_kind(uint32_t kind)
{
    return kind >= BLOB_PERMANENT && kind < BLOB_PERMANENT + N_TPM_BLOBS;
}

/* swtpm's envelope around it, as it travels. */
static int wrap(const struct secret *state, size_t n, struct ctrl_job *job, struct err *e)
{
    size_t total = blob_encoded_bytes(BLOB_WIRE, n);
    if (secret_new(total, &job->state, e) < 0)
        return -1;
    blob_encode(BLOB_WIRE, secret_peek(state), n, secret_bytes(job->state));
    job->state_at = job->req.offset < total ? job->req.offset : total;
    job->reply.bytes = job->reply.total = (uint32_t)(total - job->state_at);
    return 0;
}

static uint32_t get_state(struct session *s, struct ctrl_job *job)
{
    OWNED(secret) state = NULL;
    struct err e = {0};
    size_t n = 0;
    if (!tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (!is_blob_kind(job->req.kind))
        return CTRL_FAIL;
    if (tpm_export(s->tpm, (enum blob_kind)job->req.kind, &state, &n, &e) < 0)
        return refused(s, "GET_STATEBLOB", &e);
    if (n == 0)
        return CTRL_NO_SUCH_STATE;
    if (wrap(state, n, job, &e) < 0)
        return refused(s, "GET_STATEBLOB", &e);
    return CTRL_OK;
}

static int unwrap(const struct ctrl_job *job, struct blob_part *ret, struct err *e)
{
    struct blob b;
    *ret = (struct blob_part){NULL, 0};
    if (job->req.bytes == 0)
        return 0;
    if (job->req.flags & CTRL_STATE_ENCRYPTED)
        return err_set(e, ERR_KEY_MISSING,
                       "the state is encrypted with a migration key, and none was given");
    const uint8_t *p = secret_peek(job->blob);
    if (blob_decode(p, job->req.bytes, &b, e) < 0)
        return -1;
    if (b.form != BLOB_WIRE)
        return err_set(e, ERR_STATE_FOREIGN,
                       "this is swtpm's file on disk, not a state made for migration");
    return blob_plain(p, job->req.bytes, ret, e);
}

static uint32_t set_state(struct session *s, struct ctrl_job *job)
{
    struct blob_part part;
    struct err e = {0};
    if (tpm_is_on(s->tpm))
        return CTRL_BAD_ORDINAL;
    if (!is_blob_kind(job->req.kind))
        return CTRL_FAIL;
    if (unwrap(job, &part, &e) < 0) {
        tpm_stage_abort(s->tpm, &e);
        return refused(s, "SET_STATEBLOB", &e);
    }
    if (tpm_stage(s->tpm, (enum blob_kind)job->req.kind, part.p, part.n, &e) < 0)
        return refused(s, "SET_STATEBLOB", &e);
    return CTRL_OK;
}

/* Text in pieces, each no longer than swtpm's; its terminating NUL counts. */
static uint32_t get_info(struct session *s, struct ctrl_job *job)
{
    OWNED_HEAP char *text = NULL;
    struct err e = {0};
    if (tpm_info(s->tpm, job->req.info, &text, &e) < 0)
        return refused(s, "GET_INFO", &e);
    size_t total = strlen(text) + 1;
    if (job->req.offset >= total)
        return CTRL_BAD_PARAMETER;
    size_t n = total - job->req.offset;
    if (n > CTRL_INFO_MAX_BYTES)
        n = CTRL_INFO_MAX_BYTES;
    if (secret_new(n, &job->state, &e) < 0)
        return refused(s, "GET_INFO", &e);
    memcpy(secret_bytes(job->state), text + job->req.offset, n);
    job->reply.total = (uint32_t)total;
    job->reply.bytes = (uint32_t)n;
    return CTRL_OK;
}

/* LOCK_STORAGE: the image is claimed for as long as there is a session. */
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
    [CTRL_GET_STATEBLOB] = get_state,
    [CTRL_SET_STATEBLOB] = set_state,
    [CTRL_SET_BUFFERSIZE] = set_buffer_size,
    [CTRL_GET_INFO] = get_info,
    [CTRL_LOCK_STORAGE] = nothing_to_do,
    [CTRL_SET_DATAFD] = nothing_to_do,
    [CTRL_SHUTDOWN] = nothing_to_do,
};

void session_control(struct session *s, struct ctrl_job *job)
{
    if (session_answer_at_once(session_kind(s), tpm_is_on(s->tpm), job))
        return;
    uint32_t (*run)(struct session *, struct ctrl_job *) = handlers[job->req.code];
    job->reply.result = run ? run(s, job) : CTRL_BAD_ORDINAL;
}

/* Only a TPM 2.0 of libtpms looks, while it works, whether it shall stop. */
static uint32_t capabilities(enum device_kind kind)
{
    uint32_t both = CTRL_CAP_INIT | CTRL_CAP_SHUTDOWN | CTRL_CAP_GET_TPMESTABLISHED |
                    CTRL_CAP_SET_LOCALITY | CTRL_CAP_HASHING | CTRL_CAP_STORE_VOLATILE |
                    CTRL_CAP_RESET_TPMESTABLISHED | CTRL_CAP_GET_STATEBLOB |
                    CTRL_CAP_SET_STATEBLOB | CTRL_CAP_STOP | CTRL_CAP_GET_CONFIG |
                    CTRL_CAP_SET_DATAFD | CTRL_CAP_SET_BUFFERSIZE | CTRL_CAP_GET_INFO;
    uint32_t tpm20 = CTRL_CAP_CANCEL_TPM_CMD | CTRL_CAP_SEND_COMMAND_HEADER;
    return kind == DEVICE_TPM20 ? both | tpm20 : both;
}

static uint32_t cancel_result(enum device_kind kind, bool is_on)
{
    if (!is_on)
        return CTRL_BAD_ORDINAL;
    return kind == DEVICE_TPM20 ? CTRL_OK : CTRL_FAIL;
}

bool session_answer_at_once(enum device_kind kind, bool is_on, struct ctrl_job *job)
{
    switch (job->req.code) {
    case CTRL_GET_CAPABILITY:
        job->reply.capabilities = capabilities(kind);
        return true;
    case CTRL_GET_CONFIG:
        job->reply.config = CTRL_CONFIG_STATE_KEY;
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
    log_err(s->log, e);
}

static bool change_locality(struct session *s, const uint8_t *cmd, size_t n, uint8_t *resp,
                            size_t *ret_resp_bytes)
{
    uint8_t locality;
    if (!(s->flags & SERVE_ALLOW_SET_LOCALITY) || session_kind(s) != DEVICE_TPM20 ||
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
    if (tpm_process(s->tpm, locality, cmd, n, resp, ret_resp_bytes, &e) < 0)
        log_lost(s, &e);
}
