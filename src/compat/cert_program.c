#include "src/compat/cert_program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "src/base/fd.h"

/* The digest as a file, so that nobody has to write while somebody reads. */
static int file_of(struct span digest, struct err *e)
{
    OWNED_FD fd = memfd_create("to-be-signed", MFD_CLOEXEC);
    if (fd < 0 || fd_write_full(fd, digest.p, digest.n) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot give the signing program its digest");
    return MOVE_FD(fd);
}

/* In the child. */
static void become(const char *path, const char *algorithm, int in, int out)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGXFSZ, SIG_DFL);
    if (setpgid(0, 0) < 0 || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0)
        _exit(126);
    (void)close_range(STDERR_FILENO + 1, ~0U, 0);
    execl(path, path, algorithm, (char *)NULL);
    _exit(127);
}

static int64_t now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int too_long(struct err *e)
{
    return err_set(e, ERR_USAGE, "the signing program gave no signature within %d seconds",
                   CERT_PROGRAM_SECONDS);
}

/* Until its end. One byte more than there is room for says that there was too much. */
static ssize_t collect(int fd, int64_t until, uint8_t ret[X509_SIGNATURE_BYTES + 1], struct err *e)
{
    size_t n = 0;
    while (n <= X509_SIGNATURE_BYTES) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        const int64_t left = until - now_ms();
        int r = left <= 0 ? 0 : poll(&p, 1, (int)left);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return too_long(e);
        ssize_t got = read(fd, ret + n, X509_SIGNATURE_BYTES + 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(e, ERR_STORAGE, errno, "the signing program's answer");
        if (got == 0)
            return (ssize_t)n;
        n += (size_t)got;
    }
    return err_set(e, ERR_USAGE, "the signing program gave more than %d bytes",
                   X509_SIGNATURE_BYTES);
}

/* Its end, or the end of its time. What it started goes with it. */
static int await(pid_t child, int64_t until, int *ret_status, struct err *e)
{
    OWNED_FD pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int r;
    do {
        const int64_t left = until - now_ms();
        r = pidfd < 0 ? -1 : poll(&p, 1, left > 0 ? (int)left : 0);
    } while (r < 0 && pidfd >= 0 && errno == EINTR);
    (void)kill(-child, SIGKILL);
    if (r != 1)
        (void)kill(child, SIGKILL);
    while (waitpid(child, ret_status, 0) < 0 && errno == EINTR)
        ;
    return r == 1 ? 0 : too_long(e);
}

static ssize_t judge(const char *path, int status, ssize_t n, struct err *e)
{
    char buf[200];
    if (n < 0)
        return -1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, ERR_USAGE, "the signing program %s failed (%s %d)",
                       err_quote(buf, sizeof(buf), path, strlen(path)),
                       WIFEXITED(status) ? "exit code" : "signal",
                       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return n > 0 ? n : err_set(e, ERR_USAGE, "the signing program gave no signature");
}

ssize_t cert_program_sign(void *ctx, const char *algorithm, struct span digest,
                          uint8_t ret[X509_SIGNATURE_BYTES], struct err *e)
{
    const char *path = ctx;
    uint8_t answer[X509_SIGNATURE_BYTES + 1];
    int ends[2], status = 0;
    OWNED_FD in = file_of(digest, e);
    if (in < 0)
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot run the signing program");
    OWNED_FD answers = ends[0];
    pid_t child = fork();
    if (child == 0)
        become(path, algorithm, in, ends[1]);
    close(ends[1]);
    if (child < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot run the signing program");
    const int64_t until = now_ms() + CERT_PROGRAM_SECONDS * 1000;
    ssize_t n = collect(answers, until, answer, e);
    struct err late;
    if (await(child, n < 0 ? 0 : until, &status, &late) < 0 && n >= 0) {
        *e = late;
        return -1;
    }
    n = judge(path, status, n, e);
    if (n > 0)
        memcpy(ret, answer, (size_t)n);
    return n;
}
