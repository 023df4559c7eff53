#include "src/cli/cli_endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum {
    WHAT_BYTES = 60,
    QUOTED_BYTES = 160,
    ADMIN_MODE = 0600,
    LOG_LEVEL_DEFAULT = 1,
    LOG_LEVEL_MOST = 20,
    NAME_SERVICE_BYTES = 16384
};

/* Positions in the table are looked up by name, so that the order there is free. */
static char *value_of(const struct cli_option *o, char *const got[MAX_SUBOPTS], const char *name)
{
    for (size_t i = 0; o->sub[i].name; i++)
        if (strcmp(o->sub[i].name, name) == 0)
            return got[i];
    return NULL;
}

static bool has_name(const struct cli_option *o, const char *name)
{
    for (size_t i = 0; o->sub[i].name; i++)
        if (strcmp(o->sub[i].name, name) == 0)
            return true;
    return false;
}

static const char *what(char buf[WHAT_BYTES], const struct cli_option *o, const char *name)
{
    snprintf(buf, WHAT_BYTES, "--%s: %s", o->name, name);
    return buf;
}

/* An inherited descriptor that is really there, of the wanted kind; a socket is not on 0 to 2. */
static int inherited_fd(const struct cli_option *o, const char *name, const char *text, bool socket,
                        int *ret, struct err *e)
{
    char buf[WHAT_BYTES];
    uint64_t n = 0;
    struct stat st;
    if (cli_number(what(buf, o, name), text, socket ? STDERR_FILENO + 1 : STDOUT_FILENO, INT_MAX,
                   &n, e) < 0)
        return -1;
    if (fstat((int)n, &st) < 0)
        return err_set(e, ERR_USAGE, "--%s: %s=%s: no such descriptor was passed on to nvkeep",
                       o->name, name, text);
    if (socket && !S_ISSOCK(st.st_mode))
        return err_set(e, ERR_USAGE, "--%s: %s=%s: that descriptor is not a socket", o->name, name,
                       text);
    *ret = (int)n;
    return 0;
}

static int parse_mode(const struct cli_option *o, const char *text, mode_t *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    char *end = NULL;
    unsigned long m = strtoul(text, &end, 8);
    if (text[0] < '0' || text[0] > '7' || *end || m > 0777 || m == 0)
        return err_set(e, ERR_USAGE,
                       "--%s: mode: wanted octal permissions such as 0600, found "
                       "\"%s\"",
                       o->name, err_quote(buf, sizeof(buf), text, strlen(text)));
    *ret = (mode_t)m;
    return 0;
}

static int parse_id(const struct cli_option *o, const char *name, const char *text, bool group,
                    uint32_t *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    uint64_t n = 0;
    struct err ignored;
    if (cli_number(name, text, 0, UINT32_MAX - 1, &n, &ignored) == 0) {
        *ret = (uint32_t)n;
        return 0;
    }
    char room[NAME_SERVICE_BYTES];
    struct passwd pw, *user = NULL;
    struct group gr, *grp = NULL;
    if (group)
        (void)getgrnam_r(text, &gr, room, sizeof(room), &grp);
    else
        (void)getpwnam_r(text, &pw, room, sizeof(room), &user);
    if (!user && !grp)
        return err_set(e, ERR_USAGE, "--%s: %s: there is no %s \"%s\"", o->name, name,
                       group ? "group" : "user", err_quote(buf, sizeof(buf), text, strlen(text)));
    *ret = user ? user->pw_uid : grp->gr_gid;
    return 0;
}

