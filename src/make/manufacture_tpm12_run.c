#include <string.h>

#include "src/make/manufacture_run.h"
#include "src/make/manufacture_tpm12.h"

/* Somebody is at the machine and switches the TPM on. */
static int enable(struct manufacture_run *r, struct err *e)
{
    r->cmd_bytes = command12_presence(TPM12_PRESENCE_BY_COMMAND, r->cmd);
    if (manufacture_send(r, "allowing presence by command", e) < 0)
        return -1;
    r->cmd_bytes = command12_presence(TPM12_PRESENT, r->cmd);
    if (manufacture_send(r, "asserting presence", e) < 0)
        return -1;
    r->cmd_bytes = command12_enable(r->cmd);
    if (manufacture_send(r, "enabling the TPM", e) < 0)
        return -1;
    r->cmd_bytes = command12_activate(r->cmd);
    return manufacture_send(r, "activating the TPM", e);
}

static int make_ek(struct manufacture_run *r, struct ek_public *ret, struct err *e)
{
    r->cmd_bytes = command12_create_ek(r->cmd);
    if (manufacture_send(r, "creating the EK", e) < 0)
        return -1;
    if (!response12_ek(r->resp, r->resp_bytes, ret))
        return err_set(e, ERR_STORAGE, "the TPM made something else than an EK of 2048 bits");
    manufacture_tell(r, "Successfully created EK.");
    return 0;
}

static int take_ownership(struct manufacture_run *r, const struct ek_public *ek, struct err *e)
{
    struct session12 session;
    r->cmd_bytes = command12_oiap(r->cmd);
    if (manufacture_send(r, "beginning a session", e) < 0)
        return -1;
    if (!response12_oiap(r->resp, r->resp_bytes, &session))
        return err_set(e, ERR_STORAGE, "the TPM began no session");
    if (command12_take_ownership(&session, ek, r->what->owner_auth, r->what->srk_auth, r->cmd,
                                 &r->cmd_bytes, e) < 0 ||
        manufacture_send(r, "taking ownership", e) < 0)
        return -1;
    manufacture_tell(r, "Successfully took ownership of the TPM.");
    return 0;
}

static int write_index(struct manufacture_run *r, uint32_t index, const uint8_t *p, size_t n,
                       struct err *e)
{
    r->cmd_bytes = command12_nv_define(index, (uint32_t)n, r->cmd);
    if (manufacture_send(r, "defining an NV index", e) < 0)
        return -1;
    for (size_t at = 0; at < n; at += NV_WRITE_MAX_BYTES) {
        size_t part = n - at < NV_WRITE_MAX_BYTES ? n - at : NV_WRITE_MAX_BYTES;
        r->cmd_bytes = command12_nv_write(index, (uint32_t)at, p + at, part, r->cmd);
        if (manufacture_send(r, "writing an NV index", e) < 0)
            return -1;
    }
    return 0;
}

static int keep_certificate(struct manufacture_run *r, enum certificate_kind what,
                            const struct ek_public *ek, struct err *e)
{
    uint8_t stored[TPM12_NV_HEADER_BYTES + CERTIFICATE_MAX_BYTES];
    const bool is_ek = what == CERTIFICATE_EK;
    size_t n = 0;
    if (manufacture_certify(r, what, KEY_EK_RSA2048, ek, stored + TPM12_NV_HEADER_BYTES, &n, e) < 0)
        return -1;
    nv12_certificate_header(n, stored);
    if (write_index(r, is_ek ? TPM12_EK_CERTIFICATE_INDEX : TPM12_PLATFORM_CERTIFICATE_INDEX,
                    stored, TPM12_NV_HEADER_BYTES + n, e) < 0)
        return err_prefix(e, "the %s certificate", is_ek ? "EK" : "platform");
    manufacture_tell(r, "Successfully created NVRAM area for %s certificate.",
                     is_ek ? "EK" : "Platform");
    return 0;
}

static int lock(struct manufacture_run *r, struct err *e)
{
    r->cmd_bytes = command12_nv_define((uint32_t)TPM12_NV_LOCK_INDEX, 0, r->cmd);
    if (manufacture_send(r, "locking NV", e) < 0)
        return -1;
    manufacture_tell(r, "Successfully locked NVRAM access.");
    return 0;
}

int manufacture_tpm12(struct manufacture_run *r, struct err *e)
{
    const struct manufacture *w = r->what;
    struct ek_public ek;
    if (enable(r, e) < 0 || (w->ek && make_ek(r, &ek, e) < 0) ||
        (w->take_ownership && take_ownership(r, &ek, e) < 0) ||
        (w->ek_certificate && keep_certificate(r, CERTIFICATE_EK, &ek, e) < 0) ||
        (w->platform_certificate && keep_certificate(r, CERTIFICATE_PLATFORM, &ek, e) < 0))
        return -1;
    return w->lock_nvram ? lock(r, e) : 0;
}
