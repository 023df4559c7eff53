/* Running the program under test: arguments in, exit code and both outputs out.
 *
 * NVKEEP names the program. Each test runs in a directory of its own, which is the current one.
 * What is run has a time limit, no terminal, and /dev/null as standard input.
 */
#ifndef NVKEEP_TESTS_SRC_PROGRAM_H
#define NVKEEP_TESTS_SRC_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "src/base/own.h"

enum { OUTPUT_BYTES = 16384, MAX_ARGS = 24, PASSED_FD = 7, TIME_LIMIT_S = 60 };

struct run {
    const char *stdout_to; /* in: a file instead of `out`; "": closed */
    int key_fd;            /* in: passed on as descriptor PASSED_FD; 0: none */
    long file_limit;       /* in: RLIMIT_FSIZE, bytes; 0: none */
    int code;              /* exit code; minus the signal that ended it */
    char out[OUTPUT_BYTES], err[OUTPUT_BYTES];
};

static char program_dir[200];

static inline const char *program(void)
{
    const char *p = getenv("NVKEEP");
    if (!p) {
        print_message("missing: NVKEEP, which names the program\n");
        exit(77);
    }
    if (access(p, X_OK) != 0)
        fail_msg("%s is not a program", p);
    return p;
}

static inline int program_enter(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(program_dir, sizeof(program_dir), "%s/nvkeep-cli-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(program_dir) && chdir(program_dir) == 0 ? 0 : -1;
}

static inline int program_leave(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", program_dir);
    return chdir("/") == 0 ? system(command) : -1;
}

/* Cuts words apart at blanks, behind the name of the program. */
static inline void program_words(char *room, size_t room_bytes, const char *words,
                                 char *argv[MAX_ARGS])
{
    int n = 1;
    snprintf(room, room_bytes, "%s", words);
    for (char *w = strtok(room, " "); w; w = strtok(NULL, " ")) {
        assert_true(n < MAX_ARGS - 1);
        argv[n++] = w;
    }
    argv[n] = NULL;
}

static inline void program_exec(const char *path, const char *words)
{
    char room[2000];
    char *argv[MAX_ARGS] = {strdup(path)};
    program_words(room, sizeof(room), words, argv);
    alarm(TIME_LIMIT_S);
    execv(path, argv);
    _exit(127);
}

static inline void program_child(const struct run *r, const char *path, const char *words, int out,
                                 int err)
{
    setsid();
    int null = open("/dev/null", O_RDWR);
    if (r->stdout_to && *r->stdout_to)
        out = open(r->stdout_to, O_WRONLY | O_CREAT, 0600);
    if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(126);
    if (r->stdout_to && !*r->stdout_to)
        close(1);
    if (r->key_fd && r->key_fd != PASSED_FD)
        dup2(r->key_fd, PASSED_FD);
    if (r->file_limit) {
        const struct rlimit limit = {(rlim_t)r->file_limit, (rlim_t)r->file_limit};
        const struct sigaction ignore = {.sa_handler = SIG_IGN};
        if (setrlimit(RLIMIT_FSIZE, &limit) < 0 || sigaction(SIGXFSZ, &ignore, NULL) < 0)
            _exit(125);
    }
    for (int fd = 3; fd < 100; fd++)
        if (fd != PASSED_FD || !r->key_fd)
            close(fd);
    program_exec(path, words);
}

static inline void program_read(int fd, char ret[OUTPUT_BYTES])
{
    lseek(fd, 0, SEEK_SET);
    ssize_t n = read(fd, ret, OUTPUT_BYTES - 1);
    assert_true(n >= 0 && n < OUTPUT_BYTES - 1);
    ret[n] = 0;
    close(fd);
}

/* Files, not pipes: what is left running may keep them open. */
static inline int program_output(void)
{
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    assert_true(fd >= 0);
    return fd;
}

static inline void program_run(struct run *r, const char *words)
{
    const char *path = program();
    int out = program_output(), err = program_output(), status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        program_child(r, path, words, out, err);
    assert_int_equal(waitpid(child, &status, 0), child);
    r->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    program_read(out, r->out);
    program_read(err, r->err);
}

static inline void program_expect(struct run *r, int code, const char *words)
{
    program_run(r, words);
    if (r->code != code)
        fail_msg("nvkeep %s: exit code %d and not %d; stderr: %s", words, r->code, code, r->err);
}

/* Starts and does not wait. */
static inline pid_t program_start(const char *words)
{
    const char *path = program();
    struct run r = {0};
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        program_child(&r, path, words, null, null);
    }
    return child;
}

static inline void file_put(const char *name, const void *p, size_t n)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

/* Of content and time of change. */
static inline uint64_t file_digest(const char *name)
{
    uint64_t h = 14695981039346656037u;
    unsigned char buf[4096];
    struct stat st;
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    for (ssize_t r; (r = read(fd, buf, sizeof(buf))) > 0;)
        for (ssize_t i = 0; i < r; i++)
            h = (h ^ buf[i]) * 1099511628211u;
    close(fd);
    return h ^ (uint64_t)st.st_mtim.tv_sec ^ (uint64_t)st.st_mtim.tv_nsec << 20;
}

static inline bool file_exists(const char *name)
{
    return access(name, F_OK) == 0;
}

static inline bool contains(const void *in, size_t n, const char *marker)
{
    return memmem(in, n, marker, strlen(marker)) != NULL;
}

#endif
