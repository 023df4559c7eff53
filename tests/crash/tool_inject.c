/* Runs a program and makes one of its system calls fail, by ptrace:
 *
 *     inject CONTROL LOG SHIM PROGRAM ARGUMENT...
 *
 * CONTROL is a file that holds a struct control (inject.h), shared with whoever says what is to
 * fail and when; it may be changed while the program runs. LOG, unless it is "-", gets one line for
 * each system call made while armed: number, arguments, file. SHIM, unless it is "-", is preloaded
 * (see shim_alloc.c). The program's own first instruction is where arming begins if arm_at_entry is
 * set: what the dynamic loader does is not the program's.
 *
 * All threads and children are followed; calls are counted over all of them. The first program's
 * wait status is written to CONTROL when it ends; inject itself ends with the last child. Filters
 * (seccomp) stay in force: a call is taken out before the filter sees it, and nothing is allowed
 * that was not.
 */
#include "tests/crash/inject.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __x86_64__
int main(void)
{
    puts("missing: inject knows the registers of x86-64 alone");
    return 77;
}
#else

enum { MAX_TASKS = 64, LINE_BYTES = 512 };
enum {
    OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
              PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL
};

struct task {
    pid_t tid; /* 0: free */
    bool started, inside;
    bool overridden; /* the call it is in ends otherwise than it would */
    uint64_t old_length;
};

struct tracer {
    struct control *c;
    FILE *log;
    pid_t program;
    uint64_t entry; /* a breakpoint is there; 0: no more */
    long word;      /* what was there */
    struct task tasks[MAX_TASKS];
};

static void __attribute__((noreturn)) die(const char *what)
{
    perror(what);
    exit(125);
}

static struct task *task_of(struct tracer *t, pid_t tid)
{
    struct task *free_one = NULL;
    for (size_t i = 0; i < MAX_TASKS; i++) {
        if (t->tasks[i].tid == tid)
            return &t->tasks[i];
        if (t->tasks[i].tid == 0 && !free_one)
            free_one = &t->tasks[i];
    }
    if (!free_one)
        die("too many threads");
    *free_one = (struct task){.tid = tid};
    return free_one;
}

/* ---- the program's first own instruction ---- */

static uint64_t entry_of(pid_t pid)
{
    char path[40];
    uint64_t pair[2], at = 0;
    snprintf(path, sizeof(path), "/proc/%d/auxv", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && at == 0 && read(fd, pair, sizeof(pair)) == (ssize_t)sizeof(pair))
        if (pair[0] == AT_ENTRY)
            at = pair[1];
    close(fd);
    return at;
}

static void put_breakpoint(struct tracer *t)
{
    t->entry = entry_of(t->program);
    errno = 0;
    t->word = ptrace(PTRACE_PEEKTEXT, t->program, t->entry, NULL);
    if (errno || ptrace(PTRACE_POKETEXT, t->program, t->entry, (t->word & ~0xffL) | 0xcc) < 0)
        die("the program's entry");
}

/* True when that is where the program stopped: it goes on from there, armed. */
static bool at_entry(struct tracer *t, pid_t tid)
{
    struct user_regs_struct r;
    if (!t->entry || ptrace(PTRACE_GETREGS, tid, NULL, &r) < 0 || r.rip != t->entry + 1)
        return false;
    r.rip = t->entry;
    if (ptrace(PTRACE_POKETEXT, tid, t->entry, t->word) < 0 ||
        ptrace(PTRACE_SETREGS, tid, NULL, &r) < 0)
        die("the program's entry");
    t->entry = 0;
    if (t->c->arm_at_entry)
        t->c->armed = 1;
    return true;
}

/* ---- system calls ---- */

static bool first_argument_is_file(long call)
{
    return call == SYS_read || call == SYS_write || call == SYS_pread64 || call == SYS_pwrite64 ||
           call == SYS_fsync || call == SYS_fdatasync || call == SYS_fcntl || call == SYS_close ||
           call == SYS_fstat || call == SYS_newfstatat || call == SYS_openat ||
           call == SYS_ftruncate || call == SYS_lseek || call == SYS_sendmsg ||
           call == SYS_recvmsg || call == SYS_accept4;
}

static void describe(const struct user_regs_struct *r, pid_t tid, char *to, size_t room)
{
    char link[40], file[200] = "";
    if (first_argument_is_file((long)r->orig_rax)) {
        snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)tid, (int)r->rdi);
        ssize_t n = readlink(link, file, sizeof(file) - 1);
        file[n < 0 ? 0 : n] = 0;
    }
    snprintf(to, room, "%lld %llx %llx %llx %llx %llx %llx %s", (long long)r->orig_rax, r->rdi,
             r->rsi, r->rdx, r->r10, r->r8, r->r9, file);
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* What the kernel keeps in memory gives and takes without fail: eventfd, signalfd. And a pipe whose
 * writer is there, or a device, has no end. */
static bool never_fails(const struct control *c, const struct user_regs_struct *r, pid_t tid)
{
    char link[40], file[20] = "";
    if (r->orig_rax != SYS_read && r->orig_rax != SYS_write)
        return false;
    snprintf(link, sizeof(link), "/proc/%d/fd/%d", (int)tid, (int)r->rdi);
    if (readlink(link, file, sizeof(file) - 1) <= 0)
        return false;
    if (begins(file, "anon_inode:"))
        return c->error != EAGAIN;
    return c->error == 0 && c->how == INJECT_INSTEAD &&
           (begins(file, "pipe:") || begins(file, "/dev/"));
}

static bool is_meant(const struct control *c, const struct user_regs_struct *r)
{
    if (c->call != (uint32_t)r->orig_rax)
        return false;
    if (c->match == INJECT_FIRST)
        return c->value == (uint32_t)r->rdi;
    return c->match != INJECT_SECOND || c->value == (uint32_t)r->rsi;
}

