#include "src/serve/admin_server.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "src/serve/admin_client.h"
#include "src/serve/admin_key.h"
#include "src/serve/clock.h"
#include "src/serve/key_helper.h"

enum { ACCEPT_PAUSE_MS = 50, LOG_COMMANDS = 5 };

/* A client, and the command of it that is under way. */
struct seat {
    struct admin_client *client; /* NULL: free */
    struct admin_request request;
    enum { FREE, HELD, WORKING, READING_KEY, KEY_READ, CHANGING_KEYS } state;
    struct ctrl_job *job;  /* WORKING */
    struct admin_key *key; /* READING_KEY */
};

struct admin_server {
    struct listener *listener;
    const struct log *log;
    struct worker *worker;       /* SERVING */
    struct key_helper *helper;   /* NULL: there is no admin socket */
    struct seat *waits_for_keys; /* whose task the helper has; NULL: gone */
    enum { WAITING, VERIFYING, SERVING, ENDING } phase;
    struct seat seat[ADMIN_CLIENTS_MAX];
    struct secret *key; /* has arrived, nobody took it yet */
    size_t key_bytes;
    bool key_awaited;     /* SERVING is reached by a key that somebody brings */
    int64_t accept_again; /* out of descriptors until then; -1: no */
    bool told_to_quit;
};

int admin_server_new(struct listener *l, const struct log *log, bool waits,
                     struct admin_server **ret, struct err *e)
{
    struct admin_server *s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "the admin socket");
    if (listener_is_wanted(l) && key_helper_new(&s->helper, e) < 0) {
        free(s);
        return -1;
    }
    json_prepare();
    s->listener = l;
    s->log = log;
    s->phase = waits ? WAITING : VERIFYING;
    s->key_awaited = waits;
    s->accept_again = -1;
    *ret = s;
    return 0;
}

static void forget_command(struct seat *c)
{
    admin_request_clear(&c->request);
    admin_key_free(MOVE(c->key));
    c->job = NULL;
    c->state = FREE;
}

/* A job that the worker still has comes back and finds nobody. */
static void drop(struct admin_server *s, struct seat *c)
{
    if (s->waits_for_keys == c) /* what was begun is done all the same */
        s->waits_for_keys = NULL;
    if (c->job) {
        c->job->client = NULL;
        atomic_store(&c->job->unwanted, true);
    }
    forget_command(c);
    admin_client_free(MOVE(c->client));
}

void admin_server_free(struct admin_server *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++)
        drop(s, &s->seat[i]);
    key_helper_free(s->helper);
    secret_free(s->key);
    free(s);
}

/* --- answers and events --- */

static void answer(struct admin_server *s, struct seat *c, char *line, const struct err *e)
{
    log_line(s->log, LOG_COMMANDS, "admin %s: %s", c->request.verb->name,
             err_class(e ? e->kind : ERR_NONE)->name);
    admin_client_send(c->client, line, true);
    forget_command(c);
}

static void answer_error(struct admin_server *s, struct seat *c, const struct err *e)
{
    answer(s, c, admin_error(&c->request, err_class(e->kind)->name, e->text), e);
}

static void answer_nothing(struct admin_server *s, struct seat *c)
{
    answer(s, c, admin_return(&c->request, NULL, NULL), NULL);
}

static void send_event(struct admin_server *s, const struct admin_news *news)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct admin_client *c = s->seat[i].client;
        if (c && admin_client_is_negotiated(c))
            admin_client_send(c, admin_event(news), false);
    }
}

void admin_server_tell(struct admin_server *s, const struct session_event *event)
{
    static const char *const names[] = {
        [EVENT_CLAIMED] = "CLAIMED",     [EVENT_RELEASED] = "RELEASED", [EVENT_STAGED] = "STAGED",
        [EVENT_COMMITTED] = "COMMITTED", [EVENT_REFUSED] = "REFUSED",   [EVENT_FENCED] = "FENCED",
    };
    const struct admin_news news = {names[event->what],
                                    event->generation,
                                    event->epoch,
                                    &event->error,
                                    NULL,
                                    event->what == EVENT_STAGED ? &event->sealed : NULL};
    send_event(s, &news);
}

