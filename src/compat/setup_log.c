#include "src/compat/setup_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "src/base/fd.h"

int setup_log_open(const char *path, struct setup_log *ret, struct err *e)
{
    char buf[200];
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0640);
    if (fd < 0)
        return err_set(e, ERR_USAGE, "Error opening file %s: %s",
                       err_quote(buf, sizeof(buf), path, strlen(path)), strerrordesc_np(errno));
    ret->fd = fd;
    return 0;
}

/* Best effort: that nobody reads it changes nothing of what was done. */
__attribute__((format(printf, 2, 0))) static void write_line(int fd, const char *fmt, va_list ap)
{
    OWNED_HEAP char *line = NULL;
    if (vasprintf(&line, fmt, ap) < 0)
        return;
    size_t n = strlen(line);
    line[n] = '\n'; /* in one write; the text ends where it did */
    (void)!fd_write_full(fd, line, n + 1);
}

void setup_tell(const struct setup_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    write_line(log->fd >= 0 ? log->fd : STDOUT_FILENO, fmt, ap);
    va_end(ap);
}

/* Also to standard error: who looks there first finds the reason. */
void setup_complain(const struct setup_log *log, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (log->fd >= 0) {
        va_list again;
        va_copy(again, ap);
        write_line(log->fd, fmt, again);
        va_end(again);
    }
    write_line(STDERR_FILENO, fmt, ap);
    va_end(ap);
}
