#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
#include <libtpms/tpm_nvfilename.h>
#include <libtpms/tpm_tis.h>

#include "backend/tpm_command.h"
#include "backend/tpm_priv.h"

/* libtpms' callbacks carry no pointer of ours, and it keeps one TPM per process. */
static struct tpm *live;

/* --- what libtpms sees --- */

static bool kind_of(uint32_t tpm_number, const char *name, enum blob_kind *ret)
{
    static const char *const names[] = {TPM_PERMANENT_ALL_NAME, TPM_VOLATILESTATE_NAME,
                                        TPM_SAVESTATE_NAME};
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        if (tpm_number != 0 || strcmp(name, names[i]) != 0)
            continue;
        *ret = (enum blob_kind)(i + 1);
        return true;
    }
    return false;
}

static TPM_RESULT on_init(void)
{
    return TPM_SUCCESS;
}

/* TPM_RETRY means "there is none", and makes libtpms manufacture a TPM where that is said of the
 * permanent state: it is never said but while one is being manufactured. */
static TPM_RESULT on_load(unsigned char **ret, uint32_t *ret_bytes, uint32_t number,
                          const char *name)
{
    enum blob_kind kind;
    size_t n;
    if (!live || !kind_of(number, name, &kind))
        return TPM_FAIL;
    const uint8_t *p = tpm_shown(live, kind, &n);
    if (!p)
        return kind == BLOB_PERMANENT && !live->manufacturing ? TPM_FAIL : TPM_RETRY;
    if (n == 0 || n > BLOB_MAX_BYTES)
        return TPM_FAIL;
    unsigned char *copy = malloc(n);
    if (!copy) {
        /* libtpms starts without a volatile state that it was refused, and says nothing. */
        (void)err_nomem(&live->lost, "the state of the TPM");
        return TPM_FAIL;
    }
    memcpy(copy, p, n);
    *ret = copy; /* libtpms frees it */
    *ret_bytes = (uint32_t)n;
    return TPM_SUCCESS;
}

static TPM_RESULT on_store(const unsigned char *data, uint32_t n, uint32_t number, const char *name)
{
    enum blob_kind kind;
    struct err e;
    if (!live)
        return TPM_FAIL;
    if (!kind_of(number, name, &kind))
        err_set(&e, ERR_UNSUPPORTED, "libtpms wants to store something of an unknown kind");
    else if (blob_set_put(&live->pending, kind, data, n, &e) == 0)
        return TPM_SUCCESS;
    if (live->lost.kind == ERR_NONE)
        live->lost = e;
    return TPM_FAIL;
}

static TPM_RESULT on_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
{
    enum blob_kind kind;
    if (!live || !kind_of(number, name, &kind))
        return TPM_FAIL;
    if (tpm_is_shown(live, kind))
        blob_set_delete(&live->pending, kind);
    else if (must_exist)
        return TPM_FAIL;
    return TPM_SUCCESS;
}

static TPM_RESULT on_locality(TPM_MODIFIER_INDICATOR *ret, uint32_t number)
{
    (void)number;
    *ret = live ? live->locality : 0;
    return TPM_SUCCESS;
}

static TPM_RESULT on_presence(TPM_BOOL *ret, uint32_t number)
{
    (void)number;
    *ret = false;
    return TPM_SUCCESS;
}

/* All callbacks are always there: without them libtpms would keep its state in ./NVChip, in clear.
 */
static TPM_RESULT hook_up(enum device_kind kind)
{
    struct libtpms_callbacks callbacks = {
        .sizeOfStruct = sizeof(callbacks),
        .tpm_nvram_init = on_init,
        .tpm_nvram_loaddata = on_load,
        .tpm_nvram_storedata = on_store,
        .tpm_nvram_deletename = on_delete,
        .tpm_io_init = on_init,
        .tpm_io_getlocality = on_locality,
        .tpm_io_getphysicalpresence = on_presence,
    };
    TPM_RESULT rc = TPMLIB_ChooseTPMVersion(kind == DEVICE_TPM20 ? TPMLIB_TPM_VERSION_2
                                                                 : TPMLIB_TPM_VERSION_1_2);
    return rc == TPM_SUCCESS ? TPMLIB_RegisterCallbacks(&callbacks) : rc;
}

/* For each command that may store, libtpms takes and frees some 128 and 230 KB of which it touches
 * little. Given back to the kernel each time, as malloc() does unless told, that costs three system
 * calls and ten microseconds. */
static void keep_freed_memory(void)
{
    enum { KEPT = 1 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, KEPT);
    (void)mallopt(M_TRIM_THRESHOLD, KEPT);
}

int tpm_lib_attach(struct tpm *t, struct err *e)
{
    if (live)
        return err_set(e, ERR_USAGE, "this process already has a TPM; libtpms keeps only one");
    /* libtpms writes to stderr what made it fail, commands included, unless it is given another
     * place. In a root of its own that may not be there; writing text to an event counter has no
     * effect either. */
    t->quiet_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (t->quiet_fd < 0 && errno == ENOENT)
        t->quiet_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->quiet_fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot open /dev/null for what libtpms would print");
    if (secret_new(TPM_BUFFER_BYTES, &t->cmd, e) < 0)
        return -1;
    TPM_RESULT rc = hook_up(t->kind);
    if (rc != TPM_SUCCESS)
        return err_set(e, ERR_UNSUPPORTED, "libtpms refuses to be a TPM %s (result 0x%x)",
                       t->kind == DEVICE_TPM20 ? "2.0" : "1.2", rc);
    keep_freed_memory();
    TPMLIB_SetDebugLevel(0);
    TPMLIB_SetDebugFD(t->quiet_fd);
    live = t;
    return 0;
}

