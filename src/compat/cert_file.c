#include "src/compat/cert_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "crypto/prim.h"
#include "src/base/fd.h"

enum { QUOTED_BYTES = 300 };

int cert_file_read(const char *path, const char *what, struct secret **ret, size_t *ret_bytes,
                   struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED(secret) s = NULL;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    err_quote(buf, sizeof(buf), path, strlen(path));
    if (fd < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not read %s from file %s", what, buf);
    if (secret_new(CERT_FILE_BYTES + 1, &s, e) < 0)
        return -1;
    ssize_t n = fd_read_full(fd, secret_bytes(s), CERT_FILE_BYTES + 1);
    if (n < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not read %s from file %s", what, buf);
    if (n == 0 || n > CERT_FILE_BYTES)
        return err_set(e, ERR_USAGE, "Could not read %s from file %s: it %s", what, buf,
                       n == 0 ? "is empty" : "is too large");
    *ret = MOVE(s);
    *ret_bytes = (size_t)n;
    return 0;
}

/* A name next to it that nobody else has. */
static int make_aside(const char *path, mode_t mode, char ret[PATH_MAX], struct err *e)
{
    uint64_t tag;
    if (random_bytes(&tag, sizeof(tag), e) < 0)
        return -1;
    int n = snprintf(ret, PATH_MAX, "%s.%016llx", path, (unsigned long long)tag);
    if (n < 0 || n >= PATH_MAX)
        return err_set(e, ERR_USAGE, "the path of a file to be written is too long");
    int fd = open(ret, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && fchmod(fd, mode) == 0)
        return fd;
    int os = errno;
    if (fd >= 0) {
        close(fd);
        (void)unlink(ret);
    }
    return err_sys(e, ERR_USAGE, os, "Could not open %s for writing", path);
}

/* As the one that it takes the place of, as far as we may. */
static void become_like(int fd, const struct stat *st)
{
    (void)!fchown(fd, st->st_uid, st->st_gid);
    (void)fchmod(fd, st->st_mode & 0777);
}

/* Pipes and devices are written to as they are. */
static int write_in_place(const char *path, const void *p, size_t n, struct err *e)
{
    OWNED_FD fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fd_write_full(fd, p, n) < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not write %s", path);
    return 0;
}

int cert_file_write(const char *path, mode_t mode, bool durable, const void *p, size_t n,
                    struct err *e)
{
    char aside[PATH_MAX];
    struct stat st;
    const bool replaces = lstat(path, &st) == 0;
    if (replaces && !S_ISREG(st.st_mode))
        return write_in_place(path, p, n, e);
    OWNED_FD fd = make_aside(path, mode, aside, e);
    if (fd < 0)
        return -1;
    if (replaces)
        become_like(fd, &st);
    if (fd_write_full(fd, p, n) == 0 && (!durable || fsync(fd) == 0) && rename(aside, path) == 0)
        return 0;
    err_sys(e, ERR_STORAGE, errno, "Could not write %s", path);
    (void)unlink(aside);
    return -1;
}
