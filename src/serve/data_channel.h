/* The data channel: one client at a time, whose bytes are commands.
 *
 * The client comes from a listening socket or as a descriptor (SET_DATAFD, inherited). The worker
 * thread alone drives it: a command goes from the socket to the TPM and back without a change of
 * threads. Nothing here waits: what cannot be sent stays, and as long as something stays nothing is
 * read. A command that stays incomplete for DATA_PARTIAL_MS is answered as a bad one, because an
 * emulator may have sent all that its guest wrote; a client that does not take its response for
 * DATA_UNREAD_MS is dropped.
 */
#ifndef NVKEEP_SRC_DATA_CHANNEL_H
#define NVKEEP_SRC_DATA_CHANNEL_H

#include <poll.h>

#include "src/serve/session.h"

enum { DATA_PARTIAL_MS = 1000, DATA_UNREAD_MS = 30000 };

struct data_channel;

/* one_shot: the connection ends after one command. */
int data_channel_new(bool one_shot, struct data_channel **ret, struct err *e) MUST_CHECK;
void data_channel_free(struct data_channel *d);
DEFINE_OWNED(data_channel);

/* Borrowed. There is at most one listener, and no descriptor is adopted when there is one. */
void data_channel_listen(struct data_channel *d, int listener);
/* Takes *fd if it is a connected stream socket and there is neither client nor listener. A result
 * of the control channel. */
uint32_t data_channel_adopt(struct data_channel *d, int *fd);

/* The client, if there is one, and what came from it. */
void data_channel_drop(struct data_channel *d);

/* What to wait for, and until when (now_ms(), or -1). */
int64_t data_channel_wants(const struct data_channel *d, struct pollfd *ret);

enum data_event { DATA_NOTHING, DATA_LOST };
/* Does what can be done now, at most one command. revents: of what was asked for. DATA_LOST: the
 * client is gone (never for one_shot, where that is how it should be). */
enum data_event data_channel_run(struct data_channel *d, struct session *s, short revents);

#endif