/* --- keys --- */

static void run_client(struct admin_server *s, struct seat *c, short revents);

static int check_key_wanted(const struct admin_server *s, struct err *e)
{
    if (s->phase == WAITING && !s->key)
        return 0;
    if (s->phase == WAITING || (s->phase == VERIFYING && s->key_awaited))
        return err_set(e, ERR_LOCKED, "another key is being tried; wait for what becomes of it");
    return err_set(e, ERR_USAGE, "no key is awaited: this daemon has one");
}

static int check_newline(const struct admin_request *r, bool *ret_strips, struct err *e)
{
    const char *newline = r->verb->kind == VERB_ADD_KEY && r->argument ? r->argument : "keep";
    *ret_strips = strcmp(newline, "strip") == 0;
    if (*ret_strips || strcmp(newline, "keep") == 0)
        return 0;
    return err_set(e, ERR_USAGE, "add-key: \"newline\" must be \"keep\" or \"strip\"");
}

static int begin_key(const struct admin_server *s, struct seat *c, struct err *e)
{
    const struct admin_verb *verb = c->request.verb;
    bool strips;
    OWNED_FD fd = admin_client_take_fd(c->client);
    if (check_newline(&c->request, &strips, e) < 0 ||
        (verb->kind == VERB_ADD_KEY && check_key_wanted(s, e) < 0))
        return -1;
    if (fd < 0)
        return err_set(e, ERR_KEY_MISSING,
                       "%s: one descriptor must come along with it (SCM_RIGHTS), from which the "
                       "key is read",
                       verb->name);
    return admin_key_new(&fd, strips, &c->key, e);
}

static void take_awaited_key(struct admin_server *s, struct seat *c, struct secret **key, size_t n)
{
    struct err e;
    if (check_key_wanted(s, &e) < 0) {
        answer_error(s, c, &e);
        return;
    }
    c->state = KEY_READ;
    s->key = MOVE(*key);
    s->key_bytes = n;
}

static void begin_change(struct admin_server *s, struct seat *c, struct secret **key, size_t n);

static void read_key(struct admin_server *s, struct seat *c)
{
    struct err e;
    OWNED(secret) key = NULL;
    size_t n = 0;
    int r = admin_key_read(c->key, &key, &n, &e);
    if (r == 0)
        return;
    if (r < 0) {
        answer_error(s, c, &e);
        return;
    }
    admin_key_free(MOVE(c->key));
    if (c->request.verb->kind == VERB_KEYS)
        begin_change(s, c, &key, n);
    else
        take_awaited_key(s, c, &key, n);
}

bool admin_server_take_key(struct admin_server *s, struct secret **ret, size_t *ret_bytes)
{
    if (!s->key)
        return false;
    *ret = MOVE(s->key);
    *ret_bytes = s->key_bytes;
    s->phase = VERIFYING;
    return true;
}

static struct seat *whose_key(struct admin_server *s)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++)
        if (s->seat[i].state == KEY_READ)
            return &s->seat[i];
    return NULL;
}

void admin_server_refuse_key(struct admin_server *s, const struct err *e)
{
    struct seat *c = whose_key(s);
    s->phase = WAITING;
    send_event(s, &(struct admin_news){.name = "KEY_REFUSED", .error = e});
    if (!c)
        return;
    answer_error(s, c, e);
    run_client(s, c, 0);
}

/* --- the image's keys --- */

enum { ITER_MS = 2000, ITER_MS_MOST = 600000 };

static int read_number(const struct admin_request *r, const char *name, const char *text,
                       unsigned most, unsigned *ret, struct err *e)
{
    char buf[40], *end;
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || v > most)
        return err_set(e, ERR_USAGE, "%s: %s=%s: wanted a number up to %u", r->verb->name, name,
                       err_quote(buf, sizeof(buf), text, strlen(text)), most);
    *ret = (unsigned)v;
    return 0;
}

