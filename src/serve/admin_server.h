/* All clients of the admin socket, the way of a command to its answer, and what they are told.
 *
 *     client --command--> answered at once (version, commands, status before the verdict, quit)
 *                    \--> held until the daemon serves --> worker's queue --done--> answer
 *                    \--> add-key: read, then with the main loop until the verdict --> answer
 *                    \--> key-...: read, then with the key helper --> answer
 *
 * The phases follow the daemon. A key that was refused leads back to WAITING:
 *
 *     WAITING (--key admin) --key--> VERIFYING --ready--> SERVING --stop--> ENDING
 */
#ifndef NVKEEP_SRC_ADMIN_SERVER_H
#define NVKEEP_SRC_ADMIN_SERVER_H

#include <poll.h>

#include "src/serve/listener.h"
#include "src/serve/worker.h"

enum { ADMIN_CLIENTS_MAX = 8, ADMIN_POLL_MAX = 2 + 2 * ADMIN_CLIENTS_MAX };

struct admin_server;

/* Both borrowed. waits: for a key. */
int admin_server_new(struct listener *l, const struct log *log, bool waits,
                     struct admin_server **ret, struct err *e) MUST_CHECK;
void admin_server_free(struct admin_server *s);
DEFINE_OWNED(admin_server);

/* What to wait for (ret has ADMIN_POLL_MAX), and until when. Returns how many. */
size_t admin_server_wants(struct admin_server *s, struct pollfd *ret, int64_t *ret_limit);
/* p as filled by admin_server_wants() and poll(). */
void admin_server_run(struct admin_server *s, const struct pollfd *p, size_t n);

/* A key that has arrived. False: none. */
bool admin_server_take_key(struct admin_server *s, struct secret **ret, size_t *ret_bytes);
/* What became of it; the next one may come. */
void admin_server_refuse_key(struct admin_server *s, const struct err *e);

/* The image is open and served: commands go to the worker from now on. */
void admin_server_ready(struct admin_server *s, struct worker *w);
/* A job with `admin` set that the worker has done; taken. */
void admin_server_done(struct admin_server *s, struct ctrl_job *job);
void admin_server_tell(struct admin_server *s, const struct session_event *event);

/* The daemon ends (why: for people), or cannot serve (e). From now on nothing is accepted; whoever
 * waits for something that will not happen is told so. */
void admin_server_stop(struct admin_server *s, const char *why, const struct err *e);
/* All is done: SHUTDOWN, the last event. */
void admin_server_say_goodbye(struct admin_server *s, const char *why, const struct err *e);
/* No command with the worker, and nothing on its way out. */
bool admin_server_is_quiet(const struct admin_server *s);
bool admin_server_was_told_to_quit(const struct admin_server *s);

#endif
