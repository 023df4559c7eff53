#include "src/compat/setup_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"

int setup_log_open(const char *path, struct setup_log *ret, struct err *e)
{
    char buf[200];
    struct stat st;
    const int flags =
        O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    OWNED_FD fd = open(path, flags, 0640);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(e, ERR_USAGE, "Error opening file %s: %s",
                       err_quote(buf, sizeof(buf), path, strlen(path)), strerrordesc_np(errno));
    /* Nobody has to read a log. The signer gets it, too, and knows nothing of O_NONBLOCK. */
    if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
        return err_set(e, ERR_USAGE, "Error opening file %s: wanted a file",
                       err_quote(buf, sizeof(buf), path, strlen(path)));
    ret->fd = MOVE_FD(fd);
    return 0;
}

__attribute__((format(printf, 2, 0))) static bool write_line(int fd, const char *fmt, va_list ap)
{
    OWNED_HEAP char *line = NULL;
    if (vasprintf(&line, fmt, ap) < 0)
        return false;
    size_t n = strlen(line);
    line[n] = '\n'; /* in one write; the text ends where it did */
    return fd_write_full(fd, line, n + 1) == 0;
}

/* Best effort: that nobody reads it changes nothing of what was done. */
void setup_tell(const struct setup_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)write_line(log->fd >= 0 ? log->fd : STDOUT_FILENO, fmt, ap);
    va_end(ap);
}

int setup_tell_first(const struct setup_log *log, struct err *e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    bool told = write_line(log->fd >= 0 ? log->fd : STDOUT_FILENO, fmt, ap);
    int os = errno;
    va_end(ap);
    if (told || log->fd >= 0)
        return 0;
    return err_sys(e, ERR_STORAGE, os, "cannot write to standard output; nothing was done");
}

/* Also to standard error: who looks there first finds the reason. */
void setup_complain(const struct setup_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (log->fd >= 0) {
        va_list again;
        va_copy(again, ap);
        (void)write_line(log->fd, fmt, again);
        va_end(again);
    }
    (void)write_line(STDERR_FILENO, fmt, ap);
    va_end(ap);
}
