#include "src/serve/serve.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli_daemon.h"
#include "src/serve/admin_server.h"
#include "src/serve/clock.h"
#include "src/serve/confine.h"
#include "src/serve/ctrl_server.h"
#include "src/serve/pid_file.h"
#include "src/serve/stop_signal.h"

enum {
    GRACE_MS = 1000,       /* for a running command before it is cancelled, at the end */
    FAREWELL_MS = 1000,    /* for clients to take their last reply */
    LAST_REQUESTS_MS = 50, /* after a refusal: for requests that are on their way */
};
/* Flags by which the TPM is on from the start. */
enum {
    STARTS =
        SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_STARTUP_STATE | SERVE_STARTUP_DEACTIVATED
};

/* The main thread's view of the daemon. */
struct server {
    struct serve_options *o;
    struct log *log;
    int signals;
    struct listener *ctrl, *data, *admin_socket;
    struct pid_file *pid;
    struct admin_server *admin; /* there from the start */
    struct worker *worker;      /* with `clients`; NULL while a key is awaited */
    struct ctrl_server *clients;

    bool bound; /* the sockets are there */
    bool ready; /* and the verdict is good, and has been told */
    bool has_data_client;
    struct err verdict; /* of a refusal that came after the sockets */

    int64_t bind_at;  /* without waiting any longer for the verdict */
    int64_t end_at;   /* after a refusal: when it is enough; -1: no refusal */
    int64_t ending;   /* since when; -1: not */
    int64_t farewell; /* since when the worker has ended; -1: it has not */
    const char *why;  /* it ends */
    bool asked;       /* to end, by a signal or SHUTDOWN */
    bool gave_up;     /* told to end twice */
};

/* --- start --- */

/* It ends with nothing that an emulator does, and starts with nothing but INIT. */
static int check_keeping(const struct serve_options *o, struct err *e)
{
    if (!(o->flags & SERVE_KEEP_LISTENING))
        return 0;
    if (o->flags & SERVE_TERMINATE || o->ctrl.terminate || o->server.terminate)
        return err_set(e, ERR_USAGE,
                       "--keep-listening waits for the next client, and terminate ends with the "
                       "first one; leave one of the two out");
    if (o->flags & STARTS)
        return err_set(e, ERR_USAGE,
                       "--keep-listening: after a SHUTDOWN only an emulator powers the TPM on; "
                       "leave --flags out");
    if (o->ctrl.kind == ENDPOINT_NONE || o->ctrl.kind == ENDPOINT_CLIENTFD)
        return err_set(e, ERR_USAGE,
                       "--keep-listening: nobody could connect again; give --ctrl "
                       "with a path, a port or a listening socket");
    return 0;
}

static int check_options(const struct serve_options *o, struct err *e)
{
    if (o->ctrl.kind == ENDPOINT_NONE && o->server.kind == ENDPOINT_NONE)
        return err_set(e, ERR_USAGE, "nobody could connect: give --ctrl, --server or both");
    if (o->ctrl.kind == ENDPOINT_NONE && !(o->flags & STARTS))
        return err_set(e, ERR_USAGE,
                       "without --ctrl nobody could power the TPM on: add --flags not-need-init");
    return check_keeping(o, e);
}

/* Everything that can be refused without opening the image. */
static int look_around(struct server *s, struct err *e)
{
    if (check_options(s->o, e) < 0 || confine_memory(e) < 0 ||
        stop_signal_open(&s->signals, e) < 0 ||
        listener_new(&s->o->ctrl, "--ctrl", &s->ctrl, e) < 0 ||
        listener_new(&s->o->server, "--server", &s->data, e) < 0 ||
        listener_new(&s->o->admin, "--admin", &s->admin_socket, e) < 0)
        return -1;
    int fd = MOVE_FD(s->o->pid_fd);
    return pid_file_new(s->o->pid_file, fd, &s->pid, e);
}

/* The admin socket is there before anything is open. */
static int open_admin(struct server *s, struct err *e)
{
    if (admin_server_new(s->admin_socket, s->log, s->o->key_from_admin, &s->admin, e) < 0)
        return -1;
    return listener_open(s->admin_socket, e);
}

