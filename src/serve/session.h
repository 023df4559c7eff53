/* The TPM of one image, from the passphrase to the last answer: what the worker thread runs.
 *
 * Holding a session proves that the key was right and the state is readable (or, where storage is
 * still being copied, that it was declared so). Whether the image is claimed, and what may happen
 * next, says the table of migration/handover.h; each control command is one of its events. All
 * calls come from one thread. Errors are logged here, once; clients get codes.
 */
#ifndef NVKEEP_SRC_SESSION_H
#define NVKEEP_SRC_SESSION_H

#include "backend/store_snapshot.h"
#include "backend/tpm.h"
#include "migration/custody.h"
#include "src/serve/ctrl_msg.h"
#include "src/serve/data_frame.h"
#include "src/serve/log.h"

struct session;

/* Commands of the admin socket that need the TPM or its storage. */
enum admin_command {
    ADMIN_QUERY_STATUS,
    ADMIN_MIGRATE_PREPARE,  /* source: could it be exported? destination: prepare load */
    ADMIN_PREPARE_OUTGOING, /* token out */
    ADMIN_PREPARE_INCOMING, /* token in, token out */
    ADMIN_COMMIT_OUTGOING,  /* token in */
    ADMIN_MIGRATE_ABORT,    /* disarm; forget what was handed in */
    ADMIN_SNAPSHOT_LIST,    /* snapshots out */
    ADMIN_SNAPSHOT_CREATE,  /* a name in the place of the token, and so for the next two */
    ADMIN_SNAPSHOT_APPLY,
    ADMIN_SNAPSHOT_DELETE,
};
struct session_status {
    enum handover_state state;
    bool is_on, armed, has_image; /* has_image: instance, device, generation and epoch are known */
    enum device_kind device;
    uint8_t instance[16];
    uint64_t generation, epoch;
};
struct admin_call {
    enum admin_command what;
    char token[CUSTODY_TOKEN_MAX]; /* in and out */
    struct session_status status;  /* filled for every command */
    struct snapshot_list snapshots;
    struct err error; /* kind ERR_NONE: it succeeded */
};

/* One access to the keys of the image, between two commands of the TPM. Offsets and buffers as in
 * struct key_io; what is written is flushed at once. */
struct key_access {
    enum { KEY_ACCESS_BEGIN, KEY_ACCESS_READ, KEY_ACCESS_WRITE } what;
    uint64_t at;
    void *to;
    const void *from;
    const uint8_t *header;
    size_t n;
    struct volume_key *key; /* BEGIN: a copy */
    uint64_t area_bytes;    /* BEGIN */
    struct err error;       /* kind ERR_NONE: it was done */
};

/* What has happened, for the events of the admin socket; after the fact. */
struct session_event {
    enum {
        EVENT_CLAIMED = 1,
        EVENT_RELEASED,
        EVENT_STAGED,    /* a whole set was handed in */
        EVENT_COMMITTED, /* and is stored, and served */
        EVENT_REFUSED,   /* something of a hand-over was; error says why */
        EVENT_FENCED,
    } what;
    uint64_t generation, epoch; /* 0: not known */
    bool sealed;                /* STAGED: it came in an envelope of ours */
    struct err error;           /* REFUSED, FENCED */
};

/* A control command on its way through the daemon, with what it carries in both directions. */
struct ctrl_job {
    struct ctrl_request req;
    struct admin_call *admin; /* not NULL: this, and no control command; freed with the job */
    struct key_access *keys;  /* not NULL: this; borrowed, and the job with it */
    uint64_t from;            /* the connection that it came by; 0: not known */
    bool is_last;             /* its reply completes a set: say so by worker_sent() */
    uint8_t *data;            /* HASH_DATA: the owner of req.data */
    struct secret *blob;      /* SET_STATEBLOB: req.bytes of it */
    int fd;                   /* SET_DATAFD: the descriptor that came along, or -1 */
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
    /* See struct serve_options. */
    int (*make)(void *ctx, const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                struct err *e);
    void *make_ctx;
    unsigned flags;        /* enum serve_flags */
    const struct log *log; /* outlives the session */
    struct custody_rules rules;
    bool incoming;           /* wait for a migration: nothing is claimed before it comes */
    bool copied;             /* and the storage is being copied: it need not be there yet */
    enum device_kind device; /* copied: which TPM to be until the image says */
    bool only_this_device;   /* ERR_USAGE where the image is of another kind */
    /* Called on the session's thread. */
    void (*tell)(void *ctx, const struct session_event *event);
    void *ctx;
};

/* Claim, unlock, verify, find the newest state, make sure libtpms reads it; power on and start up
 * where the flags say so. Incoming: the same without the claim and the power. *pass is freed,
 * before libtpms is touched, unless the image is being copied and not there yet. */
int session_open(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 const struct watch *watch, struct session **ret, struct err *e) MUST_CHECK;
/* SHUTDOWN of a daemon that stays: as after session_free(), but that image and key are kept for the
 * next INIT. */
void session_shut_down(struct session *s);
/* Powers off, with the orderly shutdown that a guest forgot unless the flags forbid it, and lets
 * the claim go. */
void session_free(struct session *s);
DEFINE_OWNED(session);

/* An image that is being copied is looked for while nothing else is to be done: opening it may take
 * a slow passphrase's time, which nobody has at the load. */
bool session_looks_for_image(const struct session *s);
void session_look_for_image(struct session *s);

bool session_is_on(const struct session *s);
enum device_kind session_kind(const struct session *s);
/* The longest command that is taken now. */
size_t session_command_max(const struct session *s);

/* Does what job->req says, and fills job->reply (and state). Of SET_DATAFD and SHUTDOWN only the
 * reply: they are the daemon's. CANCEL_TPM_CMD is never too late here: nothing is running. */
void session_control(struct session *s, struct ctrl_job *job);

/* The same for what needs no TPM, from facts that never change: any thread. False: not one of
 * these. */
bool session_answer_at_once(enum device_kind kind, bool is_on, bool migration_key,
                            struct ctrl_job *job);

/* The reply of a job with is_last was written, or never will be. */
void session_sent(struct session *s, bool sent);
/* A data connection came along with a control connection: it is the emulator's. */
void session_note_emulator(struct session *s, uint64_t from);
/* The emulator's data connection was lost. */
void session_hangup(struct session *s);
void session_admin(struct session *s, struct admin_call *call);
/* ERR_USAGE: the image is not claimed here (now). */
void session_keys(struct session *s, struct key_access *a);

/* One command of the data channel. resp: TPM_BUFFER_BYTES. */
void session_command(struct session *s, const struct data_frame *f, const uint8_t *in,
                     uint8_t *resp, size_t *ret_resp_bytes);

#endif
