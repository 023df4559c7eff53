#include "crypto/secret.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { SECRET_MAX_BYTES = 64 << 20 };

/* Only the address and the sizes live on the heap. */
struct secret {
    uint8_t *p;
    size_t n;
    size_t mapped;
};

static int cannot_lock(struct err *e, int os, size_t n)
{
    return err_sys(e, ERR_STORAGE, os,
                   "cannot lock %zu bytes of memory for secrets; raise the limit RLIMIT_MEMLOCK "
                   "(ulimit -l, or LimitMEMLOCK= of the systemd unit)",
                   n);
}

/* Kept out of core dumps; a forked child finds zeroes. The second is missing in old kernels, where
 * copy-on-write copies are at least not dumped. */
static int seclude(void *p, size_t mapped, struct err *e)
{
    if (madvise(p, mapped, MADV_DONTDUMP) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot keep secret memory out of core dumps");
    if (madvise(p, mapped, MADV_WIPEONFORK) < 0 && errno != EINVAL)
        return err_sys(e, ERR_STORAGE, errno, "cannot keep secret memory from forked children");
    if (mlock(p, mapped) < 0)
        return cannot_lock(e, errno, mapped);
    return 0;
}

int secret_new(size_t n, struct secret **ret, struct err *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert(n > 0 && n <= SECRET_MAX_BYTES);
    OWNED_HEAP struct secret *s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "a secret");
    s->n = n;
    s->mapped = (n + page - 1) / page * page;
    s->p = mmap(NULL, s->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->p == MAP_FAILED)
        return err_sys(e, ERR_STORAGE, errno, "cannot map %zu bytes of secret memory", s->mapped);
    if (seclude(s->p, s->mapped, e) < 0) {
        munmap(s->p, s->mapped);
        return -1;
    }
    *ret = MOVE(s);
    return 0;
}

void secret_free(struct secret *s)
{
    if (!s)
        return;
    wipe(s->p, s->mapped);
    munmap(s->p, s->mapped);
    free(s);
}

uint8_t *secret_bytes(struct secret *s)
{
    return s->p;
}

const uint8_t *secret_peek(const struct secret *s)
{
    return s->p;
}

size_t secret_size(const struct secret *s)
{
    return s->n;
}

void wipe(void *p, size_t n)
{
    explicit_bzero(p, n);
}

bool equal_constant_time(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t differ = 0;
    for (size_t i = 0; i < n; i++)
        differ |= (uint8_t)(x[i] ^ y[i]);
    return differ == 0;
}