/* Takes *pass. */
static int start_worker(struct server *s, struct secret **pass, size_t pass_bytes, struct err *e)
{
    OWNED(data_channel) data = NULL;
    OWNED_FD client = listener_take_client(s->data);
    struct session_options session = {.image = s->o->image,
                                      .make = s->o->make,
                                      .make_ctx = s->o->make_ctx,
                                      .flags = s->o->flags,
                                      .log = s->log,
                                      .rules = s->o->rules,
                                      .incoming = s->o->incoming,
                                      .copied = s->o->copied,
                                      .device = s->o->device,
                                      .only_this_device = s->o->only_this_device};
    /* What a new process takes, one that was kept takes too: a machine that was saved earlier. */
    if (s->o->flags & SERVE_KEEP_LISTENING && !s->o->incoming)
        session.rules.rewind = true;
    if (data_channel_new(s->o->server.disconnect, &data, e) < 0)
        return -1;
    s->has_data_client = client >= 0;
    if (client >= 0 && data_channel_adopt(data, &client) != CTRL_OK)
        return err_set(e, ERR_USAGE, "--server: the inherited descriptor is not connected");
    if (worker_start(&session, pass, pass_bytes, &data, &s->worker, e) < 0)
        return -1;
    return ctrl_server_new(s->worker, s->ctrl, s->log, &s->clients, e);
}

static void drop_worker(struct server *s)
{
    ctrl_server_free(MOVE(s->clients));
    if (!s->worker)
        return;
    worker_end(s->worker);
    worker_cancel(s->worker);
    worker_free(MOVE(s->worker));
}

/* --- a key that is awaited --- */

/* 1: the loop is over. */
static int follow_key(struct server *s)
{
    struct err refused;
    OWNED(secret) pass = NULL;
    size_t pass_bytes = 0;
    if (s->ending >= 0)
        return admin_server_is_quiet(s->admin) || now_ms() >= s->farewell + FAREWELL_MS;
    if (!admin_server_take_key(s->admin, &pass, &pass_bytes))
        return 0;
    log_line(s->log, 1, "a key has come through the admin socket");
    if (start_worker(s, &pass, pass_bytes, &refused) == 0)
        return 0;
    drop_worker(s);
    log_err(s->log, &refused);
    admin_server_refuse_key(s->admin, &refused);
    return 0;
}

/* Nothing was published: as if that key had never come. */
static void await_another_key(struct server *s, const struct err *verdict)
{
    drop_worker(s);
    log_err(s->log, verdict);
    admin_server_refuse_key(s->admin, verdict);
}

/* --- ready --- */

static int bind_sockets(struct server *s, struct err *e)
{
    OWNED_FD client = listener_take_client(s->ctrl);
    if (listener_open(s->ctrl, e) < 0 || listener_open(s->data, e) < 0 ||
        (client >= 0 && ctrl_server_add(s->clients, &client, e) < 0) ||
        pid_file_write(s->pid, e) < 0)
        return -1;
    s->bound = true;
    return 0;
}

/* One file may have been given twice. */
static int remove_spent(const struct serve_options *o, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(o->remove_when_ready); i++)
        if (o->remove_when_ready[i] && unlink(o->remove_when_ready[i]) < 0 && errno != ENOENT)
            return err_sys(e, ERR_STORAGE, errno, "remove: cannot remove the file of a key");
    return 0;
}

static int become_ready(struct server *s, struct err *e)
{
    const struct confine c = {{listener_dir_fd(s->ctrl), listener_dir_fd(s->data),
                               pid_file_dir_fd(s->pid), listener_dir_fd(s->admin_socket)}};
    if (remove_spent(s->o, e) < 0 || confine(&c, e) < 0)
        return -1;
    /* Not one command before that. */
    worker_begin(s->worker, listener_fd(s->data));
    s->ready = true;
    log_line(s->log, 1, "ready");
    daemon_tell(&s->o->ready_fd, NULL);
    admin_server_ready(s->admin, s->worker);
    return 0;
}

/* --- end --- */

/* Nothing is done any more. */
static void begin_farewell(struct server *s)
{
    if (s->farewell >= 0)
        return;
    s->farewell = now_ms();
    admin_server_say_goodbye(s->admin, s->why, s->verdict.kind == ERR_NONE ? NULL : &s->verdict);
}

/* Nobody new can come; what runs is finished, what was asked is answered. */
static void begin_end(struct server *s, const char *why)
{
    if (s->ending >= 0)
        return;
    log_line(s->log, 1, "ending: %s", why);
    s->ending = now_ms();
    listener_remove(s->ctrl);
    listener_remove(s->data);
    listener_remove(s->admin_socket);
    s->why = why;
    admin_server_stop(s->admin, why, s->verdict.kind == ERR_NONE ? NULL : &s->verdict);
    if (!s->worker) {
        begin_farewell(s);
        return;
    }
    ctrl_server_stop(s->clients);
    worker_end(s->worker);
}

