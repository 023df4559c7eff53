#include "src/serve/session_priv.h"

/* Between two commands of the TPM, which go on behind it: a snapshot holds what was acknowledged
 * before, and nothing of what comes after. */

/* The worker takes another store in the place of the one that it has. */
static int apply(struct session *s, const char *name, struct err *e)
{
    if (tpm_is_on(s->tpm))
        return err_set(e, ERR_USAGE,
                       "the TPM is on, and cannot go back while a guest uses it; end the emulator, "
                       "or power the TPM off, before a snapshot is applied");
    struct store *store = tpm_lend_store(s->tpm);
    int r = custody_apply(s->custody, name, &store, e);
    struct err back;
    if (!store) /* nothing is claimed any more: every command says so from now on */
        return -1;
    if (tpm_take_store(s->tpm, &store, &back) < 0) {
        store_free(store);
        *e = back;
        return -1;
    }
    return r;
}

int session_snapshot(struct session *s, struct admin_call *call, struct err *e)
{
    if (!tpm_store(s->tpm))
        return err_set(e, ERR_USAGE,
                       "the image is not claimed here: its snapshots are those of whoever has it");
    int r = -1;
    if (call->what == ADMIN_SNAPSHOT_LIST)
        return store_snapshot_list(tpm_store(s->tpm), &call->snapshots, e);
    if (call->what == ADMIN_SNAPSHOT_CREATE)
        r = tpm_snapshot_create(s->tpm, call->token, e);
    else if (call->what == ADMIN_SNAPSHOT_DELETE)
        r = tpm_snapshot_delete(s->tpm, call->token, e);
    else
        r = apply(s, call->token, e);
    if (r < 0)
        session_note_failure(s, e);
    else
        log_line(s->o.log, 1, "snapshot %s",
                 call->what == ADMIN_SNAPSHOT_CREATE   ? "created"
                 : call->what == ADMIN_SNAPSHOT_DELETE ? "deleted"
                                                       : "applied");
    return r;
}
