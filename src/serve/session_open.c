#include <stdio.h>
#include <string.h>

#include "src/serve/serve.h"
#include "src/serve/session_priv.h"

static void log_start(struct session *s)
{
    char name[200], id[40];
    const uint8_t *u = s->last.instance;
    session_see_store(s);
    (void)snprintf(id, sizeof(id),
                   "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
                   u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
                   u[14], u[15]);
    err_quote(name, sizeof(name), s->o.image, strlen(s->o.image));
    if (!s->seen) {
        log_line(s->o.log, 1, "waiting for %s to be copied", name);
        return;
    }
    struct store_stats stats = {0};
    if (tpm_store(s->tpm))
        store_stats(tpm_store(s->tpm), &stats);
    log_line(s->o.log, 1, "%s %s: TPM %s, instance %s, generation %llu%s",
             s->waits ? "verified" : "opened", name,
             session_kind(s) == DEVICE_TPM20 ? "2.0" : "1.2", id,
             (unsigned long long)s->last.generation,
             stats.torn_sectors ? "; the last write was cut off, which is harmless" : "");
}

static int start_up(struct session *s, struct err *e)
{
    unsigned f = s->o.flags;
    if (!(f & (SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_STARTUP_STATE |
               SERVE_STARTUP_DEACTIVATED)))
        return 0;
    if (session_step(s, HO_INIT, false, e) < 0)
        return -1;
    if (f & SERVE_STARTUP_CLEAR)
        return tpm_startup(s->tpm, STARTUP_CLEAR, e);
    if (f & SERVE_STARTUP_STATE)
        return tpm_startup(s->tpm, STARTUP_STATE, e);
    if (f & SERVE_STARTUP_DEACTIVATED)
        return tpm_startup(s->tpm, STARTUP_DEACTIVATED, e);
    return 0;
}

static int check_device(const struct session *s, struct err *e)
{
    char name[200];
    if (!s->o.only_this_device || session_kind(s) == s->o.device)
        return 0;
    return err_set(e, ERR_USAGE, "%s holds a TPM %s, and a TPM %s was asked for",
                   err_quote(name, sizeof(name), s->o.image, strlen(s->o.image)),
                   session_kind(s) == DEVICE_TPM20 ? "2.0" : "1.2",
                   s->o.device == DEVICE_TPM20 ? "2.0" : "1.2");
}

/* The claim first, then everything. */
static int open_claimed(struct session *s, struct secret **pass, size_t pass_bytes,
                        const struct watch *watch, struct err *e)
{
    OWNED(image) image = NULL;
    OWNED(store) store = NULL;
    int r = image_open_claimed(s->o.image, *pass, pass_bytes, watch, &image, &store, e);
    secret_free(MOVE(*pass));
    if (r < 0 || custody_new(&image, &s->o.rules, HO_IDLE, &s->custody, e) < 0 ||
        tpm_new(&store, &s->tpm, e) < 0 || check_device(s, e) < 0)
        return -1;
    return start_up(s, e);
}

/* What comes to an image without a TPM comes from another image, and is not sealed under this one's
 * key: better said now than when the guest has been stopped. */
static int check_what_can_come(const struct session *s, const struct store_look *look,
                               struct err *e)
{
    size_t n;
    if (store_look_get(look, BLOB_PERMANENT, &n) || s->o.rules.migration_key ||
        s->o.rules.seal == SEAL_OFF)
        return 0;
    return err_set(e, ERR_KEY_MISSING,
                   "the image holds no TPM yet: one that comes from elsewhere is sealed under a "
                   "migration key (--migration-key), or not at all (--migration-seal off)");
}

/* Everything but the claim, which the other side may still have. */
static int verify_unclaimed(struct session *s, const struct watch *watch, struct err *e)
{
    OWNED(store_look) look = NULL;
    if (custody_prepare_load(s->custody, watch, &look, e) < 0)
        return -1;
    if (tpm_new_waiting(store_look_facts(look)->device, &s->tpm, e) < 0)
        return -1;
    store_look_free(MOVE(look));
    if (session_prepare_load(s, watch, &look, e) < 0)
        return -1;
    return s->o.copied ? 0 : check_what_can_come(s, look, e);
}

static bool may_be_unfinished(const struct err *e)
{
    return e->kind == ERR_STATE_EMPTY || e->kind == ERR_STATE_CORRUPT;
}

static int take_custody(struct session *s, struct secret **pass, size_t pass_bytes,
                        const struct watch *watch, struct err *e)
{
    OWNED(image_file) file = NULL;
    OWNED(image) image = NULL;
    if (image_file_open(s->o.image, &file, e) < 0)
        return -1;
    if (s->o.copied) /* what is there may be copied over: the passphrase is still needed */
        return custody_await(&file, pass, pass_bytes, &s->o.rules, &s->custody, e);
    int r = image_unlock(&file, *pass, pass_bytes, watch, &image, e);
    secret_free(MOVE(*pass)); /* before libtpms is touched */
    return r < 0 ? -1 : custody_new(&image, &s->o.rules, HO_AWAY, &s->custody, e);
}

static int open_waiting(struct session *s, struct secret **pass, size_t pass_bytes,
                        const struct watch *watch, struct err *e)
{
    if (take_custody(s, pass, pass_bytes, watch, e) < 0)
        return -1;
    if (verify_unclaimed(s, watch, e) == 0)
        return check_device(s, e);
    if (!s->o.copied || !may_be_unfinished(e))
        return -1;
    return s->tpm ? 0 : tpm_new_waiting(s->o.device, &s->tpm, e);
}

int session_open(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 const struct watch *watch, struct session **ret, struct err *e)
{
    OWNED(session) s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "a session");
    s->o = *o;
    s->waits = o->incoming;
    if (watch)
        s->watch = *watch;
    int r = o->make ? o->make(o->make_ctx, *pass, pass_bytes, watch, e) : 0;
    if (r == 0)
        r = (o->incoming ? open_waiting : open_claimed)(s, pass, pass_bytes, watch, e);
    secret_free(MOVE(*pass)); /* unless it is still needed, and has been taken */
    if (r < 0)
        return -1;
    s->opened = true;
    log_start(s);
    *ret = MOVE(s);
    return 0;
}

/* Without it a TPM 2.0 counts the power loss against dictionary attacks. That it cannot be stored
 * is no reason to go on: everything that was acknowledged is durable. */
void session_shut_down_orderly(struct session *s)
{
    struct err e = {0};
    if (!tpm_is_on(s->tpm) || !tpm_store(s->tpm) || s->o.flags & SERVE_NO_AUTO_SHUTDOWN)
        return;
    if (tpm_orderly_shutdown(s->tpm, &e) < 0) {
        err_prefix(&e, "the orderly shutdown of the TPM was not stored");
        log_err(s->o.log, &e);
    }
}

void session_shut_down(struct session *s)
{
    struct err e = {0};
    session_drop_export(s);
    if (session_step(s, HO_END, false, &e) < 0)
        log_err(s->o.log, &e);
    s->emulator = 0;
    s->locality = 0;
    s->probed = false;
}

static void end(struct session *s)
{
    session_shut_down(s);
    if (s->seen)
        log_line(s->o.log, 1, "closed at generation %llu", (unsigned long long)s->last.generation);
}

void session_free(struct session *s)
{
    if (!s)
        return;
    if (s->opened)
        end(s);
    tpm_free(s->tpm);
    custody_free(s->custody);
    free(s);
}
