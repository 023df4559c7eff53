#include <errno.h>
#include <string.h>

#include "backend/tpm_command.h"
#include "backend/tpm_priv.h"
#include "src/base/bytes.h"

/* Results of the TPM 1.2 family, which the control channel speaks for both. */
enum {
    RESULT_BAD_ORDINAL = 0x0a,
    RESULT_BAD_PARAM_SIZE = 0x19,
    RESULT_IO_ERROR = 0x1f,
    RESULT_INVALID_POSTINIT = 0x26,
    RESULT_BAD_LOCALITY = 0x3d,
    RC_INITIALIZE = 0x100, /* TPM 2.0: not started, or started already */
    RC_FAILURE = 0x101,    /* TPM 2.0: in failure mode, and says nothing else from now on */
};

/* --- durable, or back to where it was --- */

static int stay_stuck(struct tpm *t, struct err *e)
{
    err_prefix(e, t->before ? "the TPM could not be put back yet to where it was before a command"
                            : "the TPM could not be put back to where it was before a command, and "
                              "answers nothing until it is powered on again");
    t->stuck = *e;
    t->power = TPM_STUCK;
    return -1;
}

/* libtpms was ended. True: it runs again, in the volatile state that was taken before a command. */
static bool resume_before(struct tpm *t)
{
    t->putting_back = true;
    uint32_t rc = tpm_lib_init();
    t->putting_back = false;
    if (rc == 0 && !tpm_has_pending(t))
        return true;
    tpm_lib_terminate();
    tpm_forget_pending(t);
    return false;
}

/* *e says why this is necessary. Permanent and saved state are in the store as they were; the
 * volatile state was taken before the command. Returns -1, always. */
static int put_back(struct tpm *t, struct err *e)
{
    tpm_forget_pending(t);
    tpm_lib_terminate();
    return t->before && resume_before(t) ? -1 : stay_stuck(t, e);
}

/* What stood in the way (memory, most likely) may be there again. */
bool tpm_is_stuck(struct tpm *t)
{
    if (t->power != TPM_STUCK || !t->before || !resume_before(t))
        return t->power == TPM_STUCK;
    tpm_lib_forget_volatile(t);
    t->stuck.kind = ERR_NONE;
    t->power = TPM_ON;
    return false;
}

static void end_way_back(struct tpm *t)
{
    if (t->power != TPM_STUCK)
        tpm_lib_forget_volatile(t);
}

/* A volatile state belongs to the permanent state it was taken with: where that moves on, a stored
 * one must not be resumed any more. */
static void drop_outdated_volatile(const struct store *s, struct state_change *change)
{
    const struct blob_change *permanent = &change->blob[BLOB_PERMANENT - 1];
    struct blob_change *resumable = &change->blob[BLOB_VOLATILE - 1];
    size_t n;
    if (permanent->what == BLOB_KEEP || resumable->what != BLOB_KEEP ||
        !store_get(s, BLOB_VOLATILE, &n))
        return;
    const uint8_t *p = store_get(s, BLOB_PERMANENT, &n);
    if (!p || n != permanent->n || memcmp(p, permanent->p, n) != 0)
        resumable->what = BLOB_DELETE;
}

static int commit_pending(struct tpm *t, struct err *e)
{
    struct state_change change = {0};
    if (t->lost.kind != ERR_NONE) {
        *e = t->lost;
        return -1;
    }
    blob_set_overlay(&t->pending, &change);
    drop_outdated_volatile(t->store, &change);
    return store_commit(t->store, &change, e);
}

/* What libtpms stores is a whole state, with what was owed before in it. */
static void owe_pending(struct tpm *t)
{
    struct blob_set was_owed = t->owed;
    t->owed = t->pending;
    t->pending = was_owed;
    tpm_forget_pending(t);
}

/* Makes durable what libtpms stored since the last time. Where that fails it is as if it had not
 * run since tpm_lib_take_volatile(), but for authorizations that failed. */
static int settle(struct tpm *t, bool auth_failed, struct err *e)
{
    if (!tpm_has_pending(t))
        return 0;
    bool kept = t->lost.kind == ERR_NONE;
    if (commit_pending(t, e) < 0) {
        if (!auth_failed || !kept)
            return put_back(t, e);
        owe_pending(t);
        return -1;
    }
    tpm_forget_pending(t);
    blob_set_reset(&t->owed);
    return 0;
}

/* --- power --- */

/* It stores nothing while it starts: if it did, that would be a new TPM in place of the one it was
 * given. */
