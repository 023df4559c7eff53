#include "src/serve/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 900, TIME_BYTES = 40 };

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

static struct iovec text_of(const char *text)
{
    return (struct iovec){(void *)(uintptr_t)text,
                          strlen(text)}; /* writev() writes nothing there */
}

/* One write to a line, so that the lines of two threads never mix. What cannot be written is lost:
 * a full disk, a closed pipe or one that nobody reads is no reason to stop serving. */
void log_text(const struct log *log, int level, const char *text)
{
    char when[TIME_BYTES];
    if (log->fd < 0 || level > log->level)
        return;
    const struct iovec line[] = {{when, put_time(when, sizeof(when))},
                                 text_of(log->prefix ?: ""),
                                 text_of(text),
                                 text_of("\n")};
    struct pollfd p = {.fd = log->fd, .events = POLLOUT};
    if (poll(&p, 1, 0) == 1)
        (void)!writev(log->fd, line, ARRAY_LEN(line));
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
    log_text(log, level, text);
}

void log_err(const struct log *log, const struct err *e)
{
    log_line(log, 0, "%s: %s", err_class(e->kind)->name, e->text);
}
