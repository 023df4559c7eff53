/* --daemon: the process that was called waits until the one that stays knows its verdict.
 *
 * A pipe carries it: the decimal digits of an exit code (0: ready), a space and the message. The
 * caller's exit code and text are then the daemon's. When the caller is interrupted while it waits,
 * the daemon is ended, too.
 */
#ifndef NVKEEP_SRC_CLI_DAEMON_H
#define NVKEEP_SRC_CLI_DAEMON_H

#include <sys/types.h>

#include "src/base/err.h"

struct daemon_parent {
    int verdict; /* reading end */
    pid_t child;
};

/* 1 in the process that was called, 0 in the new one, -1 where there is none. */
int daemon_fork(struct daemon_parent *ret, int *ret_ready_fd, struct err *e) MUST_CHECK;

/* Parent: 0 when the daemon is ready, otherwise its error. ret_signal: what interrupted the wait.
 */
int daemon_wait(struct daemon_parent *p, int *ret_signal, struct err *e) MUST_CHECK;

/* Child: a session of its own, "/" as directory, nothing but /dev/null on 0 to 2. */
int daemon_detach(struct err *e) MUST_CHECK;

/* Child: sends the verdict, once, and closes the descriptor. e: NULL: ready. */
void daemon_tell(int *ready_fd, const struct err *e);

#endif