int tpm_start_shown(struct tpm *t, struct err *e)
{
    uint32_t rc = tpm_lib_init();
    int os = errno;
    struct err lost = t->lost;
    bool stored = tpm_has_pending(t);
    tpm_forget_pending(t);
    if (rc == 0 && !stored)
        return 0;
    tpm_lib_terminate();
    if (lost.kind != ERR_NONE) {
        *e = lost;
        return -1;
    }
    errno = os;
    if (stored)
        return err_set(e, ERR_STATE_CORRUPT,
                       "libtpms tried to replace the TPM state instead of using it; nothing was "
                       "written");
    return tpm_lib_refusal(rc, "the TPM state", e);
}

static bool changes_nothing(const struct state_change *change)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        if (change->blob[i].what != BLOB_KEEP)
            return false;
    return true;
}

/* What was staged goes into the store; a volatile state that is used only this once does not. What
 * is owed goes along, and stays owed where it is all there is and the store refuses it again. */
static int commit_start(struct tpm *t, bool drop_volatile, struct err *e)
{
    struct state_change change = {0};
    size_t n;
    blob_set_overlay(&t->staged, &change);
    if (drop_volatile)
        change.blob[BLOB_VOLATILE - 1].what =
            store_get(t->store, BLOB_VOLATILE, &n) ? BLOB_DELETE : BLOB_KEEP;
    if (t->has_origin)
        change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, t->origin, ORIGIN_BYTES};
    bool debt_alone = changes_nothing(&change);
    if (debt_alone && blob_set_is_empty(&t->owed))
        return 0;
    struct state_change whole = {0};
    blob_set_overlay(&t->owed, &whole);
    for (size_t i = 0; i < N_BLOBS; i++)
        if (change.blob[i].what != BLOB_KEEP)
            whole.blob[i] = change.blob[i];
    drop_outdated_volatile(t->store, &whole);
    if (store_commit(t->store, &whole, e) < 0)
        return debt_alone ? 0 : -1;
    blob_set_clear(&t->owed);
    return 0;
}

static int power_on(struct tpm *t, bool drop_volatile, struct err *e)
{
    tpm_power_off(t);
    if (t->refused.kind != ERR_NONE) {
        *e = t->refused;
        return -1;
    }
    if (!t->store)
        return err_set(e, ERR_USAGE, "the TPM has no store to be powered on from");
    if (!tpm_is_shown(t, BLOB_PERMANENT))
        return err_set(
            e, ERR_STATE_EMPTY,
            "the store holds no TPM yet; a migration is to bring it (--migration incoming)");
    if (tpm_start_shown(t, e) < 0) {
        if (!blob_set_is_empty(&t->staged))
            t->refused = *e;
        blob_set_reset(&t->staged);
        return -1;
    }
    if (commit_start(t, drop_volatile, e) < 0) {
        tpm_lib_terminate();
        return -1;
    }
    blob_set_clear(&t->staged);
    t->power = TPM_ON;
    t->failed = false;
    t->maybe_orderly = true;
    t->shut_down = false;
    return 0;
}

int tpm_power_on(struct tpm *t, bool drop_volatile, struct err *e)
{
    int r = power_on(t, drop_volatile, e);
    t->has_origin = false;
    return r;
}

void tpm_power_off(struct tpm *t)
{
    if (t->power == TPM_ON)
        tpm_lib_terminate();
    t->power = TPM_OFF;
    t->stuck.kind = ERR_NONE;
    tpm_lib_forget_volatile(t);
}

/* --- commands --- */

static void refuse(const struct tpm *t, enum tpm_refusal why, uint8_t *resp, size_t *ret_resp_bytes)
{
    tpm_response_error(t->kind, tpm_refusal_code(t->kind, why), resp);
    *ret_resp_bytes = TPM_HEADER_BYTES;
}

void tpm_refuse(const struct tpm *t, uint8_t *resp, size_t *ret_resp_bytes)
{
    refuse(t, TPM_REFUSES_STORAGE, resp, ret_resp_bytes);
}

/* Taking it costs several times what the quick commands cost. */
static bool needs_way_back(const struct tpm *t, const uint8_t *cmd, size_t n)
{
    enum tpm_effect effect = tpm_command_effect(t->kind, cmd, n);
    if (t->failed)
        return false;
    return effect == TPM_MAY_STORE || (effect == TPM_EXTENDS && t->maybe_orderly);
}

