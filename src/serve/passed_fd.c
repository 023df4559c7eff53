#include "src/serve/passed_fd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "src/base/own.h"

enum { FDS_MAX = 253 }; /* the kernel passes no more at once */

static void keep(struct passed_fd *p, const struct cmsghdr *h)
{
    size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
        if (p->fd < 0) {
            p->fd = fd;
            continue;
        }
        close(fd);
        p->too_many = true;
    }
}

ssize_t passed_fd_receive(int socket, void *to, size_t n, struct passed_fd *p)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec v = {to, n};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    ssize_t r = recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (r < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
        if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS)
            keep(p, h);
    if (m.msg_flags & MSG_CTRUNC)
        p->too_many = true;
    return r;
}

int passed_fd_take(struct passed_fd *p)
{
    if (p->too_many)
        passed_fd_drop(p);
    return MOVE_FD(p->fd);
}

void passed_fd_drop(struct passed_fd *p)
{
    if (p->fd >= 0)
        close(p->fd);
    *p = (struct passed_fd){.fd = -1};
}
