/* A place where clients connect, in two steps: what can be refused is refused before anything is
 * opened, and the place comes into being when there is somebody to answer.
 *
 *     listener_new    nothing is visible: a path is only looked at, a port is bound but not
 * listened listener_open   a unix socket appears under its path in one step, already listening
 *     listener_remove the path goes, if it is still the socket we put there; the descriptor stays
 *
 * A socket file that nobody listens behind is replaced; one with a live daemon behind it, and a
 * file that is no socket, never.
 */
#ifndef NVKEEP_SRC_LISTENER_H
#define NVKEEP_SRC_LISTENER_H

#include "src/serve/serve.h"

struct listener;

/* what: "--ctrl", for messages. ERR_USAGE: path, address, descriptor; ERR_LOCKED: in use. An
 * inherited descriptor may be listening or connected. ENDPOINT_NONE: neither, ever. */
int listener_new(const struct endpoint *ep, const char *what, struct listener **ret,
                 struct err *e) MUST_CHECK;
int listener_open(struct listener *l, struct err *e) MUST_CHECK;
void listener_remove(struct listener *l);
void listener_free(struct listener *l);
DEFINE_OWNED(listener);

/* -1: there is none (not opened yet, or not that kind). */
bool listener_is_wanted(const struct listener *l); /* false: of no endpoint */
int listener_fd(const struct listener *l);
/* The connected descriptor that was inherited; the caller's from now on. -1: none. */
int listener_take_client(struct listener *l);
/* The directory where the socket is removed at the end; -1: none. */
int listener_dir_fd(const struct listener *l);

/* A new connection, or -1. */
int listener_accept(const struct listener *l);

#endif
