#include "src/make/ek_read.h"

#include <string.h>

#include "backend/tpm_command.h"
#include "src/make/manufacture_tpm12.h"

struct bench {
    struct tpm_workbench *at;
    uint8_t cmd[MADE_COMMAND_BYTES];
    size_t cmd_bytes;
    uint8_t resp[TPM_BUFFER_BYTES];
    size_t resp_bytes;
};

/* *ret: did the TPM do it? What it refuses is an answer, too. */
static int ask(struct bench *b, bool *ret, struct err *e)
{
    uint32_t code = 0;
    if (tpm_workbench_run(b->at, b->cmd, b->cmd_bytes, b->resp, &b->resp_bytes, e) < 0)
        return err_prefix(e, "asking the TPM for its EK");
    *ret = tpm_response_code(b->resp, b->resp_bytes, &code) && code == 0;
    return 0;
}

static void add(struct ek_list *l, uint32_t handle, const struct ek_key *k)
{
    if (l->n == EK_MOST || !ek_algorithm(k, l->ek[l->n].algorithm) ||
        !ek_fingerprint(k, l->ek[l->n].fingerprint))
        return;
    l->ek[l->n++].handle = handle;
}

/* --- TPM 2.0 --- */

static int read_handle(struct bench *b, uint32_t handle, struct ek_list *ret, struct err *e)
{
    enum { SIZE_OF_PUBLIC = 2 };
    struct ek_key k;
    bool done;
    b->cmd_bytes = command_read_public(handle, b->cmd);
    if (ask(b, &done, e) < 0)
        return -1;
    struct bytes_in in = bytes_in(b->resp, b->resp_bytes);
    bytes_skip(&in, TPM_HEADER_BYTES + SIZE_OF_PUBLIC);
    if (done && ek_key_decode(&in, &k))
        add(ret, handle, &k);
    return 0;
}

static int read_persistent(struct bench *b, struct ek_list *ret, struct err *e)
{
    uint32_t handles[EK_MOST];
    size_t n = 0;
    bool done;
    b->cmd_bytes = command_get_endorsement_handles(EK_MOST, b->cmd);
    if (ask(b, &done, e) < 0)
        return -1;
    if (done)
        n = response_endorsement_handles(b->resp, b->resp_bytes, handles, EK_MOST);
    for (size_t i = 0; i < n; i++)
        if (read_handle(b, handles[i], ret, e) < 0)
            return -1;
    return 0;
}

/* As everybody makes it who needs it. */
static int make(struct bench *b, enum made_key key, struct ek_list *ret, struct err *e)
{
    enum { BEFORE_PUBLIC = 4 + 4 + 2 }; /* handle, size of parameters, size of the public area */
    struct ek_key k;
    bool done;
    b->cmd_bytes = command_create_primary(key, EK_STANDARD, b->cmd);
    if (ask(b, &done, e) < 0)
        return -1;
    struct bytes_in in = bytes_in(b->resp, b->resp_bytes);
    bytes_skip(&in, TPM_HEADER_BYTES + BEFORE_PUBLIC);
    if (done && ek_key_decode(&in, &k))
        add(ret, 0, &k);
    return 0;
}

static int tpm20(struct bench *b, struct ek_list *ret, struct err *e)
{
    if (read_persistent(b, ret, e) < 0)
        return -1;
    return ret->n > 0                                                                ? 0
           : make(b, KEY_EK_RSA2048, ret, e) < 0 || make(b, KEY_EK_P384, ret, e) < 0 ? -1
                                                                                     : 0;
}

/* --- TPM 1.2 --- */

static int tpm12(struct bench *b, struct ek_list *ret, struct err *e)
{
    enum { EXPONENT = 65537 };
    struct ek_key k = {.exponent = EXPONENT};
    bool done;
    b->cmd_bytes = command12_read_ek(b->cmd);
    if (ask(b, &done, e) < 0)
        return -1;
    if (done && response12_ek(b->resp, b->resp_bytes, &k.public))
        add(ret, 0, &k);
    return 0;
}

int ek_read(enum device_kind kind, const struct tpm_blobs *blobs, struct ek_list *ret,
            struct err *e)
{
    enum { TPM20_CLEAR = 0, TPM12_CLEAR = 1 };
    OWNED(tpm_workbench) bench = NULL;
    OWNED_HEAP struct bench *b = calloc(1, sizeof(*b));
    struct ek_list list = {.n = 0};
    bool done;
    if (!b)
        return err_nomem(e, "the TPM's answers");
    if (tpm_workbench_new(kind, blobs, &bench, e) < 0)
        return -1;
    b->at = bench;
    b->cmd_bytes =
        tpm_command_startup(kind, kind == DEVICE_TPM20 ? TPM20_CLEAR : TPM12_CLEAR, b->cmd);
    if (ask(b, &done, e) < 0)
        return -1;
    if (!done)
        return err_set(e, ERR_STATE_CORRUPT, "the TPM does not start up from its state");
    if ((kind == DEVICE_TPM20 ? tpm20(b, &list, e) : tpm12(b, &list, e)) < 0)
        return -1;
    *ret = list;
    return 0;
}
