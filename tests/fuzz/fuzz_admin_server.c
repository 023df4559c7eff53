/* Clients of the admin socket, against the daemon's side of it as it is before the image is open:
 * bytes in pieces, descriptors that come along, keys, events, hang-ups, the end.
 * Class: admin
 *
 * Input: a byte of options, then items. Whatever clients say, each hears whole lines of JSON, the
 * greeting first and events only after it has negotiated; memory stays bounded; a key that is taken
 * is one that was passed; no descriptor is left open.
 */
#include "tests/fuzz/items.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "src/base/fd.h"
#include "src/serve/admin_server.h"
#include "src/serve/json_in.h"
#include "tests/fuzz/memory.h"

enum { N_PEERS = 3, HEARD_BYTES = 1 << 19, KEY_BYTES = 64, N_MAX_ITEMS = 48 };
const unsigned fuzz_replays = 400;

enum {
    ITEM_SAY,     /* by the peer that the item's high bits name, as are all up to ITEM_LEAVE */
    ITEM_SLOWLY,  /* the same, byte by byte */
    ITEM_WITH_FD, /* the same, with a pipe that holds a key; its length is the first byte */
    ITEM_SHUT,    /* says nothing more, but listens */
    ITEM_LEAVE,
    ITEM_TELL, /* an event */
    ITEM_KEY,  /* what has come is taken, and refused */
    ITEM_STOP,
    ITEM_KINDS,
};

struct peer {
    int fd; /* -1: none */
    char *heard;
    size_t n;
};

static const struct log silent = {.fd = -1};
static struct peer peer[N_PEERS];
static struct sockaddr_un address;
static socklen_t address_bytes;
static struct admin_server *server;
static uint8_t key[KEY_BYTES];

/* --- what a peer hears --- */

static void check_line(const char *line, size_t n, bool first)
{
    OWNED(json_in) v = NULL;
    struct err e;
    PROMISE(n > 0 && line[n - 1] == '\r');
    PROMISE(json_in_parse(line, n - 1, &v, &e) == 0 && json_in_is_object(v));
    PROMISE(first == (json_in_member(v, "QMP") != NULL));
    PROMISE(first || json_in_member(v, "return") || json_in_member(v, "error") ||
            json_in_text(json_in_member(v, "event")));
    if (json_in_member(v, "error"))
        PROMISE(json_in_text(json_in_member(json_in_member(v, "error"), "class")) &&
                json_in_text(json_in_member(json_in_member(v, "error"), "desc")));
}

/* Of a peer that goes before it has heard everything the last line may be cut off. */
static void check_heard(struct peer *p)
{
    size_t at = 0;
    for (bool first = true; at < p->n; first = false) {
        const char *end = memchr(p->heard + at, '\n', p->n - at);
        if (!end)
            break;
        check_line(p->heard + at, (size_t)(end - p->heard) - at, first);
        at = (size_t)(end - p->heard) + 1;
    }
    p->n = 0;
}

static void hear(struct peer *p)
{
    ssize_t r;
    while (p->fd >= 0 && p->n < HEARD_BYTES &&
           (r = recv(p->fd, p->heard + p->n, HEARD_BYTES - p->n, MSG_DONTWAIT)) > 0)
        p->n += (size_t)r;
}

/* --- the daemon's turns --- */

static void turn(void)
{
    struct pollfd wants[ADMIN_POLL_MAX];
    int64_t limit;
    for (int i = 0; i < 8; i++) {
        size_t n = admin_server_wants(server, wants, &limit);
        PROMISE(n <= ADMIN_POLL_MAX);
        if (poll(wants, n, 0) <= 0)
            break;
        admin_server_run(server, wants, n);
        for (size_t k = 0; k < N_PEERS; k++)
            hear(&peer[k]);
    }
}

static void leave(struct peer *p)
{
    if (p->fd < 0)
        return;
    hear(p);
    check_heard(p);
    close(MOVE_FD(p->fd));
    turn();
}

static void come(struct peer *p)
{
    if (p->fd >= 0)
        return;
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    PROMISE(p->fd >= 0);
    if (connect(p->fd, (struct sockaddr *)&address, address_bytes) < 0)
        close(MOVE_FD(p->fd));
    turn();
}

static void say(struct peer *p, const uint8_t *at, size_t n, size_t step)
{
    while (n > 0 && p->fd >= 0) {
        size_t part = n < step ? n : step;
        ssize_t sent = send(p->fd, at, part, MSG_NOSIGNAL);
        turn();
        if (sent <= 0)
            return;
        at += sent;
        n -= (size_t)sent;
    }
}

static void say_with_key(struct peer *p, const uint8_t *at, size_t n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec v = {(void *)(uintptr_t)(at + 1), n - 1};
    int ends[2], fds[2];
    size_t n_fds = at[0] & 64 ? 2 : 1;
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(n_fds * sizeof(int))};
    PROMISE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    PROMISE(write(ends[1], key, at[0] % KEY_BYTES) == at[0] % KEY_BYTES);
    fds[0] = fds[1] = ends[0];
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(h), fds, n_fds * sizeof(int));
    (void)!sendmsg(p->fd, &m, MSG_NOSIGNAL);
    close(ends[0]);
    turn();
    close(ends[1]);
    turn();
}

