/* What setup tells: to standard output and standard error, or all of it to a log file. */
#ifndef NVKEEP_COMPAT_SETUP_LOG_H
#define NVKEEP_COMPAT_SETUP_LOG_H

#include <stdio.h>

#include "src/base/err.h"

struct setup_log {
    int fd; /* of the log file; -1: none */
};

/* Appends; never follows a symbolic link. ERR_USAGE. */
int setup_log_open(const char *path, struct setup_log *ret, struct err *e) MUST_CHECK;
void setup_tell(const struct setup_log *log, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Before anything is done: what is done is told to somebody. A full log file is no reason not to do
 * it. ERR_STORAGE. */
int setup_tell_first(const struct setup_log *log, struct err *e, const char *fmt, ...)
    PRINTF_LIKE(3, 4) MUST_CHECK;
void setup_complain(const struct setup_log *log, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
