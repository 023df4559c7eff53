#include "backend/tpm_workbench.h"

#include <errno.h>
#include <string.h>

#include "backend/tpm_priv.h"

struct tpm_workbench {
    struct tpm *t; /* no store, and never one */
};

static int begin(struct tpm *t, const struct tpm_blobs *from, struct err *e)
{
    const size_t i = BLOB_PERMANENT - 1;
    t->manufacturing = !from;
    if (from && !from->blob[i])
        return err_set(e, ERR_STATE_EMPTY, "there is no TPM that could be changed");
    if (from &&
        blob_set_put(&t->staged, BLOB_PERMANENT, secret_peek(from->blob[i]), from->n[i], e) < 0)
        return -1;
    if (from && tpm_lib_validate(t, TPM_ALL_BLOBS, "the stored TPM state", e) < 0)
        return -1;
    uint32_t rc = tpm_lib_init();
    if (rc == 0 && t->lost.kind == ERR_NONE) {
        t->power = TPM_ON;
        return 0;
    }
    int os = errno;
    tpm_lib_terminate();
    if (t->lost.kind != ERR_NONE) {
        *e = t->lost;
        return -1;
    }
    errno = os;
    return tpm_lib_refusal(rc, from ? "the stored TPM state" : "the TPM that it manufactures", e);
}

int tpm_workbench_new(enum device_kind kind, const struct tpm_blobs *from,
                      struct tpm_workbench **ret, struct err *e)
{
    OWNED(tpm_workbench) w = calloc(1, sizeof(*w));
    if (!w)
        return err_nomem(e, "the TPM");
    if (tpm_new_waiting(kind, &w->t, e) < 0 || begin(w->t, from, e) < 0)
        return -1;
    *ret = MOVE(w);
    return 0;
}

void tpm_workbench_free(struct tpm_workbench *w)
{
    if (!w)
        return;
    tpm_free(w->t);
    free(w);
}

const struct tpm *tpm_workbench_tpm(const struct tpm_workbench *w)
{
    return w->t;
}

int tpm_workbench_run(struct tpm_workbench *w, const uint8_t *cmd, size_t cmd_bytes,
                      uint8_t resp[TPM_BUFFER_BYTES], size_t *ret_resp_bytes, struct err *e)
{
    size_t n;
    uint32_t code;
    if (w->t->power != TPM_ON || cmd_bytes > TPM_BUFFER_BYTES)
        return err_set(e, ERR_USAGE, "the TPM is off, or a command longer than its buffer");
    bool answered = tpm_lib_run(w->t, cmd, cmd_bytes, &n, &code);
    if (w->t->lost.kind != ERR_NONE) {
        *e = w->t->lost;
        return -1;
    }
    if (!answered)
        return err_set(e, ERR_STORAGE, "libtpms gave no response to a command");
    memcpy(resp, w->t->resp, n);
    *ret_resp_bytes = n;
    return 0;
}

int tpm_workbench_finish(struct tpm_workbench *w, struct tpm_blobs *ret, struct err *e)
{
    struct tpm_blobs blobs = {0};
    const uint8_t *p = NULL;
    tpm_power_off(w->t);
    if (tpm_lib_validate(w->t, TPM_ALL_BLOBS, "the TPM that it has just made", e) < 0)
        return -1;
    /* Where no command changed anything, it is the state it began with. */
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        const enum blob_kind kind = (enum blob_kind)(i + 1);
        struct blob_set *from = &w->t->pending;
        if (!blob_set_get(from, kind, &p, &blobs.n[i]))
            from = &w->t->staged;
        if (blob_set_get(from, kind, &p, &blobs.n[i]) && p)
            blobs.blob[i] = MOVE(from->blob[i].at);
        else
            blobs.n[i] = 0;
    }
    blob_set_reset(&w->t->pending);
    blob_set_reset(&w->t->staged);
    *ret = blobs;
    return 0;
}
