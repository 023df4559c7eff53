#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/serve/confine.h"
#include "src/serve/harden.h"

/* A confined child that runs f and says by its exit code whether all was as it should be. */
static int in_a_confined_child(bool (*f)(void), const struct confine *c)
{
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err e;
        if (confine_memory(&e) < 0 || confine(c, &e) < 0) {
            print_error("%s\n", e.text);
            _exit(2);
        }
        _exit(f() ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const struct confine nowhere = {{-1, -1, -1, -1}};

/* Writing is allowed, so the child can say what it could do and should not. */
#define FORBIDDEN(call)                                                                            \
    do {                                                                                           \
        errno = 0;                                                                                 \
        if ((long)(call) != -1 || errno != EPERM) {                                                \
            dprintf(2, "%s: errno %d\n", #call, errno);                                            \
            fine = false;                                                                          \
        }                                                                                          \
    } while (0)

static bool nothing_can_be_opened(void)
{
    bool fine = true;
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "/tmp/nobody-listens-here"};
    FORBIDDEN(open("/dev/null", O_RDONLY));
    FORBIDDEN(openat(AT_FDCWD, "/etc/passwd", O_RDONLY));
    FORBIDDEN(creat("/tmp/nvkeep-confined", 0600));
    FORBIDDEN(syscall(SYS_openat2, AT_FDCWD, "/", NULL, 0));
    FORBIDDEN(syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0));
    FORBIDDEN(syscall(SYS_memfd_create, "x", 0));
    FORBIDDEN(mkdir("/tmp/nvkeep-confined", 0700));
    FORBIDDEN(link("/etc/passwd", "/tmp/nvkeep-confined"));
    FORBIDDEN(symlink("/etc/passwd", "/tmp/nvkeep-confined"));
    FORBIDDEN(rename("/tmp/nvkeep-confined", "/tmp/nvkeep-confined2"));
    FORBIDDEN(unlink("/tmp/nvkeep-confined"));
    FORBIDDEN(unlinkat(AT_FDCWD, "tmp", 0));
    FORBIDDEN(chmod("/tmp/nvkeep-confined", 0600));
    FORBIDDEN(socket(AF_UNIX, SOCK_STREAM, 0));
    FORBIDDEN(socket(AF_INET, SOCK_STREAM, 0));
    FORBIDDEN(connect(0, (struct sockaddr *)&a, sizeof(a)));
    FORBIDDEN(bind(0, (struct sockaddr *)&a, sizeof(a)));
    FORBIDDEN(listen(0, 1));
    FORBIDDEN(eventfd(0, 0));
    FORBIDDEN(syscall(SYS_io_uring_setup, 1, NULL));
    return fine;
}

static bool nothing_can_be_run_traced_or_changed(void)
{
    bool fine = true;
    char *argv[] = {NULL};
    FORBIDDEN(execve("/bin/true", argv, argv));
    FORBIDDEN(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, argv, 0));
    FORBIDDEN(syscall(SYS_fork));
    FORBIDDEN(syscall(SYS_vfork));
    FORBIDDEN(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    FORBIDDEN(syscall(SYS_clone3, NULL, 0));
    FORBIDDEN(ptrace(PTRACE_TRACEME, 0, 0, 0));
    FORBIDDEN(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
    FORBIDDEN(kill(getppid(), 0));
    FORBIDDEN(syscall(SYS_tgkill, getppid(), getppid(), 0));
    FORBIDDEN(mount("none", "/tmp", "tmpfs", 0, NULL));
    FORBIDDEN(unshare(CLONE_NEWUSER));
    FORBIDDEN(chroot("/tmp"));
    FORBIDDEN(setuid(0));
    FORBIDDEN(prctl(PR_SET_DUMPABLE, 1));
    FORBIDDEN(syscall(SYS_seccomp, 1, 0, NULL));
    FORBIDDEN(syscall(SYS_bpf, 0, NULL, 0));
    FORBIDDEN(syscall(SYS_keyctl, 0));
    FORBIDDEN(
        (intptr_t)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FORBIDDEN(mprotect(p, 4096, PROT_READ | PROT_EXEC));
    return fine && p != MAP_FAILED;
}

static bool what_it_needs_is_left(void)
{
    char buf[8] = "";
    struct stat st;
    bool fine = true;
    void *big = malloc(1 << 22);
    fine &= big != NULL && getpid() > 0;
    free(big);
    fine &= lseek(0, 0, SEEK_CUR) >= -1 && fstat(2, &st) == 0;
    fine &= stat("/", &st) == 0;
    fine &= syscall(SYS_getrandom, buf, sizeof(buf), 0) == (long)sizeof(buf);
    fine &= prctl(PR_GET_SECCOMP) == 2;
    fine &= usleep(1) == 0;
    return fine;
}

/* S4.7 */
static void second_open_is_impossible_after_confinement(void **state)
{
    (void)state;
    assert_int_equal(in_a_confined_child(nothing_can_be_opened, &nowhere), 0);
}

/* S4.7 */
static void confined_process_runs_traces_and_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(in_a_confined_child(nothing_can_be_run_traced_or_changed, &nowhere), 0);
}

static void confined_process_keeps_what_it_needs(void **state)
{
    (void)state;
    assert_int_equal(in_a_confined_child(what_it_needs_is_left, &nowhere), 0);
}

/* --- other threads, and the end --- */

struct gate {
    int runs, open_it; /* eventfds */
    int result;
};

static void *opens_later(void *arg)
{
    struct gate *g = arg;
    uint64_t n = 1;
    if (write(g->runs, &n, sizeof(n)) != (ssize_t)sizeof(n) ||
        read(g->open_it, &n, sizeof(n)) != (ssize_t)sizeof(n))
        return NULL;
    int fd = open("/dev/null", O_RDONLY);
    g->result = fd < 0 ? errno : 0;
    return NULL;
}

/* S4.7: a thread that was there before is confined, too. */
static void all_threads_are_confined(void **state)
{
    (void)state;
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct gate g = {.runs = eventfd(0, 0), .open_it = eventfd(0, 0)};
        struct err e;
        pthread_t t;
        uint64_t one = 1;
        /* It has started: sanitizers ask the kernel about a thread that starts. */
        if (pthread_create(&t, NULL, opens_later, &g) != 0 || read(g.runs, &one, sizeof(one)) < 0 ||
            confine(&nowhere, &e) < 0 || write(g.open_it, &one, sizeof(one)) < 0)
            _exit(2);
        pthread_join(t, NULL);
        _exit(g.result == EPERM ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void only_names_in_its_own_directories_can_be_removed(void **state)
{
    (void)state;
    char mine[] = "/tmp/nvkeep-confine-XXXXXX", other[] = "/tmp/nvkeep-confine-XXXXXX";
    char way_out[60];
    int status = 0;
    bool has_landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
    assert_non_null(mkdtemp(mine));
    assert_non_null(mkdtemp(other));
    int here = open(mine, O_PATH | O_DIRECTORY), there = open(other, O_PATH | O_DIRECTORY);
    close(openat(here, "socket", O_CREAT | O_WRONLY, 0600));
    close(openat(there, "socket", O_CREAT | O_WRONLY, 0600));
    assert_int_equal(mkdirat(here, "dir", 0700), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err e;
        struct stat st;
        const struct confine c = {{here, -1, -1, -1}};
        bool fine = confine(&c, &e) == 0;
        FORBIDDEN(unlinkat(there, "socket", 0));
        /* A way out through the name itself is closed by Landlock only, and with another error. */
        snprintf(way_out, sizeof(way_out), "../%s/socket", strrchr(other, '/') + 1);
        fine &= !has_landlock || (unlinkat(here, way_out, 0) == -1 && errno == EACCES);
        FORBIDDEN(unlinkat(here, "dir", AT_REMOVEDIR));
        fine &= fstatat(here, "socket", &st, AT_SYMLINK_NOFOLLOW) == 0;
        fine &= unlinkat(here, "socket", 0) == 0;
        _exit(fine ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(unlinkat(here, "socket", 0), -1);
    assert_int_equal(unlinkat(there, "socket", 0), 0);
    assert_int_equal(rmdir(other), 0);
    assert_int_equal(unlinkat(here, "dir", AT_REMOVEDIR), 0);
    assert_int_equal(rmdir(mine), 0);
    close(here);
    close(there);
}

static void thread_without_names_opens_nothing_and_uses_what_is_open(void **state)
{
    (void)state;
    int status = 0;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) <= 0) {
        print_message("missing: Landlock in this kernel\n");
        skip();
    }
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err e;
        char text[4];
        int before = open("/etc/passwd", O_RDONLY);
        bool fine = confine_names(&nowhere, &e) == 0;
        fine &= read(before, text, sizeof(text)) == (ssize_t)sizeof(text);
        fine &= open("/etc/passwd", O_RDONLY) == -1 && errno == EACCES;
        fine &= open("/tmp", O_TMPFILE | O_WRONLY, 0600) == -1 && errno == EACCES;
        _exit(fine ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void memory_is_not_dumped(void **state)
{
    (void)state;
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct err e;
        struct rlimit core;
        bool fine = confine_memory(&e) == 0 && prctl(PR_GET_DUMPABLE) == 0 &&
                    getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0;
        _exit(fine ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Asked of the process itself: what others see of it is root's anyway where root runs it. */
static void hardened_process_leaves_no_core_and_is_not_looked_into(void **state)
{
    (void)state;
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit core = {1, 1};
        bool fine = harden_process() == 0 && prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 &&
                    getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0;
        _exit(fine ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_open_is_impossible_after_confinement),
        cmocka_unit_test(confined_process_runs_traces_and_changes_nothing),
        cmocka_unit_test(confined_process_keeps_what_it_needs),
        cmocka_unit_test(all_threads_are_confined),
        cmocka_unit_test(only_names_in_its_own_directories_can_be_removed),
        cmocka_unit_test(thread_without_names_opens_nothing_and_uses_what_is_open),
        cmocka_unit_test(memory_is_not_dumped),
        cmocka_unit_test(hardened_process_leaves_no_core_and_is_not_looked_into),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