static void read_signals(struct server *s)
{
    const char *name;
    while ((name = stop_signal_next(s->signals))) {
        /* Somebody means it; a signal that came twice by accident comes at once. */
        if (s->ending >= 0 && now_ms() >= s->ending + GRACE_MS)
            s->gave_up = true;
        s->asked = true;
        begin_end(s, name);
    }
}

static bool nobody_can_come(const struct server *s)
{
    return s->bound && listener_fd(s->ctrl) < 0 && listener_fd(s->data) < 0 &&
           ctrl_server_clients(s->clients) == 0 && !s->has_data_client;
}

static void look_for_lost_clients(struct server *s)
{
    bool lost = worker_data_was_lost(s->worker);
    if (ctrl_server_gave_data(s->clients))
        s->has_data_client = true;
    if (lost)
        s->has_data_client = false;
    bool shut_down = ctrl_server_was_shut_down(s->clients) && !(s->o->flags & SERVE_KEEP_LISTENING);
    s->asked |= shut_down;
    if (shut_down)
        begin_end(s, "SHUTDOWN");
    else if (lost && (s->o->flags & SERVE_TERMINATE || s->o->server.terminate))
        begin_end(s, "the data connection was lost");
    else if (s->o->ctrl.terminate && ctrl_server_lost_client(s->clients))
        begin_end(s, "the control connection was lost");
    else if (nobody_can_come(s))
        begin_end(s, "all connections were lost");
}

static void look_for_an_end(struct server *s)
{
    if (s->worker)
        look_for_lost_clients(s);
    if (!admin_server_was_told_to_quit(s->admin))
        return;
    s->asked = true;
    begin_end(s, "quit");
}

/* --- the loop --- */

/* The verdict came after the sockets: those who have asked, or are about to, get its code. */
static void note_verdict(struct server *s, const struct err *e)
{
    s->verdict = *e;
    log_err(s->log, e);
}

static void note_refusal(struct server *s, const struct err *e)
{
    if (s->end_at >= 0)
        return;
    s->end_at = now_ms() + LAST_REQUESTS_MS;
    note_verdict(s, e);
}

/* Before the verdict. Waiting for somebody else's claim is no reason to let clients in, and a key
 * that came through the admin socket may be followed by another one. */
static bool may_bind(const struct server *s)
{
    return s->worker && !s->bound && s->ending < 0 && !s->o->key_from_admin &&
           worker_is_stretching(s->worker);
}

static void deliver(struct server *s)
{
    struct session_event event;
    struct ctrl_job *job;
    worker_clear_fd(s->worker);
    while (worker_next_event(s->worker, &event))
        admin_server_tell(s->admin, &event);
    while ((job = worker_admin_done(s->worker)))
        admin_server_done(s->admin, job);
    ctrl_server_deliver(s->clients);
}

/* 1: the loop is over. */
static int follow_worker(struct server *s, struct err *e)
{
    struct err verdict;
    switch (worker_phase(s->worker, &verdict)) {
    case WORKER_VERIFYING:
        if (!may_bind(s) || now_ms() < s->bind_at)
            return 0;
        log_line(s->log, 1, "verification takes its time: clients may connect, and wait");
        return bind_sockets(s, e);
    case WORKER_SERVING:
        if (s->ending >= 0 || s->ready)
            return 0;
        if (!s->bound && bind_sockets(s, e) < 0)
            return -1;
        return become_ready(s, e);
    case WORKER_REFUSED:
        if (s->ending >= 0) {
            /* A refusal counts, unless it is only that the work was cut short. */
            if (s->verdict.kind == ERR_NONE && verdict.kind != ERR_USAGE)
                note_verdict(s, &verdict);
            return 0;
        }
        if (s->o->key_from_admin && !s->ready) {
            await_another_key(s, &verdict);
            return 0;
        }
        if (!s->bound) {
            *e = verdict;
            return -1;
        }
        note_refusal(s, &verdict);
        if (now_ms() >= s->end_at)
            begin_end(s, "the image cannot be served");
        return 0;
    case WORKER_ENDED:
        deliver(s);
        begin_farewell(s);
        return (ctrl_server_is_quiet(s->clients) && admin_server_is_quiet(s->admin)) ||
               now_ms() >= s->farewell + FAREWELL_MS;
    }
    return 0;
}