static int read_task(const struct admin_request *r, struct key_task *ret, struct err *e)
{
    unsigned slot = 0, ms = ITER_MS;
    if (r->argument &&
        read_number(r, r->verb->argument, r->argument, LUKS_N_SLOTS - 1, &slot, e) < 0)
        return -1;
    if (r->second && read_number(r, r->verb->second, r->second, ITER_MS_MOST, &ms, e) < 0)
        return -1;
    ret->kind = r->verb->keys;
    ret->slot = r->argument ? (int)slot : KEY_SLOT_ANY;
    ret->ms = ms > 0 ? ms : 1;
    return 0;
}

static int make_task(struct admin_server *s, struct seat *c, struct secret **key, size_t n,
                     struct err *e)
{
    OWNED(key_task) t = calloc(1, sizeof(*t));
    if (!t)
        return err_nomem(e, "a command");
    if (read_task(&c->request, t, e) < 0)
        return -1;
    if (key)
        t->pass = MOVE(*key);
    t->pass_bytes = n;
    return key_helper_begin(s->helper, s->worker, &t, e);
}

static void begin_change(struct admin_server *s, struct seat *c, struct secret **key, size_t n)
{
    struct err e;
    if (make_task(s, c, key, n, &e) < 0) {
        answer_error(s, c, &e);
        return;
    }
    c->state = CHANGING_KEYS;
    s->waits_for_keys = c;
}

/* What cannot work anyway is refused before a key is read. */
static void do_keys_verb(struct admin_server *s, struct seat *c)
{
    struct err e;
    struct key_task unused = {0};
    if (s->phase == ENDING) {
        err_set(&e, ERR_USAGE, "the daemon is ending");
        answer_error(s, c, &e);
    } else if (s->phase != SERVING) {
        c->state = HELD;
    } else if (read_task(&c->request, &unused, &e) < 0) {
        answer_error(s, c, &e);
    } else if (!c->request.verb->takes_key) {
        begin_change(s, c, NULL, 0);
    } else if (begin_key(s, c, &e) < 0) {
        answer_error(s, c, &e);
    } else {
        c->state = READING_KEY;
        read_key(s, c);
    }
}

static void log_change(const struct admin_server *s, const struct key_task *t)
{
    if (t->error.kind != ERR_NONE)
        log_err(s->log, &t->error);
    else if (t->kind == KEY_TASK_ADD || t->kind == KEY_TASK_ROTATE)
        log_line(s->log, 1, "a key %s in slot %u", t->done.was_there ? "was there" : "was added",
                 t->done.slot);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (t->done.removed & 1u << i)
            log_line(s->log, 1, "the key in slot %u was removed", i);
}

static void finish_change(struct admin_server *s)
{
    OWNED(key_task) t = key_helper_done(s->helper);
    struct seat *c = s->waits_for_keys;
    if (!t)
        return;
    s->waits_for_keys = NULL;
    log_change(s, t);
    if (!c)
        return;
    if (t->error.kind != ERR_NONE)
        answer_error(s, c, &t->error);
    else
        answer(s, c, admin_return(&c->request, admin_fill_keys, t), NULL);
    run_client(s, c, 0);
}

/* --- commands --- */

static int submit(struct admin_server *s, struct seat *c, struct err *e)
{
    static const struct ctrl_request none;
    const struct admin_request *r = &c->request;
    OWNED_HEAP struct admin_call *call = calloc(1, sizeof(*call));
    if (!call)
        return err_nomem(e, "a command");
    call->what = r->verb->call;
    if (r->argument && strlen(r->argument) >= sizeof(call->token))
        return err_set(e, ERR_USAGE, "%s: the token is longer than any that was given out",
                       r->verb->name);
    if (r->argument)
        memcpy(call->token, r->argument, strlen(r->argument) + 1);
    struct ctrl_job *job = ctrl_job_new(&none);
    if (!job)
        return err_nomem(e, "a command");
    job->admin = MOVE(call);
    job->client = c->client;
    c->job = job;
    c->state = WORKING;
    worker_submit(s->worker, job);
    return 0;
}

