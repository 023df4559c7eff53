/* Preloaded: allocations fail as struct control (inject.h) says. They are counted from the
 * program's first own instruction on, or while the test has armed them.
 *
 * An allocation is told from others by the way to it, who called whom twelve deep: a TPM makes
 * thousands, most of them again and again in the same place. Not made to fail: what libtasn1 and
 * libseccomp ask for, which do not look at what they got. We see to it that they get what they need
 * (memory_for_asn1() in crypto/der.c, memory_for_filter() in src/serve/confine.c), and the
 * allocations by which we do fail like any other.
 */
#include "tests/crash/inject.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <unwind.h>

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static struct control *control;

static void __attribute__((constructor)) shim_start(void)
{
    const char *path = getenv("NVKEEP_FAULT_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p != MAP_FAILED)
        control = p;
}

/* Where the program came along: who called whom, as offsets in their objects, which do not change
 * from run to run. */
enum { WAY_FRAMES = 12 };

struct way {
    unsigned n;
    uint32_t hash;
    const char *caller; /* the object that asked; "": the program itself */
    size_t offset;
};

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *arg)
{
    struct way *w = arg;
    struct dl_find_object o;
    uintptr_t at = _Unwind_GetIP(context);
    w->n++;
    if (w->n <= 2) /* fails() and malloc() itself */
        return _URC_NO_REASON;
    if (at == 0 || _dl_find_object((void *)at, &o) != 0 || !o.dlfo_link_map)
        return _URC_END_OF_STACK;
    size_t offset = at - o.dlfo_link_map->l_addr;
    if (w->n == 3) {
        w->caller = o.dlfo_link_map->l_name;
        w->offset = offset;
    }
    w->hash = (w->hash ^ (uint32_t)offset) * 16777619;
    return w->n < WAY_FRAMES ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static void remember(const struct way *w)
{
    const char *slash = strrchr(w->caller, '/');
    snprintf(control->alloc_hit, sizeof(control->alloc_hit), "%s+0x%zx",
             slash        ? slash + 1
             : *w->caller ? w->caller
                          : "nvkeep",
             w->offset);
}

static bool is_meant(const struct way *w)
{
    if (control->n_alloc_hits > 0 && control->alloc_for_good)
        return true;
    return control->alloc_nth > 0 && w->hash == control->alloc_way &&
           __atomic_add_fetch(&control->n_alloc_seen, 1, __ATOMIC_RELAXED) == control->alloc_nth;
}

/* True, with errno, when what is asked for is not to be had. Inlined nowhere: its frame counts. */
static bool __attribute__((noinline)) fails(void)
{
    static _Thread_local bool busy;
    struct way w = {.hash = 2166136261, .caller = ""};
    if (!control || !control->armed || busy)
        return false;
    busy = true;
    _Unwind_Backtrace(step, &w);
    busy = false;
    if (strstr(w.caller, "libtasn1") || strstr(w.caller, "libseccomp")) {
        __atomic_add_fetch(&control->n_alloc_excluded, 1, __ATOMIC_RELAXED);
        return false;
    }
    uint32_t n = __atomic_fetch_add(&control->n_alloc_made, 1, __ATOMIC_RELAXED);
    if (control->record && n < INJECT_MAX_WAYS) {
        control->ways[n].way = w.hash;
        control->ways[n].is_ours = !*w.caller;
    }
    if (!is_meant(&w))
        return false;
    if (__atomic_add_fetch(&control->n_alloc_hits, 1, __ATOMIC_RELAXED) == 1)
        remember(&w);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n)
{
    return fails() ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t each)
{
    return fails() ? NULL : __libc_calloc(n, each);
}

void *realloc(void *p, size_t n)
{
    return fails() ? NULL : __libc_realloc(p, n);
}

void *reallocarray(void *p, size_t n, size_t each)
{
    size_t all;
    if (__builtin_mul_overflow(n, each, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    return fails() ? NULL : __libc_realloc(p, all);
}

void *memalign(size_t align, size_t n)
{
    return fails() ? NULL : __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return fails() ? NULL : __libc_memalign(align, n);
}

int posix_memalign(void **ret, size_t align, size_t n)
{
    void *p = fails() ? NULL : __libc_memalign(align, n);
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}
