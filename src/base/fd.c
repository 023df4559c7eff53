#include "src/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ssize_t fd_pread_full(int fd, void *buf, size_t n, uint64_t off)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = pread(fd, (char *)buf + done, n - done, (off_t)(off + done));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        done += (size_t)r;
    }
    return (ssize_t)done;
}

int fd_pwrite_full(int fd, const void *buf, size_t n, uint64_t off)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = pwrite(fd, (const char *)buf + done, n - done, (off_t)(off + done));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0) {
            errno = ENOSPC;
            return -1;
        }
        done += (size_t)r;
    }
    return 0;
}

ssize_t fd_read_full(int fd, void *buf, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = read(fd, (char *)buf + done, n - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        done += (size_t)r;
    }
    return (ssize_t)done;
}

int fd_write_full(int fd, const void *buf, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = write(fd, (const char *)buf + done, n - done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0) {
            errno = ENOSPC;
            return -1;
        }
        done += (size_t)r;
    }
    return 0;
}

int fd_sync_parent(const char *path)
{
    OWNED_HEAP char *copy = strdup(path); /* dirname() cuts it */
    if (!copy)
        return -1;
    OWNED_FD dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir < 0 ? -1 : fsync(dir);
}

static bool same_directory(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    struct stat x, y;
    char in[PATH_MAX], of[PATH_MAX];
    int m = snprintf(in, sizeof(in), "%.*s.", (int)a_bytes, a);
    int n = snprintf(of, sizeof(of), "%.*s.", (int)b_bytes, b);
    return m < PATH_MAX && n < PATH_MAX && stat(in, &x) == 0 && stat(of, &y) == 0 &&
           x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool fd_same_file(const char *a, const char *b)
{
    struct stat x, y;
    int has_a = stat(a, &x), has_b = stat(b, &y);
    if (has_a == 0 && has_b == 0)
        return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
    if (has_a == 0 || has_b == 0)
        return false;
    const char *base_a = strrchr(a, '/'), *base_b = strrchr(b, '/');
    base_a = base_a ? base_a + 1 : a;
    base_b = base_b ? base_b + 1 : b;
    return strcmp(base_a, base_b) == 0 &&
           same_directory(a, (size_t)(base_a - a), b, (size_t)(base_b - b));
}
