#include "src/serve/data_channel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "src/base/bytes.h"
#include "src/serve/clock.h"

enum {
    IN_BYTES = 2 * TPM_BUFFER_BYTES,
    OUT_BYTES = TPM_BUFFER_BYTES + DATA_FRAME_EXTRA,
    DRAIN_BYTES = 64 * 1024, /* of what may follow a bad command at once */
    ACCEPT_PAUSE_MS = 20,
};

/* Commands and responses carry passwords and unsealed data. */
struct buffers {
    uint8_t in[IN_BYTES];
    uint8_t out[OUT_BYTES];
};

struct data_channel {
    int listener; /* borrowed; -1: none */
    int fd;       /* -1: no client */
    bool one_shot;
    bool eof;      /* nothing more will come, but what came is still worked on */
    bool more;     /* there may be another command in `in` */
    bool answered; /* at least one command */
    struct secret *memory;
    struct buffers *b;
    size_t n_in;
    size_t n_out, sent; /* of the response */
    int64_t limit;      /* for the rest of a command, or for taking the response; -1: none */
};

int data_channel_new(bool one_shot, struct data_channel **ret, struct err *e)
{
    OWNED(data_channel) d = calloc(1, sizeof(*d));
    if (!d)
        return err_nomem(e, "the data channel");
    d->listener = d->fd = -1;
    d->one_shot = one_shot;
    d->limit = -1;
    if (secret_new(sizeof(*d->b), &d->memory, e) < 0)
        return -1;
    d->b = (struct buffers *)secret_bytes(d->memory);
    *ret = MOVE(d);
    return 0;
}

static void drop_client(struct data_channel *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
    wipe(d->b->in, d->n_in);
    wipe(d->b->out, d->n_out);
    d->n_in = d->n_out = d->sent = 0;
    d->eof = d->more = d->answered = false;
    d->limit = -1;
}

void data_channel_drop(struct data_channel *d)
{
    drop_client(d);
}

void data_channel_free(struct data_channel *d)
{
    if (!d)
        return;
    if (d->b)
        drop_client(d);
    secret_free(d->memory);
    free(d);
}

void data_channel_listen(struct data_channel *d, int listener)
{
    d->listener = listener;
}

static bool is_connection(int fd)
{
    int type = 0, listening = 0;
    socklen_t n = sizeof(type), m = sizeof(listening);
    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &m) == 0 && !listening;
}

uint32_t data_channel_adopt(struct data_channel *d, int *fd)
{
    char byte;
    if (!is_connection(*fd))
        return CTRL_BAD_PARAMETER;
    /* The client before may be gone, and this the first sign of it. */
    if (d->fd >= 0 && !d->more && recv(d->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        drop_client(d);
    if (d->fd >= 0 || d->listener >= 0)
        return CTRL_IO_ERROR;
    d->fd = MOVE_FD(*fd);
    return CTRL_OK;
}

int64_t data_channel_wants(const struct data_channel *d, struct pollfd *ret)
{
    *ret = (struct pollfd){.fd = d->fd >= 0 ? d->fd : d->listener, .events = POLLIN};
    if (d->n_out > 0)
        ret->events = POLLOUT;
    else if (d->more || d->eof)
        return 0; /* at once */
    return d->limit;
}

static void accept_client(struct data_channel *d)
{
    d->fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    /* Out of descriptors or memory: the client stays in the queue, and poll() would not wait. */
    if (d->fd < 0 && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
        (void)poll(NULL, 0, ACCEPT_PAUSE_MS);
}

/* --- out --- */

/* False: the client is gone. */
static bool send_some(struct data_channel *d)
{
    ssize_t n = send(d->fd, d->b->out + d->sent, d->n_out - d->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    d->sent += (size_t)n;
    d->limit = now_ms() + DATA_UNREAD_MS;
    if (d->sent < d->n_out)
        return true;
    wipe(d->b->out, d->n_out);
    d->n_out = d->sent = 0;
    d->limit = -1;
    return true;
}

/* --- in --- */

static void receive(struct data_channel *d)
{
    if (d->n_in == IN_BYTES)
        return;
    ssize_t n = recv(d->fd, d->b->in + d->n_in, IN_BYTES - d->n_in, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        d->eof = true;
        return;
    }
    d->n_in += (size_t)n;
    d->more = true;
}

/* After a command whose length cannot be believed, what has arrived belongs to it. */
static void drain(struct data_channel *d)
{
    for (size_t n = 0; n < DRAIN_BYTES; n += IN_BYTES) {
        ssize_t r = recv(d->fd, d->b->in, IN_BYTES, MSG_DONTWAIT);
        if (r <= 0)
            break;
        wipe(d->b->in, (size_t)r);
    }
}

static void consume(struct data_channel *d, size_t n)
{
    size_t rest = d->n_in - n;
    memmove(d->b->in, d->b->in + n, rest);
    wipe(d->b->in + rest, n);
    d->n_in = rest;
    d->more = rest > 0;
    d->limit = -1;
}

/* True: *ret is a command, good or bad. */
static bool find_command(struct data_channel *d, const struct session *s, struct data_frame *ret,
                         bool *ret_bad)
{
    bool framing = session_kind(s) == DEVICE_TPM20;
    if (d->n_in == 0)
        return false;
    enum data_found found =
        data_frame_decode(d->b->in, d->n_in, session_command_max(s), framing, ret);
    d->more = false;
    if (found == DATA_MORE) {
        if (d->limit < 0)
            d->limit = now_ms() + DATA_PARTIAL_MS;
        if (!d->eof && now_ms() < d->limit)
            return false;
        *ret = data_frame_cut(d->b->in, d->n_in, framing);
    }
    *ret_bad = found != DATA_COMMAND;
    return true;
}

static void answer(struct data_channel *d, struct session *s, const struct data_frame *f)
{
    size_t n = 0;
    uint8_t *out = d->b->out;
    session_command(s, f, d->b->in, out + (f->framed ? 4 : 0), &n);
    if (f->framed) {
        put_be32(out, (uint32_t)n);
        put_be32(out + 4 + n, 0);
    }
    d->n_out = n + (f->framed ? DATA_FRAME_EXTRA : 0);
    d->sent = 0;
    d->answered = true;
}

/* The next command, if there is a whole one. False: the client is gone. */
static bool work(struct data_channel *d, struct session *s)
{
    struct data_frame f;
    bool bad;
    if (!find_command(d, s, &f, &bad))
        return !d->eof;
    answer(d, s, &f);
    consume(d, f.bytes);
    if (bad && !d->eof)
        drain(d);
    d->limit = now_ms() + DATA_UNREAD_MS;
    return send_some(d);
}

enum data_event data_channel_run(struct data_channel *d, struct session *s, short revents)
{
    bool alive = true;
    if (d->fd < 0) {
        if (revents)
            accept_client(d);
        return DATA_NOTHING;
    }
    if (d->n_out > 0) {
        alive = now_ms() < d->limit && (!revents || send_some(d));
    } else {
        if (revents)
            receive(d);
        alive = work(d, s);
    }
    if (alive && !(d->one_shot && d->answered && d->n_out == 0))
        return DATA_NOTHING;
    drop_client(d);
    return d->one_shot ? DATA_NOTHING : DATA_LOST;
}
