#include "src/serve/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    BACKLOG = 64,
    DEFAULT_MODE = 0770,
    QUOTED_BYTES = 200,
    NAME_TRIES = 8,
    REPLACE_TRIES = 5,
    ASIDE_BYTES = sizeof(((struct sockaddr_un *)0)->sun_path),
};

struct listener {
    struct endpoint ep;
    char what[24];
    char quoted[QUOTED_BYTES]; /* the path, for messages */
    int fd;                    /* -1: none yet */
    int client;                /* inherited and connected; -1: none */
    int dir;                   /* where a unix socket lives; -1: none */
    const char *name;          /* in dir; points into ep.path */
    bool placed;
    dev_t dev; /* of the socket file we made */
    ino_t ino;
};

static int refuse_path(const struct listener *l, enum err_kind kind, const char *why, struct err *e)
{
    return err_set(e, kind, "%s: %s %s", l->what, l->quoted, why);
}

/* --- unix --- */

static void address_of(const char *path, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, strlen(path));
}

static int check_length(const struct listener *l, struct err *e)
{
    struct sockaddr_un a;
    if (strlen(l->ep.path) < sizeof(a.sun_path))
        return 0;
    return err_set(e, ERR_USAGE,
                   "%s: the path of a socket can have at most %zu bytes, this one has %zu; choose "
                   "a shorter directory",
                   l->what, sizeof(a.sun_path) - 1, strlen(l->ep.path));
}

