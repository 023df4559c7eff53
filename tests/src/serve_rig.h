/* The daemon under test, and clients that can behave badly.
 *
 * Each test has a directory of its own (program.h) with an image "i" and its key "k". The daemon
 * writes its log to "l" and listens on "c" (control) and, where the test asks for it, on "d".
 */
#ifndef NVKEEP_TESTS_SRC_SERVE_RIG_H
#define NVKEEP_TESTS_SRC_SERVE_RIG_H

#include "program.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "src/base/bytes.h"
#include "src/serve/ctrl_msg.h"
#include "tpm_cmd.h"

enum { REPLY_MS = 30000, BLOB_ROOM = 1 << 20 };

#define DATA_SOCKET "--server type=unixio,path=d --flags not-need-init,startup-clear"

static inline int64_t rig_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* What a process has used of a processor: how busy the machine is does not show in it. */
static inline int64_t rig_cpu_ms(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
    assert_int_equal(clock_gettime(clock, &t), 0);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- the daemon --- */

/* Of a test that fails nothing may stay behind: each daemon leads a process group, its tracer
 * included. */
static pid_t rig_groups[64];
static size_t rig_n_groups;

static inline void rig_remember(pid_t leader)
{
    assert_true(rig_n_groups < ARRAY_LEN(rig_groups));
    rig_groups[rig_n_groups++] = leader;
}

/* It has ended, and its number may be another's soon. */
static inline void rig_forget(pid_t leader)
{
    for (size_t i = 0; i < rig_n_groups; i++)
        if (rig_groups[i] == leader)
            rig_groups[i] = rig_groups[--rig_n_groups];
}

static inline int rig_leave(void **state)
{
    for (size_t i = 0; i < rig_n_groups; i++)
        if (kill(-rig_groups[i], SIGKILL) == 0)
            (void)waitpid(rig_groups[i], NULL, 0);
    rig_n_groups = 0;
    return program_leave(state);
}

static inline void rig_image(const char *options)
{
    struct run r = {0};
    char words[200];
    file_put("k", "correct horse", 13);
    snprintf(words, sizeof(words), "create i --key file=k --iter-time 1 %s", options);
    program_expect(&r, 0, words);
}

static inline pid_t rig_spawn(const char *tracer, const char *options)
{
    char words[1500];
    const char *self = program();
    snprintf(words, sizeof(words),
             "%s%sserve i --key file=k --ctrl type=unixio,path=c --log "
             "file=l,level=5 %s",
             tracer ? self : "", tracer ? " " : "", options);
    struct run r = {0};
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) {
        rig_remember(child);
        return child;
    }
    int err = open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (!tracer)
        program_child(&r, self, words, err, err);
    char all[2000], copy[2000];
    snprintf(all, sizeof(all), "%s %s", tracer, words);
    snprintf(copy, sizeof(copy), "%s", all);
    char *argv[64] = {NULL};
    int n = 0;
    for (char *w = strtok(copy, " "); w && n < 63; w = strtok(NULL, " "))
        argv[n++] = w;
    setsid();
    dup2(err, 1);
    dup2(err, 2);
    alarm(2 * TIME_LIMIT_S);
    execvp(argv[0], argv);
    _exit(127);
}

static inline bool rig_is_there(const char *socket_name)
{
    struct stat st;
    return stat(socket_name, &st) == 0 && S_ISSOCK(st.st_mode);
}

static inline void rig_wait_for(const char *socket_name)
{
    for (int i = 0; i < 2000 && !rig_is_there(socket_name); i++)
        usleep(5000);
    if (!rig_is_there(socket_name))
        fail_msg("%s does not appear", socket_name);
}

/* Starts it and waits for the sockets. */
static inline pid_t rig_start(const char *options)
{
    pid_t pid = rig_spawn(NULL, options);
    rig_wait_for("c");
    if (strstr(options, "path=d"))
        rig_wait_for("d");
    return pid;
}

/* Exit code, or minus the signal. */
static inline int rig_wait(pid_t pid)
{
    int status = 0;
    int64_t limit = rig_ms() + 30000;
    pid_t gone;
    while ((gone = waitpid(pid, &status, WNOHANG)) == 0 && rig_ms() < limit)
        usleep(2000);
    if (gone == 0)
        fail_msg("the daemon does not end");
    rig_forget(pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline int rig_end(pid_t pid)
{
    kill(pid, SIGTERM);
    return rig_wait(pid);
}

static inline void rig_read_file(const char *name, char *ret, size_t room)
{
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, ret, room - 1);
    assert_true(n >= 0);
    ret[n] = 0;
    close(fd);
}

static inline void rig_log_says(const char *text)
{
    static char log[1 << 20];
    rig_read_file("l", log, sizeof(log));
    if (!strstr(log, text))
        fail_msg("not in the log: %s; the log: %s", text, log);
}

/* --- bytes --- */

static inline int rig_connect(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline void rig_send(int fd, const void *p, size_t n)
{
    assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), n);
}

