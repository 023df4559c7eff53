#include "src/serve/admin_key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "src/key/key_source.h"
#include "src/serve/clock.h"

enum { FIRST_BYTES = 4096 };

struct admin_key {
    int fd;
    bool strips;
    int64_t limit;
    struct secret *bytes;
    size_t n;
};

int admin_key_new(int *fd, bool strips, struct admin_key **ret, struct err *e)
{
    struct stat st;
    int flags = fcntl(*fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY || flags & O_PATH || fstat(*fd, &st) < 0)
        return err_set(e, ERR_USAGE, "the descriptor that came along cannot be read");
    if (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) && !S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE,
                       "the descriptor that came along is no pipe, socket or file; a key is read "
                       "from one of these");
    if (fcntl(*fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return err_sys(e, ERR_STORAGE, errno, "the descriptor that came along");
    OWNED(admin_key) k = calloc(1, sizeof(*k));
    if (!k)
        return err_nomem(e, "a key");
    k->fd = -1;
    if (secret_new(FIRST_BYTES, &k->bytes, e) < 0)
        return -1;
    k->fd = MOVE_FD(*fd);
    k->strips = strips;
    k->limit = now_ms() + ADMIN_KEY_MS;
    *ret = MOVE(k);
    return 0;
}

void admin_key_free(struct admin_key *k)
{
    if (!k)
        return;
    secret_free(k->bytes);
    if (k->fd >= 0)
        close(k->fd);
    free(k);
}

int admin_key_fd(const struct admin_key *k)
{
    return k->fd;
}

int64_t admin_key_limit(const struct admin_key *k)
{
    return k->limit;
}

/* A secret cannot grow: what does not fit moves to the largest one. */
static int make_room(struct admin_key *k, struct err *e)
{
    OWNED(secret) larger = NULL;
    if (k->n > KEY_MAX_BYTES)
        return err_set(e, ERR_USAGE, "the key is longer than %d bytes; this is not a key",
                       KEY_MAX_BYTES);
    if (k->n < secret_size(k->bytes))
        return 0;
    if (secret_new(KEY_MAX_BYTES + 1, &larger, e) < 0)
        return -1;
    memcpy(secret_bytes(larger), secret_peek(k->bytes), k->n);
    secret_free(k->bytes);
    k->bytes = MOVE(larger);
    return 0;
}

static int finish(struct admin_key *k, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    if (k->strips && k->n > 0 && secret_peek(k->bytes)[k->n - 1] == '\n')
        k->n--;
    if (k->n == 0)
        return err_set(e, ERR_KEY_MISSING, "the key that came is empty");
    *ret = MOVE(k->bytes);
    *ret_bytes = k->n;
    return 1;
}

int admin_key_read(struct admin_key *k, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    for (;;) {
        if (make_room(k, e) < 0)
            return -1;
        ssize_t r = read(k->fd, secret_bytes(k->bytes) + k->n, secret_size(k->bytes) - k->n);
        if (r == 0)
            return finish(k, ret, ret_bytes, e);
        if (r > 0)
            k->n += (size_t)r;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return err_sys(e, ERR_STORAGE, errno, "cannot read the key that came along");
    }
    if (now_ms() < k->limit)
        return 0;
    return err_set(e, ERR_USAGE,
                   "the key did not end within %d seconds; close the descriptor behind its last "
                   "byte",
                   ADMIN_KEY_MS / 1000);
}
