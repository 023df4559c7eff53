/* The file that tells the daemon's process id to those who manage it.
 *
 * It appears when the daemon is ready and goes with it. What is not a regular file, or holds
 * anything but a pid, is never written to or removed, and neither is a file that somebody put in
 * place of ours.
 */
#ifndef NVKEEP_SRC_PID_FILE_H
#define NVKEEP_SRC_PID_FILE_H

#include "src/base/err.h"

struct pid_file;

/* Only looks. path NULL and fd -1: a pid file that is never written. Takes fd. ERR_USAGE. */
int pid_file_new(const char *path, int fd, struct pid_file **ret, struct err *e) MUST_CHECK;
void pid_file_free(struct pid_file *p); /* removes it, if it was written */
DEFINE_OWNED(pid_file);

int pid_file_write(struct pid_file *p, struct err *e) MUST_CHECK;
/* The directory where it is removed at the end; -1: none. */
int pid_file_dir_fd(const struct pid_file *p);

#endif
