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
/* This thread: no file can be reached by name any more, but removed in c->dirs (and below). Where
 * the kernel has no Landlock this does nothing: confine() forbids nearly all of it, too. */
int confine_names(const struct confine *c, struct err *e) MUST_CHECK;
/* All threads; and confine_names() for this one. ERR_UNSUPPORTED where the kernel has no seccomp
 * filters. */
int confine(const struct confine *c, struct err *e) MUST_CHECK;

#endif
