/* All clients of the control channel, and the way of a request to its answer.
 *
 *     client --request--> answered at once (facts, cancel) ------------------> reply
 *                    \--> worker's queue --done--> ctrl_server_deliver() --/
 *
 * An emulator waits for each answer with everything else standing still. Where the storage does not
 * answer, we do: after JOB_LIMIT_MS (power-on: INIT_LIMIT_MS) a request fails, and what comes of it
 * later is nobody's any more.
 *
 * Several clients are served side by side; one that hangs or sends garbage costs its own place and
 * nothing else. When all places are taken, a newcomer gets the place of the oldest client that has
 * never asked anything.
 */
#ifndef NVKEEP_SRC_CTRL_SERVER_H
#define NVKEEP_SRC_CTRL_SERVER_H

#include <poll.h>

#include "src/serve/listener.h"
#include "src/serve/worker.h"

enum { CTRL_CLIENTS_MAX = 32, CTRL_POLL_MAX = CTRL_CLIENTS_MAX + 1 };
enum { JOB_LIMIT_MS = 5000, INIT_LIMIT_MS = 30000 };

struct ctrl_server;

/* All borrowed. */
int ctrl_server_new(struct worker *w, struct listener *l, const struct log *log,
                    struct ctrl_server **ret, struct err *e) MUST_CHECK;
void ctrl_server_free(struct ctrl_server *s);
DEFINE_OWNED(ctrl_server);

/* A client that is connected already; takes *fd. */
int ctrl_server_add(struct ctrl_server *s, int *fd, struct err *e) MUST_CHECK;

/* What to wait for (ret has CTRL_POLL_MAX), and until when. Returns how many. */
size_t ctrl_server_wants(struct ctrl_server *s, struct pollfd *ret, int64_t *ret_limit);
/* p as filled by ctrl_server_wants() and poll(). */
void ctrl_server_run(struct ctrl_server *s, const struct pollfd *p, size_t n);
/* Replies of jobs that the worker has done. */
void ctrl_server_deliver(struct ctrl_server *s);
/* From now on nothing is accepted and nothing read; what is under way is answered. */
void ctrl_server_stop(struct ctrl_server *s);

/* No request under way, no reply on its way. */
bool ctrl_server_is_quiet(const struct ctrl_server *s);
size_t ctrl_server_clients(const struct ctrl_server *s);
bool ctrl_server_was_shut_down(const struct ctrl_server *s); /* SHUTDOWN was answered */
bool ctrl_server_lost_client(const struct ctrl_server *s);   /* ever */
bool ctrl_server_gave_data(struct ctrl_server *s);           /* SET_DATAFD, since asked last */

#endif
