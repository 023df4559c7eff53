#include "src/serve/ctrl_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "migration/blob.h"
#include "src/base/bytes.h"
#include "src/serve/clock.h"
#include "src/serve/passed_fd.h"

enum {
    IN_BYTES = CTRL_REQUEST_MAX + 64, /* a whole request, and the beginning of the next */
    DISCARD_BYTES = 16384,
    PADDING_BYTES = 3,
};

struct ctrl_client {
    int fd;
    int64_t since;
    bool is_tcp;
    bool asked;
    bool waiting; /* somebody has its request */
    bool closing; /* nothing more is read; gone when the reply has left */
    int64_t limit;

    uint8_t in[IN_BYTES];
    size_t n_in;
    bool padding;
    struct passed_fd passed; /* came along, not used yet */

    /* What SET_STATEBLOB carries. */
    struct ctrl_job *loading; /* NULL: none */
    size_t loaded;
    size_t discard; /* bytes of a refused one, before it is answered */

    uint8_t head[CTRL_REPLY_MAX];
    size_t n_head;
    struct secret *body;
    size_t body_at, body_bytes;
    size_t sent;
    enum ctrl_client_last last;
};

int ctrl_client_new(int *fd, struct ctrl_client **ret, struct err *e)
{
    struct ctrl_client *c = calloc(1, sizeof(*c));
    if (!c)
        return err_nomem(e, "a control client");
    c->fd = MOVE_FD(*fd);
    c->since = now_ms();
    c->limit = -1;
    c->passed.fd = -1;
    int domain = 0;
    socklen_t n = sizeof(domain);
    c->is_tcp = getsockopt(c->fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0 && domain != AF_UNIX;
    *ret = c;
    return 0;
}

void ctrl_client_free(struct ctrl_client *c)
{
    if (!c)
        return;
    close(c->fd);
    passed_fd_drop(&c->passed);
    ctrl_job_free(c->loading);
    secret_free(c->body);
    wipe(c->in, sizeof(c->in));
    free(c);
}

int ctrl_client_fd(const struct ctrl_client *c)
{
    return c->fd;
}

static bool is_writing(const struct ctrl_client *c)
{
    return c->n_head > 0;
}

short ctrl_client_events(const struct ctrl_client *c)
{
    /* A TCP peer that has gone is seen by the end of its stream alone. */
    if (c->waiting)
        return c->is_tcp ? POLLRDHUP : 0;
    return is_writing(c) ? POLLOUT : POLLIN;
}

int64_t ctrl_client_limit(const struct ctrl_client *c)
{
    return c->limit;
}

bool ctrl_client_is_waiting(const struct ctrl_client *c)
{
    return c->waiting;
}

bool ctrl_client_has_asked(const struct ctrl_client *c)
{
    return c->asked;
}

int64_t ctrl_client_since(const struct ctrl_client *c)
{
    return c->since;
}

/* --- in --- */

/* Bytes read; 0: hung up; -1: nothing there. A descriptor is kept until a SET_DATAFD asks for it.
 */
static ssize_t receive(struct ctrl_client *c, void *to, size_t n)
{
    return passed_fd_receive(c->fd, to, n, &c->passed);
}

static void consume(struct ctrl_client *c, size_t n)
{
    memmove(c->in, c->in + n, c->n_in - n);
    c->n_in -= n;
    /* What is left of a state, or of a hash over secrets, must not stay behind. */
    wipe(c->in + c->n_in, n);
}

static void reply_at_once(struct ctrl_client *c, enum ctrl_code code, uint32_t result)
{
    struct ctrl_reply r = {.result = result};
    c->n_head = ctrl_reply_encode(code, &r, c->head);
    c->limit = now_ms() + CTRL_UNREAD_MS;
}

/* A whole request: whoever is to answer it has it now. */
static struct ctrl_job *hand_over(struct ctrl_client *c, struct ctrl_job *job)
{
    job->client = c;
    c->waiting = true;
    c->asked = true;
    c->limit = -1;
    if (job->req.code == CTRL_SET_DATAFD)
        job->fd = passed_fd_take(&c->passed);
    if (c->n_in == 0)
        passed_fd_drop(&c->passed);
    return job;
}

/* The header of a SET_STATEBLOB is there; its bytes follow. False: no memory. */
static bool begin_loading(struct ctrl_client *c, struct ctrl_job *job)
{
    struct err e;
    c->loaded = 0;
    if (job->req.bytes > BLOB_ENVELOPE_MAX) {
        c->discard = job->req.bytes;
        c->loading = job;
        return true;
    }
    if (job->req.bytes > 0 && secret_new(job->req.bytes, &job->blob, &e) < 0) {
        ctrl_job_free(job);
        return false;
    }
    c->loading = job;
    return true;
}

static struct ctrl_job *finish_loading(struct ctrl_client *c)
{
    struct ctrl_job *job = MOVE(c->loading);
    if (job->req.bytes <= BLOB_ENVELOPE_MAX)
        return hand_over(c, job);
    c->asked = true;
    reply_at_once(c, job->req.code, CTRL_SIZE);
    ctrl_job_free(job);
    return NULL;
}

/* What has already arrived of a state. */
static void load_from_buffer(struct ctrl_client *c)
{
    size_t want = c->discard > 0 ? c->discard : c->loading->req.bytes - c->loaded;
    size_t n = c->n_in < want ? c->n_in : want;
    if (c->discard > 0) {
        c->discard -= n;
    } else if (n > 0) {
        memcpy(secret_bytes(c->loading->blob) + c->loaded, c->in, n);
        c->loaded += n;
    }
    consume(c, n);
}

static bool is_loaded(const struct ctrl_client *c)
{
    const struct ctrl_job *job = c->loading;
    return c->discard == 0 && (c->loaded == job->req.bytes || job->req.bytes > BLOB_ENVELOPE_MAX);
}

/* The next request in the buffer. False: no memory. *ret stays NULL where there is none yet. */
static bool next_request(struct ctrl_client *c, struct ctrl_job **ret)
{
    struct ctrl_request req;
    size_t used = 0;
    switch (ctrl_request_decode(c->in, c->n_in, &c->padding, &req, &used)) {
    case CTRL_MORE:
        return true;
    case CTRL_UNKNOWN:
        /* Its length is not known: what has arrived is one message, as for swtpm. */
        consume(c, c->n_in);
        c->padding = false;
        passed_fd_drop(&c->passed);
        reply_at_once(c, (enum ctrl_code)0, CTRL_BAD_ORDINAL);
        return true;
    case CTRL_TOO_BIG:
        consume(c, c->n_in);
        reply_at_once(c, req.code, CTRL_SIZE);
        c->closing = true;
        return true;
    case CTRL_WHOLE:
        break;
    }
    struct ctrl_job *job = ctrl_job_new(&req);
    consume(c, used);
    if (!job)
        return false;
    if (req.code != CTRL_SET_STATEBLOB) {
        *ret = hand_over(c, job);
        return true;
    }
    return begin_loading(c, job);
}

/* Requests from what is in the buffer. False: no memory. */
static bool digest(struct ctrl_client *c, struct ctrl_job **ret)
{
    if (!c->loading && c->n_in > 0 && !next_request(c, ret))
        return false;
    if (c->loading) {
        load_from_buffer(c);
        if (is_loaded(c))
            *ret = finish_loading(c);
    }
    return true;
}

/* 1: something arrived; 0: hung up; -1: nothing there. */
static int fill(struct ctrl_client *c)
{
    uint8_t scrap[DISCARD_BYTES];
    ssize_t r;
    if (c->loading && c->discard > 0) {
        r = receive(c, scrap, c->discard < sizeof(scrap) ? c->discard : sizeof(scrap));
        if (r > 0) {
            c->discard -= (size_t)r;
            wipe(scrap, (size_t)r);
        }
    } else if (c->loading) {
        r = receive(c, secret_bytes(c->loading->blob) + c->loaded,
                    c->loading->req.bytes - c->loaded);
        if (r > 0)
            c->loaded += (size_t)r;
    } else {
        r = receive(c, c->in + c->n_in, IN_BYTES - c->n_in);
        if (r > 0)
            c->n_in += (size_t)r;
    }
    return r > 0 ? 1 : (int)r;
}

/* A request has begun: the rest has to come in time. Padding alone is not the beginning of one. */
static void watch_partial(struct ctrl_client *c, bool progress)
{
    bool partial = c->loading || c->n_in > (c->padding ? PADDING_BYTES : 0u);
    if (!partial)
        c->limit = -1;
    else if (c->limit < 0 || (c->loading && progress))
        c->limit = now_ms() + CTRL_PARTIAL_MS;
}

/* --- out --- */

void ctrl_client_answer(struct ctrl_client *c, struct ctrl_job *job)
{
    c->waiting = false;
    c->n_head = ctrl_reply_encode(job->req.code, &job->reply, c->head);
    c->body = MOVE(job->state);
    c->body_at = job->state_at;
    c->body_bytes = c->body ? job->reply.bytes : 0;
    c->sent = 0;
    c->last = job->is_last ? CLIENT_LAST_HERE : CLIENT_NO_LAST;
    c->limit = now_ms() + CTRL_UNREAD_MS;
}

void ctrl_client_give_up(struct ctrl_client *c, enum ctrl_code code)
{
    c->waiting = false;
    c->last = CLIENT_NO_LAST;
    reply_at_once(c, code, CTRL_FAIL);
}

enum ctrl_client_last ctrl_client_last(struct ctrl_client *c)
{
    enum ctrl_client_last last = c->last;
    if (last == CLIENT_LAST_LEFT)
        c->last = CLIENT_NO_LAST;
    return last;
}

/* False: the client is gone. */
static bool send_some(struct ctrl_client *c)
{
    size_t from_head = c->sent < c->n_head ? c->sent : c->n_head;
    size_t from_body = c->sent - from_head;
    const uint8_t *body = c->body ? secret_peek(c->body) + c->body_at : c->head;
    struct iovec v[2] = {
        {c->head + from_head, c->n_head - from_head},
        {(void *)(uintptr_t)(body + from_body), c->body_bytes - from_body},
    };
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    ssize_t n = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    c->sent += (size_t)n;
    c->limit = now_ms() + CTRL_UNREAD_MS;
    if (c->sent < c->n_head + c->body_bytes)
        return true;
    secret_free(MOVE(c->body));
    c->n_head = c->sent = c->body_bytes = 0;
    if (c->last == CLIENT_LAST_HERE)
        c->last = CLIENT_LAST_LEFT;
    c->limit = -1;
    return !c->closing;
}

/* --- both --- */

enum ctrl_client_step ctrl_client_run(struct ctrl_client *c, short revents, struct ctrl_job **ret)
{
    struct ctrl_job *job = NULL;
    bool hung_up = revents & (POLLHUP | POLLERR | POLLRDHUP);
    bool progress = false;
    if (c->waiting)
        return hung_up ? CLIENT_GONE : CLIENT_IDLE;
    if (is_writing(c) && !send_some(c))
        return CLIENT_GONE;
    if (!is_writing(c) && revents & (POLLIN | POLLHUP | POLLERR)) {
        int r = fill(c);
        if (r == 0)
            return CLIENT_GONE;
        progress = r > 0;
    }
    while (!is_writing(c) && !job) {
        size_t before = c->n_in;
        if (!digest(c, &job))
            return CLIENT_GONE;
        if (is_writing(c) && !send_some(c))
            return CLIENT_GONE;
        if (c->n_in == before)
            break;
    }
    if (job) {
        *ret = job;
        return CLIENT_REQUEST;
    }
    if (!is_writing(c))
        watch_partial(c, progress);
    return c->limit >= 0 && now_ms() >= c->limit ? CLIENT_GONE : CLIENT_IDLE;
}
