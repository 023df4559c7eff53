#include "src/make/manufacture.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/tpm_command.h"
#include "src/make/manufacture_run.h"

enum { INFO_SPECIFICATION = 1, INFO_ATTRIBUTES = 2 }; /* TPMLIB_INFO_* */

/* --- what both families do --- */

int manufacture_send(struct manufacture_run *r, const char *doing, struct err *e)
{
    uint32_t code;
    if (tpm_workbench_run(r->bench, r->cmd, r->cmd_bytes, r->resp, &r->resp_bytes, e) < 0)
        return err_prefix(e, "%s", doing);
    if (!tpm_response_code(r->resp, r->resp_bytes, &code))
        return err_set(e, ERR_STORAGE, "%s: the TPM answered no whole response", doing);
    return code == 0 ? 0
                     : err_set(e, ERR_STORAGE, "%s: the TPM refused it (result 0x%x)", doing, code);
}

void manufacture_tell(const struct manufacture_run *r, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    if (!r->what->calls.tell)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    r->what->calls.tell(r->what->calls.ctx, text);
}

int manufacture_certify(struct manufacture_run *r, enum certificate_kind what, enum made_key key,
                        const struct ek_public *ek, uint8_t ret[CERTIFICATE_MAX_BYTES],
                        size_t *ret_bytes, struct err *e)
{
    if (!r->what->calls.certify)
        return err_set(e, ERR_USAGE, "nobody is there who signs certificates");
    if (!r->info && tpm_info(tpm_workbench_tpm(r->bench), INFO_SPECIFICATION | INFO_ATTRIBUTES,
                             &r->info, e) < 0)
        return -1;
    const struct certificate_request request = {what, r->what->device, key, r->what->use,
                                                ek,   r->info};
    if (r->what->calls.certify(r->what->calls.ctx, &request, ret, ret_bytes, e) < 0)
        return -1;
    return *ret_bytes > 0 && *ret_bytes <= CERTIFICATE_MAX_BYTES
               ? 0
               : err_set(e, ERR_STORAGE, "the signer gave no certificate, or one too long");
}

static int startup(struct manufacture_run *r, struct err *e)
{
    enum { TPM20_CLEAR = 0, TPM12_CLEAR = 1 };
    const bool two = r->what->device == DEVICE_TPM20;
    r->cmd_bytes = tpm_command_startup(r->what->device, two ? TPM20_CLEAR : TPM12_CLEAR, r->cmd);
    return manufacture_send(r, "starting the TPM up", e);
}

/* --- TPM 2.0 --- */

/* The TPM has room for three objects that are not persistent: each leaves again. */
static int make_key(struct manufacture_run *r, enum made_key key, struct ek_public *ret,
                    struct err *e)
{
    const struct made_key_facts *f = made_key_facts(key);
    uint32_t handle;
    r->cmd_bytes = command_create_primary(key, r->what->use, r->cmd);
    if (manufacture_send(r, "creating a key", e) < 0)
        return err_prefix(e, "%s", f->name);
    if (!response_created(r->resp, r->resp_bytes, key, &handle, ret))
        return err_set(e, ERR_STORAGE, "%s: the TPM made something else than was asked for",
                       f->name);
    r->cmd_bytes = command_make_persistent(key, handle, r->cmd);
    if (manufacture_send(r, "making a key persistent", e) < 0)
        return err_prefix(e, "%s", f->name);
    r->cmd_bytes = command_flush(handle, r->cmd);
    if (manufacture_send(r, "flushing a key", e) < 0)
        return -1;
    manufacture_tell(r, "Successfully created %s with handle 0x%x.", f->name, f->persistent);
    return 0;
}

static int write_index(struct manufacture_run *r, uint32_t index, const uint8_t *p, size_t n,
                       struct err *e)
{
    r->cmd_bytes = command_nv_define(index, (uint16_t)n, r->cmd);
    if (manufacture_send(r, "defining an NV index", e) < 0)
        return -1;
    for (size_t at = 0; at < n; at += NV_WRITE_MAX_BYTES) {
        size_t part = n - at < NV_WRITE_MAX_BYTES ? n - at : NV_WRITE_MAX_BYTES;
        r->cmd_bytes = command_nv_write(index, (uint16_t)at, p + at, part, r->cmd);
        if (manufacture_send(r, "writing an NV index", e) < 0)
            return -1;
    }
    r->cmd_bytes = command_nv_lock(index, r->cmd);
    return r->what->lock_nvram ? manufacture_send(r, "locking an NV index", e) : 0;
}

static int make_index(struct manufacture_run *r, uint32_t index, const char *whose,
                      const char *what, const uint8_t *p, size_t n, struct err *e)
{
    if (write_index(r, index, p, n, e) < 0)
        return err_prefix(e, "NV index 0x%x for %s%s", index, whose, what);
    manufacture_tell(r, "Successfully created NVRAM area 0x%x for %s%s.", index, whose, what);
    return 0;
}

/* The template has to be known where it is not the one that everybody knows. */
static int keep_template(struct manufacture_run *r, enum made_key key, struct err *e)
{
    uint8_t template[MADE_TEMPLATE_BYTES];
    if (r->what->use == EK_STANDARD)
        return 0;
    size_t n = made_key_template(key, r->what->use, template);
    return make_index(r, made_key_facts(key)->template_index, made_key_facts(key)->name,
                      " template", template, n, e);
}

