#include "src/compat/ioctl_link.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "src/serve/clock.h"

enum { RETRY_MS = 20, HOST_BYTES = 256, QUOTED_BYTES = 200 };

static int wait_until(int fd, short events, int64_t limit, struct err *e)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int r = poll(&p, 1, ms_left(limit, now_ms()));
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "cannot wait for the TPM");
        if (now_ms() >= limit)
            return err_set(e, ERR_STORAGE, "the TPM did not answer in time");
    }
}

/* A unix socket whose queue is full is tried again; for the others the kernel does that. */
static int connect_in_time(int fd, const struct sockaddr *to, socklen_t n, struct err *e)
{
    int os = 0;
    socklen_t m = sizeof(os);
    int64_t limit = now_ms() + LINK_MS;
    int r;
    while ((r = connect(fd, to, n)) < 0 && errno == EAGAIN) {
        if (now_ms() >= limit)
            return err_set(e, ERR_STORAGE, "Connect failed: the TPM accepts no connection");
        (void)poll(NULL, 0, RETRY_MS);
    }
    if (r == 0)
        return 0;
    if (errno != EINPROGRESS)
        return err_sys(e, ERR_USAGE, errno, "Connect failed");
    if (wait_until(fd, POLLOUT, limit, e) < 0)
        return -1;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &os, &m) < 0 || os != 0)
        return err_sys(e, ERR_USAGE, os, "Connect failed");
    return 0;
}

int link_unix(const char *path, struct link *ret, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        return err_set(e, ERR_USAGE, "The path of a socket has at most %zu bytes",
                       sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path));
    OWNED_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "Could not make a socket");
    if (connect_in_time(fd, (const struct sockaddr *)&a, sizeof(a), e) < 0)
        return -1;
    *ret = (struct link){.fd = MOVE_FD(fd), .ms = LINK_MS};
    return 0;
}

/* --- tcp --- */

static int split(const char *place, const char *port, char host[HOST_BYTES], const char **ret_port,
                 struct err *e)
{
    char quoted[QUOTED_BYTES];
    const char *colon = strrchr(place, ':');
    const char *begin = place, *end = colon ?: place + strlen(place);
    if (*begin == '[' && end > begin && end[-1] == ']') {
        begin++;
        end--;
    }
    if ((size_t)(end - begin) >= HOST_BYTES)
        return err_set(e, ERR_USAGE, "wanted HOST:PORT, found '%s'",
                       err_quote(quoted, sizeof(quoted), place, strlen(place)));
    snprintf(host, HOST_BYTES, "%.*s", (int)(end - begin), begin);
    if (!*host)
        snprintf(host, HOST_BYTES, "127.0.0.1");
    *ret_port = colon && colon[1] ? colon + 1 : port;
    return 0;
}

int link_tcp(const char *place, const char *default_port, struct link *ret, struct err *e)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char host[HOST_BYTES];
    const char *port;
    struct addrinfo *found = NULL;
    OWNED_FD fd = -1;
    if (split(place, default_port, host, &port, e) < 0)
        return -1;
    int gai = getaddrinfo(host, port, &hints, &found);
    if (gai != 0)
        return err_set(e, ERR_USAGE, "Could not resolve '%s': %s", host, gai_strerror(gai));
    int r = -1;
    for (const struct addrinfo *a = found; a && r < 0; a = a->ai_next) {
        if (fd >= 0)
            close(fd);
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        r = fd < 0 ? err_sys(e, ERR_STORAGE, errno, "Could not make a socket")
                   : connect_in_time(fd, a->ai_addr, a->ai_addrlen, e);
    }
    freeaddrinfo(found);
    if (r < 0)
        return err_prefix(e, "Could not connect to host '%s' on port '%s' using TCP socket", host,
                          port);
    *ret = (struct link){.fd = MOVE_FD(fd), .ms = LINK_MS};
    return 0;
}

void link_close(struct link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

/* --- requests --- */

static int send_all(struct link *l, const uint8_t *p, size_t n, int64_t limit, struct err *e)
{
    while (n > 0) {
        ssize_t sent = send(l->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "Could not send the request");
        if (sent < 0 && wait_until(l->fd, POLLOUT, limit, e) < 0)
            return -1;
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* With a limit of its own: a daemon that goes on sending is alive. */
int link_receive(struct link *l, void *ret, size_t n, struct err *e)
{
    uint8_t *to = ret;
    int64_t limit = now_ms() + l->ms;
    while (n > 0) {
        if (wait_until(l->fd, POLLIN, limit, e) < 0)
            return -1;
        ssize_t got = recv(l->fd, to, n, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got < 0)
            return err_sys(e, ERR_STORAGE, errno, "Could not receive the response");
        if (got == 0)
            return err_set(e, ERR_STORAGE, "the TPM hung up before its answer was whole");
        to += got;
        n -= (size_t)got;
    }
    return 0;
}

int link_exchange(struct link *l, const void *head, size_t head_n, const void *body, size_t body_n,
                  void *ret, size_t n, struct err *e)
{
    int64_t limit = now_ms() + l->ms;
    if (send_all(l, head, head_n, limit, e) < 0 || send_all(l, body, body_n, limit, e) < 0)
        return -1;
    return link_receive(l, ret, n, e);
}
