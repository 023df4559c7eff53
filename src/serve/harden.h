/* What every program of ours does before anything else.
 */
#ifndef NVKEEP_SRC_HARDEN_H
#define NVKEEP_SRC_HARDEN_H

#include "src/base/own.h"

/* Descriptors 0 to 2 are open; no core dumps, no tracing, no death by SIGPIPE or SIGXFSZ, files are
 * the owner's. 0, or -1 with errno. */
int harden_process(void) MUST_CHECK;

#endif
