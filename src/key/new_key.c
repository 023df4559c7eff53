#include "src/key/new_key.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "crypto/prim.h"
#include "src/base/fd.h"

enum { RANDOM_BYTES = 32, QUOTED_BYTES = 200 };

/* Digit v (0 to 63) of [RFC 4648 4]. By arithmetic: v is part of the key, and neither a branch nor
 * an address may depend on it. Each term applies to the digits above its bound. */
static uint8_t base64_digit(uint32_t v)
{
    return (uint8_t)('A' + v + ('a' - 'Z' - 1) * ((25 - v) >> 31) -
                     ('z' + 1 - '0') * ((51 - v) >> 31) - ('9' + 1 - '+') * ((61 - v) >> 31) +
                     ('/' - '+' - 1) * ((62 - v) >> 31));
}

/* n is not a multiple of three here in general; `ret` has 4 * ceil(n / 3) bytes. */
static void base64(const uint8_t *p, size_t n, uint8_t *ret)
{
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)p[i] << 16;
        three |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        three |= i + 2 < n ? p[i + 2] : 0;
        *ret++ = base64_digit(three >> 18);
        *ret++ = base64_digit(three >> 12 & 63);
        *ret++ = i + 1 < n ? base64_digit(three >> 6 & 63) : '=';
        *ret++ = i + 2 < n ? base64_digit(three & 63) : '=';
    }
}

/* Without a name until it is whole: who is killed meanwhile leaves no part of a key behind. */
static int open_nameless(const char *path)
{
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof(copy))
        return -1;
    memcpy(copy, path, strlen(path) + 1);
    return open(dirname(copy), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
}

static int give_name(int fd, const char *path)
{
    char self[40];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    return errno == ENOENT ? linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH) : -1;
}

static int cannot_make(const char *path, struct err *e)
{
    char buf[QUOTED_BYTES];
    err_quote(buf, sizeof(buf), path, strlen(path));
    if (errno == EEXIST)
        return err_set(e, ERR_USAGE, "%s exists; --new-key makes a new file and never replaces one",
                       buf);
    return err_sys(e, err_kind_of_path(errno), errno, "cannot make the key file %s", buf);
}

static int write_file(const char *path, const struct secret *key, struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED_FD fd = open_nameless(path);
    bool named = fd < 0;
    if (named) /* there are none here */
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return cannot_make(path, e);
    int r = fd_write_full(fd, secret_peek(key), NEW_KEY_TEXT_BYTES) < 0 || fsync(fd) < 0
                ? err_sys(e, ERR_STORAGE, errno, "cannot write the key file %s",
                          err_quote(buf, sizeof(buf), path, strlen(path)))
                : 0;
    if (r == 0 && !named) {
        if (give_name(fd, path) < 0)
            return cannot_make(path, e);
        named = true;
    }
    if (r == 0 && fd_sync_parent(path) < 0)
        r = err_sys(e, ERR_STORAGE, errno, "cannot make the new key file durable");
    if (r < 0 && named)
        (void)unlink(path);
    return r;
}

int new_key_file(const char *path, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    OWNED(secret) raw = NULL;
    OWNED(secret) text = NULL;
    if (secret_new(RANDOM_BYTES, &raw, e) < 0 || secret_new(NEW_KEY_TEXT_BYTES, &text, e) < 0 ||
        random_bytes(secret_bytes(raw), RANDOM_BYTES, e) < 0)
        return -1;
    base64(secret_peek(raw), RANDOM_BYTES, secret_bytes(text));
    if (write_file(path, text, e) < 0)
        return -1;
    *ret = MOVE(text);
    *ret_bytes = NEW_KEY_TEXT_BYTES;
    return 0;
}
