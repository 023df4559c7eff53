#include "tests/support/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

static struct {
    bool armed, for_good, failing;
    unsigned nth, n_calls, n_allocations, variant;
    const char *hit;
    int hit_errno;
    int n_mapped;
} fault;

enum { SECTOR = 512, MOST_UNREADABLE = 8 };
static struct {
    long long unreadable[MOST_UNREADABLE]; /* offsets, 0: none */
    bool elsewhere;
} storage;

void fault_arm(unsigned nth, bool for_good, unsigned variant)
{
    int n_mapped = fault.n_mapped;
    memset(&fault, 0, sizeof(fault));
    fault.armed = true;
    fault.nth = nth;
    fault.for_good = for_good;
    fault.variant = variant;
    fault.n_mapped = n_mapped;
}

unsigned fault_disarm(void)
{
    fault.armed = false;
    return fault.n_calls;
}

void fault_unreadable(long long at)
{
    for (size_t i = 0; i < MOST_UNREADABLE; i++) {
        if (storage.unreadable[i] != 0)
            continue;
        storage.unreadable[i] = at;
        return;
    }
    abort();
}

void fault_readable(void)
{
    memset(storage.unreadable, 0, sizeof(storage.unreadable));
}

void fault_elsewhere(bool yes)
{
    storage.elsewhere = yes;
}

const char *fault_hit(int *ret_errno)
{
    if (fault.hit)
        *ret_errno = fault.hit_errno;
    return fault.hit;
}

unsigned fault_n_allocations(void)
{
    return fault.n_allocations;
}

int fault_n_mapped(void)
{
    return fault.n_mapped;
}

/* True, with errno, when this call is to fail. */
static bool fails(const char *name, const int *errors, size_t n_errors)
{
    if (!fault.armed)
        return false;
    fault.n_calls++;
    if (fault.n_calls != fault.nth && !(fault.failing && fault.for_good))
        return false;
    fault.failing = true;
    int os = errors[fault.variant % n_errors];
    if (!fault.hit) {
        fault.hit = name;
        fault.hit_errno = os;
    }
    errno = os;
    return true;
}
#define FAILS(name, ...)                                                                           \
    fails(name, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

static bool allocation_fails(const char *name)
{
    fault.n_allocations += fault.armed;
    return FAILS(name, ENOMEM);
}

/* A call that returns -1 on failure, and is nothing else. */
#define WRAP(type, name, parameters, arguments, ...)                                               \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        if (FAILS(#name, __VA_ARGS__))                                                             \
            return -1;                                                                             \
        return __real_##name arguments;                                                            \
    }

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__wrap_calloc(size_t n, size_t each);
char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
int __real_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
char *__real_realpath(const char *path, char *resolved);
char *__wrap_realpath(const char *path, char *resolved);
int __real_fcntl(int fd, int cmd, ...);
int __wrap_fcntl(int fd, int cmd, ...);

void *__wrap_malloc(size_t n)
{
    return allocation_fails("malloc") ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t each)
{
    return allocation_fails("calloc") ? NULL : __real_calloc(n, each);
}

char *__wrap_strdup(const char *s)
{
    return allocation_fails("strdup") ? NULL : __real_strdup(s);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    if (allocation_fails("mmap"))
        return MAP_FAILED;
    void *p = __real_mmap(at, n, prot, flags, fd, off);
    fault.n_mapped += p != MAP_FAILED;
    return p;
}

int __wrap_munmap(void *p, size_t n)
{
    fault.n_mapped--;
    return __real_munmap(p, n);
}

char *__wrap_realpath(const char *path, char *resolved)
{
    return FAILS("realpath", ENOMEM, EACCES) ? NULL : __real_realpath(path, resolved);
}

static mode_t mode_in(int flags, va_list *ap)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(*ap, mode_t) : 0;
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_in(flags, &ap);
    va_end(ap);
    return FAILS("open", EACCES, EMFILE, EIO) ? -1 : __real_open(path, flags, mode);
}

int __wrap_openat(int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = mode_in(flags, &ap);
    va_end(ap);
    return FAILS("openat", EACCES, ENOSPC, EROFS) ? -1 : __real_openat(dir, path, flags, mode);
}

int __wrap_fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (cmd == F_OFD_SETLK && ((const struct flock *)arg)->l_type == F_UNLCK)
        return __real_fcntl(fd, cmd, arg);
    return FAILS("fcntl", ENOLCK, EIO) ? -1 : __real_fcntl(fd, cmd, arg);
}

WRAP(int, madvise, (void *p, size_t n, int advice), (p, n, advice), ENOMEM)
WRAP(int, mlock, (const void *p, size_t n), (p, n), ENOMEM, EPERM, EAGAIN)
WRAP(int, fdatasync, (int fd), (fd), EIO, ENOSPC, EDQUOT, EROFS)
WRAP(int, fsync, (int fd), (fd), EIO, ENOSPC, EDQUOT, EROFS)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), EIO, ENOSPC, EFBIG)
WRAP(int, fstat, (int fd, struct stat *st), (fd, st), EIO, ENOMEM)
WRAP(int, stat, (const char *path, struct stat *st), (path, st), EACCES, EIO)
WRAP(int, fstatat, (int fd, const char *path, struct stat *st, int flags), (fd, path, st, flags),
     EACCES, EIO)
WRAP(int, fstatvfs, (int fd, struct statvfs *v), (fd, v), EIO, ENOSYS)
WRAP(int, linkat, (int from_dir, const char *from, int dir, const char *to, int flags),
     (from_dir, from, dir, to, flags), EIO, ENOSPC, EROFS, EDQUOT)
WRAP(ssize_t, getrandom, (void *p, size_t n, unsigned flags), (p, n, flags), ENOSYS)

ssize_t __real_pread(int fd, void *p, size_t n, off_t off);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t off);
ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t off);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off);
int __real_fstatfs(int fd, struct statfs *st);
int __wrap_fstatfs(int fd, struct statfs *st);

static bool is_in(long long at, size_t n, off_t off)
{
    return at != 0 && off < at + SECTOR && at < off + (long long)n;
}

ssize_t __wrap_pread(int fd, void *p, size_t n, off_t off)
{
    if (FAILS("pread", EIO))
        return -1;
    for (size_t i = 0; i < MOST_UNREADABLE; i++) {
        if (!is_in(storage.unreadable[i], n, off))
            continue;
        errno = EIO;
        return -1;
    }
    return __real_pread(fd, p, n, off);
}

ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t off)
{
    if (FAILS("pwrite", EIO, ENOSPC, EDQUOT, EFBIG, EROFS, EPERM))
        return -1;
    for (size_t i = 0; i < MOST_UNREADABLE; i++)
        if (is_in(storage.unreadable[i], n, off))
            storage.unreadable[i] = 0;
    return __real_pwrite(fd, p, n, off);
}

int __wrap_fstatfs(int fd, struct statfs *st)
{
    enum { NFS = 0x6969 };
    int r = FAILS("fstatfs", EIO, ENOSYS) ? -1 : __real_fstatfs(fd, st);
    if (r == 0 && storage.elsewhere)
        st->f_type = NFS;
    return r;
}