static void do_session_verb(struct admin_server *s, struct seat *c)
{
    static const char *const phases[] = {
        [WAITING] = "waiting-for-key", [VERIFYING] = "verifying", [ENDING] = "ending"};
    struct err e;
    if (s->phase == SERVING) {
        if (submit(s, c, &e) < 0)
            answer_error(s, c, &e);
    } else if (c->request.verb->call == ADMIN_QUERY_STATUS) {
        answer(s, c, admin_return(&c->request, admin_fill_phase, phases[s->phase]), NULL);
    } else if (s->phase == ENDING) {
        err_set(&e, ERR_USAGE, "the daemon is ending");
        answer_error(s, c, &e);
    } else {
        c->state = HELD;
    }
}

/* What it can do at once is answered when this returns. */
static void do_command(struct admin_server *s, struct seat *c)
{
    struct err e;
    switch (c->request.verb->kind) {
    case VERB_SESSION:
        do_session_verb(s, c);
        break;
    case VERB_COMMANDS:
        answer(s, c, admin_commands(&c->request), NULL);
        break;
    case VERB_VERSION:
        answer(s, c, admin_return(&c->request, admin_fill_version, NULL), NULL);
        break;
    case VERB_ADD_KEY:
        if (begin_key(s, c, &e) < 0) {
            answer_error(s, c, &e);
            break;
        }
        c->state = READING_KEY;
        read_key(s, c);
        break;
    case VERB_KEYS:
        do_keys_verb(s, c);
        break;
    case VERB_QUIT:
        s->told_to_quit = true;
        answer_nothing(s, c);
        break;
    case VERB_CAPABILITIES: /* the client's own */
        break;
    }
}

/* Everything that a client has sent so far, up to a command that has to wait. */
static void run_client(struct admin_server *s, struct seat *c, short revents)
{
    for (;;) {
        struct admin_request request;
        enum admin_step step = admin_client_run(c->client, revents, &request);
        if (step == ADMIN_GONE)
            drop(s, c);
        if (step != ADMIN_REQUEST)
            return;
        c->request = request;
        do_command(s, c);
        if (c->state != FREE)
            return;
        revents = 0;
    }
}

static void release_held(struct admin_server *s)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct seat *c = &s->seat[i];
        if (c->state != HELD)
            continue;
        c->state = FREE;
        do_command(s, c);
        if (c->state == FREE)
            run_client(s, c, 0);
    }
}

void admin_server_ready(struct admin_server *s, struct worker *w)
{
    s->worker = w;
    s->phase = SERVING;
    if (s->key_awaited)
        send_event(s, &(struct admin_news){.name = "KEY_ACCEPTED"});
    struct seat *c = whose_key(s);
    if (c) {
        answer_nothing(s, c);
        run_client(s, c, 0);
    }
    release_held(s);
}

static void answer_call(struct admin_server *s, struct seat *c, const struct admin_call *call)
{
    if (call->error.kind != ERR_NONE)
        answer_error(s, c, &call->error);
    else if (call->what == ADMIN_QUERY_STATUS)
        answer(s, c, admin_return(&c->request, admin_fill_status, &call->status), NULL);
    else if (call->what == ADMIN_SNAPSHOT_LIST)
        answer(s, c, admin_return(&c->request, admin_fill_snapshots, &call->snapshots), NULL);
    else if (c->request.verb->returns_token)
        answer(s, c, admin_return(&c->request, admin_fill_token, call->token), NULL);
    else
        answer_nothing(s, c);
}

void admin_server_done(struct admin_server *s, struct ctrl_job *job)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct seat *c = &s->seat[i];
        if (c->job != job)
            continue;
        answer_call(s, c, job->admin);
        run_client(s, c, 0);
        break;
    }
    ctrl_job_free(job);
}

