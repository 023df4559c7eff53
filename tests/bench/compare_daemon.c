#include "compare_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "compare_stats.h"
#include "src/base/fd.h"

enum { CMD_INIT = 2, CMD_SHUTDOWN = 3, CMD_SET_DATAFD = 0x10 };
enum { START_LIMIT_US = 20000000, DAEMONS_MAX = 400 };

extern char **environ;
static pid_t alive[DAEMONS_MAX];

static void remember(pid_t pid, pid_t instead_of)
{
    for (size_t i = 0; i < DAEMONS_MAX; i++)
        if (alive[i] == instead_of) {
            alive[i] = pid;
            return;
        }
}

void daemon_kill_all(void)
{
    for (size_t i = 0; i < DAEMONS_MAX; i++)
        if (alive[i] > 0)
            kill(alive[i], SIGKILL);
}

void fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("compare: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static pid_t spawn(const char *const argv[], const char *log)
{
    posix_spawn_file_actions_t files;
    pid_t pid;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int rc = posix_spawnp(&pid, argv[0], &files, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    if (rc != 0)
        fail("cannot start %s: %s", argv[0], strerror(rc));
    remember(pid, 0);
    return pid;
}

static int connect_when_there(pid_t pid, const char *path, const char *log)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    double give_up = now_us() + START_LIMIT_US;
    if (strlen(path) >= sizeof(a.sun_path))
        fail("socket path too long: %s", path);
    memcpy(a.sun_path, path, strlen(path) + 1);
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            fail("socket: %s", strerror(errno));
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
            return fd;
        close(fd);
        if (waitpid(pid, NULL, WNOHANG) == pid) {
            remember(0, pid);
            fail("the daemon ended before its socket was there; see %s", log);
        }
        if (now_us() > give_up)
            fail("no socket at %s; see %s", path, log);
        /* Shorter would take from the daemon what it needs to get ready. */
        nanosleep(&(struct timespec){.tv_nsec = 30000}, NULL);
    }
}

static uint32_t ctrl_result(int fd, const char *what)
{
    uint8_t b[4];
    if (fd_read_full(fd, b, sizeof(b)) != sizeof(b))
        fail("%s: no answer", what);
    return get_be32(b);
}

static void ctrl_set_datafd(int fd, int data)
{
    uint8_t cmd[4];
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {cmd, sizeof(cmd)};
    struct msghdr m = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.room,
        .msg_controllen = sizeof(control.room),
    };
    put_be32(cmd, CMD_SET_DATAFD);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &data, sizeof(int));
    if (sendmsg(fd, &m, MSG_NOSIGNAL) != sizeof(cmd))
        fail("SET_DATAFD: %s", strerror(errno));
    uint32_t rc = ctrl_result(fd, "SET_DATAFD");
    if (rc != 0)
        fail("SET_DATAFD: 0x%x", rc);
}

void daemon_start(const char *const argv[], const char *ctrl_path, const char *log,
                  struct daemon *ret, double *ret_us)
{
    struct daemon d = {.data = -1};
    int pair[2];
    uint8_t init[8];
    struct tpm_cmd startup;
    cmd2_startup(&startup, SU_CLEAR);
    unlink(ctrl_path);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        fail("socketpair: %s", strerror(errno));

    double t = now_us();
    d.pid = spawn(argv, log);
    d.ctrl = connect_when_there(d.pid, ctrl_path, log);
    ctrl_set_datafd(d.ctrl, pair[1]);
    close(pair[1]);
    d.data = pair[0];
    put_be32(init, CMD_INIT);
    put_be32(init + 4, 0);
    if (fd_write_full(d.ctrl, init, sizeof(init)) < 0)
        fail("INIT: %s", strerror(errno));
    uint32_t rc = ctrl_result(d.ctrl, "INIT");
    if (rc != 0)
        fail("INIT: 0x%x; see %s", rc, log);
    rc = daemon_command(&d, &startup, NULL);
    t = now_us() - t;
    if (rc != 0)
        fail("Startup: 0x%x; see %s", rc, log);
    if (ret_us)
        *ret_us = t;
    *ret = d;
}

void daemon_stop(struct daemon *d, struct rusage *ret_usage)
{
    struct tpm_cmd c;
    uint8_t b[4];
    struct rusage usage;
    cmd2_shutdown(&c, SU_CLEAR);
    uint32_t rc = daemon_command(d, &c, NULL);
    if (rc != 0)
        fail("Shutdown: 0x%x", rc);
    put_be32(b, CMD_SHUTDOWN);
    if (fd_write_full(d->ctrl, b, sizeof(b)) < 0)
        fail("CMD_SHUTDOWN: %s", strerror(errno));
    if (wait4(d->pid, NULL, 0, &usage) != d->pid)
        fail("wait: %s", strerror(errno));
    remember(0, d->pid);
    close(d->ctrl);
    close(d->data);
    if (ret_usage)
        *ret_usage = usage;
}

uint32_t daemon_command(struct daemon *d, const struct tpm_cmd *c, double *ret_us)
{
    uint8_t b[4096];
    double t = now_us();
    if (fd_write_full(d->data, c->b, c->n) < 0)
        fail("data channel: %s", strerror(errno));
    ssize_t n = read(d->data, b, sizeof(b));
    t = now_us() - t;
    if (n < 10)
        fail("data channel: the response has %zd bytes", n);
    /* A response that comes in pieces is put together outside of the time that counts. */
    while (n < 4096 && (size_t)n < get_be32(b + 2)) {
        ssize_t more = read(d->data, b + n, sizeof(b) - (size_t)n);
        if (more <= 0)
            fail("data channel: the response ends after %zd bytes", n);
        n += more;
    }
    if (ret_us)
        *ret_us = t;
    return get_be32(b + 6);
}
