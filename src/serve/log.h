/* The log of the daemon: lines to a file or descriptor, never to stderr once sockets are bound.
 *
 * Writes are best effort: a full disk or a closed pipe never stops or kills the daemon (SIGPIPE is
 * ignored by the program). Level 0: errors; 1: what changed (start, stop, claim, generation at
 * start and end); 5 and more: each control command. No secrets, no TPM commands, ever.
 */
#ifndef NVKEEP_SRC_LOG_H
#define NVKEEP_SRC_LOG_H

#include "src/base/err.h"

struct log {
    int fd; /* -1: silent */
    int level;
    const char *prefix; /* NULL: none */
};

void log_line(const struct log *log, int level, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The same for a line of any length. */
void log_text(const struct log *log, int level, const char *text);
/* "<CLASS>: <text>" at level 0. */
void log_err(const struct log *log, const struct err *e);

#endif
