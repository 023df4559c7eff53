/* The TPM of one image, from the passphrase to the last answer: what the worker thread runs.
 *
 *     session_open --> off --INIT--> on --STOP--> off ... --session_free--> claim released
 *
 * Holding a session proves that the image is claimed, the key was right and the state is readable.
 * All calls come from one thread. Errors are logged here, once; clients get codes.
 */
#ifndef NVKEEP_SRC_SESSION_H
#define NVKEEP_SRC_SESSION_H

#include "backend/tpm.h"
#include "src/ctrl_msg.h"
#include "src/data_frame.h"
#include "src/log.h"

struct session;

/* A control command on its way through the daemon, with what it carries in both directions. */
struct ctrl_job {
    struct ctrl_request req;
    uint8_t *data;       /* HASH_DATA: the owner of req.data */
    struct secret *blob; /* SET_STATEBLOB: req.bytes of it */
    int fd;              /* SET_DATAFD: the descriptor that came along, or -1 */
    struct ctrl_reply reply;
    struct secret *state; /* GET_STATEBLOB, GET_INFO: reply.bytes of it, from state_at, follow */
    size_t state_at;

    struct ctrl_job *next; /* in the queue it is in */
    int64_t since_ms;      /* queued */
    void *client;          /* whom to answer; NULL: gone. The main thread's alone */
    _Atomic bool unwanted; /* the client is gone */
};
/* NULL when there is no memory. */
struct ctrl_job *ctrl_job_new(const struct ctrl_request *req);
void ctrl_job_free(struct ctrl_job *job);
DEFINE_OWNED(ctrl_job);

struct session_options {
    const char *image;
    unsigned flags;        /* enum serve_flags */
    const struct log *log; /* outlives the session */
};

/* Claim, unlock, verify, find the newest state, make sure libtpms reads it; power on and start up
 * where the flags say so. *pass is freed in any case, before libtpms is touched. */
int session_open(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 const struct watch *watch, struct session **ret, struct err *e) MUST_CHECK;
/* Powers off, with the orderly shutdown that a guest forgot unless the flags forbid it, and lets
 * the claim go. */
void session_free(struct session *s);
DEFINE_OWNED(session);

bool session_is_on(const struct session *s);
enum device_kind session_kind(const struct session *s);
/* The longest command that is taken now. */
size_t session_command_max(const struct session *s);

/* Does what job->req says, and fills job->reply (and state). Of SET_DATAFD and SHUTDOWN only the
 * reply: they are the daemon's. CANCEL_TPM_CMD is never too late here: nothing is running. */
void session_control(struct session *s, struct ctrl_job *job);

/* The same for what needs no TPM, from facts that never change: any thread. False: not one of
 * these. */
bool session_answer_at_once(enum device_kind kind, bool is_on, struct ctrl_job *job);

/* One command of the data channel. resp: TPM_BUFFER_BYTES. */
void session_command(struct session *s, const struct data_frame *f, const uint8_t *in,
                     uint8_t *resp, size_t *ret_resp_bytes);

#endif
