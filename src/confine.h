/* Confinement: what this process may ask the kernel for once everything is open.
 *
 * A list of what is allowed; the rest fails with EPERM, so that code which tries and falls back
 * goes on. Nothing can be opened, created, executed, connected, mounted, traced or made executable
 * any more, by any thread, for the rest of the process's life. What is open stays usable.
 */
#ifndef NVKEEP_SRC_CONFINE_H
#define NVKEEP_SRC_CONFINE_H

#include "src/base/err.h"

enum { CONFINE_MAX_DIRS = 4 };

struct confine {
    int dirs[CONFINE_MAX_DIRS]; /* where files may still be removed, by name; -1: none */
};

/* Early: no core dumps, and no tracing by other processes of the same user. */
int confine_memory(struct err *e) MUST_CHECK;
/* All threads. ERR_UNSUPPORTED where the kernel has no seccomp filters. */
int confine(const struct confine *c, struct err *e) MUST_CHECK;

#endif
