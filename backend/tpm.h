/* The TPM: libtpms over a store. tpm.c is the only file that sees libtpms; tpm_life.c and
 * tpm_state.c keep the promises below, tpm_command.c knows the few bytes of commands that matter.
 *
 * libtpms' callbacks carry no user pointer and all its state is global: there is at most one
 * struct tpm per process, and one static pointer in tpm.c. All calls come from one thread (the
 * worker), except tpm_cancel(), which may come from any.
 *
 * A tpm holds the store it alone may write, and is off or on:
 *
 *     store --tpm_new--> OFF --tpm_power_on--> ON --tpm_power_off--> OFF
 *
 * A missing state never becomes a new TPM: only tpm_manufacture() makes one, in memory. What a
 * command changed is durable before its response is returned. If it cannot be made durable, the
 * response says so (TPM_RC_NV_UNAVAILABLE; TPM 1.2: TPM_RETRY), the command had no effect, and the
 * TPM goes on from where it was before that command.
 */
#ifndef NVKEEP_BACKEND_TPM_H
#define NVKEEP_BACKEND_TPM_H

#include "backend/store_origin.h"

enum { TPM_BUFFER_BYTES = 4096, TPM_LOCALITY_MAX = 4 };

struct tpm;

/* The blobs of one TPM at one instant; NULL: there is none of that kind. */
struct tpm_blobs {
    struct secret *blob[N_TPM_BLOBS]; /* index: kind - 1 */
    size_t n[N_TPM_BLOBS];            /* a secret may be longer than its blob */
};
void tpm_blobs_clear(struct tpm_blobs *b);
/* Those that are there are set by *ret, which borrows them. */
void tpm_blobs_change(const struct tpm_blobs *b, struct state_change *ret);

/* A new TPM's first state, made in memory. No struct tpm may exist. */
int tpm_manufacture(enum device_kind kind, struct tpm_blobs *ret, struct err *e) MUST_CHECK;

/* Is that a TPM which libtpms can read and start from? Nothing is kept. No struct tpm may exist.
 * Errors as tpm_new(). */
int tpm_check_blobs(enum device_kind kind, const struct tpm_blobs *b, struct err *e) MUST_CHECK;

/* Makes sure libtpms can read the stored state (ERR_STATE_CORRUPT, or ERR_UNSUPPORTED where the
 * state is of a newer libtpms), and leaves the TPM off. Takes the store on success. */
int tpm_new(struct store **s, struct tpm **ret, struct err *e) MUST_CHECK;
void tpm_free(struct tpm *t);
DEFINE_OWNED(tpm);

/* A TPM that waits for its state: it has no store yet, is off, and cannot be powered on before it
 * has one. Blobs can be staged. */
int tpm_new_waiting(enum device_kind kind, struct tpm **ret, struct err *e) MUST_CHECK;

/* A TPM lends its store and gets it (or a newer claim over the same state) back. Without one it
 * keeps everything it has in memory, on or off, and runs no command: tpm_process() answers as for a
 * failed storage. tpm_take_store() takes the store on success; ERR_STATE_FOREIGN: it is that of
 * another kind of TPM. While on, the caller vouches that it holds the state that was lent. While
 * off, libtpms is asked whether it can read it, as in tpm_new(); with a staged set that is
 * not asked, for the set replaces it. */
struct store *tpm_lend_store(struct tpm *t);
int tpm_take_store(struct tpm *t, struct store **s, struct err *e) MUST_CHECK;

/* Is this state one that libtpms can read? Nothing is kept. Only while off, with nothing staged. */
int tpm_try(struct tpm *t, const struct store_look *l, struct err *e) MUST_CHECK;

/* Where the state came from: committed with the next power-on (and its staged set), or at once. */
void tpm_set_origin(struct tpm *t, const uint8_t origin[ORIGIN_BYTES]);
int tpm_commit_origin(struct tpm *t, const uint8_t origin[ORIGIN_BYTES], struct err *e) MUST_CHECK;

/* What an earlier failure of the storage has left to be written again, or to be written at all, is
 * durable afterwards: the store's newest record is the TPM's permanent state. */
int tpm_settle(struct tpm *t, struct err *e) MUST_CHECK;

/* Snapshots of what is stored, while on or off: what is owed to the store is settled before. */
int tpm_snapshot_create(struct tpm *t, const char *name, struct err *e) MUST_CHECK;
int tpm_snapshot_delete(struct tpm *t, const char *id_or_name, struct err *e) MUST_CHECK;

uint32_t tpm_library_version(void);      /* libtpms: major << 16 | minor << 8 | micro */
unsigned tpm_kinds(const struct tpm *t); /* blobs it has: bit (kind - 1) */

enum device_kind tpm_kind(const struct tpm *t);
const struct store *tpm_store(const struct tpm *t); /* NULL: lent, or not there yet */
/* Of its store (store_key_area()); ERR_USAGE where that is not here. */
struct key_area;
int tpm_key_area(struct tpm *t, struct key_area *ret, struct err *e) MUST_CHECK;

