#include "compare_subject.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"

enum { PATH_BYTES = 400, RC2_NV_SPACE = 0x14b };
#define PASSPHRASE "measured-with-a-cheap-key"

const struct subject_names subject_names[] = {
    [SUBJECT_NVKEEP] = {"nvkeep", "nvkeep", "encrypted, authenticated, durable"},
    [SUBJECT_SWTPM_DIR] = {"swtpm-dir", "swtpm", "in clear, not durable"},
    [SUBJECT_SWTPM_KEY] = {"swtpm-key", "swtpm", "encrypted, not durable"},
    [SUBJECT_SWTPM_FILE] = {"swtpm-file", "swtpm", "in clear, durable, not atomic"},
};

static void in_work(const struct subject *s, const char *tag, const char *suffix, char *ret)
{
    int n = snprintf(ret, PATH_BYTES, "%s/%s.%s%s", s->work, s->name, tag, suffix);
    if (n < 0 || n >= PATH_BYTES)
        fail("path too long below %s", s->work);
}

static void put_file(const char *path, const char *text)
{
    OWNED_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_full(fd, text, strlen(text)) < 0)
        fail("%s: %s", path, strerror(errno));
}

static void fill_nv(struct daemon *d, enum fill fill)
{
    static const uint16_t sizes[] = {2048, 512, 64};
    uint8_t data[1024];
    struct tpm_cmd c;
    uint32_t rc, index = BENCH_INDEX;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + 1);
    cmd2_nv_define(&c, index, BENCH_INDEX_BYTES, NV2_ORDINARY, NV2_NO_DA);
    if ((rc = daemon_command(d, &c, NULL)) != 0)
        fail("NV_DefineSpace: 0x%x", rc);
    cmd2_nv_write(&c, index, data, BENCH_INDEX_BYTES, 0);
    if ((rc = daemon_command(d, &c, NULL)) != 0)
        fail("NV_Write: 0x%x", rc);
    for (size_t i = 0; fill == FILL_FULL && i < ARRAY_LEN(sizes); i++)
        for (;;) {
            cmd2_nv_define(&c, ++index, sizes[i], NV2_ORDINARY, NV2_NO_DA);
            rc = daemon_command(d, &c, NULL);
            if (rc == RC2_NV_SPACE)
                break;
            if (rc != 0)
                fail("NV_DefineSpace of %u bytes: 0x%x", sizes[i], rc);
            for (uint16_t at = 0; at < sizes[i]; at = (uint16_t)(at + sizeof(data))) {
                uint16_t n = sizes[i] < sizeof(data) ? sizes[i] : sizeof(data);
                cmd2_nv_write(&c, index, data, n, at);
                if ((rc = daemon_command(d, &c, NULL)) != 0)
                    fail("NV_Write: 0x%x", rc);
            }
        }
}

void subject_prepare(const struct subject *s, const char *tag, enum fill fill)
{
    char path[PATH_BYTES], key[PATH_BYTES];
    struct daemon d;
    in_work(s, tag, "", path);
    in_work(s, "key", "", key);
    if (s->kind == SUBJECT_NVKEEP) {
        put_file(key, PASSPHRASE);
        image_make(path, PASSPHRASE);
    } else {
        put_file(key, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        if (s->kind == SUBJECT_SWTPM_FILE)
            put_file(path, "");
        else if (mkdir(path, 0700) < 0)
            fail("%s: %s", path, strerror(errno));
    }
    subject_start(s, tag, NULL, &d, NULL);
    fill_nv(&d, fill);
    daemon_stop(&d, NULL);
}

static void copy_file(const char *from, const char *to)
{
    static uint8_t b[65536];
    OWNED_FD in = open(from, O_RDONLY | O_CLOEXEC);
    OWNED_FD out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (in < 0 || out < 0)
        fail("copy %s to %s: %s", from, to, strerror(errno));
    for (;;) {
        ssize_t n = fd_read_full(in, b, sizeof(b));
        if (n < 0 || fd_write_full(out, b, (size_t)n) < 0)
            fail("copy %s to %s: %s", from, to, strerror(errno));
        if (n == 0)
            return;
    }
}

static bool is_dir_kind(const struct subject *s)
{
    return s->kind == SUBJECT_SWTPM_DIR || s->kind == SUBJECT_SWTPM_KEY;
}

void subject_copy(const struct subject *s, const char *tag, const char *new_tag)
{
    char from[PATH_BYTES], to[PATH_BYTES];
    in_work(s, tag, is_dir_kind(s) ? "/tpm2-00.permall" : "", from);
    if (is_dir_kind(s)) {
        in_work(s, new_tag, "", to);
        if (mkdir(to, 0700) < 0)
            fail("%s: %s", to, strerror(errno));
    }
    in_work(s, new_tag, is_dir_kind(s) ? "/tpm2-00.permall" : "", to);
    copy_file(from, to);
}

void subject_start(const struct subject *s, const char *tag, const char *trace, struct daemon *ret,
                   double *ret_us)
{
    char path[PATH_BYTES], key[PATH_BYTES], ctrl[PATH_BYTES], log[PATH_BYTES];
    char key_arg[PATH_BYTES + 40], ctrl_arg[PATH_BYTES + 40], state_arg[PATH_BYTES + 40];
    const char *argv[32];
    size_t n = 0;
    in_work(s, tag, "", path);
    in_work(s, "key", "", key);
    in_work(s, tag, ".sock", ctrl);
    in_work(s, tag, ".log", log);
    snprintf(ctrl_arg, sizeof(ctrl_arg), "type=unixio,path=%s", ctrl);
    if (trace) {
        const char *strace[] = {"strace", "-f", "-y", "-ttt", "-s", "0", "-o", trace};
        memcpy(argv, strace, sizeof(strace));
        n = ARRAY_LEN(strace);
    }
    argv[n++] = s->program;
    if (s->kind == SUBJECT_NVKEEP) {
        snprintf(key_arg, sizeof(key_arg), "file=%s", key);
        argv[n++] = "serve";
        argv[n++] = path;
        argv[n++] = "--key";
        argv[n++] = key_arg;
    } else {
        snprintf(state_arg, sizeof(state_arg),
                 s->kind == SUBJECT_SWTPM_FILE ? "backend-uri=file://%s" : "dir=%s", path);
        argv[n++] = "socket";
        argv[n++] = "--tpm2";
        argv[n++] = "--tpmstate";
        argv[n++] = state_arg;
        if (s->kind == SUBJECT_SWTPM_KEY) {
            snprintf(key_arg, sizeof(key_arg), "file=%s,format=hex,mode=aes-256-cbc", key);
            argv[n++] = "--key";
            argv[n++] = key_arg;
        }
    }
    argv[n++] = "--ctrl";
    argv[n++] = ctrl_arg;
    argv[n] = NULL;
    daemon_start(argv, ctrl, log, ret, ret_us);
}

void subject_state_path(const struct subject *s, const char *tag, char *ret, size_t ret_bytes)
{
    char path[PATH_BYTES];
    in_work(s, tag, "", path);
    snprintf(ret, ret_bytes, "%s", path);
}

uint64_t subject_state_bytes(const struct subject *s, const char *tag)
{
    char path[PATH_BYTES];
    struct stat st;
    in_work(s, tag, is_dir_kind(s) ? "/tpm2-00.permall" : "", path);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}
