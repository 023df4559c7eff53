/* Descriptors: whole reads and writes, with EINTR handled and nothing hidden.
 *
 * None of these retries an error, and none owns the descriptor it is given.
 */
#ifndef NVKEEP_BASE_FD_H
#define NVKEEP_BASE_FD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "src/base/own.h"

/* Reads up to n bytes at off; fewer only at the end of the file. Returns the count, or -1 with
 * errno. */
ssize_t fd_pread_full(int fd, void *buf, size_t n, uint64_t off) MUST_CHECK;

/* Writes n bytes at off. Returns 0, or -1 with errno (ENOSPC where the system wrote nothing). */
int fd_pwrite_full(int fd, const void *buf, size_t n, uint64_t off) MUST_CHECK;

/* Reads from a pipe, socket or file up to n bytes or its end. Returns the count, or -1 with errno.
 */
ssize_t fd_read_full(int fd, void *buf, size_t n) MUST_CHECK;

/* Writes n bytes to a pipe, socket or file. Returns 0, or -1 with errno. */
int fd_write_full(int fd, const void *buf, size_t n) MUST_CHECK;

/* Do the two lead to the same file, or would they if it were made now? */
bool fd_same_file(const char *a, const char *b) MUST_CHECK;

/* Makes durable what names there are in the directory that `path` is in. Returns 0, or -1 with
 * errno. */
int fd_sync_parent(const char *path) MUST_CHECK;

#endif