static int unix_endpoint(const struct cli_option *o, char *const got[MAX_SUBOPTS],
                         struct endpoint *ep, struct err *e)
{
    const char *mode = value_of(o, got, "mode"), *uid = value_of(o, got, "uid"),
               *gid = value_of(o, got, "gid");
    ep->kind = ENDPOINT_UNIX;
    ep->path = value_of(o, got, "path");
    ep->uid = (uid_t)-1;
    ep->gid = (gid_t)-1;
    ep->has_owner = uid || gid;
    if (strlen(ep->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return err_set(e, ERR_USAGE,
                       "--%s: path: the path of a socket may have %zu bytes and this has %zu; "
                       "choose a shorter one",
                       o->name, sizeof(((struct sockaddr_un *)0)->sun_path) - 1, strlen(ep->path));
    if ((mode && parse_mode(o, mode, &ep->mode, e) < 0) ||
        (uid && parse_id(o, "uid", uid, false, &ep->uid, e) < 0) ||
        (gid && parse_id(o, "gid", gid, true, &ep->gid, e) < 0))
        return -1;
    return 0;
}

static int tcp_endpoint(const struct cli_option *o, char *const got[MAX_SUBOPTS],
                        struct endpoint *ep, struct err *e)
{
    char buf[QUOTED_BYTES], name[WHAT_BYTES];
    unsigned char address[sizeof(struct in6_addr)];
    uint64_t port = 0;
    const char *bind = value_of(o, got, "bindaddr");
    if (cli_number(what(name, o, "port"), value_of(o, got, "port"), 1, UINT16_MAX, &port, e) < 0)
        return -1;
    if (bind && inet_pton(AF_INET, bind, address) != 1 && inet_pton(AF_INET6, bind, address) != 1)
        return err_set(e, ERR_USAGE,
                       "--%s: bindaddr: wanted a numeric address such as 127.0.0.1, found \"%s\"",
                       o->name, err_quote(buf, sizeof(buf), bind, strlen(bind)));
    ep->kind = ENDPOINT_TCP;
    ep->address = bind ? bind : "127.0.0.1";
    ep->port = (uint16_t)port;
    return 0;
}

/* What belongs to another way of saying where the socket is, is refused and not ignored. */
static int refuse_strangers(const struct cli_option *o, char *const got[MAX_SUBOPTS],
                            const char *place, const char *allowed, struct err *e)
{
    static const char *const all[] = {"path", "mode",     "uid", "gid",
                                      "port", "bindaddr", "fd",  "clientfd"};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (value_of(o, got, all[i]) && strcmp(all[i], place) != 0 && !strstr(allowed, all[i]))
            return err_set(e, ERR_USAGE, "--%s: %s does not go together with %s", o->name, all[i],
                           place);
    return 0;
}

static int fd_endpoint(const struct cli_option *o, char *const got[MAX_SUBOPTS], const char *name,
                       bool listening, struct endpoint *ep, struct err *e)
{
    ep->kind = listening ? ENDPOINT_FD : ENDPOINT_CLIENTFD;
    if (inherited_fd(o, name, value_of(o, got, name), true, &ep->fd, e) < 0)
        return -1;
    int listens = 0;
    socklen_t n = sizeof(listens);
    if (getsockopt(ep->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) == 0 &&
        (listens != 0) != listening)
        return err_set(e, ERR_USAGE, "--%s: %s=%d: that socket is %s", o->name, name, ep->fd,
                       listening ? "not listening; a connected one is passed by clientfd="
                                 : "listening, and a connected one is wanted");
    return 0;
}

static bool is_no_unix_socket(int fd)
{
    int domain = 0;
    socklen_t n = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 || domain != AF_UNIX;
}

static int endpoint(const struct cli_option *o, char *text, bool is_ctrl, struct endpoint *ret,
                    struct err *e)
{
    char *got[MAX_SUBOPTS];
    char buf[QUOTED_BYTES];
    struct endpoint ep = {.fd = -1};
    if (cli_subopts(o, text, got, e) < 0)
        return -1;
    const char *type = value_of(o, got, "type");
    bool may_be_tcp = has_name(o, "port");
    if (!type && may_be_tcp)
        return err_set(e, ERR_USAGE, "--%s: type=unixio or type=tcp is missing", o->name);
    if (!type && value_of(o, got, "fd"))
        type = "unixio";
    if (!type || (!may_be_tcp && strcmp(type, "unixio") != 0))
        return err_set(e, ERR_USAGE, "--%s: wanted type=unixio,path=PATH or fd=N", o->name);
    bool is_unix = strcmp(type, "unixio") == 0;
    if (!is_unix && strcmp(type, "tcp") != 0)
        return err_set(e, ERR_USAGE, "--%s: type: wanted unixio or tcp, found \"%s\"", o->name,
                       err_quote(buf, sizeof(buf), type, strlen(type)));

    ep.terminate = value_of(o, got, "terminate") != NULL;
    ep.disconnect = value_of(o, got, "disconnect") != NULL;
    int r;
    if (value_of(o, got, "clientfd"))
        r = refuse_strangers(o, got, "clientfd", "", e) < 0
                ? -1
                : fd_endpoint(o, got, "clientfd", false, &ep, e);
    else if (value_of(o, got, "fd"))
        r = refuse_strangers(o, got, "fd", "", e) < 0 ? -1
                                                      : fd_endpoint(o, got, "fd", is_ctrl, &ep, e);
    else if (is_unix && value_of(o, got, "path"))
        r = refuse_strangers(o, got, "path", "mode uid gid", e) < 0 ? -1
                                                                    : unix_endpoint(o, got, &ep, e);
    else if (!is_unix && value_of(o, got, "port"))
        r = refuse_strangers(o, got, "port", "bindaddr", e) < 0 ? -1 : tcp_endpoint(o, got, &ep, e);
    else
        r = err_set(e, ERR_USAGE, "--%s: type=%s needs %s, or an inherited socket by fd=", o->name,
                    type, is_unix ? "path=PATH" : "port=N");
    if (r < 0)
        return -1;
    if (!is_ctrl && ep.kind == ENDPOINT_CLIENTFD)
        ep.terminate = true;
    if (ep.disconnect && ep.kind == ENDPOINT_CLIENTFD)
        return err_set(e, ERR_USAGE, "--%s: disconnect does not go together with fd", o->name);
    *ret = ep;
    return 0;
}

int cli_ctrl(char *text, struct endpoint *ret, struct err *e)
{
    return endpoint(&cli_options[OPT_CTRL], text, true, ret, e);
}

int cli_server(char *text, struct endpoint *ret, struct err *e)
{
    return endpoint(&cli_options[OPT_SERVER], text, false, ret, e);
}

/* It answers to whoever may open it: to nobody but the owner, unless told otherwise. */
int cli_admin(char *text, struct endpoint *ret, struct err *e)
{
    struct endpoint ep;
    if (endpoint(&cli_options[OPT_ADMIN], text, true, &ep, e) < 0)
        return -1;
    if (ep.kind == ENDPOINT_FD && is_no_unix_socket(ep.fd))
        return err_set(e, ERR_USAGE, "--admin: wanted a unix socket: type=unixio");
    if (ep.kind == ENDPOINT_UNIX && ep.mode == 0)
        ep.mode = ADMIN_MODE;
    *ret = ep;
    return 0;
}

int cli_flags(char *text, unsigned *flags, struct err *e)
{
    static const struct {
        const char *name;
        unsigned bits;
        bool startup;
    } words[] = {
        {"not-need-init", SERVE_NOT_NEED_INIT, false},
        {"startup-clear", SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR, true},
        {"startup-state", SERVE_NOT_NEED_INIT | SERVE_STARTUP_STATE, true},
        {"startup-deactivated", SERVE_NOT_NEED_INIT | SERVE_STARTUP_DEACTIVATED, true},
        {"startup-none", 0, true},
        {"disable-auto-shutdown", SERVE_NO_AUTO_SHUTDOWN, false},
    };
    const struct cli_option *o = &cli_options[OPT_FLAGS];
    char *got[MAX_SUBOPTS];
    const char *startup = NULL;
    unsigned bits = 0;
    if (cli_subopts(o, text, got, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!value_of(o, got, words[i].name))
            continue;
        if (words[i].startup && startup)
            return err_set(e, ERR_USAGE, "--flags: %s and %s exclude each other", startup,
                           words[i].name);
        startup = words[i].startup ? words[i].name : startup;
        bits |= words[i].bits;
    }
    *flags |= bits;
    return 0;
}

int cli_locality(char *text, unsigned *flags, struct err *e)
{
    const struct cli_option *o = &cli_options[OPT_LOCALITY];
    char *got[MAX_SUBOPTS];
    if (cli_subopts(o, text, got, e) < 0)
        return -1;
    if (value_of(o, got, "reject-locality-4"))
        *flags |= SERVE_REJECT_LOCALITY_4;
    if (value_of(o, got, "allow-set-locality"))
        *flags |= SERVE_ALLOW_SET_LOCALITY;
    return 0;
}

static int file_or_fd(const struct cli_option *o, char *const got[MAX_SUBOPTS],
                      const char **ret_file, int *ret_fd, struct err *e)
{
    const char *file = value_of(o, got, "file"), *fd = value_of(o, got, "fd");
    if (!file == !fd)
        return err_set(e, ERR_USAGE, "--%s: wanted %s", o->name,
                       file ? "either file= or fd=, not both" : "file=PATH or fd=N");
    if (file && strlen(file) >= PATH_MAX)
        return err_set(e, ERR_USAGE, "--%s: file: the path is too long", o->name);
    if (fd && inherited_fd(o, "fd", fd, false, ret_fd, e) < 0)
        return -1;
    *ret_file = file;
    return 0;
}

int cli_log(char *text, struct cli_log *ret, struct err *e)
{
    const struct cli_option *o = &cli_options[OPT_LOG];
    char *got[MAX_SUBOPTS];
    struct cli_log l = {.fd = -1};
    uint64_t level = LOG_LEVEL_DEFAULT;
    if (cli_subopts(o, text, got, e) < 0 || file_or_fd(o, got, &l.file, &l.fd, e) < 0)
        return -1;
    const char *level_text = value_of(o, got, "level");
    if (level_text && cli_number("--log: level", level_text, 0, LOG_LEVEL_MOST, &level, e) < 0)
        return -1;
    l.level = (int)level;
    l.prefix = value_of(o, got, "prefix");
    l.truncate = value_of(o, got, "truncate") != NULL;
    if (l.truncate && !l.file)
        return err_set(e, ERR_USAGE, "--log: truncate does not go together with fd");
    *ret = l;
    return 0;
}

int cli_pid(char *text, const char **ret_file, int *ret_fd, struct err *e)
{
    const struct cli_option *o = &cli_options[OPT_PID];
    char *got[MAX_SUBOPTS];
    if (cli_subopts(o, text, got, e) < 0)
        return -1;
    return file_or_fd(o, got, ret_file, ret_fd, e);
}