/* --- polling --- */

static struct seat *free_seat(struct admin_server *s)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++)
        if (!s->seat[i].client)
            return &s->seat[i];
    return NULL;
}

static void accept_client(struct admin_server *s)
{
    struct err e;
    struct seat *c = free_seat(s);
    OWNED_FD fd = c ? listener_accept(s->listener) : -1;
    if (c && fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
        s->accept_again = now_ms() + ACCEPT_PAUSE_MS;
    if (fd >= 0 && admin_client_new(&fd, &c->client, &e) < 0)
        log_err(s->log, &e);
}

size_t admin_server_wants(struct admin_server *s, struct pollfd *ret, int64_t *ret_limit)
{
    size_t n = 0;
    int64_t now = now_ms();
    if (s->accept_again >= 0 && now >= s->accept_again)
        s->accept_again = -1;
    *ret_limit = s->accept_again;
    /* Who finds all places taken waits in the socket's queue. */
    bool accepting = s->phase != ENDING && s->accept_again < 0 && free_seat(s);
    ret[n++] = (struct pollfd){.fd = accepting ? listener_fd(s->listener) : -1, .events = POLLIN};
    ret[n++] = (struct pollfd){.fd = s->helper ? key_helper_fd(s->helper) : -1, .events = POLLIN};
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct seat *c = &s->seat[i];
        if (!c->client)
            continue;
        short events = admin_client_events(c->client);
        if (s->phase == ENDING)
            events &= POLLOUT;
        ret[n++] = (struct pollfd){.fd = admin_client_fd(c->client), .events = events};
        *ret_limit = sooner(*ret_limit, admin_client_limit(c->client));
        if (c->state != READING_KEY)
            continue;
        ret[n++] = (struct pollfd){.fd = admin_key_fd(c->key), .events = POLLIN};
        *ret_limit = sooner(*ret_limit, admin_key_limit(c->key));
    }
    return n;
}

/* What poll() found out about a descriptor. */
static short seen(const struct pollfd *p, size_t n, int fd)
{
    for (size_t i = 0; i < n; i++)
        if (p[i].fd == fd)
            return p[i].revents;
    return 0;
}

void admin_server_run(struct admin_server *s, const struct pollfd *p, size_t n)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct seat *c = &s->seat[i];
        if (!c->client)
            continue;
        if (c->state == READING_KEY &&
            (seen(p, n, admin_key_fd(c->key)) || now_ms() >= admin_key_limit(c->key)))
            read_key(s, c);
        run_client(s, c, seen(p, n, admin_client_fd(c->client)));
    }
    if (n > 1 && p[1].revents)
        finish_change(s);
    if (n > 0 && p[0].revents)
        accept_client(s);
}

/* --- the end --- */

void admin_server_stop(struct admin_server *s, const char *why, const struct err *e)
{
    struct err ending;
    err_set(&ending, ERR_USAGE, "the daemon is ending: %s", why);
    s->phase = ENDING;
    s->worker = NULL;
    if (s->helper)
        key_helper_stop(s->helper);
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        struct seat *c = &s->seat[i];
        if (c->state == HELD || c->state == READING_KEY || c->state == KEY_READ)
            answer_error(s, c, e ? e : &ending);
    }
}

void admin_server_say_goodbye(struct admin_server *s, const char *why, const struct err *e)
{
    const struct admin_news news = {.name = "SHUTDOWN", .error = e, .reason = e ? NULL : why};
    send_event(s, &news);
}

bool admin_server_is_quiet(const struct admin_server *s)
{
    for (size_t i = 0; i < ADMIN_CLIENTS_MAX; i++) {
        const struct seat *c = &s->seat[i];
        if (c->client && (c->state == WORKING || c->state == CHANGING_KEYS ||
                          admin_client_is_writing(c->client)))
            return false;
    }
    return true;
}

bool admin_server_was_told_to_quit(const struct admin_server *s)
{
    return s->told_to_quit;
}
