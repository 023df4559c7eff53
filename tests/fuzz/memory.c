#include "tests/fuzz/memory.h"

#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t each);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
int __real_munmap(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t each);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *p, size_t n);

/* What was there before memory_begin() may be given back meanwhile. */
static long long now, peak;

static void count(long long n)
{
    now += n;
    if (now > peak)
        peak = now;
}

static size_t size_of(void *p)
{
    return p ? malloc_usable_size(p) : 0;
}

void *__wrap_malloc(size_t n)
{
    void *p = __real_malloc(n);
    count((long long)size_of(p));
    return p;
}

void *__wrap_calloc(size_t n, size_t each)
{
    void *p = __real_calloc(n, each);
    count((long long)size_of(p));
    return p;
}

void *__wrap_realloc(void *old, size_t n)
{
    long long before = (long long)size_of(old);
    void *p = __real_realloc(old, n);
    if (p || n == 0)
        count((long long)size_of(p) - before);
    return p;
}

void __wrap_free(void *p)
{
    count(-(long long)size_of(p));
    __real_free(p);
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    void *p = __real_mmap(at, n, prot, flags, fd, off);
    if (p != MAP_FAILED)
        count((long long)n);
    return p;
}

int __wrap_munmap(void *p, size_t n)
{
    count(-(long long)n);
    return __real_munmap(p, n);
}

void memory_begin(void)
{
    now = peak = 0;
}

size_t memory_peak(void)
{
    return peak > 0 ? (size_t)peak : 0;
}
