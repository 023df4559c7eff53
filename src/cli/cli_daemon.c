#include "src/cli/cli_daemon.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "src/base/fd.h"

enum { GRACE_MS = 2000 };

int daemon_fork(struct daemon_parent *ret, int *ret_ready_fd, struct err *e)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot make a pipe for --daemon");
    pid_t child = fork();
    if (child < 0) {
        close(ends[0]);
        close(ends[1]);
        return err_sys(e, ERR_STORAGE, errno, "cannot start the daemon's process");
    }
    if (child == 0) {
        close(ends[0]);
        *ret_ready_fd = ends[1];
        return 0;
    }
    close(ends[1]);
    *ret = (struct daemon_parent){.verdict = ends[0], .child = child};
    return 1;
}

/* Reads until the other end is closed or the room is used. 1: a signal came instead; -1: the other
 * end cannot be heard. */
static int read_verdict(int fd, int signals, char *to, size_t room, size_t *ret_n)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    size_t n = 0;
    while (n < room) {
        if (poll(p, 2, -1) < 0) {
            if (errno != EINTR)
                return -1;
            continue;
        }
        if (p[1].revents)
            return 1;
        if (!p[0].revents)
            continue;
        ssize_t r = read(fd, to + n, room - n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        n += (size_t)r;
        /* Readiness is one digit: the daemon keeps running and may keep its end open. */
        if (to[0] == '0')
            break;
    }
    *ret_n = n;
    return 0;
}

static int decode(char *text, size_t n, pid_t child, struct err *e)
{
    char *rest = NULL;
    while (n > 0 && isspace((unsigned char)text[n - 1]))
        text[--n] = 0;
    long code = n > 0 && isdigit((unsigned char)text[0]) ? strtol(text, &rest, 10) : -1;
    if (code == 0)
        return 0;
    int status = 0;
    bool ended = waitpid(child, &status, 0) == child;
    if (code < 0 && ended && WIFEXITED(status))
        code = WEXITSTATUS(status);
    while (rest && isspace((unsigned char)*rest))
        rest++;
    for (unsigned k = ERR_USAGE; k < ERR_N_KINDS; k++)
        if (err_class((enum err_kind)k)->exit_code == code)
            return err_set(e, (enum err_kind)k, "%s",
                           rest && *rest ? rest : "the daemon ended and left no message");
    if (ended && WIFSIGNALED(status))
        return err_set(e, ERR_STORAGE, "the daemon was killed by signal %d before it was ready",
                       WTERMSIG(status));
    return err_set(e, ERR_STORAGE, "the daemon ended before it was ready");
}

/* Whoever called gave up: nothing may be left running that nobody knows of. */
static void end_child(const struct daemon_parent *p)
{
    struct pollfd gone = {.fd = p->verdict, .events = 0};
    kill(p->child, SIGTERM);
    while (poll(&gone, 1, GRACE_MS) < 0 && errno == EINTR)
        ;
    if (!(gone.revents & POLLHUP))
        kill(p->child, SIGKILL);
    (void)waitpid(p->child, NULL, 0);
}

int daemon_wait(struct daemon_parent *p, int *ret_signal, struct err *e)
{
    char text[sizeof(e->text) + 8];
    struct signalfd_siginfo info = {0};
    sigset_t held, was;
    size_t n = 0;
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGHUP);
    sigprocmask(SIG_BLOCK, &held, &was);
    OWNED_FD verdict = p->verdict;
    OWNED_FD signals = signalfd(-1, &held, SFD_CLOEXEC);
    int r = read_verdict(verdict, signals, text, sizeof(text) - 1, &n);
    text[n] = 0;
    if (r == 0) {
        r = decode(text, n, p->child, e);
    } else {
        int os = errno;
        end_child(p);
        if (r > 0 && read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
            *ret_signal = (int)info.ssi_signo;
        r = r > 0 ? err_set(e, ERR_USAGE, "interrupted before the daemon was ready")
                  : err_sys(e, ERR_STORAGE, os, "the daemon cannot be heard, and was ended");
    }
    sigprocmask(SIG_SETMASK, &was, NULL);
    return r;
}

int daemon_detach(struct err *e)
{
    OWNED_FD null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || setsid() < 0 || chdir("/") < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot go to the background");
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (dup2(null, fd) < 0)
            return err_sys(e, ERR_STORAGE, errno, "cannot go to the background");
    return 0;
}

void daemon_tell(int *ready_fd, const struct err *e)
{
    char line[sizeof(e->text) + 16];
    if (*ready_fd < 0)
        return;
    int n = e ? snprintf(line, sizeof(line), "%d %s\n", err_class(e->kind)->exit_code, e->text)
              : snprintf(line, sizeof(line), "0\n");
    if (n > 0)
        (void)!fd_write_full(*ready_fd, line,
                             (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
    close(MOVE_FD(*ready_fd));
}
