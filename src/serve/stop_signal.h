/* The signals that end the daemon, as a descriptor; no thread of ours is ever interrupted by one.
 */
#ifndef NVKEEP_SRC_STOP_SIGNAL_H
#define NVKEEP_SRC_STOP_SIGNAL_H

#include "src/base/err.h"

/* From now on SIGTERM and SIGINT are read here; SIGHUP and SIGPIPE do nothing. */
int stop_signal_open(int *ret, struct err *e) MUST_CHECK;
/* The name of the next one that has come; NULL: none. */
const char *stop_signal_next(int fd);

#endif
