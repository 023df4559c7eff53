#include "compare_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "compare_daemon.h"
#include "src/base/fd.h"

enum { FLOOR_BYTES = 1 << 20, FLOOR_BLOCK = 4096 };

const char *const floor_names[FLOOR_N] = {
    [FLOOR_DIRECT_4K] = "O_DIRECT 4096 + fdatasync",
    [FLOOR_DIRECT_512] = "O_DIRECT 512 + fdatasync",
    [FLOOR_BUFFERED_4K] = "buffered 4096 + fdatasync",
    [FLOOR_BUFFERED_512] = "buffered 512 + fdatasync",
};

static void echo_child(int fd)
{
    uint8_t b[4096];
    for (;;) {
        ssize_t n = read(fd, b, sizeof(b));
        if (n <= 0 || fd_write_full(fd, b, (size_t)n) < 0)
            _exit(0);
    }
}

void floor_open(struct floor *f, const char *work)
{
    char path[400];
    int pair[2];
    snprintf(path, sizeof(path), "%s/floor", work);
    f->at = 0;
    f->block = aligned_alloc(FLOOR_BLOCK, FLOOR_BLOCK);
    f->buffered = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (!f->block || f->buffered < 0)
        fail("%s: %s", path, strerror(errno));
    memset(f->block, 0x5a, FLOOR_BLOCK);
    for (uint64_t at = 0; at < FLOOR_BYTES; at += FLOOR_BLOCK)
        if (fd_pwrite_full(f->buffered, f->block, FLOOR_BLOCK, at) < 0)
            fail("%s: %s", path, strerror(errno));
    if (fsync(f->buffered) < 0)
        fail("%s: %s", path, strerror(errno));
    f->direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        fail("socketpair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        fail("fork: %s", strerror(errno));
    if (pid == 0) {
        close(pair[0]);
        echo_child(pair[1]);
    }
    close(pair[1]);
    f->echo = pair[0];
}

void floor_close(struct floor *f)
{
    close(f->echo);
    close(f->buffered);
    if (f->direct >= 0)
        close(f->direct);
    free(f->block);
}

double floor_write(struct floor *f, enum floor_kind kind)
{
    bool direct = kind == FLOOR_DIRECT_4K || kind == FLOOR_DIRECT_512;
    size_t n = kind == FLOOR_DIRECT_4K || kind == FLOOR_BUFFERED_4K ? FLOOR_BLOCK : 512;
    int fd = direct ? f->direct : f->buffered;
    if (fd < 0)
        return -1;
    uint64_t at = f->at;
    f->at = (f->at + FLOOR_BLOCK) % FLOOR_BYTES;
    memset(f->block, (int)(at >> 12) + 1, 8);
    double t = now_us();
    if (fd_pwrite_full(fd, f->block, n, at) < 0 || fdatasync(fd) < 0) {
        if (direct && errno == EINVAL)
            return -1;
        fail("floor: %s", strerror(errno));
    }
    return now_us() - t;
}

double floor_echo(struct floor *f)
{
    uint8_t b[64] = {0};
    double t = now_us();
    if (fd_write_full(f->echo, b, 12) < 0 || read(f->echo, b, sizeof(b)) != 12)
        fail("echo: %s", strerror(errno));
    return now_us() - t;
}
