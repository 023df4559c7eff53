/* A client of the admin socket "a", line by line. */
#ifndef NVKEEP_TESTS_SRC_ADMIN_RIG_H
#define NVKEEP_TESTS_SRC_ADMIN_RIG_H

#include "serve_rig.h"

enum { ADMIN_LINE = 70000 };

struct admin {
    int fd;
    char buf[ADMIN_LINE];
    size_t n;
};

/* A daemon whose command line is all the test's. */
static inline pid_t admin_start(const char *words)
{
    char all[1000];
    snprintf(all, sizeof(all),
             "serve i --ctrl type=unixio,path=c --admin type=unixio,path=a --log file=l,level=5 %s",
             words);
    pid_t pid = program_start(all);
    rig_remember(pid);
    rig_wait_for("a");
    return pid;
}

/* The next line, without its end; NULL: none came, or the daemon hung up. */
static inline const char *admin_line_within(struct admin *a, int ms)
{
    static char line[ADMIN_LINE];
    int64_t limit = rig_ms() + ms;
    char *end;
    while (!(end = memchr(a->buf, '\n', a->n))) {
        struct pollfd p = {a->fd, POLLIN, 0};
        int64_t left = limit - rig_ms();
        assert_true(a->n < sizeof(a->buf));
        if (left <= 0 || poll(&p, 1, (int)left) <= 0)
            return NULL;
        ssize_t r = recv(a->fd, a->buf + a->n, sizeof(a->buf) - a->n, 0);
        if (r <= 0)
            return NULL;
        a->n += (size_t)r;
    }
    size_t n = (size_t)(end - a->buf);
    assert_true(n > 0 && a->buf[n - 1] == '\r');
    memcpy(line, a->buf, n - 1);
    line[n - 1] = 0;
    a->n -= n + 1;
    memmove(a->buf, end + 1, a->n);
    return line;
}

static inline const char *admin_line(struct admin *a)
{
    const char *line = admin_line_within(a, REPLY_MS);
    if (!line)
        fail_msg("no line came from the admin socket");
    return line;
}

static inline void admin_says(struct admin *a, const char *want)
{
    const char *line = admin_line(a);
    if (!strstr(line, want))
        fail_msg("expected %s, got: %s", want, line);
}

static inline void admin_is_silent(struct admin *a, int ms)
{
    const char *line = admin_line_within(a, ms);
    if (line)
        fail_msg("unexpected: %s", line);
}

static inline void admin_send(struct admin *a, const char *text)
{
    rig_send(a->fd, text, strlen(text));
}

static inline void admin_call(struct admin *a, const char *text, const char *want)
{
    admin_send(a, text);
    admin_says(a, want);
}

static inline void admin_connect(struct admin *a)
{
    a->n = 0;
    a->fd = rig_connect("a");
    assert_true(a->fd >= 0);
}

/* Connected, greeted, negotiated. */
static inline void admin_open(struct admin *a)
{
    admin_connect(a);
    admin_says(a, "{\"QMP\": {\"version\": {\"nvkeep\": {\"major\": ");
    admin_call(a, "{\"execute\": \"qmp_capabilities\"}\n", "{\"return\": {}}");
}

static inline void admin_close(struct admin *a)
{
    close(a->fd);
}

static inline void admin_send_fds(struct admin *a, const char *text, const int *fds, size_t n)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    struct iovec v = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr h = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    assert_int_equal(sendmsg(a->fd, &h, MSG_NOSIGNAL), strlen(text));
}

/* add-key with a descriptor that is closed here. */
static inline void admin_send_key_fd(struct admin *a, int fd)
{
    admin_send_fds(a, "{\"execute\": \"add-key\"}", &fd, 1);
    close(fd);
}

/* The bytes through a pipe that ends. */
static inline void admin_send_key(struct admin *a, const char *key)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], key, strlen(key)), strlen(key));
    close(ends[1]);
    admin_send_key_fd(a, ends[0]);
}

#endif