static int64_t next_deadline(const struct server *s)
{
    if (s->ending >= 0)
        return s->farewell >= 0 ? s->farewell + FAREWELL_MS : now_ms() + GRACE_MS;
    return sooner(may_bind(s) ? s->bind_at : -1, s->end_at);
}

static void turn(struct server *s)
{
    struct pollfd p[2 + ADMIN_POLL_MAX + CTRL_POLL_MAX] = {{.fd = s->signals, .events = POLLIN},
                                                           {.fd = -1, .events = POLLIN}};
    int64_t limit, ctrl_limit = -1;
    size_t n_admin = admin_server_wants(s->admin, p + 2, &limit), n_ctrl = 0;
    struct pollfd *ctrl = p + 2 + n_admin;
    if (s->worker)
        p[1].fd = worker_fd(s->worker);
    if (s->worker && s->bound)
        n_ctrl = ctrl_server_wants(s->clients, ctrl, &ctrl_limit);
    limit = sooner(sooner(limit, ctrl_limit), next_deadline(s));
    if (poll(p, 2 + n_admin + n_ctrl, ms_left(limit, now_ms())) < 0)
        return;
    if (p[0].revents)
        read_signals(s);
    if (s->worker)
        deliver(s);
    if (n_ctrl > 0)
        ctrl_server_run(s->clients, ctrl, n_ctrl);
    admin_server_run(s->admin, p + 2, n_admin);
    look_for_an_end(s);
    if (s->worker && s->ending >= 0 && s->farewell < 0 && now_ms() >= s->ending + GRACE_MS)
        worker_cancel(s->worker);
}

static int run(struct server *s, struct err *e)
{
    s->bind_at = now_ms() + VERIFY_BEFORE_BIND_MS;
    for (;;) {
        int r = s->worker ? follow_worker(s, e) : follow_key(s);
        if (r < 0)
            return -1;
        if (r > 0)
            break;
        if (s->gave_up)
            return err_set(e, ERR_STORAGE,
                           "told to end twice while the storage did not answer; gave up waiting");
        turn(s);
    }
    if (s->verdict.kind == ERR_NONE)
        return 0;
    *e = s->verdict;
    return -1;
}

static void clean_up(struct server *s)
{
    admin_server_free(s->admin); /* it looks at jobs that the worker has */
    drop_worker(s);
    listener_free(s->admin_socket);
    listener_free(s->ctrl);
    listener_free(s->data);
    pid_file_free(s->pid);
    if (s->signals >= 0)
        close(s->signals);
}

/* The worker hangs in a call to the storage, and borrows what would be freed or closed on the way
 * out: the kernel does that. The sockets are gone already. */
static void __attribute__((noreturn)) abandon(struct server *s, const struct err *e)
{
    int code = err_class(e->kind)->exit_code;
    pid_file_free(s->pid);
    log_err(s->log, e);
    daemon_tell(&s->o->ready_fd, e);
    _exit(code);
}

/* Ended before it was ready. Who asked for that has it; otherwise it is a start that failed. */
static int tell_early_end(struct server *s, struct err *e)
{
    struct err early;
    err_set(&early, ERR_USAGE, "told to end before it was ready");
    daemon_tell(&s->o->ready_fd, &early);
    if (s->asked)
        return 0;
    *e = early;
    return -1;
}

static int start(struct server *s, struct err *e)
{
    if (look_around(s, e) < 0 || open_admin(s, e) < 0)
        return -1;
    if (!s->o->key_from_admin)
        return start_worker(s, &s->o->pass, s->o->pass_bytes, e);
    log_line(s->log, 1, "waiting for a key to come through the admin socket");
    /* Whoever brings it waits for this. */
    daemon_tell(&s->o->ready_fd, NULL);
    return 0;
}

int serve(struct serve_options *o, struct log *log, struct err *e)
{
    struct server s = {
        .o = o, .log = log, .signals = -1, .end_at = -1, .ending = -1, .farewell = -1};
    int r = start(&s, e);
    if (r == 0)
        r = run(&s, e);
    if (s.gave_up && r < 0)
        abandon(&s, e);
    if (r < 0 && s.admin && s.ending < 0) {
        admin_server_stop(s.admin, "", e);
        admin_server_say_goodbye(s.admin, "", e);
    }
    clean_up(&s);
    secret_free(MOVE(o->pass));
    migration_key_free(MOVE(o->migration_key));
    if (r < 0)
        daemon_tell(&s.o->ready_fd, e);
    else if (!s.ready)
        r = tell_early_end(&s, e);
    return r;
}