/* What a command that succeeded says about the next one. */
static void note_success(struct tpm *t, const uint8_t *cmd, size_t n)
{
    if (t->kind != DEVICE_TPM20)
        return;
    t->shut_down = tpm_command_is_shutdown(cmd, n);
    if (t->shut_down)
        t->maybe_orderly = true;
    else if (tpm_command_extends_saved_pcr(cmd, n))
        t->maybe_orderly = false;
    else if (tpm_command_is_clock_set(cmd, n))
        tpm_lib_store_permanent(t);
}

/* Returns the response's code. */
static uint32_t run(struct tpm *t, const uint8_t *cmd, size_t cmd_bytes, uint8_t *resp,
                    size_t *ret_resp_bytes)
{
    size_t n;
    uint32_t code;
    t->shut_down = false;
    if (!tpm_lib_run(t, cmd, cmd_bytes, &n, &code)) {
        refuse(t, TPM_REFUSES_FAILURE, resp, ret_resp_bytes);
        return get_be32(resp + 6);
    }
    memcpy(resp, t->resp, n);
    *ret_resp_bytes = n;
    if (code == 0)
        note_success(t, cmd, cmd_bytes);
    return code;
}

/* libtpms takes a lack of memory in the middle of a command for the failure of the whole TPM, and
 * says nothing else from then on. The way back must have been taken before: the failure is part of
 * the volatile state. */
static int recover_from_failure(struct tpm *t, struct err *e)
{
    (void)err_set(e, ERR_STORAGE, "libtpms could not carry out a command (no memory, most likely)");
    return put_back(t, e);
}

static int no_way_back(struct err *e)
{
    return err_set(e, ERR_STORAGE,
                   "no memory for the way back from a command, which was not carried out");
}

static int process(struct tpm *t, const uint8_t *cmd, size_t cmd_bytes, uint8_t *resp,
                   size_t *ret_resp_bytes, struct err *e)
{
    bool goes_back = needs_way_back(t, cmd, cmd_bytes);
    int result;
    if (goes_back)
        tpm_lib_take_volatile(t);
    if (goes_back && !t->before) {
        result = no_way_back(e);
    } else {
        uint32_t code = run(t, cmd, cmd_bytes, resp, ret_resp_bytes);
        bool failed = code == RC_FAILURE && t->kind == DEVICE_TPM20;
        result = failed && goes_back ? recover_from_failure(t, e)
                                     : settle(t, tpm_response_is_auth_failure(t->kind, code), e);
        t->failed |= failed && !goes_back;
    }
    if (result < 0) {
        t->shut_down = false;
        t->maybe_orderly = true;
        refuse(t, TPM_REFUSES_STORAGE, resp, ret_resp_bytes);
    }
    end_way_back(t);
    return result;
}

int tpm_process(struct tpm *t, uint8_t locality, const uint8_t *cmd, size_t cmd_bytes,
                uint8_t *resp, size_t *ret_resp_bytes, struct err *e)
{
    if (tpm_is_stuck(t)) {
        refuse(t, TPM_REFUSES_STORAGE, resp, ret_resp_bytes);
        *e = t->stuck;
        return -1;
    }
    if (t->power == TPM_ON && !t->store) {
        refuse(t, TPM_REFUSES_STORAGE, resp, ret_resp_bytes);
        return 0;
    }
    if (t->power == TPM_ON && locality <= TPM_LOCALITY_MAX && cmd_bytes <= TPM_BUFFER_BYTES) {
        t->locality = locality;
        return process(t, cmd, cmd_bytes, resp, ret_resp_bytes, e);
    }
    enum tpm_refusal why = t->power == TPM_OFF           ? TPM_REFUSES_OFF
                           : locality > TPM_LOCALITY_MAX ? TPM_REFUSES_LOCALITY
                                                         : TPM_REFUSES_SIZE;
    refuse(t, why, resp, ret_resp_bytes);
    return 0;
}

/* One of our own commands; *ret is the response's code. */
static int run_own(struct tpm *t, const uint8_t *cmd, size_t n, uint32_t *ret, struct err *e)
{
    uint8_t resp[TPM_BUFFER_BYTES];
    size_t resp_bytes;
    if (tpm_process(t, 0, cmd, n, resp, &resp_bytes, e) < 0)
        return -1;
    *ret = get_be32(resp + 6);
    return 0;
}

