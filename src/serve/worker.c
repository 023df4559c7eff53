#include "src/serve/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

#include "src/serve/clock.h"
#include "src/serve/confine.h"
#include "src/serve/serve.h"

/* A job that waited this long and whose client has gone is not done any more: a client that gave up
 * must not have its command executed behind the back of the next one. */
enum { STALE_MS = 500 };
/* Between two looks for an image that is being copied. */
enum { LOOK_MS = 300 };
/* While a passphrase is being stretched, that is heard of more often. */
enum { OPENING_MS = 1000 };

struct queue {
    struct ctrl_job *first, **end;
};

/* More than one hand-over can cause while the main thread sleeps; what is too much is lost. */
enum { EVENTS_MAX = 64 };

struct worker {
    pthread_t thread;
    int wake_fd; /* main thread -> worker */
    int news_fd; /* worker -> main thread */
    struct session_options options;

    /* The worker's own. */
    struct secret *pass;
    size_t pass_bytes;
    struct session *session;
    struct data_channel *data;
    int64_t look_at; /* for an image that is being copied */

    pthread_mutex_t lock; /* over the rest, atomics apart */
    struct queue todo, done, admin_done;
    pthread_cond_t keys_done;
    bool closed; /* nothing is taken from the queue any more */
    struct session_event event[EVENTS_MAX];
    size_t first_event, n_events;
    enum worker_phase phase;
    struct err verdict;
    enum device_kind kind;

    _Atomic int listener; /* that the worker has not seen yet; -1: none */
    _Atomic bool begun;   /* what was queued meanwhile is done */
    _Atomic bool end;
    _Atomic bool is_on;
    _Atomic bool stretching; /* the passphrase; never reset */
    _Atomic int64_t opening; /* the same, while serving: when that was seen last; 0: never */
    _Atomic bool busy;       /* a TPM command is running */
    _Atomic bool data_lost;
    _Atomic int sent; /* of a reply that completes a set: what the worker has not seen yet */
};
enum { SENT_NOTHING = 0, SENT_ALL, SENT_NOT };