/* Bytes that arrive until there are n, the other end hangs up, or the time is over. */
static inline size_t rig_receive_within(int fd, void *ret, size_t n, int ms)
{
    int64_t limit = rig_ms() + ms;
    size_t got = 0;
    while (got < n) {
        struct pollfd p = {fd, POLLIN, 0};
        int64_t left = limit - rig_ms();
        if (left < 0 || poll(&p, 1, (int)left) <= 0)
            break;
        ssize_t r = recv(fd, (char *)ret + got, n - got, 0);
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    return got;
}

static inline void rig_receive(int fd, void *ret, size_t n)
{
    size_t got = rig_receive_within(fd, ret, n, REPLY_MS);
    if (got != n)
        fail_msg("%zu bytes instead of %zu", got, n);
}

static inline bool rig_is_closed(int fd, int ms)
{
    struct pollfd p = {fd, POLLIN, 0};
    char byte;
    return poll(&p, 1, ms) == 1 && recv(fd, &byte, 1, 0) <= 0;
}

/* Nothing comes. */
static inline void rig_is_silent(int fd, int ms)
{
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, ms), 0);
}

/* --- control --- */

static inline void ctrl_send(int fd, uint32_t code, const void *body, size_t n)
{
    uint8_t m[8192];
    assert_true(n + 4 <= sizeof(m));
    put_be32(m, code);
    if (n > 0)
        memcpy(m + 4, body, n);
    rig_send(fd, m, n + 4);
}

/* The head of the reply; its result is returned. */
static inline uint32_t ctrl_reply(int fd, uint8_t *ret, size_t n)
{
    rig_receive(fd, ret, n);
    return get_be32(ret);
}

static inline uint32_t ctrl_call(int fd, uint32_t code, const void *body, size_t n, uint8_t *ret,
                                 size_t reply_bytes)
{
    ctrl_send(fd, code, body, n);
    return ctrl_reply(fd, ret, reply_bytes);
}

/* A command whose reply is its result. */
static inline uint32_t ctrl_result(int fd, uint32_t code, const void *body, size_t n)
{
    uint8_t r[4];
    return ctrl_call(fd, code, body, n, r, sizeof(r));
}

static inline uint32_t ctrl_simple(int fd, uint32_t code)
{
    return ctrl_result(fd, code, NULL, 0);
}

static inline uint32_t ctrl_init(int fd, uint32_t flags)
{
    uint8_t body[4];
    put_be32(body, flags);
    return ctrl_result(fd, CTRL_INIT, body, sizeof(body));
}

static inline uint32_t ctrl_buffer_size(int fd, uint32_t want, uint32_t *ret)
{
    uint8_t body[4], r[16];
    put_be32(body, want);
    uint32_t result = ctrl_call(fd, CTRL_SET_BUFFERSIZE, body, sizeof(body), r, sizeof(r));
    if (ret)
        *ret = get_be32(r + 4);
    return result;
}

static inline uint32_t ctrl_get_state(int fd, uint32_t kind, uint32_t offset, uint8_t *ret,
                                      size_t *ret_n)
{
    uint8_t body[12], head[16];
    put_be32(body, CTRL_STATE_DECRYPTED);
    put_be32(body + 4, kind);
    put_be32(body + 8, offset);
    uint32_t result = ctrl_call(fd, CTRL_GET_STATEBLOB, body, sizeof(body), head, sizeof(head));
    size_t n = get_be32(head + 12);
    assert_int_equal(get_be32(head + 8), n);
    assert_true(n <= BLOB_ROOM);
    rig_receive(fd, ret, n);
    *ret_n = n;
    return result;
}

static inline uint32_t ctrl_set_state(int fd, uint32_t kind, uint32_t flags, const void *p,
                                      size_t n)
{
    uint8_t head[16], r[4];
    put_be32(head, CTRL_SET_STATEBLOB);
    put_be32(head + 4, flags);
    put_be32(head + 8, kind);
    put_be32(head + 12, (uint32_t)n);
    rig_send(fd, head, sizeof(head));
    if (n > 0)
        rig_send(fd, p, n);
    return ctrl_reply(fd, r, sizeof(r));
}

/* Sends `code` with descriptors. */
static inline void ctrl_send_fds(int fd, uint32_t code, const int *fds, size_t n)
{
    uint8_t m[4];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(253 * sizeof(int))];
    } control = {0};
    put_be32(m, code);
    struct iovec v = {m, sizeof(m)};
    struct msghdr h = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    assert_int_equal(sendmsg(fd, &h, MSG_NOSIGNAL), 4);
}

/* As QEMU does it: one end of a pair. */
static inline int ctrl_data_fd(int fd)
{
    int pair[2];
    uint8_t r[4];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ctrl_send_fds(fd, CTRL_SET_DATAFD, &pair[1], 1);
    close(pair[1]);
    assert_int_equal(ctrl_reply(fd, r, 4), 0);
    return pair[0];
}

/* --- TPM commands --- */

struct answer {
    uint8_t b[4096];
    size_t n;
};

static inline struct tpm_rsp data_receive(int fd, struct answer *a)
{
    rig_receive(fd, a->b, 10);
    a->n = get_be32(a->b + 2);
    assert_in_range(a->n, 10, sizeof(a->b));
    rig_receive(fd, a->b + 10, a->n - 10);
    return rsp_of(a->b, a->n);
}

static inline struct tpm_rsp data_call(int fd, const struct tpm_cmd *c, struct answer *a)
{
    rig_send(fd, c->b, c->n);
    return data_receive(fd, a);
}

static inline uint32_t data_rc(int fd, const struct tpm_cmd *c)
{
    struct answer a;
    return data_call(fd, c, &a).rc;
}

static inline void data_works(int fd)
{
    struct tpm_cmd c;
    cmd2_get_random(&c, 8);
    assert_int_equal(data_rc(fd, &c), 0);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, program_enter, rig_leave)

#endif