/* Direct I/O is short by whole sectors alone. */
static uint64_t half(uint64_t n)
{
    uint64_t unit = n % 512 == 0 ? 512 : 1;
    return n / 2 < unit ? n : n / 2 / unit * unit;
}

static void override(struct tracer *t, struct task *task, struct user_regs_struct *r)
{
    struct control *c = t->c;
    if (c->n_hits++ == 0)
        describe(r, task->tid, c->hit, sizeof(c->hit));
    task->overridden = true;
    task->old_length = r->rdx;
    if (c->how == INJECT_AFTERWARDS)
        return;
    if (c->how == INJECT_SHORT)
        r->rdx = half(r->rdx);
    else
        r->orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, task->tid, NULL, r) < 0)
        die("registers");
    if (c->how == INJECT_KILL)
        (void)kill(t->program, SIGKILL);
}

static void on_entry(struct tracer *t, struct task *task)
{
    struct control *c = t->c;
    struct user_regs_struct r;
    char line[LINE_BYTES];
    task->overridden = false;
    if (!c->armed || ptrace(PTRACE_GETREGS, task->tid, NULL, &r) < 0)
        return;
    c->n_calls++;
    if (t->log) {
        describe(&r, task->tid, line, sizeof(line));
        fprintf(t->log, "%s\n", line);
    }
    if (!is_meant(c, &r))
        return;
    c->n_seen++;
    bool fires = c->n_seen == c->nth || (c->for_good && c->n_seen > c->nth && c->nth > 0);
    if (fires && !never_fails(c, &r, task->tid))
        override(t, task, &r);
}

static bool confines(const struct user_regs_struct *r)
{
    return r->orig_rax == SYS_seccomp && r->rdi == SECCOMP_SET_MODE_FILTER && r->rax == 0;
}

static void on_exit_of(struct tracer *t, struct task *task)
{
    struct control *c = t->c;
    struct user_regs_struct r;
    if (!task->overridden && !(c->armed && c->until_confined))
        return;
    if (ptrace(PTRACE_GETREGS, task->tid, NULL, &r) < 0)
        return;
    if (!task->overridden) {
        if (confines(&r))
            c->armed = 0;
        return;
    }
    if (c->how == INJECT_SHORT)
        r.rdx = task->old_length;
    else
        r.rax = (unsigned long long)-(long long)c->error;
    if (ptrace(PTRACE_SETREGS, task->tid, NULL, &r) < 0)
        die("registers");
}

/* ---- stops ---- */

/* The signal to go on with. */
static int on_stop(struct tracer *t, struct task *task, int status)
{
    int sig = WSTOPSIG(status);
    if (sig == (SIGTRAP | 0x80)) {
        task->inside = !task->inside;
        if (task->inside)
            on_entry(t, task);
        else
            on_exit_of(t, task);
        return 0;
    }
    if (status >> 16) { /* an event; after exec the call is over without another stop */
        if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)) && task->tid == t->program)
            put_breakpoint(t);
        return 0;
    }
    if (sig == SIGSTOP && !task->started) {
        task->started = true;
        return 0;
    }
    return sig == SIGTRAP && at_entry(t, task->tid) ? 0 : sig;
}

static void follow(struct tracer *t)
{
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0 && errno == EINTR)
            continue;
        if (tid < 0)
            return;
        struct task *task = task_of(t, tid);
        if (!WIFSTOPPED(status)) {
            task->tid = 0;
            if (tid == t->program) {
                t->c->status = (uint32_t)status;
                t->c->armed = 0;
                t->c->has_ended = 1;
            }
            continue;
        }
        int sig = on_stop(t, task, status);
        /* Where only allocations fail, nobody looks at system calls. */
        bool looks = t->log || t->entry || t->c->call != INJECT_NO_CALL || t->c->until_confined;
        int how = looks ? PTRACE_SYSCALL : PTRACE_CONT;
        if (how == PTRACE_CONT)
            task->inside = false;
        (void)ptrace(how, tid, NULL, sig);
    }
}

static void start(struct tracer *t, const char *shim, char **argv)
{
    t->program = fork();
    if (t->program < 0)
        die("fork");
    if (t->program == 0) {
        if (strcmp(shim, "-") != 0)
            setenv("LD_PRELOAD", shim, 1);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            die("missing: the right to trace");
        raise(SIGSTOP);
        execv(argv[0], argv);
        die(argv[0]);
    }
    int status;
    if (waitpid(t->program, &status, 0) != t->program || !WIFSTOPPED(status) ||
        ptrace(PTRACE_SETOPTIONS, t->program, NULL, OPTIONS) < 0)
        die("missing: the right to trace");
    task_of(t, t->program)->started = true;
    t->c->program = (uint32_t)t->program;
    (void)ptrace(PTRACE_SYSCALL, t->program, NULL, 0);
}

int main(int argc, char **argv)
{
    struct tracer t = {0};
    if (argc < 5) {
        fputs("inject CONTROL LOG SHIM PROGRAM ARGUMENT...\n", stderr);
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    t.c = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*t.c), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (t.c == MAP_FAILED)
        die(argv[1]);
    if (strcmp(argv[2], "-") != 0 && !(t.log = fopen(argv[2], "we")))
        die(argv[2]);
    if (t.log)
        setvbuf(t.log, NULL, _IOLBF, 0); /* it is read while the program runs */
    setenv("NVKEEP_FAULT_CONTROL", argv[1], 1);
    start(&t, argv[3], argv + 4);
    follow(&t);
    if (t.log)
        fclose(t.log);
    return 0;
}
#endif
