#include "src/serve/confine.h"

#include <errno.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define LEAKS_ARE_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAKS_ARE_CHECKED 1
#endif
#endif

#ifdef LEAKS_ARE_CHECKED
/* The leak checker clones and traces the process at its end, which is what is forbidden here. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER;
}
#endif

/* With any arguments. */
static const int allowed[] = {
    /* what is open already */
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pwrite64),
    SCMP_SYS(pwritev),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fsync),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(fcntl),
    SCMP_SYS(fcntl64),
    SCMP_SYS(fadvise64), /* an image that is claimed again is not read from the page cache */
    /* looking at names reveals nothing that opening would */
    SCMP_SYS(newfstatat),
    SCMP_SYS(fstatat64),
    SCMP_SYS(stat),
    SCMP_SYS(stat64),
    SCMP_SYS(statx),
    /* clients */
    SCMP_SYS(accept4),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),
    SCMP_SYS(getsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    /* memory and threads */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mlock),
    SCMP_SYS(mlock2),
    SCMP_SYS(munlock),
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_yield),
    SCMP_SYS(getrandom),
    /* time, signals, the end */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sysinfo),
    SCMP_SYS(getrusage),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

static int allow(scmp_filter_ctx ctx, int call, unsigned n, const struct scmp_arg_cmp *args)
{
    /* A call that this architecture does not have needs no rule. */
    return call < 0 ? 0 : seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, call, n, args);
}

static int allow_all_listed(scmp_filter_ctx ctx)
{
    for (size_t i = 0; i < ARRAY_LEN(allowed); i++) {
        int r = allow(ctx, allowed[i], 0, NULL);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Memory that can be executed is never made again. */
static int allow_memory(scmp_filter_ctx ctx)
{
    const struct scmp_arg_cmp not_exec[] = {SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)};
    static const int calls[] = {SCMP_SYS(mmap), SCMP_SYS(mmap2), SCMP_SYS(mprotect)};
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        int r = allow(ctx, calls[i], ARRAY_LEN(not_exec), not_exec);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Our own sockets and pid file, at the end; abort(); asking whether we are confined. */
static int allow_the_end(scmp_filter_ctx ctx, const struct confine *c)
{
    const struct scmp_arg_cmp self[] = {SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid())};
    const struct scmp_arg_cmp ask[] = {SCMP_A0(SCMP_CMP_EQ, PR_GET_SECCOMP)};
    int r = allow(ctx, SCMP_SYS(tgkill), ARRAY_LEN(self), self);
    if (r == 0)
        r = allow(ctx, SCMP_SYS(prctl), ARRAY_LEN(ask), ask);
    for (size_t i = 0; r == 0 && i < CONFINE_MAX_DIRS; i++) {
        if (c->dirs[i] < 0)
            continue;
        const struct scmp_arg_cmp there[] = {
            SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)c->dirs[i]),
            SCMP_A2_32(SCMP_CMP_EQ, 0),
        };
        r = allow(ctx, SCMP_SYS(unlinkat), ARRAY_LEN(there), there);
    }
    return r;
}

static int load(scmp_filter_ctx ctx, const struct confine *c)
{
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
    if (r == 0)
        r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* binary tree: cheap per call */
    if (r == 0)
        r = allow_all_listed(ctx);
    if (r == 0)
        r = allow_memory(ctx);
    if (r == 0)
        r = allow_the_end(ctx, c);
    return r == 0 ? seccomp_load(ctx) : r;
}

/* The kernel cannot do it, or there was no memory (for libseccomp that may be a bad address). */
static enum err_kind refusal(int os)
{
    return os == ENOMEM || os == EFAULT ? ERR_STORAGE : ERR_UNSUPPORTED;
}

/* Everything that the first version of Landlock knows. */
enum { ALL_ACCESS = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };

static int allow_removal(int rules, int dir)
{
    const struct landlock_path_beneath_attr here = {
        .allowed_access = LANDLOCK_ACCESS_FS_REMOVE_FILE,
        .parent_fd = dir,
    };
    return (int)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &here, 0);
}

int confine_names(const struct confine *c, struct err *e)
{
    const struct landlock_ruleset_attr all = {.handled_access_fs = ALL_ACCESS};
    OWNED_FD rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (rules < 0 && (errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM))
        return 0;
    int r = rules < 0 ? -1 : 0;
    for (size_t i = 0; r == 0 && i < CONFINE_MAX_DIRS; i++)
        if (c->dirs[i] >= 0)
            r = allow_removal(rules, c->dirs[i]);
    if (r == 0)
        r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (r == 0)
        r = (int)syscall(SYS_landlock_restrict_self, rules, 0);
    if (r == 0)
        return 0;
    return err_sys(e, refusal(errno), errno, "cannot confine a thread with Landlock");
}

/* libseccomp does not look everywhere at what malloc() gave it: it crashes, or makes a filter
 * without some of its rules. What it needs (190 KB in small pieces) fits into what is had and given
 * back here, so that the lack of memory is met before. */
static int memory_for_filter(struct err *e)
{
    enum { ROOM = 512 << 10 };
    void *p = malloc(ROOM);
    if (!p)
        return err_nomem(e, "the system call filter");
    __asm__ volatile("" : : "r"(p) : "memory"); /* or the pair is optimised away */
    free(p);
    return 0;
}

int confine(const struct confine *c, struct err *e)
{
    if (memory_for_filter(e) < 0 || confine_names(c, e) < 0)
        return -1;
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!ctx)
        return err_nomem(e, "the system call filter");
    int r = load(ctx, c);
    seccomp_release(ctx);
    if (r == 0)
        return 0;
    return err_sys(e, refusal(-r), -r,
                   "cannot confine this process with a system call filter (seccomp)");
}

int confine_memory(struct err *e)
{
    const struct rlimit none = {0, 0};
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot switch core dumps off");
    return 0;
}