void tpm_lib_detach(struct tpm *t)
{
    if (live != t)
        return;
    TPMLIB_SetDebugFD(-1);
    live = NULL;
}

/* --- what we ask of libtpms --- */

uint32_t tpm_lib_init(void)
{
    errno = 0;
    return TPMLIB_MainInit();
}

void tpm_lib_terminate(void)
{
    TPMLIB_Terminate();
}

int tpm_lib_refusal(uint32_t rc, const char *what, struct err *e)
{
    uint32_t version = TPMLIB_GetVersion();
    if (errno == ENOMEM)
        return err_nomem(e, what);
    if (rc == TPM_BAD_VERSION)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s was written by a newer libtpms than this one (%u.%u.%u); use one that is "
            "at least as new",
            what, version >> 16, version >> 8 & 0xff, version & 0xff);
    return err_set(e, ERR_STATE_CORRUPT,
                   "libtpms cannot read %s (result 0x%x); nothing was changed, restore a good copy",
                   what, rc);
}

int tpm_lib_validate(const struct tpm *t, unsigned kinds, const char *what, struct err *e)
{
    static const unsigned types[] = {TPMLIB_STATE_PERMANENT, TPMLIB_STATE_VOLATILE,
                                     TPMLIB_STATE_SAVE_STATE};
    unsigned ask = 0;
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (kinds & 1u << i && tpm_is_shown(t, (enum blob_kind)(i + 1)))
            ask |= types[i];
    TPM_RESULT rc;
    /* A second time where memory was lacking: malloc() may say so, and succeed all the same. */
    for (int tries = 0; tries < 2; tries++) {
        errno = 0;
        rc = TPMLIB_ValidateState((enum TPMLIB_StateType)ask, 0);
        if (rc == TPM_SUCCESS || errno != ENOMEM)
            break;
    }
    if (live->lost.kind != ERR_NONE) {
        *e = live->lost;
        live->lost.kind = ERR_NONE;
        return -1;
    }
    return rc == TPM_SUCCESS ? 0 : tpm_lib_refusal(rc, what, e);
}

void tpm_lib_take_volatile(struct tpm *t)
{
    unsigned char *p = NULL;
    uint32_t n = 0;
    if (TPMLIB_GetState(TPMLIB_STATE_VOLATILE, &p, &n) != TPM_SUCCESS || n == 0) {
        TPM_Free(p);
        return;
    }
    t->before = p;
    t->before_bytes = n;
}

void tpm_lib_store_permanent(struct tpm *t)
{
    unsigned char *p = NULL;
    uint32_t n = 0;
    if (TPMLIB_GetState(TPMLIB_STATE_PERMANENT, &p, &n) != TPM_SUCCESS || n == 0)
        err_set(&t->lost, ERR_STORAGE, "libtpms does not give the TPM's permanent state");
    else
        (void)on_store(p, n, 0, TPM_PERMANENT_ALL_NAME);
    if (p)
        wipe(p, n);
    TPM_Free(p);
}

void tpm_lib_forget_volatile(struct tpm *t)
{
    if (t->before)
        wipe(t->before, t->before_bytes);
    TPM_Free(t->before);
    t->before = NULL;
    t->before_bytes = 0;
}

bool tpm_lib_run(struct tpm *t, const uint8_t *cmd, size_t cmd_bytes, size_t *ret_bytes,
                 uint32_t *ret_code)
{
    uint32_t n = 0, code;
    if (cmd_bytes > 0)
        memcpy(secret_bytes(t->cmd), cmd, cmd_bytes);
    TPM_RESULT rc =
        TPMLIB_Process(&t->resp, &n, &t->resp_room, secret_bytes(t->cmd), (uint32_t)cmd_bytes);
    if (rc != TPM_SUCCESS || n > TPM_BUFFER_BYTES || !tpm_response_code(t->resp, n, &code))
        return false;
    *ret_bytes = n;
    *ret_code = code;
    return true;
}

uint32_t tpm_library_version(void)
{
    return TPMLIB_GetVersion();
}

void tpm_cancel(void)
{
    (void)TPMLIB_CancelCommand();
}

int tpm_info(const struct tpm *t, uint64_t what, char **ret, struct err *e)
{
    (void)t; /* proves that libtpms was told which kind of TPM it is */
    char *text = TPMLIB_GetInfo((enum TPMLIB_InfoFlags)(what & UINT32_MAX));
    if (!text)
        return err_nomem(e, "what libtpms says about itself");
    *ret = text;
    return 0;
}

uint32_t tpm_buffer_size(struct tpm *t, uint32_t want, uint32_t *ret_min, uint32_t *ret_max)
{
    return TPMLIB_SetBufferSize(t->power == TPM_OFF ? want : 0, ret_min, ret_max);
}

uint32_t tpm_lib_act(enum tpm_lib_act act, const uint8_t *p, uint32_t n)
{
    switch (act) {
    case TPM_ACT_RESET_ESTABLISHED:
        return TPM_IO_TpmEstablished_Reset();
    case TPM_ACT_HASH_START:
        return TPM_IO_Hash_Start();
    case TPM_ACT_HASH_DATA:
        return TPM_IO_Hash_Data(p, n);
    case TPM_ACT_HASH_END:
        return TPM_IO_Hash_End();
    }
    return TPM_FAIL;
}

uint32_t tpm_lib_established(bool *ret)
{
    TPM_BOOL established = false;
    TPM_RESULT rc = TPM_IO_TpmEstablished_Get(&established);
    if (rc == TPM_SUCCESS)
        *ret = established;
    return rc;
}

void tpm_lib_free(unsigned char *p)
{
    TPM_Free(p);
}
