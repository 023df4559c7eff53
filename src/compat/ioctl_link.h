/* A connection to a control channel, as a client: requests and replies with a time limit for each.
 * A daemon that is frozen is an error after a few seconds, and never a wait without end.
 */
#ifndef NVKEEP_COMPAT_IOCTL_LINK_H
#define NVKEEP_COMPAT_IOCTL_LINK_H

#include <stdint.h>

#include "src/base/err.h"

/* LINK_LONG_MS: where a passphrase may have to be stretched first. */
enum { LINK_MS = 5000, LINK_LONG_MS = 60000 };

struct link {
    int fd;
    int ms; /* for one exchange */
};

int link_unix(const char *path, struct link *ret, struct err *e) MUST_CHECK;
/* [HOST]:[PORT], also [::1]:PORT; 127.0.0.1 and the default port where left out. */
int link_tcp(const char *place, const char *default_port, struct link *ret,
             struct err *e) MUST_CHECK;
void link_close(struct link *l);

/* A request in two pieces and the first n bytes of its reply. */
int link_exchange(struct link *l, const void *head, size_t head_n, const void *body, size_t body_n,
                  void *ret, size_t n, struct err *e) MUST_CHECK;
/* More of the same reply. */
int link_receive(struct link *l, void *ret, size_t n, struct err *e) MUST_CHECK;

#endif
