/* The daemon: serves one image's TPM on a control channel and a data channel.
 *
 * Two threads. The main thread polls descriptors (signals, listeners, clients, worker completion);
 * the worker alone touches the TPM and does disk I/O. Sockets do not exist before the image was
 * unlocked and its state authenticated, with one exception: where that takes longer than
 * VERIFY_BEFORE_BIND_MS (a slow passphrase), the sockets are bound, clients may connect, and their
 * first command waits for the verdict.
 *
 * The admin socket is another matter: it is there from the start, and no emulator's. Where the key
 * comes through it, a worker is started for each key that comes and freed when the key is refused;
 * nothing is bound before one was accepted.
 */
#ifndef NVKEEP_SRC_SERVE_H
#define NVKEEP_SRC_SERVE_H

#include <sys/types.h>

#include "crypto/prim.h"
#include "crypto/secret.h"
#include "migration/custody.h"
#include "src/serve/log.h"

enum { VERIFY_BEFORE_BIND_MS = 400 };

/* A socket to listen on, or an inherited descriptor. */
struct endpoint {
    enum { ENDPOINT_NONE = 0, ENDPOINT_UNIX, ENDPOINT_TCP, ENDPOINT_FD, ENDPOINT_CLIENTFD } kind;
    const char *path; /* unix */
    mode_t mode;      /* unix; 0: 0770 */
    bool has_owner;   /* unix: chown to uid, gid */
    uid_t uid;
    gid_t gid;
    const char *address; /* tcp: numeric, default 127.0.0.1 */
    uint16_t port;
    int fd;
    bool disconnect; /* one command per connection, for swtpm's type=tcp,...,disconnect */
    bool terminate;  /* end when a client of this endpoint hangs up */
};

enum serve_flags {
    SERVE_NOT_NEED_INIT = 1 << 0,
    SERVE_STARTUP_CLEAR = 1 << 1,
    SERVE_STARTUP_STATE = 1 << 2,
    SERVE_STARTUP_DEACTIVATED = 1 << 3,
    SERVE_NO_AUTO_SHUTDOWN = 1 << 4,
    SERVE_TERMINATE = 1 << 5, /* --terminate: end when the data connection is lost */
    SERVE_REJECT_LOCALITY_4 = 1 << 6,
    SERVE_ALLOW_SET_LOCALITY = 1 << 7,
    SERVE_KEEP_LISTENING = 1 << 8, /* after SHUTDOWN: wait for the next emulator */
};

struct serve_options {
    const char *image;
    /* Makes the image first, on the worker's thread; NULL: it is there. */
    int (*make)(void *ctx, const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                struct err *e);
    void *make_ctx;
    struct secret *pass; /* taken: freed as soon as the key was recovered */
    size_t pass_bytes;
    bool key_from_admin; /* --key admin: pass comes through the admin socket; until then nothing is
                            open, and no socket but that one is there */
    struct endpoint ctrl, server, admin;
    struct custody_rules rules;          /* --migration, --migration-seal */
    struct migration_key *migration_key; /* --migration-key; taken; rules borrow it */
    const char *remove_when_ready[2];    /* files of keys that are removed then; NULL: none */
    bool only_this_device;               /* an image of another kind of TPM is refused */
    bool incoming, copied;
    enum device_kind device; /* DEVICE_TPM20 unless --tpm12; only asked where copied, or below */
    unsigned flags;
    const char *pid_file; /* NULL: none */
    int pid_fd;           /* -1: none */
    int ready_fd; /* -1, or a pipe that gets the verdict: "0" or an exit code's decimal digits
                     and the message, when --daemon's parent waits for it */
};

/* Runs until told to stop. 0: ended in order. -1: *e has the class; the caller prints it and exits
 * with its code. Where the verdict came after the sockets were bound, it is also logged here. */
int serve(struct serve_options *o, struct log *log, struct err *e) MUST_CHECK;

#endif
