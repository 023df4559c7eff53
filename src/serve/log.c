#include "src/serve/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 900 };

/* Time in UTC: the local time zone is a file, and nothing is opened once the daemon runs. */
static size_t put_time(char *line, size_t room)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    if (!gmtime_r(&now.tv_sec, &tm))
        return 0;
    size_t n = strftime(line, room, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + (size_t)snprintf(line + n, room - n, ".%03ldZ ", now.tv_nsec / 1000000);
}

/* One write to a line, so that the lines of two threads never mix. What cannot be written is lost:
 * a full disk, a closed pipe or one that nobody reads is no reason to stop serving. */
static void write_line(const struct log *log, const char *text)
{
    char line[LINE_BYTES];
    size_t n = put_time(line, sizeof(line));
    int more = snprintf(line + n, sizeof(line) - n, "%s%s", log->prefix ?: "", text);
    n = more < 0 ? n : n + (size_t)more;
    if (n > sizeof(line) - 1)
        n = sizeof(line) - 1;
    line[n++] = '\n';
    struct pollfd p = {.fd = log->fd, .events = POLLOUT};
    if (poll(&p, 1, 0) == 1)
        (void)!write(log->fd, line, n);
}

void log_line(const struct log *log, int level, const char *fmt, ...)
{
    char text[LINE_BYTES];
    va_list ap;
    if (log->fd < 0 || level > log->level)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    write_line(log, text);
}

void log_err(const struct log *log, const struct err *e)
{
    log_line(log, 0, "%s: %s", err_class(e->kind)->name, e->text);
}
