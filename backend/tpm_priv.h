/* What the files of the TPM share; nobody else includes this.
 *
 *     tpm_state.c    making, ending, and the state as a whole: stage, export
 *     tpm_life.c     power, commands, control commands: durable, or back to where it was
 *     tpm.c          libtpms
 *
 * What libtpms is shown, from the top: what it stored since the last commit; while it is put back,
 * the volatile state from before the command; what was staged; what is owed to the store; the
 * store. Its callbacks only ever
 * look and take notes here. Nothing reaches the disk before libtpms has returned, and then by one
 * commit.
 */
#ifndef NVKEEP_BACKEND_TPM_PRIV_H
#define NVKEEP_BACKEND_TPM_PRIV_H

#include "backend/blob_set.h"
#include "backend/tpm.h"

struct tpm {
    struct store *store; /* NULL: lent, not there yet, or a TPM is being manufactured */
    bool manufacturing;
    enum device_kind kind;
    enum {
        TPM_OFF = 0,
        TPM_ON,
        TPM_STUCK
    } power; /* STUCK: on, and could not be put back
              * (yet, where there is a `before`) */
    struct err stuck;

    struct blob_set pending; /* stored or deleted by libtpms, and not yet committed */
    struct err lost;         /* kind set: something of that could not be kept */
    struct blob_set staged;
    /* Failed authorizations that could not be counted on disk. They alone are not taken back when a
     * commit fails: with a store that refuses, passwords could be tried without end. They go into
     * the store with the next commit, and stay known here until then, also while off. */
    struct blob_set owed;
    bool has_origin; /* goes with the next power-on */
    uint8_t origin[ORIGIN_BYTES];
    struct err refused; /* kind set: a staged blob was; repeated until a new set is begun */

    uint8_t *before; /* volatile state before the running command, or NULL; libtpms' memory */
    size_t before_bytes;
    bool putting_back;

    uint8_t locality;
    bool failed;        /* libtpms is in failure mode, and there was no way back: for good */
    bool maybe_orderly; /* the next PCR extend may end an orderly state, and store that */
    bool shut_down;     /* the last command was a TPM2_Shutdown, and succeeded */

    struct secret *cmd;  /* libtpms decrypts parameters in place */
    unsigned char *resp; /* libtpms' memory */
    uint32_t resp_room;
    int quiet_fd;
};

/* NULL where there is none. */
const uint8_t *tpm_shown(const struct tpm *t, enum blob_kind kind, size_t *ret_bytes);
bool tpm_is_shown(const struct tpm *t, enum blob_kind kind);

/* Did libtpms store, delete, or fail to store anything since the last commit? */
bool tpm_has_pending(const struct tpm *t);
void tpm_forget_pending(struct tpm *t);

/* --- libtpms; results are its own, 0 is success --- */

/* Makes t the one TPM of the process: the callbacks ask it. ERR_USAGE: there is one. */
int tpm_lib_attach(struct tpm *t, struct err *e) MUST_CHECK;
void tpm_lib_detach(struct tpm *t);

/* Starts from what is shown (manufactures where t has no store), and ends. */
uint32_t tpm_lib_init(void) MUST_CHECK;
void tpm_lib_terminate(void);

/* The same, for a TPM that is there: what libtpms would make of it instead is an error. */
int tpm_start_shown(struct tpm *t, struct err *e) MUST_CHECK;

/* Can libtpms read the blobs shown? kinds: bit (kind - 1); those that are not there are not asked
 * for. Only while off. */
int tpm_lib_validate(const struct tpm *t, unsigned kinds, const char *what,
                     struct err *e) MUST_CHECK;
enum { TPM_ALL_BLOBS = (1 << N_TPM_BLOBS) - 1 };

/* *e for a result with which libtpms refused a state. What it says of a lack of memory is anything;
 * errno, as tpm_lib_init() and tpm_lib_validate() left it, tells that. Returns -1. */
int tpm_lib_refusal(uint32_t rc, const char *what, struct err *e);

/* On, and not put back to where it was before a command: tries once more, where there is a way.
 * Then t->stuck says why. */
bool tpm_is_stuck(struct tpm *t);

/* Into t->before, which stays NULL where libtpms cannot say. */
void tpm_lib_take_volatile(struct tpm *t);
void tpm_lib_forget_volatile(struct tpm *t);

/* As if libtpms had stored its permanent state just now. */
void tpm_lib_store_permanent(struct tpm *t);

/* The response stays in t->resp; false: there is none that makes sense. */
bool tpm_lib_run(struct tpm *t, const uint8_t *cmd, size_t cmd_bytes, size_t *ret_bytes,
                 uint32_t *ret_code) MUST_CHECK;

enum tpm_lib_act {
    TPM_ACT_RESET_ESTABLISHED,
    TPM_ACT_HASH_START,
    TPM_ACT_HASH_DATA,
    TPM_ACT_HASH_END
};
uint32_t tpm_lib_act(enum tpm_lib_act act, const uint8_t *p, uint32_t n) MUST_CHECK;
uint32_t tpm_lib_established(bool *ret) MUST_CHECK;
void tpm_lib_free(unsigned char *p);

#endif
