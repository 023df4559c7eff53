#include "src/serve/ctrl_server.h"

#include <errno.h>
#include <stdatomic.h>

#include "src/serve/clock.h"
#include "src/serve/ctrl_client.h"

enum { ACCEPT_PAUSE_MS = 50, LOG_COMMANDS = 5, OPENING_CHECK_MS = 1000 };

struct ctrl_server {
    struct worker *worker;
    struct listener *listener;
    const struct log *log;
    struct ctrl_client *client[CTRL_CLIENTS_MAX]; /* NULL: free */
    struct ctrl_job *job[CTRL_CLIENTS_MAX];       /* of that client, with the worker */
    uint64_t serial[CTRL_CLIENTS_MAX];            /* of that client; none has the same */
    uint64_t last_serial;
    int64_t serving_since; /* -1: the image is being verified */
    int64_t accept_again;  /* out of descriptors until then; -1: no */
    bool stopped, shut_down, lost, gave_data;
};

int ctrl_server_new(struct worker *w, struct listener *l, const struct log *log,
                    struct ctrl_server **ret, struct err *e)
{
    struct ctrl_server *s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "the control channel");
    s->worker = w;
    s->listener = l;
    s->log = log;
    s->accept_again = -1;
    s->serving_since = -1;
    *ret = s;
    return 0;
}

/* The reply that completes a set has left, or will not any more. */
static void note_last(struct ctrl_server *s, struct ctrl_client *c, bool gone)
{
    enum ctrl_client_last last = ctrl_client_last(c);
    if (last == CLIENT_LAST_LEFT || (last == CLIENT_LAST_HERE && gone))
        worker_sent(s->worker, last == CLIENT_LAST_LEFT);
}

/* A job that the worker still has comes back and finds nobody. */
static void drop(struct ctrl_server *s, size_t i)
{
    note_last(s, s->client[i], true);
    if (s->job[i]) {
        s->job[i]->client = NULL;
        atomic_store(&s->job[i]->unwanted, true);
        s->job[i] = NULL;
    }
    ctrl_client_free(MOVE(s->client[i]));
    s->lost = true;
}

void ctrl_server_free(struct ctrl_server *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++)
        if (s->client[i])
            drop(s, i);
    free(s);
}

/* --- places --- */

/* A free place, else that of the oldest client which never asked anything; CTRL_CLIENTS_MAX: none.
 */
static size_t find_place(const struct ctrl_server *s)
{
    size_t best = CTRL_CLIENTS_MAX;
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++) {
        const struct ctrl_client *c = s->client[i];
        if (!c)
            return i;
        if (ctrl_client_has_asked(c))
            continue;
        if (best == CTRL_CLIENTS_MAX || ctrl_client_since(c) < ctrl_client_since(s->client[best]))
            best = i;
    }
    return best;
}

int ctrl_server_add(struct ctrl_server *s, int *fd, struct err *e)
{
    size_t i = find_place(s);
    if (i == CTRL_CLIENTS_MAX)
        return err_set(e, ERR_LOCKED, "all %d places of the control channel are taken",
                       CTRL_CLIENTS_MAX);
    if (s->client[i])
        drop(s, i);
    s->serial[i] = ++s->last_serial;
    return ctrl_client_new(fd, &s->client[i], e);
}

static void accept_client(struct ctrl_server *s)
{
    struct err e;
    OWNED_FD fd = listener_accept(s->listener);
    if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
        s->accept_again = now_ms() + ACCEPT_PAUSE_MS;
    if (fd >= 0 && ctrl_server_add(s, &fd, &e) < 0)
        log_err(s->log, &e);
}

/* --- requests --- */

static void answer(struct ctrl_server *s, struct ctrl_client *c, struct ctrl_job *job)
{
    log_line(s->log, LOG_COMMANDS, "%s: 0x%x", ctrl_code_name(job->req.code), job->reply.result);
    if (c)
        ctrl_client_answer(c, job);
    else if (job->is_last)
        worker_sent(s->worker, false);
    ctrl_job_free(job);
}

/* True: answered. */
static bool answer_at_once(struct ctrl_server *s, struct ctrl_client *c, struct ctrl_job *job)
{
    struct err ignored;
    switch (worker_phase(s->worker, &ignored)) {
    case WORKER_VERIFYING:
        /* There is nothing yet that would have to be shut down. */
        if (job->req.code != CTRL_SHUTDOWN)
            return false;
        s->shut_down = true;
        break;
    case WORKER_SERVING:
        if (!session_answer_at_once(worker_kind(s->worker), worker_is_on(s->worker),
                                    worker_has_migration_key(s->worker), job))
            return false;
        if (job->req.code == CTRL_CANCEL_TPM_CMD)
            worker_cancel(s->worker);
        break;
    default:
        return false;
    }
    answer(s, c, job);
    return true;
}

/* Everything that a client has sent so far, up to a request that has to wait. */
static void run_client(struct ctrl_server *s, size_t i, short revents)
{
    struct ctrl_client *c = s->client[i];
    struct ctrl_job *job = NULL;
    for (;;) {
        enum ctrl_client_step step = ctrl_client_run(c, revents, &job);
        note_last(s, c, false);
        if (step == CLIENT_REQUEST && s->stopped) {
            ctrl_job_free(job);
            step = CLIENT_GONE;
        }
        if (step == CLIENT_GONE)
            drop(s, i);
        if (step != CLIENT_REQUEST)
            return;
        revents = 0;
        if (answer_at_once(s, c, job))
            continue;
        job->from = s->serial[i];
        s->job[i] = job;
        worker_submit(s->worker, job);
        return;
    }
}

