#include "src/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

static void nothing_happens(int sig)
{
    (void)sig;
}

static void what_was_written_at_an_offset_is_read_there(void **state)
{
    OWNED_FD fd = memfd_create("x", MFD_CLOEXEC);
    char b[16] = {0};
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fd_pwrite_full(fd, "hello", 5, 3), 0);
    assert_int_equal(fd_pread_full(fd, b, sizeof(b), 0), 8);
    assert_memory_equal(b, "\0\0\0hello", 8);
    assert_int_equal(fd_pread_full(fd, b, 2, 4), 2);
    assert_memory_equal(b, "el", 2);
    assert_int_equal(fd_pread_full(fd, b, sizeof(b), 100), 0);
}

static void errors_come_back_as_they_are(void **state)
{
    char b[4] = {0};
    (void)state;
    errno = 0;
    assert_int_equal(fd_pread_full(-1, b, 1, 0), -1);
    assert_int_equal(errno, EBADF);
    assert_int_equal(fd_pwrite_full(-1, b, 1, 0), -1);
    assert_int_equal(fd_read_full(-1, b, 1), -1);
    assert_int_equal(fd_write_full(-1, b, 1), -1);
    assert_int_equal(errno, EBADF);

    OWNED_FD full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    assert_int_equal(fd_write_full(full, "x", 1), -1);
    assert_int_equal(errno, ENOSPC);

    OWNED_FD fd = memfd_create("x", MFD_CLOEXEC);
    assert_int_equal(fd_pread_full(fd, b, 1, UINT64_MAX), -1);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(fd_pwrite_full(fd, b, 1, UINT64_MAX), -1);
    assert_int_equal(errno, EINVAL);
}

static void nothing_is_read_and_written_without_a_descriptor(void **state)
{
    (void)state;
    assert_int_equal(fd_pread_full(-1, NULL, 0, 0), 0);
    assert_int_equal(fd_pwrite_full(-1, NULL, 0, 0), 0);
    assert_int_equal(fd_read_full(-1, NULL, 0), 0);
    assert_int_equal(fd_write_full(-1, NULL, 0), 0);
}

static void a_pipe_is_read_to_its_end(void **state)
{
    int p[2];
    char b[16];
    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(fd_write_full(p[1], "ab", 2), 0);
    close(p[1]);
    assert_int_equal(fd_read_full(p[0], b, sizeof(b)), 2);
    close(p[0]);
}

/* Writes in small pieces, with a signal to the reader between them. */
struct dribble {
    int fd;
    pthread_t reader;
};

static void *dribble(void *arg)
{
    struct dribble *d = arg;
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        pthread_kill(d->reader, SIGUSR1);
        if (fd_write_full(d->fd, "x", 1) < 0)
            break;
    }
    close(d->fd);
    return NULL;
}

static void signals_do_not_shorten_a_read(void **state)
{
    struct sigaction sa = {.sa_handler = nothing_happens}; /* no SA_RESTART: EINTR is seen */
    struct dribble d;
    pthread_t t;
    int p[2];
    char b[64];
    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
    assert_int_equal(pipe(p), 0);
    d = (struct dribble){p[1], pthread_self()};
    assert_int_equal(pthread_create(&t, NULL, dribble, &d), 0);
    assert_int_equal(fd_read_full(p[0], b, sizeof(b)), 20);
    pthread_join(t, NULL);
    close(p[0]);
}

static void *drain(void *arg)
{
    struct dribble *d = arg;
    static char sink[65536];
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        pthread_kill(d->reader, SIGUSR1);
        if (read(d->fd, sink, sizeof(sink)) <= 0)
            break;
    }
    while (read(d->fd, sink, sizeof(sink)) > 0)
        ;
    return NULL;
}

static void signals_and_full_pipes_do_not_shorten_a_write(void **state)
{
    struct sigaction sa = {.sa_handler = nothing_happens};
    static char big[1 << 20];
    struct dribble d;
    pthread_t t;
    int p[2];
    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
    assert_int_equal(pipe(p), 0);
    d = (struct dribble){p[0], pthread_self()};
    assert_int_equal(pthread_create(&t, NULL, drain, &d), 0);
    assert_int_equal(fd_write_full(p[1], big, sizeof(big)), 0);
    close(p[1]);
    pthread_join(t, NULL);
    close(p[0]);
}

static void a_file_size_limit_stops_a_write_with_its_errno(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit l = {4096, 4096};
        static char big[8192];
        FILE *f = tmpfile();
        signal(SIGXFSZ, SIG_IGN);
        if (!f || setrlimit(RLIMIT_FSIZE, &l) < 0)
            _exit(2);
        _exit(fd_pwrite_full(fileno(f), big, sizeof(big), 0) == -1 && errno == EFBIG ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void an_owned_descriptor_is_closed_and_a_moved_one_is_not(void **state)
{
    int closed, kept;
    (void)state;
    {
        OWNED_FD a = memfd_create("a", MFD_CLOEXEC);
        OWNED_FD b = memfd_create("b", MFD_CLOEXEC);
        closed = a;
        kept = MOVE_FD(b);
        assert_int_equal(b, -1);
    }
    assert_int_equal(fcntl(closed, F_GETFD), -1);
    assert_int_equal(fcntl(kept, F_GETFD), FD_CLOEXEC);
    close(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_at_an_offset_is_read_there),
        cmocka_unit_test(errors_come_back_as_they_are),
        cmocka_unit_test(nothing_is_read_and_written_without_a_descriptor),
        cmocka_unit_test(a_pipe_is_read_to_its_end),
        cmocka_unit_test(signals_do_not_shorten_a_read),
        cmocka_unit_test(signals_and_full_pipes_do_not_shorten_a_write),
        cmocka_unit_test(a_file_size_limit_stops_a_write_with_its_errno),
        cmocka_unit_test(an_owned_descriptor_is_closed_and_a_moved_one_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