/* Buffer size for commands and responses as the emulator asks for it; clamped to what libtpms can.
 * Only while off, except want = 0, which asks. */
uint32_t tpm_buffer_size(struct tpm *t, uint32_t want, uint32_t *ret_min, uint32_t *ret_max);

/* Power on (CMD_INIT); where it is on, it is switched off before. Staged blobs (below) are used and
 * committed as one generation. A volatile state, staged or stored, is resumed: the TPM is started
 * up then. drop_volatile: it is used this once, and is not in the store afterwards. On failure the
 * TPM is off and the store as it was; staged blobs are kept where the store failed, and forgotten
 * (tpm_stage) where libtpms refused them. */
int tpm_power_on(struct tpm *t, bool drop_volatile, struct err *e) MUST_CHECK;
/* CMD_STOP: no shutdown command is sent; staged blobs are kept. */
void tpm_power_off(struct tpm *t);
bool tpm_is_on(const struct tpm *t);

/* One command. resp has room for TPM_BUFFER_BYTES. Always gives a well-formed response of the TPM's
 * own version, also while off (TPM 2: 0x101, TPM 1.2: 9), for garbage, for a locality above 4 and
 * for storage errors. Returns 0, or -1 when the change could not be made durable (*e says why; the
 * response is filled all the same). Where not even the way back worked (libtpms refuses its own
 * state), *e says that too, and every command is answered so until the next power-on. One thing is
 * not undone when the store refuses: a failed authorization stays counted. */
int tpm_process(struct tpm *t, uint8_t locality, const uint8_t *cmd, size_t cmd_bytes,
                uint8_t *resp, size_t *ret_resp_bytes, struct err *e) MUST_CHECK;

/* The response to a command that cannot be executed now: that of a failed storage. */
void tpm_refuse(const struct tpm *t, uint8_t *resp, size_t *ret_resp_bytes);

/* Makes the running command end early where libtpms can do that. Any thread. */
void tpm_cancel(void);

/* What libtpms says about itself: JSON, for the bits of TPMLIB_INFO_*. The caller's, free(). */
int tpm_info(const struct tpm *t, uint64_t what, char **ret, struct err *e) MUST_CHECK;

/* TPM2_Startup / TPM_Startup, for --flags startup-clear, -state, -deactivated (1.2). */
enum tpm_startup { STARTUP_CLEAR, STARTUP_STATE, STARTUP_DEACTIVATED };
int tpm_startup(struct tpm *t, enum tpm_startup how, struct err *e) MUST_CHECK;

/* The orderly shutdown that a guest forgot (TPM2_Shutdown(STATE), else CLEAR), unless the last
 * command was one; without it a TPM 2 counts the power loss against dictionary attacks. Only while
 * on. */
int tpm_orderly_shutdown(struct tpm *t, struct err *e) MUST_CHECK;

/* Control commands. TPM results (0 is success) where libtpms has the say; 0x0a while off, 0x1f
 * where the change could not be made durable (and did not happen). */
uint32_t tpm_established(struct tpm *t, bool *ret);
uint32_t tpm_reset_established(struct tpm *t, uint8_t locality);
uint32_t tpm_hash_start(struct tpm *t);
uint32_t tpm_hash_data(struct tpm *t, const uint8_t *p, size_t n);
uint32_t tpm_hash_end(struct tpm *t);
/* Stores the volatile state too, for the next power-on. It is dropped from the store as soon as a
 * later command changes the permanent state: the two belong together. */
int tpm_store_volatile(struct tpm *t, struct err *e) MUST_CHECK;

/* The state of one instant, for migration; n = 0 and NULL where there is none of that kind. While
 * on: the living TPM's; while off: what is stored (or staged). Never writes. */
int tpm_export(struct tpm *t, enum blob_kind kind, struct secret **ret, size_t *ret_bytes,
               struct err *e) MUST_CHECK;
/* Stages a blob while off (p borrowed). Checked by libtpms as far as it goes; nothing is written
 * before tpm_power_on(), which commits all staged blobs as one generation or none. A permanent
 * state comes first and begins a new set: a kind that is not staged after it, the TPM does not
 * have. On failure all staged blobs are forgotten, and until a permanent state is staged again
 * power-on and further blobs are refused with the same error. n = 0: there is none of that kind. */
int tpm_stage(struct tpm *t, enum blob_kind kind, const uint8_t *p, size_t n,
              struct err *e) MUST_CHECK;
/* For a blob that did not even get that far (its envelope was refused): as if tpm_stage() had
 * failed with this error. Otherwise the next power-on would quietly use the old state. */
void tpm_stage_abort(struct tpm *t, const struct err *why);
/* Begins anew: nothing is staged, nothing was refused. Only while off. */
void tpm_stage_forget(struct tpm *t);

#endif
