/* A file with settings: written by somebody, and nothing that could keep a start waiting. */
#ifndef NVKEEP_COMPAT_FILE_H
#define NVKEEP_COMPAT_FILE_H

#include <stdio.h>

#include "src/base/err.h"

/* *ret: NULL where there is none. ERR_USAGE: it cannot be read, or is neither a regular file nor
 * /dev/null. */
int compat_file_open(const char *path, FILE **ret, struct err *e) MUST_CHECK;

#endif