static int open_dir(struct listener *l, struct err *e)
{
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    const char *slash = strrchr(l->ep.path, '/');
    size_t n = slash ? (size_t)(slash - l->ep.path) + 1 : 0;
    memcpy(dir, l->ep.path, n);
    dir[n] = 0;
    l->name = l->ep.path + n;
    if (*l->name == 0)
        return refuse_path(l, ERR_USAGE, "names a directory; a socket needs a name of its own", e);
    l->dir = open(n ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (l->dir < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "%s: cannot open the directory of %s",
                       l->what, l->quoted);
    return 0;
}

/* Does a socket of any process belong to that file? Asked without connecting, for a daemon may end
 * when a client leaves it: a datagram socket is told that a stream socket is the wrong type. */
static bool is_live(const char *path)
{
    struct sockaddr_un a;
    OWNED_FD fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    address_of(path, &a);
    return fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ||
           (errno != ECONNREFUSED && errno != ENOENT);
}

/* 1: nothing is there; 0: a socket that nobody listens behind; -1: it must not be touched. */
static int look(const struct listener *l, struct stat *ret, struct err *e)
{
    if (fstatat(l->dir, l->name, ret, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 1
                               : err_sys(e, err_kind_of_path(errno), errno, "%s: cannot look at %s",
                                         l->what, l->quoted);
    if (!S_ISSOCK(ret->st_mode))
        return refuse_path(l, ERR_USAGE,
                           "exists and is not a socket; remove it or choose another path", e);
    if (is_live(l->ep.path))
        return refuse_path(l, ERR_LOCKED,
                           "is in use: somebody is listening there; stop that daemon or choose "
                           "another path",
                           e);
    return 0;
}

/* Only the very file that was looked at goes. */
static void remove_file(const struct listener *l, dev_t dev, ino_t ino)
{
    struct stat now;
    if (fstatat(l->dir, l->name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == dev &&
        now.st_ino == ino)
        (void)unlinkat(l->dir, l->name, 0);
}

static int new_unix(struct listener *l, struct err *e)
{
    struct stat st;
    if (check_length(l, e) < 0 || open_dir(l, e) < 0 || look(l, &st, e) < 0)
        return -1;
    return 0;
}

/* Nobody can connect before mode and owner are right: until then the name is another one. */
static int dress(const struct listener *l, const char *name, struct err *e)
{
    mode_t mode = l->ep.mode ? l->ep.mode : DEFAULT_MODE;
    if (l->ep.has_owner && fchownat(l->dir, name, l->ep.uid, l->ep.gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "%s: cannot change the owner of %s",
                       l->what, l->quoted);
    if (fchmodat(l->dir, name, mode, 0) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "%s: cannot change the mode of %s",
                       l->what, l->quoted);
    return 0;
}

/* Tools show the name that was bound, so it says which socket this is. Where that is too long, the
 * way goes through the directory's descriptor. */
static void address_aside(const struct listener *l, const char *name, struct sockaddr_un *ret)
{
    char path[sizeof(ret->sun_path)];
    size_t dir = (size_t)(l->name - l->ep.path);
    if (dir + strlen(name) < sizeof(path))
        snprintf(path, sizeof(path), "%.*s%s", (int)dir, l->ep.path, name);
    else
        snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", l->dir, name);
    address_of(path, ret);
}

static void name_aside(const struct listener *l, uint32_t random, char ret[ASIDE_BYTES])
{
    size_t dir = (size_t)(l->name - l->ep.path);
    if (dir + strlen(l->name) + 9 < sizeof(((struct sockaddr_un *)0)->sun_path))
        snprintf(ret, ASIDE_BYTES, "%s.%08x", l->name, random);
    else
        snprintf(ret, ASIDE_BYTES, ".%08x", random);
}

/* Binds to a name that nobody knows, in the same directory. */
static int bind_aside(struct listener *l, char name[ASIDE_BYTES], struct err *e)
{
    struct sockaddr_un a;
    for (int i = 0; i < NAME_TRIES; i++) {
        uint32_t r;
        if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
            return err_sys(e, ERR_STORAGE, errno, "no random numbers");
        name_aside(l, r, name);
        address_aside(l, name, &a);
        mode_t mask = umask(0777);
        int bound = bind(l->fd, (struct sockaddr *)&a, sizeof(a));
        int os = errno;
        umask(mask);
        if (bound == 0)
            return 0;
        if (os != EADDRINUSE)
            return err_sys(e, err_kind_of_path(os), os, "%s: cannot make %s", l->what, l->quoted);
    }
    return err_set(e, ERR_STORAGE, "%s: cannot find a free name next to %s", l->what, l->quoted);
}

/* Never replaces anything. Not every file system can rename so; then the name is added and the
 * other taken away. */
static bool give_name(const struct listener *l, const char *from)
{
    if (renameat2(l->dir, from, l->dir, l->name, RENAME_NOREPLACE) == 0)
        return true;
    if (errno != EINVAL && errno != ENOSYS)
        return false;
    if (linkat(l->dir, from, l->dir, l->name, 0) < 0)
        return false;
    (void)unlinkat(l->dir, from, 0);
    return true;
}

/* The name changes in one step and never replaces a socket that somebody listens behind. */
static int move_into_place(struct listener *l, const char *from, struct err *e)
{
    struct stat st;
    for (int i = 0; i < REPLACE_TRIES; i++) {
        if (give_name(l, from)) {
            l->placed = true;
            return 0;
        }
        if (errno != EEXIST)
            return err_sys(e, err_kind_of_path(errno), errno, "%s: cannot make %s", l->what,
                           l->quoted);
        int there = look(l, &st, e);
        if (there < 0)
            return -1;
        if (there == 0)
            remove_file(l, st.st_dev, st.st_ino);
    }
    return refuse_path(l, ERR_LOCKED, "is made again and again by somebody else", e);
}

static int place(struct listener *l, const char *aside, struct err *e)
{
    struct stat st;
    if (fstatat(l->dir, aside, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: cannot look at %s", l->what, l->quoted);
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    if (dress(l, aside, e) < 0)
        return -1;
    if (listen(l->fd, BACKLOG) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: cannot listen", l->what);
    return move_into_place(l, aside, e);
}

static int open_unix(struct listener *l, struct err *e)
{
    char aside[ASIDE_BYTES];
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: cannot make a socket", l->what);
    if (bind_aside(l, aside, e) < 0)
        return -1;
    if (place(l, aside, e) == 0)
        return 0;
    (void)unlinkat(l->dir, aside, 0);
    return -1;
}

/* --- tcp --- */

static bool numeric_address(const struct endpoint *ep, struct sockaddr_storage *ret,
                            socklen_t *ret_bytes)
{
    const char *text = ep->address ?: "127.0.0.1";
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(ep->port);
        *ret_bytes = sizeof(*v4);
        return true;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        return false;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(ep->port);
    *ret_bytes = sizeof(*v6);
    return true;
}

static int new_tcp(struct listener *l, struct err *e)
{
    struct sockaddr_storage a;
    socklen_t n;
    char quoted[QUOTED_BYTES];
    const char *text = l->ep.address ?: "127.0.0.1";
    int one = 1;
    if (l->ep.port == 0)
        return err_set(e, ERR_USAGE, "%s: no port was given", l->what);
    if (!numeric_address(&l->ep, &a, &n))
        return err_set(e, ERR_USAGE, "%s: wanted a numeric address, found \"%s\"", l->what,
                       err_quote(quoted, sizeof(quoted), text, strlen(text)));
    l->fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: cannot make a socket", l->what);
    /* A port whose last connections are still dying is free; one that is listened on is not. */
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one,
                     sizeof(one)); /* connections inherit it */
    if (bind(l->fd, (struct sockaddr *)&a, n) == 0)
        return 0;
    return err_sys(e, errno == EADDRINUSE ? ERR_LOCKED : ERR_USAGE, errno,
                   "%s: cannot use port %u of %s", l->what, l->ep.port, text);
}

static int open_tcp(struct listener *l, struct err *e)
{
    if (listen(l->fd, BACKLOG) == 0)
        return 0;
    return err_sys(e, errno == EADDRINUSE ? ERR_LOCKED : ERR_STORAGE, errno,
                   "%s: cannot listen on port %u", l->what, l->ep.port);
}

/* --- inherited --- */

static int new_inherited(struct listener *l, struct err *e)
{
    int type = 0, listening = 0;
    socklen_t n = sizeof(type), m = sizeof(listening);
    int fd = l->ep.fd;
    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0 || type != SOCK_STREAM)
        return err_set(e, ERR_USAGE, "%s: descriptor %d is not a stream socket", l->what, fd);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &m) < 0)
        listening = 0;
    if (listening && l->ep.kind == ENDPOINT_CLIENTFD)
        return err_set(e, ERR_USAGE, "%s: descriptor %d listens; clientfd wants a connection",
                       l->what, fd);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (!listening) {
        l->client = fd;
        return 0;
    }
    /* accept() must never wait for a client that has gone again. */
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: descriptor %d", l->what, fd);
    l->fd = fd;
    return 0;
}

/* --- all --- */

int listener_new(const struct endpoint *ep, const char *what, struct listener **ret, struct err *e)
{
    OWNED(listener) l = calloc(1, sizeof(*l));
    int r = 0;
    if (!l)
        return err_nomem(e, "a socket");
    l->ep = *ep;
    l->fd = l->client = l->dir = -1;
    snprintf(l->what, sizeof(l->what), "%s", what);
    if (ep->path)
        err_quote(l->quoted, sizeof(l->quoted), ep->path, strlen(ep->path));
    switch (ep->kind) {
    case ENDPOINT_NONE:
        break;
    case ENDPOINT_UNIX:
        r = new_unix(l, e);
        break;
    case ENDPOINT_TCP:
        r = new_tcp(l, e);
        break;
    case ENDPOINT_FD:
    case ENDPOINT_CLIENTFD:
        r = new_inherited(l, e);
        break;
    }
    if (r < 0)
        return -1;
    *ret = MOVE(l);
    return 0;
}

int listener_open(struct listener *l, struct err *e)
{
    switch (l->ep.kind) {
    case ENDPOINT_UNIX:
        return open_unix(l, e);
    case ENDPOINT_TCP:
        return open_tcp(l, e);
    default:
        return 0;
    }
}

void listener_remove(struct listener *l)
{
    if (l->placed)
        remove_file(l, l->dev, l->ino);
    l->placed = false;
}

void listener_free(struct listener *l)
{
    if (!l)
        return;
    listener_remove(l);
    if (l->fd >= 0)
        close(l->fd);
    if (l->client >= 0)
        close(l->client);
    if (l->dir >= 0)
        close(l->dir);
    free(l);
}

bool listener_is_wanted(const struct listener *l)
{
    return l && l->ep.kind != ENDPOINT_NONE;
}

int listener_fd(const struct listener *l)
{
    return l->fd;
}

int listener_take_client(struct listener *l)
{
    return MOVE_FD(l->client);
}

int listener_dir_fd(const struct listener *l)
{
    return l->dir;
}

int listener_accept(const struct listener *l)
{
    return accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}