static int keep_certificate(struct manufacture_run *r, enum certificate_kind what,
                            enum made_key key, const struct ek_public *ek, struct err *e)
{
    uint8_t certificate[CERTIFICATE_MAX_BYTES];
    size_t n = 0;
    if (manufacture_certify(r, what, key, ek, certificate, &n, e) < 0)
        return -1;
    if (what == CERTIFICATE_PLATFORM)
        return make_index(r, PLATFORM_CERTIFICATE_INDEX, "platform", " certificate", certificate, n,
                          e);
    return make_index(r, made_key_facts(key)->certificate_index, made_key_facts(key)->name,
                      " certificate", certificate, n, e);
}

/* The platform certificate speaks of the RSA EK. */
static int make_ek(struct manufacture_run *r, enum made_key key, struct err *e)
{
    struct ek_public ek;
    if (make_key(r, key, &ek, e) < 0 || keep_template(r, key, e) < 0)
        return -1;
    if (r->what->ek_certificate && keep_certificate(r, CERTIFICATE_EK, key, &ek, e) < 0)
        return -1;
    return r->what->platform_certificate && !ek.is_ecc
               ? keep_certificate(r, CERTIFICATE_PLATFORM, key, &ek, e)
               : 0;
}

static void append_name(char *text, size_t room, uint16_t alg)
{
    const size_t n = strlen(text);
    (void)snprintf(text + n, room - n, "%s%s", n ? "," : "", pcr_bank_name(alg));
}

static int allocate(struct manufacture_run *r, const struct pcr_banks *wanted, struct err *e)
{
    struct pcr_banks all, on = {0};
    char names[100] = "", all_names[100] = "";
    r->cmd_bytes = command_get_banks(r->cmd);
    if (manufacture_send(r, "asking for the PCR banks", e) < 0)
        return -1;
    if (!response_banks(r->resp, r->resp_bytes, &all))
        return err_set(e, ERR_STORAGE, "the TPM does not say which PCR banks it has");
    for (size_t i = 0; i < wanted->n; i++)
        if (pcr_banks_have(&all, wanted->alg[i]) && !pcr_banks_have(&on, wanted->alg[i])) {
            on.alg[on.n++] = wanted->alg[i];
            append_name(names, sizeof(names), wanted->alg[i]);
        }
    if (on.n == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "No PCR banks could be allocated. None of the selected algorithms are "
                       "supported.");
    for (size_t i = 0; i < all.n; i++)
        append_name(all_names, sizeof(all_names), all.alg[i]);
    r->cmd_bytes = command_pcr_allocate(&all, &on, r->cmd);
    if (manufacture_send(r, "allocating the PCR banks", e) < 0)
        return -1;
    if (!response_allocated(r->resp, r->resp_bytes))
        return err_set(e, ERR_UNSUPPORTED, "the TPM does not allocate these PCR banks: %s", names);
    manufacture_tell(r, "Successfully activated PCR banks %s among %s.", names, all_names);
    return 0;
}

static int shut_down(struct manufacture_run *r, struct err *e)
{
    enum { CLEAR = 0 };
    r->cmd_bytes = tpm_command_shutdown(CLEAR, r->cmd);
    return manufacture_send(r, "shutting the TPM down", e);
}

static int tpm20(struct manufacture_run *r, struct err *e)
{
    const struct manufacture *w = r->what;
    const enum made_key spk = w->spk_is_ecc ? KEY_SPK_P384
                              : w->rsa3072  ? KEY_SPK_RSA3072
                                            : KEY_SPK_RSA2048;
    struct ek_public unused;
    if (w->spk && make_key(r, spk, &unused, e) < 0)
        return -1;
    if (w->ek && (make_ek(r, w->rsa3072 ? KEY_EK_RSA3072 : KEY_EK_RSA2048, e) < 0 ||
                  make_ek(r, KEY_EK_P384, e) < 0))
        return -1;
    if (w->banks.n > 0 && allocate(r, &w->banks, e) < 0)
        return -1;
    return shut_down(r, e);
}

/* --- the whole --- */

static int check(const struct manufacture *what, struct err *e)
{
    if ((what->ek_certificate || what->platform_certificate || what->take_ownership) && !what->ek)
        return err_set(e, ERR_USAGE, "certificates and an owner need an EK");
    if (what->device == DEVICE_TPM20 ? what->take_ownership : what->spk)
        return err_set(e, ERR_USAGE, "a TPM of the other family would be needed for that");
    return 0;
}

int manufacture(const struct manufacture *what, struct tpm_blobs *ret, struct err *e)
{
    OWNED(tpm_workbench) bench = NULL;
    if (check(what, e) < 0 || tpm_workbench_new(what->device, NULL, &bench, e) < 0)
        return -1;
    struct manufacture_run r = {.what = what, .bench = bench};
    int result = startup(&r, e);
    if (result == 0)
        result = what->device == DEVICE_TPM20 ? tpm20(&r, e) : manufacture_tpm12(&r, e);
    free(r.info);
    return result < 0 ? -1 : tpm_workbench_finish(bench, ret, e);
}

int manufacture_reconfigure(const struct tpm_blobs *from, const struct pcr_banks *banks,
                            const struct manufacture_calls *calls, struct tpm_blobs *ret,
                            struct err *e)
{
    const struct manufacture what = {.device = DEVICE_TPM20, .calls = *calls};
    OWNED(tpm_workbench) bench = NULL;
    if (tpm_workbench_new(DEVICE_TPM20, from, &bench, e) < 0)
        return -1;
    struct manufacture_run r = {.what = &what, .bench = bench};
    if (startup(&r, e) < 0 || (banks->n > 0 && allocate(&r, banks, e) < 0) || shut_down(&r, e) < 0)
        return -1;
    return tpm_workbench_finish(bench, ret, e);
}
