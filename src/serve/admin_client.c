#include "src/serve/admin_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "src/serve/clock.h"
#include "src/serve/passed_fd.h"

enum { CONGESTED_BYTES = 65536 };

struct admin_client {
    int fd;
    bool negotiated;
    bool waiting; /* somebody has its request */
    bool eof;     /* it sends nothing more, and may still read */
    bool closing; /* nothing more is read; gone when all has left */
    bool lost;    /* no memory, or it does not take what is sent */
    struct passed_fd passed;

    char in[ADMIN_MESSAGE_MAX];
    size_t n_in;
    struct admin_scan scan;
    int64_t partial_limit; /* for the rest of a message; -1: none has begun */

    char *out;
    size_t n_out, sent;
    int64_t unread_limit;
};

int admin_client_new(int *fd, struct admin_client **ret, struct err *e)
{
    struct admin_client *c = calloc(1, sizeof(*c));
    if (!c)
        return err_nomem(e, "a client of the admin socket");
    c->fd = MOVE_FD(*fd);
    c->passed.fd = -1;
    c->partial_limit = c->unread_limit = -1;
    admin_client_send(c, admin_greeting(), false);
    *ret = c;
    return 0;
}

void admin_client_free(struct admin_client *c)
{
    if (!c)
        return;
    close(c->fd);
    passed_fd_drop(&c->passed);
    free(c->out);
    free(c);
}

int admin_client_fd(const struct admin_client *c)
{
    return c->fd;
}

bool admin_client_is_negotiated(const struct admin_client *c)
{
    return c->negotiated;
}

bool admin_client_is_writing(const struct admin_client *c)
{
    return c->n_out > 0 && !c->lost;
}

static bool is_listening(const struct admin_client *c)
{
    return !c->waiting && !c->closing && c->n_out - c->sent < CONGESTED_BYTES;
}

short admin_client_events(const struct admin_client *c)
{
    short reading = is_listening(c) && !c->eof ? POLLIN : 0;
    return (short)(reading | (c->n_out > 0 ? POLLOUT : 0));
}

int64_t admin_client_limit(const struct admin_client *c)
{
    /* One that gets no answer is hung up at once, not when something else happens. */
    return c->lost ? 0 : sooner(c->partial_limit, c->unread_limit);
}

int admin_client_take_fd(struct admin_client *c)
{
    return passed_fd_take(&c->passed);
}

/* --- out --- */

static void send_some(struct admin_client *c)
{
    while (c->sent < c->n_out) {
        ssize_t n = send(c->fd, c->out + c->sent, c->n_out - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            c->lost |= errno != EAGAIN;
            return;
        }
        c->sent += (size_t)n;
        c->unread_limit = now_ms() + ADMIN_UNREAD_MS;
    }
    c->n_out = c->sent = 0;
    c->unread_limit = -1;
}

void admin_client_send(struct admin_client *c, char *line, bool answers)
{
    OWNED_HEAP char *taken = line;
    size_t n = taken ? strlen(taken) : 0, rest = c->n_out - c->sent;
    if (answers) {
        c->waiting = false;
        if (c->n_in == 0)
            passed_fd_drop(&c->passed);
    }
    char *all = taken && rest + n <= ADMIN_OUT_MAX ? malloc(rest + n + 1) : NULL;
    if (!all) {
        c->lost = true;
        return;
    }
    if (rest > 0)
        memcpy(all, c->out + c->sent, rest);
    memcpy(all + rest, taken, n + 1);
    free(c->out);
    c->out = all;
    c->n_out = rest + n;
    c->sent = 0;
    if (c->unread_limit < 0)
        c->unread_limit = now_ms() + ADMIN_UNREAD_MS;
    send_some(c);
}

/* --- in --- */

static void fill(struct admin_client *c)
{
    ssize_t r = passed_fd_receive(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in, &c->passed);
    if (r > 0)
        c->n_in += (size_t)r;
    else if (r == 0)
        c->eof = true;
}

/* The blanks behind a message go with it: with an empty buffer a descriptor belongs to nothing. */
static void consume(struct admin_client *c, size_t n)
{
    while (n < c->n_in && strchr(" \t\r\n", c->in[n]) && c->in[n])
        n++;
    memmove(c->in, c->in + n, c->n_in - n);
    c->n_in -= n;
}

static void refuse(struct admin_client *c, const struct admin_request *r, const char *class,
                   const char *text)
{
    admin_client_send(c, admin_error(r, class, text), true);
}

static void refuse_garbage(struct admin_client *c, size_t n)
{
    static const struct admin_request none;
    struct err e;
    char buf[60];
    err_set(&e, ERR_USAGE, "JSON parse error, unexpected \"%s\"",
            err_quote(buf, sizeof(buf), c->in, n));
    refuse(c, &none, "GenericError", e.text);
}

/* True: *ret is a request. */
static bool take_message(struct admin_client *c, size_t n, struct admin_request *ret)
{
    const char *class;
    struct admin_request r;
    struct err e;
    bool good = admin_request_decode(c->in, n, c->negotiated, &r, &class, &e) == 0;
    consume(c, n);
    if (!good)
        refuse(c, &r, class, e.text);
    else if (r.verb->kind == VERB_CAPABILITIES) {
        c->negotiated = true;
        admin_client_send(c, admin_return(&r, NULL, NULL), true);
    } else {
        c->waiting = true;
        *ret = r;
        return true;
    }
    admin_request_clear(&r);
    return false;
}

/* True: *ret is a request. */
static bool digest(struct admin_client *c, struct admin_request *ret)
{
    static const struct admin_request none;
    while (c->n_in > 0 && !c->lost && is_listening(c)) {
        size_t start = 0, n = 0;
        switch (admin_scan(&c->scan, c->in, c->n_in, &start, &n)) {
        case ADMIN_MORE:
            return false;
        case ADMIN_MESSAGE:
            if (take_message(c, start + n, ret))
                return true;
            break;
        case ADMIN_GARBAGE:
            if (n > 0)
                refuse_garbage(c, n);
            consume(c, start + n);
            break;
        case ADMIN_TOO_LONG:
            refuse(c, &none, "GenericError", "JSON parse error, the message is too long");
            c->closing = true;
            break;
        }
    }
    return false;
}

static void watch_partial(struct admin_client *c)
{
    if (c->n_in == 0 || c->closing)
        c->partial_limit = -1;
    else if (c->partial_limit < 0)
        c->partial_limit = now_ms() + ADMIN_PARTIAL_MS;
}

static bool is_over(const struct admin_client *c)
{
    int64_t limit = admin_client_limit(c);
    bool done = (c->closing || c->eof) && !c->waiting && c->n_out == 0;
    return c->lost || done || (limit >= 0 && now_ms() >= limit);
}

enum admin_step admin_client_run(struct admin_client *c, short revents, struct admin_request *ret)
{
    if (c->n_out > 0)
        send_some(c);
    if (revents & (POLLERR | POLLNVAL) || (revents & POLLHUP && !(revents & POLLIN)))
        return ADMIN_GONE;
    if (is_listening(c) && !c->eof && c->n_in < sizeof(c->in) && revents & POLLIN)
        fill(c);
    if (is_listening(c)) {
        bool asks = digest(c, ret);
        watch_partial(c);
        if (asks) {
            c->partial_limit = -1;
            return ADMIN_REQUEST;
        }
    }
    return is_over(c) ? ADMIN_GONE : ADMIN_IDLE;
}
