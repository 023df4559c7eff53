/* One client of the control channel: its bytes in, its requests, its replies out.
 *
 *     READING --a whole request--> WAITING --ctrl_client_answer()--> WRITING --all sent--> READING
 *
 * A client has one request under way; until the reply has left, nothing more is read from it. So
 * what a client can make the daemon keep is bounded: one request, one reply. Time limits: the rest
 * of a request that has begun, and the taking of a reply. A state blob goes from the socket
 * straight into secret memory. Nothing here waits.
 */
#ifndef NVKEEP_SRC_CTRL_CLIENT_H
#define NVKEEP_SRC_CTRL_CLIENT_H

#include "src/serve/session.h"

enum { CTRL_PARTIAL_MS = 2000, CTRL_UNREAD_MS = 10000 };

struct ctrl_client;

/* Takes *fd. */
int ctrl_client_new(int *fd, struct ctrl_client **ret, struct err *e) MUST_CHECK;
/* A request under way is left to whoever has it. */
void ctrl_client_free(struct ctrl_client *c);
DEFINE_OWNED(ctrl_client);

int ctrl_client_fd(const struct ctrl_client *c);
short ctrl_client_events(const struct ctrl_client *c);  /* for poll(); 0: hang-up only */
int64_t ctrl_client_limit(const struct ctrl_client *c); /* now_ms() or -1 */
bool ctrl_client_is_waiting(const struct ctrl_client *c);
/* It has sent at least one whole request, and came at (now_ms()). */
bool ctrl_client_has_asked(const struct ctrl_client *c);
int64_t ctrl_client_since(const struct ctrl_client *c);

enum ctrl_client_step { CLIENT_IDLE, CLIENT_REQUEST, CLIENT_GONE };
/* Does what can be done now. CLIENT_REQUEST: *ret is the caller's, and to be answered; call again
 * (revents 0) after an answer, more may have arrived. CLIENT_GONE: hung up, too slow, or out of
 * memory; to be freed. */
enum ctrl_client_step ctrl_client_run(struct ctrl_client *c, short revents, struct ctrl_job **ret);

/* The reply of a job that ctrl_client_run() gave; takes its state. */
void ctrl_client_answer(struct ctrl_client *c, struct ctrl_job *job);

/* Nobody has an answer in time: the request under way fails, with a reply of its full length. */
void ctrl_client_give_up(struct ctrl_client *c, enum ctrl_code code);

/* Of a reply that completes a set (is_last): is it still here, or has it left? LEFT is said once.
 */
enum ctrl_client_last { CLIENT_NO_LAST, CLIENT_LAST_HERE, CLIENT_LAST_LEFT };
enum ctrl_client_last ctrl_client_last(struct ctrl_client *c);

#endif