static void queue_init(struct queue *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void queue_put(struct queue *q, struct ctrl_job *job)
{
    job->next = NULL;
    *q->end = job;
    q->end = &job->next;
}

static struct ctrl_job *queue_take(struct queue *q)
{
    struct ctrl_job *job = q->first;
    if (!job)
        return NULL;
    q->first = job->next;
    if (!q->first)
        q->end = &q->first;
    return job;
}

static void ring(int fd)
{
    uint64_t one = 1;
    (void)!write(fd, &one, sizeof(one));
}

static void silence(int fd)
{
    uint64_t n;
    (void)!read(fd, &n, sizeof(n));
}

/* --- on the worker's thread --- */

static bool may_go_on(void *ctx, uint64_t done, uint64_t total)
{
    struct worker *w = ctx;
    (void)done;
    (void)total;
    if (!atomic_exchange(&w->stretching, true))
        ring(w->news_fd);
    if (w->session)
        atomic_store(&w->opening, now_ms());
    return !atomic_load(&w->end);
}

static void note_event(void *ctx, const struct session_event *event)
{
    struct worker *w = ctx;
    pthread_mutex_lock(&w->lock);
    if (w->n_events < EVENTS_MAX)
        w->event[(w->first_event + w->n_events++) % EVENTS_MAX] = *event;
    pthread_mutex_unlock(&w->lock);
    ring(w->news_fd);
}

static void enter(struct worker *w, enum worker_phase phase, const struct err *e)
{
    pthread_mutex_lock(&w->lock);
    w->phase = phase;
    if (e)
        w->verdict = *e;
    if (w->session)
        w->kind = session_kind(w->session);
    pthread_mutex_unlock(&w->lock);
    ring(w->news_fd);
}

/* Once it is open, this thread needs no other file, ever. */
static int open_session(struct worker *w, struct session **ret, struct err *e)
{
    static const struct confine nowhere = {{-1, -1, -1, -1}};
    const struct watch watch = {may_go_on, w}; /* kept by the session */
    OWNED(session) s = NULL;
    if (session_open(&w->options, &w->pass, w->pass_bytes, &watch, &s, e) < 0 ||
        confine_names(&nowhere, e) < 0)
        return -1;
    *ret = MOVE(s);
    return 0;
}

static void verify(struct worker *w)
{
    struct err e = {0};
    if (open_session(w, &w->session, &e) < 0) {
        enter(w, WORKER_REFUSED, &e);
        return;
    }
    atomic_store(&w->is_on, session_is_on(w->session));
    enter(w, WORKER_SERVING, NULL);
}

static bool is_stale(const struct ctrl_job *job)
{
    return atomic_load(&job->unwanted) && now_ms() - job->since_ms > STALE_MS;
}

static void end_session(struct worker *w)
{
    session_free(MOVE(w->session));
    data_channel_free(MOVE(w->data));
    atomic_store(&w->is_on, false);
}

/* With --keep-listening the image is free, and open with its key: the next emulator's INIT claims
 * it and reads it afresh. */
static void shut_down(struct worker *w)
{
    if (!(w->options.flags & SERVE_KEEP_LISTENING)) {
        end_session(w);
        return;
    }
    data_channel_drop(w->data);
    session_shut_down(w->session);
    atomic_store(&w->is_on, false);
}

static void adopt_data(struct worker *w, struct ctrl_job *job)
{
    job->reply.result = data_channel_adopt(w->data, &job->fd);
    if (job->reply.result == CTRL_OK)
        session_note_emulator(w->session, job->from);
}

static void serve_job(struct worker *w, struct ctrl_job *job)
{
    if (job->admin) {
        session_admin(w->session, job->admin);
        return;
    }
    session_control(w->session, job);
    if (job->req.code == CTRL_SET_DATAFD)
        adopt_data(w, job);
    atomic_store(&w->is_on, session_is_on(w->session));
    /* The claim is free before the client hears of it. */
    if (job->req.code == CTRL_SHUTDOWN)
        shut_down(w);
}

static void refuse_admin(const struct worker *w, struct err *ret)
{
    *ret = w->verdict;
    if (ret->kind == ERR_NONE)
        err_set(ret, ERR_USAGE, "the daemon is ending");
}

static void do_job(struct worker *w, struct ctrl_job *job)
{
    if (job->keys && !w->session)
        refuse_admin(w, &job->keys->error);
    else if (job->keys)
        session_keys(w->session, job->keys);
    else if (job->admin && !w->session)
        refuse_admin(w, &job->admin->error);
    else if (is_stale(job))
        job->reply.result = CTRL_FAIL;
    else if (w->session)
        serve_job(w, job);
    else
        job->reply.result =
            w->phase == WORKER_REFUSED ? err_class(w->verdict.kind)->ctrl : (uint32_t)CTRL_FAIL;
}

/* A client asks for the next thing only after it has its reply: this comes first. */
static void note_sent(struct worker *w)
{
    int sent = atomic_exchange(&w->sent, SENT_NOTHING);
    if (sent != SENT_NOTHING && w->session)
        session_sent(w->session, sent == SENT_ALL);
}

static void take_listener(struct worker *w)
{
    int listener = atomic_exchange(&w->listener, -1);
    if (w->data && listener >= 0)
        data_channel_listen(w->data, listener);
}

/* Whoever waits has the job. */
static void finish_keys(struct worker *w, struct ctrl_job *job)
{
    pthread_mutex_lock(&w->lock);
    job->keys = NULL;
    pthread_cond_broadcast(&w->keys_done);
    pthread_mutex_unlock(&w->lock);
}

/* True: there was one. */
static bool do_next_job(struct worker *w)
{
    if (w->session && !atomic_load(&w->begun) && !atomic_load(&w->end))
        return false;
    pthread_mutex_lock(&w->lock);
    struct ctrl_job *job = queue_take(&w->todo);
    pthread_mutex_unlock(&w->lock);
    /* What was said before the job was queued comes before it. */
    take_listener(w);
    note_sent(w);
    if (!job)
        return false;
    do_job(w, job);
    if (job->keys) {
        finish_keys(w, job);
        return true;
    }
    pthread_mutex_lock(&w->lock);
    queue_put(job->admin ? &w->admin_done : &w->done, job);
    pthread_mutex_unlock(&w->lock);
    ring(w->news_fd);
    return true;
}

static void do_data(struct worker *w, short revents)
{
    atomic_store(&w->busy, true);
    enum data_event event = data_channel_run(w->data, w->session, revents);
    atomic_store(&w->busy, false);
    if (event != DATA_LOST)
        return;
    log_line(w->options.log, 5, "the data client has gone");
    note_sent(w);
    session_hangup(w->session);
    atomic_store(&w->is_on, session_is_on(w->session));
    atomic_store(&w->data_lost, true);
    ring(w->news_fd);
}

/* Only when nothing else is to be done. */
static void look_for_image(struct worker *w)
{
    if (now_ms() < w->look_at)
        return;
    session_look_for_image(w->session);
    w->look_at = now_ms() + LOOK_MS;
}

/* Waits for something to do, at most one command long. */
static void take_turn(struct worker *w, bool had_job)
{
    struct pollfd p[2] = {{.fd = w->wake_fd, .events = POLLIN}, {.fd = -1}};
    int64_t limit = w->data && atomic_load(&w->begun) ? data_channel_wants(w->data, &p[1]) : -1;
    bool looks = w->session && session_looks_for_image(w->session);
    int n = poll(p, 2, had_job ? 0 : ms_left(looks ? sooner(limit, w->look_at) : limit, now_ms()));
    if (n < 0)
        return;
    if (n == 0 && looks && !had_job)
        look_for_image(w);
    if (p[0].revents)
        silence(w->wake_fd);
    take_listener(w);
    if (w->data && w->session && (p[1].revents || limit >= 0))
        do_data(w, p[1].revents);
}

/* Nobody may be left waiting. */
static void close_queue(struct worker *w)
{
    struct queue rest;
    struct ctrl_job *job;
    queue_init(&rest);
    pthread_mutex_lock(&w->lock);
    w->closed = true;
    while ((job = queue_take(&w->todo))) {
        if (!job->keys) {
            queue_put(&rest, job);
            continue;
        }
        refuse_admin(w, &job->keys->error);
        job->keys = NULL;
    }
    while ((job = queue_take(&rest)))
        queue_put(&w->todo, job);
    pthread_cond_broadcast(&w->keys_done);
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    verify(w);
    bool had_job = true;
    while (had_job || !atomic_load(&w->end)) {
        had_job = do_next_job(w);
        if (!atomic_load(&w->end))
            take_turn(w, had_job);
    }
    note_sent(w);
    end_session(w);
    close_queue(w);
    enter(w, WORKER_ENDED, NULL);
    return NULL;
}

/* --- on the main thread --- */

void worker_free(struct worker *w)
{
    struct ctrl_job *job;
    if (!w)
        return;
    pthread_join(w->thread, NULL);
    while ((job = queue_take(&w->todo)) || (job = queue_take(&w->done)) ||
           (job = queue_take(&w->admin_done)))
        ctrl_job_free(job);
    pthread_cond_destroy(&w->keys_done);
    pthread_mutex_destroy(&w->lock);
    close(w->wake_fd);
    close(w->news_fd);
    free(w);
}

int worker_start(const struct session_options *o, struct secret **pass, size_t pass_bytes,
                 struct data_channel **data, struct worker **ret, struct err *e)
{
    OWNED_FD wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    OWNED_FD news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    OWNED_HEAP struct worker *w = malloc(sizeof(*w));
    if (wake < 0 || news < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot make an event descriptor");
    if (!w)
        return err_nomem(e, "a thread");
    struct worker init = {.options = *o, .pass_bytes = pass_bytes, .listener = -1};
    memcpy(w, &init, sizeof(*w));
    w->wake_fd = wake;
    w->news_fd = news;
    w->pass = *pass;
    w->data = *data;
    w->options.tell = note_event;
    w->options.ctx = w;
    queue_init(&w->todo);
    queue_init(&w->done);
    queue_init(&w->admin_done);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->keys_done, NULL);
    int os = pthread_create(&w->thread, NULL, work, w);
    if (os) {
        pthread_cond_destroy(&w->keys_done);
        pthread_mutex_destroy(&w->lock);
        return err_sys(e, ERR_STORAGE, os, "cannot start a thread");
    }
    *pass = NULL;
    *data = NULL;
    (void)MOVE_FD(wake);
    (void)MOVE_FD(news);
    *ret = MOVE(w);
    return 0;
}

int worker_fd(const struct worker *w)
{
    return w->news_fd;
}

void worker_clear_fd(struct worker *w)
{
    silence(w->news_fd);
}

enum worker_phase worker_phase(struct worker *w, struct err *ret_verdict)
{
    pthread_mutex_lock(&w->lock);
    enum worker_phase phase = w->phase;
    if (phase == WORKER_REFUSED)
        *ret_verdict = w->verdict;
    pthread_mutex_unlock(&w->lock);
    return phase;
}

bool worker_is_stretching(struct worker *w)
{
    return atomic_load(&w->stretching);
}

bool worker_is_opening(struct worker *w)
{
    int64_t seen = atomic_load(&w->opening);
    return seen > 0 && now_ms() - seen < OPENING_MS;
}

bool worker_is_on(struct worker *w)
{
    return atomic_load(&w->is_on);
}

enum device_kind worker_kind(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    enum device_kind kind = w->kind;
    pthread_mutex_unlock(&w->lock);
    return kind;
}

bool worker_has_migration_key(const struct worker *w)
{
    return w->options.rules.migration_key != NULL;
}

bool worker_data_was_lost(struct worker *w)
{
    return atomic_exchange(&w->data_lost, false);
}

void worker_submit(struct worker *w, struct ctrl_job *job)
{
    job->since_ms = now_ms();
    pthread_mutex_lock(&w->lock);
    queue_put(&w->todo, job);
    pthread_mutex_unlock(&w->lock);
    ring(w->wake_fd);
}

void worker_do_keys(struct worker *w, struct key_access *a)
{
    struct ctrl_job job = {.keys = a, .fd = -1};
    pthread_mutex_lock(&w->lock);
    if (w->closed)
        refuse_admin(w, &a->error);
    else
        queue_put(&w->todo, &job);
    bool queued = !w->closed;
    if (queued)
        ring(w->wake_fd);
    while (queued && job.keys)
        pthread_cond_wait(&w->keys_done, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

static struct ctrl_job *take_from(struct worker *w, struct queue *q)
{
    pthread_mutex_lock(&w->lock);
    struct ctrl_job *job = queue_take(q);
    pthread_mutex_unlock(&w->lock);
    return job;
}

struct ctrl_job *worker_done(struct worker *w)
{
    return take_from(w, &w->done);
}

struct ctrl_job *worker_admin_done(struct worker *w)
{
    return take_from(w, &w->admin_done);
}

void worker_sent(struct worker *w, bool sent)
{
    atomic_store(&w->sent, sent ? SENT_ALL : SENT_NOT);
    ring(w->wake_fd);
}

bool worker_next_event(struct worker *w, struct session_event *ret)
{
    pthread_mutex_lock(&w->lock);
    bool any = w->n_events > 0;
    if (any) {
        *ret = w->event[w->first_event];
        w->first_event = (w->first_event + 1) % EVENTS_MAX;
        w->n_events--;
    }
    pthread_mutex_unlock(&w->lock);
    return any;
}

void worker_begin(struct worker *w, int listener)
{
    atomic_store(&w->listener, listener);
    atomic_store(&w->begun, true);
    ring(w->wake_fd);
}

void worker_cancel(struct worker *w)
{
    if (atomic_load(&w->busy))
        tpm_cancel();
}

void worker_end(struct worker *w)
{
    atomic_store(&w->end, true);
    ring(w->wake_fd);
}
