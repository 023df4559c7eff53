/* What the files of the session share; nobody else includes this.
 *
 *     session_open.c      from the image to a TPM, and the end
 *     session.c           control commands and TPM commands
 *     session_handover.c  the events of the handover table, and what they do to TPM and storage
 *     session_state.c     blobs in and out, and the commands of the admin socket
 *     session_snapshot.c  those of them that are about snapshots
 */
#ifndef NVKEEP_SRC_SESSION_PRIV_H
#define NVKEEP_SRC_SESSION_PRIV_H

#include "src/serve/session.h"

struct session {
    struct tpm *tpm;
    struct custody *custody;
    struct session_options o;
    bool opened;        /* all of it; until then the end of it is nothing to tell */
    bool waits;         /* for a migration: it was not started from the image, and must not be */
    bool was_refused;   /* the image that is being copied was there, and that was told */
    unsigned to_skip;   /* looks, after that */
    struct watch watch; /* over the stretching of a passphrase */
    bool probed;        /* the emulator has got past its first commands */
    uint8_t locality;
    uint64_t n_lost;    /* commands that could not be made durable */
    int64_t lost_since; /* when the last line about them was logged */

    struct err refused; /* kind set: something of the set that is being handed in was */

    /* What is being given away: the whole set, as it travels. */
    struct secret *out[N_TPM_BLOBS];
    size_t n_out[N_TPM_BLOBS];
    bool out_encrypted;
    uint64_t emulator; /* whose data connection it is (ctrl_job.from); 0: nobody's we know */
    unsigned asked;    /* bit (kind - 1) */

    /* What is known of the image, for query-status; while it is not claimed: as it was last seen.
     */
    bool seen;
    struct session_status last;
};

/* The code for a client, after *e was logged. */
uint32_t session_refuse(const struct session *s, const char *what, struct err *e);
void session_tell(struct session *s, int what, const struct err *why);
/* Notes what the store says of itself. */
void session_see_store(struct session *s);
void session_shut_down_orderly(struct session *s);

/* Something has happened: what the table says is done, and the state it says is entered.
 * drop_volatile: for the events of INIT. Failed: *e says why; the TPM is where the table says. */
int session_step(struct session *s, enum handover_event v, bool drop_volatile,
                 struct err *e) MUST_CHECK;
/* May a TPM command run? False: it must be answered as one that cannot (tpm_refuse); *e says why,
 * or has no kind where that is nothing to be logged. */
bool session_may_run(struct session *s, struct err *e);
/* A commit has failed: if that was because there is another owner, this one ends. */
void session_note_failure(struct session *s, const struct err *e);
/* Nothing is being given away (any more). */
void session_drop_export(struct session *s);

/* Is there an emulator, and this came from somebody else? *e says so then. */
bool session_is_stranger(const struct session *s, const struct ctrl_job *job, struct err *e);
uint32_t session_get_state(struct session *s, struct ctrl_job *job);
uint32_t session_set_state(struct session *s, struct ctrl_job *job);
int session_snapshot(struct session *s, struct admin_call *call, struct err *e) MUST_CHECK;
/* What could be loaded now: looked at, and shown to libtpms. */
int session_prepare_load(struct session *s, const struct watch *watch, struct store_look **ret,
                         struct err *e) MUST_CHECK;

#endif
