/* Two daemons, and emulators that send each of them what QEMU 7.2 would. */
#ifndef NVKEEP_TESTS_SRC_HANDOVER_RIG_H
#define NVKEEP_TESTS_SRC_HANDOVER_RIG_H

#include "serve_rig.h"

enum { INDEX = 0x01800001, PCR = 16, RC2_UNAVAILABLE = 0x923 };

struct host {
    const char *name; /* "a": its control socket, "a.log": its log, "a.err" */
    pid_t pid;
    int ctrl, data;
};

/* A whole set, as it travels. */
struct parcel {
    uint8_t blob[3][65536];
    size_t n[3];
    uint32_t flags[3];
};

static inline pid_t host_spawn(const char *name, const char *image, const char *options)
{
    char words[1000], err_name[40];
    struct run r = {0};
    snprintf(words, sizeof(words),
             "serve %s --key file=k --ctrl type=unixio,path=%s --log file=%s.log,level=5 %s", image,
             name, name, options);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) {
        rig_remember(child);
        return child;
    }
    snprintf(err_name, sizeof(err_name), "%s.err", name);
    int err = open(err_name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    program_child(&r, program(), words, err, err);
    _exit(127);
}

/* Started, and probed as far as QEMU goes before it powers the TPM on. */
static inline struct host host_connect(const char *name, pid_t pid)
{
    struct tpm_cmd c;
    struct host h = {.name = name, .pid = pid};
    rig_wait_for(name);
    h.ctrl = rig_connect(name);
    h.data = ctrl_data_fd(h.ctrl);
    cmd2_read_clock(&c);
    assert_int_equal(data_rc(h.data, &c), RC2_FAILURE);
    for (uint32_t want = 0; want <= 4096; want += 4096) {
        assert_int_equal(ctrl_simple(h.ctrl, CTRL_STOP), 0);
        assert_int_equal(ctrl_buffer_size(h.ctrl, want, NULL), 0);
    }
    return h;
}

static inline struct host host_start(const char *name, const char *image, const char *options)
{
    return host_connect(name, host_spawn(name, image, options));
}

/* The emulator dies: no SHUTDOWN. */
static inline void host_hang_up(struct host *h)
{
    close(h->data);
    close(h->ctrl);
    h->data = h->ctrl = -1;
}

static inline int host_end(struct host *h)
{
    if (h->ctrl >= 0)
        host_hang_up(h);
    return rig_end(h->pid);
}

static inline void host_kill(struct host *h)
{
    kill(h->pid, SIGKILL);
    assert_int_equal(rig_wait(h->pid), -SIGKILL);
    host_hang_up(h);
}

static inline uint32_t host_rc(const struct host *h, const struct tpm_cmd *c)
{
    return data_rc(h->data, c);
}

static inline void host_boot(const struct host *h)
{
    struct tpm_cmd c;
    assert_int_equal(ctrl_init(h->ctrl, 0), 0);
    cmd2_startup(&c, SU_CLEAR);
    assert_int_equal(host_rc(h, &c), 0);
}

/* Something durable and something that is in memory alone. */
static inline void host_define(const struct host *h)
{
    struct tpm_cmd c;
    cmd2_nv_define(&c, INDEX, 8, NV2_ORDINARY, 0);
    assert_int_equal(host_rc(h, &c), 0);
}

static inline uint32_t host_write(const struct host *h, const char text[8])
{
    struct tpm_cmd c;
    cmd2_nv_write(&c, INDEX, text, 8, 0);
    return host_rc(h, &c);
}

static inline void host_reads(const struct host *h, const char text[8])
{
    struct tpm_cmd c;
    struct answer a;
    cmd2_nv_read(&c, INDEX, 8, 0);
    struct tpm_rsp r = data_call(h->data, &c, &a);
    assert_int_equal(r.rc, 0);
    assert_memory_equal(rsp2_nv(r, 8), text, 8);
}