static int startup_refused(enum tpm_startup how, uint32_t rc, struct err *e)
{
    if (rc == RC_INITIALIZE || rc == RESULT_INVALID_POSTINIT)
        return err_set(e, ERR_USAGE,
                       "the TPM resumed a stored volatile state and is started already; leave the "
                       "startup flag out");
    if (how == STARTUP_STATE && rc != RC_FAILURE)
        return err_set(e, ERR_USAGE,
                       "the TPM refuses to start up from a saved state (result 0x%x); was it saved "
                       "by an orderly shutdown? If not, start up clear",
                       rc);
    return err_set(e, rc == RC_FAILURE ? ERR_STORAGE : ERR_USAGE,
                   "the TPM refuses to start up (result 0x%x)", rc);
}

int tpm_startup(struct tpm *t, enum tpm_startup how, struct err *e)
{
    static const uint16_t types[][2] = {
        /*                       2.0     1.2 */
        [STARTUP_CLEAR] = {0x0000, 0x0001},
        [STARTUP_STATE] = {0x0001, 0x0002},
        [STARTUP_DEACTIVATED] = {0, 0x0003},
    };
    uint8_t cmd[TPM_SHORT_COMMAND_BYTES];
    uint32_t rc;
    if (t->power == TPM_OFF)
        return err_set(e, ERR_USAGE, "the TPM is off and cannot be started up");
    if (t->kind == DEVICE_TPM20 && how == STARTUP_DEACTIVATED)
        return err_set(e, ERR_USAGE, "a TPM 2.0 cannot be started up deactivated");
    size_t n = tpm_command_startup(t->kind, types[how][t->kind != DEVICE_TPM20], cmd);
    if (run_own(t, cmd, n, &rc, e) < 0)
        return -1;
    return rc == 0 ? 0 : startup_refused(how, rc, e);
}

int tpm_orderly_shutdown(struct tpm *t, struct err *e)
{
    enum { SU_CLEAR = 0, SU_STATE = 1 };
    static const uint16_t types[] = {SU_STATE, SU_CLEAR};
    uint8_t cmd[TPM_SHORT_COMMAND_BYTES];
    uint32_t rc = 0;
    if (t->power == TPM_OFF || t->kind != DEVICE_TPM20 || t->shut_down)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        size_t n = tpm_command_shutdown(types[i], cmd);
        if (run_own(t, cmd, n, &rc, e) < 0)
            return -1;
        if (rc == 0 || rc == RC_INITIALIZE) /* it was never started up */
            return 0;
    }
    return err_set(e, ERR_STORAGE, "the TPM refuses to shut down (result 0x%x)", rc);
}

/* --- control commands --- */

/* Not a command, and yet it may store: the same way back. */
static uint32_t act(struct tpm *t, uint8_t locality, enum tpm_lib_act what, const uint8_t *p,
                    size_t n)
{
    struct err e;
    if (t->power == TPM_OFF)
        return RESULT_BAD_ORDINAL;
    if (tpm_is_stuck(t) || !t->store)
        return RESULT_IO_ERROR;
    if (locality > TPM_LOCALITY_MAX)
        return RESULT_BAD_LOCALITY;
    if (n > UINT32_MAX)
        return RESULT_BAD_PARAM_SIZE;
    t->locality = locality;
    t->shut_down = false;
    tpm_lib_take_volatile(t);
    if (!t->before)
        return RESULT_IO_ERROR;
    uint32_t rc = tpm_lib_act(what, p, (uint32_t)n);
    if (settle(t, false, &e) < 0)
        rc = RESULT_IO_ERROR;
    end_way_back(t);
    return rc;
}

uint32_t tpm_established(struct tpm *t, bool *ret)
{
    if (t->power == TPM_OFF)
        return RESULT_BAD_ORDINAL;
    return tpm_is_stuck(t) ? RESULT_IO_ERROR : tpm_lib_established(ret);
}

uint32_t tpm_reset_established(struct tpm *t, uint8_t locality)
{
    return act(t, locality, TPM_ACT_RESET_ESTABLISHED, NULL, 0);
}

/* The hardware sends these from locality 4 alone. */
uint32_t tpm_hash_start(struct tpm *t)
{
    return act(t, TPM_LOCALITY_MAX, TPM_ACT_HASH_START, NULL, 0);
}

uint32_t tpm_hash_data(struct tpm *t, const uint8_t *p, size_t n)
{
    return act(t, TPM_LOCALITY_MAX, TPM_ACT_HASH_DATA, p, n);
}

uint32_t tpm_hash_end(struct tpm *t)
{
    return act(t, TPM_LOCALITY_MAX, TPM_ACT_HASH_END, NULL, 0);
}
