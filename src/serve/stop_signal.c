#include "src/serve/stop_signal.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>

int stop_signal_open(int *ret, struct err *e)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int fd = pthread_sigmask(SIG_BLOCK, &set, NULL) == 0
                 ? signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)
                 : -1;
    if (fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot receive signals");
    *ret = fd;
    return 0;
}

const char *stop_signal_next(int fd)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return NULL;
    return info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM";
}