void ctrl_server_deliver(struct ctrl_server *s)
{
    struct ctrl_job *job;
    while ((job = worker_done(s->worker))) {
        struct ctrl_client *c = job->client;
        bool done = job->reply.result == CTRL_OK;
        s->shut_down |= job->req.code == CTRL_SHUTDOWN && done;
        s->gave_data |= job->req.code == CTRL_SET_DATAFD && done;
        answer(s, c, job);
        for (size_t i = 0; c && i < CTRL_CLIENTS_MAX; i++) {
            if (s->client[i] != c)
                continue;
            s->job[i] = NULL;
            run_client(s, i, 0);
            break;
        }
    }
}

/* --- time limits --- */

/* -1: none, or the image is still being verified. */
static int64_t job_limit(struct ctrl_server *s, size_t i)
{
    struct err ignored;
    const struct ctrl_job *job = s->job[i];
    if (!job || worker_phase(s->worker, &ignored) != WORKER_SERVING)
        return -1;
    if (worker_is_opening(s->worker))
        return now_ms() + OPENING_CHECK_MS;
    int64_t since = job->since_ms > s->serving_since ? job->since_ms : s->serving_since;
    return since + (job->req.code == CTRL_INIT ? INIT_LIMIT_MS : JOB_LIMIT_MS);
}

/* The job stays with the worker, and finds nobody when it comes back. */
static void give_up(struct ctrl_server *s, size_t i)
{
    struct ctrl_job *job = s->job[i];
    log_line(s->log, 0, "%s: no answer from the storage in time; told the client that it failed",
             ctrl_code_name(job->req.code));
    job->client = NULL;
    atomic_store(&job->unwanted, true);
    s->job[i] = NULL;
    ctrl_client_give_up(s->client[i], job->req.code);
    run_client(s, i, 0);
}

static void watch_jobs(struct ctrl_server *s)
{
    struct err ignored;
    int64_t now = now_ms();
    bool serving = worker_phase(s->worker, &ignored) == WORKER_SERVING;
    if (serving && (s->serving_since < 0 || worker_is_opening(s->worker)))
        s->serving_since = now;
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++) {
        int64_t limit = job_limit(s, i);
        if (limit >= 0 && now >= limit)
            give_up(s, i);
    }
}

/* --- polling --- */

size_t ctrl_server_wants(struct ctrl_server *s, struct pollfd *ret, int64_t *ret_limit)
{
    size_t n = 0;
    int64_t limit = -1, now = now_ms();
    if (s->accept_again >= 0 && now >= s->accept_again)
        s->accept_again = -1;
    limit = sooner(limit, s->accept_again);
    bool accepting = !s->stopped && s->accept_again < 0 && find_place(s) < CTRL_CLIENTS_MAX;
    ret[n++] = (struct pollfd){.fd = accepting ? listener_fd(s->listener) : -1, .events = POLLIN};
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++) {
        struct ctrl_client *c = s->client[i];
        if (!c)
            continue;
        short events = ctrl_client_events(c);
        if (s->stopped)
            events &= POLLOUT;
        ret[n++] = (struct pollfd){.fd = ctrl_client_fd(c), .events = events};
        limit = sooner(limit, ctrl_client_limit(c));
        limit = sooner(limit, job_limit(s, i));
    }
    *ret_limit = limit;
    return n;
}

void ctrl_server_run(struct ctrl_server *s, const struct pollfd *p, size_t n)
{
    int64_t now = now_ms();
    size_t k = 1;
    watch_jobs(s);
    for (size_t i = 0; i < CTRL_CLIENTS_MAX && k < n; i++) {
        struct ctrl_client *c = s->client[i];
        if (!c)
            continue;
        /* In the same order as then, and some may be gone since. */
        while (k < n && p[k].fd != ctrl_client_fd(c))
            k++;
        int64_t limit = ctrl_client_limit(c);
        if (k < n && (p[k].revents || (limit >= 0 && now >= limit)))
            run_client(s, i, p[k].revents);
    }
    if (p[0].revents)
        accept_client(s);
}

void ctrl_server_stop(struct ctrl_server *s)
{
    s->stopped = true;
}

bool ctrl_server_is_quiet(const struct ctrl_server *s)
{
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++) {
        const struct ctrl_client *c = s->client[i];
        if (c && (ctrl_client_is_waiting(c) || ctrl_client_events(c) == POLLOUT))
            return false;
    }
    return true;
}

size_t ctrl_server_clients(const struct ctrl_server *s)
{
    size_t n = 0;
    for (size_t i = 0; i < CTRL_CLIENTS_MAX; i++)
        n += s->client[i] != NULL;
    return n;
}

bool ctrl_server_was_shut_down(const struct ctrl_server *s)
{
    return s->shut_down;
}

bool ctrl_server_lost_client(const struct ctrl_server *s)
{
    return s->lost;
}

bool ctrl_server_gave_data(struct ctrl_server *s)
{
    bool gave = s->gave_data;
    s->gave_data = false;
    return gave;
}
