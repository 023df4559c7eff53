#include "src/cli/progress.h"

#include <errno.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum { QUIET_MS = 500 };

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void note_signal(struct progress *p)
{
    struct signalfd_siginfo info;
    if (p->caught == 0 && read(p->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        p->caught = (int)info.ssi_signo;
}

static void show(struct progress *p, uint64_t done, uint64_t total)
{
    if (!p->shows || total == 0 || now_ms() - p->began_ms < QUIET_MS)
        return;
    int percent = (int)((double)done * 100 / (double)total);
    if (percent <= p->shown || percent > 100)
        return;
    p->shown = percent;
    fprintf(stderr, "\r%s: %3d %%", p->what, percent);
    fflush(stderr);
}

static bool go_on(void *ctx, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    pthread_mutex_lock(&p->lock);
    note_signal(p);
    bool stop = p->caught != 0;
    if (!stop)
        show(p, done, total);
    pthread_mutex_unlock(&p->lock);
    return !stop;
}

int progress_begin(struct progress *p, const char *what, struct err *e)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    sigset_t held;
    sigemptyset(&held);
    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        sigaddset(&held, ends[i]);
    int fd = signalfd(-1, &held, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot wait for signals");
    *p = (struct progress){
        .watch = {go_on, p},
        .what = what,
        .shows = isatty(STDERR_FILENO),
        .signals = fd,
        .began_ms = now_ms(),
        .shown = -1,
    };
    pthread_mutex_init(&p->lock, NULL);
    pthread_sigmask(SIG_BLOCK, &held, &p->was);
    return 0;
}

bool progress_interrupted(struct progress *p)
{
    return !go_on(p, 0, 0);
}

int progress_end(struct progress *p)
{
    note_signal(p);
    if (p->shown >= 0)
        fputs("\r\033[K", stderr);
    close(p->signals);
    pthread_mutex_destroy(&p->lock);
    pthread_sigmask(SIG_SETMASK, &p->was, NULL);
    return p->caught;
}
