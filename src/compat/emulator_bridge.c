#include "src/compat/emulator_bridge.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>

#include "crypto/secret.h"
#include "src/base/fd.h"

enum { BUFFER_BYTES = 4096 + 16 }; /* a command or a response, framed */

struct bridge {
    int device, socket;
    struct secret *memory; /* commands carry passwords */
};

/* One piece from here to there. False: one of them is gone. */
static bool pass_on(struct bridge *b, int from, int to)
{
    uint8_t *buf = secret_bytes(b->memory);
    ssize_t n = read(from, buf, BUFFER_BYTES);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    bool done = n > 0 && fd_write_full(to, buf, (size_t)n) == 0;
    wipe(buf, (size_t)n);
    return done;
}

static void *run(void *ctx)
{
    struct bridge *b = ctx;
    for (bool alive = true; alive;) {
        struct pollfd p[] = {{.fd = b->device, .events = POLLIN},
                             {.fd = b->socket, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents)
            alive = pass_on(b, b->socket, b->device);
        if (alive && p[0].revents)
            alive = pass_on(b, b->device, b->socket);
    }
    close(b->socket);
    close(b->device);
    secret_free(b->memory);
    free(b);
    return NULL;
}

int emulator_bridge(int *device, int *ret, struct err *e)
{
    int ends[2];
    pthread_t thread;
    struct bridge *b = calloc(1, sizeof(*b));
    if (!b)
        return err_nomem(e, "a character device");
    if (secret_new(BUFFER_BYTES, &b->memory, e) < 0) {
        free(b);
        return -1;
    }
    int os = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? errno : 0;
    if (os == 0) {
        b->device = *device;
        b->socket = ends[0];
        os = pthread_create(&thread, NULL, run, b);
        if (os != 0) {
            close(ends[0]);
            close(ends[1]);
        }
    }
    if (os != 0) {
        secret_free(b->memory);
        free(b);
        return err_sys(e, ERR_STORAGE, os, "cannot serve a character device");
    }
    pthread_detach(thread);
    *device = -1;
    *ret = ends[1];
    return 0;
}
