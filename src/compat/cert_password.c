#include "src/compat/cert_password.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "src/base/fd.h"

int cert_password(const char *text, struct secret **ret, struct err *e)
{
    const size_t n = strlen(text);
    OWNED(secret) s = NULL;
    if (n > CERT_PASSWORD_BYTES)
        return err_set(e, ERR_USAGE, "a password of %zu bytes; at most %d are taken", n,
                       CERT_PASSWORD_BYTES);
    if (secret_new(CERT_PASSWORD_BYTES + 1, &s, e) < 0)
        return -1;
    memcpy(secret_bytes(s), text, n);
    *ret = MOVE(s);
    return 0;
}

static int of_fd(int fd, struct secret **ret, struct err *e)
{
    OWNED(secret) s = NULL;
    if (secret_new(CERT_PASSWORD_BYTES + 1, &s, e) < 0)
        return -1;
    if (fd_read_full(fd, secret_bytes(s), CERT_PASSWORD_BYTES) < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not read password from file descriptor");
    *ret = MOVE(s);
    return 0;
}

static int of_number(const char *text, struct secret **ret, struct err *e)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end || fd < 0 || fd > INT_MAX)
        return err_set(e, ERR_USAGE, "Bad file descriptor for password.");
    return of_fd((int)fd, ret, e);
}

static const char *behind(const char *words, const char *prefix)
{
    const size_t n = strlen(prefix);
    return strncmp(words, prefix, n) == 0 ? words + n : NULL;
}

int cert_password_named(const char *words, struct secret **ret, struct err *e)
{
    const char *at;
    if ((at = behind(words, "fd:")))
        return of_number(at, ret, e);
    if ((at = behind(words, "file:"))) {
        OWNED_FD fd = open(at, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        return fd < 0 ? err_sys(e, ERR_USAGE, errno, "Could not open password file for reading")
                      : of_fd(fd, ret, e);
    }
    if ((at = behind(words, "env:"))) {
        const char *text = getenv(at);
        return text ? cert_password(text, ret, e)
                    : err_set(e, ERR_USAGE, "Could not get password from environment variable");
    }
    at = behind(words, "pass:");
    return cert_password(at ? at : words, ret, e);
}