static inline void host_extend(const struct host *h)
{
    struct tpm_cmd c;
    uint8_t digest[32] = {7};
    cmd2_pcr_extend(&c, PCR, digest);
    assert_int_equal(host_rc(h, &c), 0);
}

static inline void host_pcr(const struct host *h, uint8_t ret[32])
{
    struct tpm_cmd c;
    struct answer a;
    cmd2_pcr_read(&c, PCR);
    struct tpm_rsp r = data_call(h->data, &c, &a);
    assert_int_equal(r.rc, 0);
    memcpy(ret, rsp2_pcr(r), 32);
}

static inline uint32_t host_get(const struct host *h, uint32_t kind, struct parcel *ret)
{
    uint8_t body[12], head[16];
    put_be32(body, CTRL_STATE_DECRYPTED);
    put_be32(body + 4, kind);
    put_be32(body + 8, 0);
    uint32_t result =
        ctrl_call(h->ctrl, CTRL_GET_STATEBLOB, body, sizeof(body), head, sizeof(head));
    ret->flags[kind - 1] = get_be32(head + 4);
    ret->n[kind - 1] = get_be32(head + 12);
    assert_in_range(ret->n[kind - 1], 0, sizeof(ret->blob[0]));
    rig_receive(h->ctrl, ret->blob[kind - 1], ret->n[kind - 1]);
    return result;
}

static inline void host_give(const struct host *h, struct parcel *ret)
{
    assert_int_equal(host_get(h, 1, ret), 0);
    assert_int_equal(host_get(h, 2, ret), 0);
    assert_int_equal(host_get(h, 3, ret), CTRL_NO_SUCH_STATE);
}

static inline uint32_t host_set(const struct host *h, uint32_t kind, const struct parcel *p)
{
    return ctrl_set_state(h->ctrl, kind, p->flags[kind - 1], p->blob[kind - 1], p->n[kind - 1]);
}

/* The load hook: the result of the first step that fails, or of INIT. */
static inline uint32_t host_take(const struct host *h, const struct parcel *p)
{
    uint32_t r = ctrl_simple(h->ctrl, CTRL_STOP);
    for (uint32_t kind = 1; kind <= 2 && r == 0; kind++)
        r = host_set(h, kind, p);
    return r == 0 ? ctrl_init(h->ctrl, CTRL_INIT_DELETE_VOLATILE) : r;
}

static inline uint32_t host_lock_storage(const struct host *h)
{
    uint8_t body[4];
    put_be32(body, 300);
    return ctrl_result(h->ctrl, CTRL_LOCK_STORAGE, body, sizeof(body));
}

static inline const char *log_of(const struct host *h, const char *text)
{
    static char log[1 << 20];
    char name[40];
    snprintf(name, sizeof(name), "%s.log", h->name);
    rig_read_file(name, log, sizeof(log));
    return strstr(log, text);
}

static inline void host_log_says(const struct host *h, const char *text)
{
    if (!log_of(h, text))
        fail_msg("not in the log of %s: %s; the log: %s", h->name, text, log_of(h, ""));
}

/* Bytes of a file, to be compared and freed. */
static inline uint8_t *file_bytes(const char *name, size_t *ret_n)
{
    struct stat st;
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *p = malloc((size_t)st.st_size + 1);
    assert_non_null(p);
    assert_int_equal(read(fd, p, (size_t)st.st_size), st.st_size);
    close(fd);
    *ret_n = (size_t)st.st_size;
    return p;
}

static inline void file_is(const char *name, const uint8_t *p, size_t n)
{
    size_t now_n;
    uint8_t *now = file_bytes(name, &now_n);
    assert_int_equal(now_n, n);
    assert_memory_equal(now, p, n);
    free(now);
}

/* A machine that runs on host a with something to lose. */
static inline struct host running(const char *options)
{
    rig_image("");
    struct host a = host_start("a", "i", options);
    host_boot(&a);
    host_define(&a);
    assert_int_equal(host_write(&a, "before.."), 0);
    host_extend(&a);
    return a;
}

#define INCOMING "--migration incoming"

#endif
