/* One client of the admin socket: its bytes in, its messages, lines out.
 *
 * A client has one request under way; until it is answered, and while it does not take its answers,
 * nothing more is read from it. So what it can make the daemon keep is bounded: one message, and
 * lines (events come unasked) up to ADMIN_OUT_MAX bytes. Time limits: the rest of a message that
 * has begun, and the taking of what was sent. Nothing here waits.
 */
#ifndef NVKEEP_SRC_ADMIN_CLIENT_H
#define NVKEEP_SRC_ADMIN_CLIENT_H

#include "src/serve/admin_msg.h"

enum { ADMIN_PARTIAL_MS = 5000, ADMIN_UNREAD_MS = 5000, ADMIN_OUT_MAX = 262144 };

struct admin_client;

/* Takes *fd. */
int admin_client_new(int *fd, struct admin_client **ret, struct err *e) MUST_CHECK;
void admin_client_free(struct admin_client *c);
DEFINE_OWNED(admin_client);

int admin_client_fd(const struct admin_client *c);
short admin_client_events(const struct admin_client *c);  /* for poll(); 0: hang-up only */
int64_t admin_client_limit(const struct admin_client *c); /* now_ms() or -1 */
bool admin_client_is_negotiated(const struct admin_client *c);
bool admin_client_is_writing(const struct admin_client *c);

enum admin_step { ADMIN_IDLE, ADMIN_REQUEST, ADMIN_GONE };
/* Does what can be done now. ADMIN_REQUEST: *ret is the caller's, and to be answered by one line;
 * call again (revents 0) after that. ADMIN_GONE: to be freed. */
enum admin_step admin_client_run(struct admin_client *c, short revents, struct admin_request *ret);
/* Takes a line (NULL: no memory; the client will be gone). answers: it is the answer to its
 * request. */
void admin_client_send(struct admin_client *c, char *line, bool answers);
/* The descriptor that came along with the request. -1: none, or too many. */
int admin_client_take_fd(struct admin_client *c);

#endif
