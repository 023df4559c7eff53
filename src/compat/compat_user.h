/* --runas: another user, with his groups, for good. */
#ifndef NVKEEP_COMPAT_USER_H
#define NVKEEP_COMPAT_USER_H

#include "src/base/err.h"

/* A name or a number; nothing is done where the process is that user already. ERR_USAGE. Before
 * there is a second thread. */
int compat_run_as(const char *name, struct err *e) MUST_CHECK;

#endif
