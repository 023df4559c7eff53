#include "src/serve/harden.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Descriptors 0 to 2 are open: otherwise the next file to be opened would become standard output
 * and be written to. Each is opened the wrong way round, so that using it is an error: a report
 * that nobody can read was not written. */
static int ensure_stdio(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            return -1;
    return 0;
}

/* Before anything secret exists: no core dumps, no other process of the user looks in, a peer that
 * goes away and a file that may not grow are errors and not a death, files are the owner's. */
static int harden(void)
{
    static const struct rlimit none = {0, 0};
    static const struct sigaction ignore = {.sa_handler = SIG_IGN};
    umask(077);
    if (sigaction(SIGPIPE, &ignore, NULL) < 0 || sigaction(SIGXFSZ, &ignore, NULL) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -1;
    return 0;
}

int harden_process(void)
{
    return ensure_stdio() < 0 || harden() < 0 ? -1 : 0;
}
