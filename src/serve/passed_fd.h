/* A descriptor that came along on a local socket.
 *
 * A client may pass any number with any byte; one can be meant. The first is kept until somebody
 * takes it, the rest are closed at once.
 */
#ifndef NVKEEP_SRC_PASSED_FD_H
#define NVKEEP_SRC_PASSED_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct passed_fd {
    int fd;        /* -1: none */
    bool too_many; /* more than one came */
};

/* Bytes received; 0: hung up; -1: nothing there. Never waits. */
ssize_t passed_fd_receive(int socket, void *to, size_t n, struct passed_fd *p);
/* The descriptor, the caller's now. -1: none, or more than one. */
int passed_fd_take(struct passed_fd *p);
void passed_fd_drop(struct passed_fd *p);

#endif