/* --- what else happens --- */

static void tell(uint8_t what)
{
    struct session_event event = {.what = EVENT_CLAIMED + what % 6, .generation = what, .epoch = 1};
    err_set(&event.error, ERR_FENCED, "another owner, says the test");
    admin_server_tell(server, &event);
    turn();
}

static void try_key(void)
{
    OWNED(secret) taken = NULL;
    struct err e;
    size_t n = 0;
    if (!admin_server_take_key(server, &taken, &n))
        return;
    PROMISE(n > 0 && n < KEY_BYTES && memcmp(secret_peek(taken), key, n) == 0);
    err_set(&e, ERR_KEY_WRONG, "the wrong key, says the test");
    admin_server_refuse_key(server, &e);
    turn();
}

static void run_item(const struct item *item)
{
    unsigned what = item->what % ITEM_KINDS;
    struct peer *p = &peer[item->what / ITEM_KINDS % N_PEERS];
    if (what <= ITEM_SHUT)
        come(p);
    if (what <= ITEM_SHUT && p->fd < 0)
        return;
    if (what <= ITEM_SLOWLY)
        say(p, item->p, item->n, what == ITEM_SLOWLY ? 1 : 16384);
    else if (what == ITEM_WITH_FD && item->n > 1)
        say_with_key(p, item->p, item->n);
    else if (what == ITEM_SHUT)
        shutdown(p->fd, SHUT_WR);
    else if (what == ITEM_LEAVE)
        leave(p);
    else if (what == ITEM_TELL)
        tell(item->n ? item->p[0] : 0);
    else if (what == ITEM_KEY)
        try_key();
    else if (what == ITEM_STOP)
        admin_server_stop(server, "so says the test", NULL);
    turn();
}

/* --- an input --- */

static size_t n_descriptors(void)
{
    size_t n = 0;
    for (int fd = 0; fd < 64; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void end_process(void)
{
    for (size_t i = 0; i < N_PEERS; i++)
        free(peer[i].heard);
}

static void begin_process(void)
{
    for (size_t i = 0; i < KEY_BYTES; i++)
        key[i] = (uint8_t)(i + 1);
    key[20] = '\n';
    for (size_t i = 0; i < N_PEERS; i++) {
        peer[i] = (struct peer){-1, malloc(HEARD_BYTES), 0};
        PROMISE(peer[i].heard);
    }
    PROMISE(atexit(end_process) == 0);
}

static struct listener *listen_somewhere(void)
{
    struct listener *l = NULL;
    struct err e;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    PROMISE(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
    address_bytes = sizeof(address);
    PROMISE(getsockname(fd, (struct sockaddr *)&address, &address_bytes) == 0);
    PROMISE(listen(fd, 8) == 0);
    const struct endpoint ep = {.kind = ENDPOINT_FD, .fd = fd};
    PROMISE(listener_new(&ep, "--admin", &l, &e) == 0 && listener_open(l, &e) == 0);
    return l;
}

static void play(uint8_t options, struct bytes_in in)
{
    enum { MEMORY_BOUND = 4 << 20 }; /* three clients with all that each may make us keep */
    struct err e;
    struct item item;
    OWNED(listener) l = listen_somewhere();
    memory_begin();
    PROMISE(admin_server_new(l, &silent, options & 1, &server, &e) == 0);
    for (int i = 0; i < N_MAX_ITEMS && item_next(&in, &item); i++)
        run_item(&item);
    for (size_t i = 0; i < N_PEERS; i++)
        leave(&peer[i]);
    admin_server_free(MOVE(server));
    PROMISE(memory_peak() < MEMORY_BOUND);
}

static size_t items_template(unsigned which, uint8_t *ret_what, uint8_t ret[ITEM_MAX_BYTES])
{
    static const char *const says[] = {
        "{\"execute\": \"qmp_capabilities\"}\r\n",
        "{\"execute\": \"query-commands\", \"id\": 7}\n",
        "{\"execute\": \"query-version\"}",
        "{\"execute\": \"query-status\", \"id\": {\"a\": [1, null]}}",
        "\4{\"execute\": \"add-key\", \"arguments\": {\"newline\": \"strip\"}}",
        "\4{\"execute\": \"add-key\"}",
        "{\"execute\": \"migrate-abort\"}",
        "{\"execute\": \"prepare-incoming\", \"arguments\": {\"token\": \"00ff\"}}",
        "{\"execute\": \"quit\"}",
        "{\"a\": {\"b\": {\"c\": [[[[[[1]]]]]]}}}",
        "\"",
        "{}",
    };
    const char *text = says[which % ARRAY_LEN(says)];
    size_t n = strlen(text);
    memcpy(ret, text, n);
    *ret_what = (uint8_t)(which / ARRAY_LEN(says));
    if (text[0] == 4)
        *ret_what = (uint8_t)(*ret_what / ITEM_KINDS * ITEM_KINDS + ITEM_WITH_FD);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    if (!peer[0].heard)
        begin_process();
    if (n == 0)
        return 0;
    size_t before = n_descriptors();
    uint8_t options = bytes_u8(&in);
    play(options, in);
    PROMISE(n_descriptors() == before);
    return 0;
}
