/* A key that comes through a descriptor that a client of the admin socket passed.
 *
 * It goes straight into a secret, bounded in size and time, and nothing here waits: a pipe whose
 * writer never ends costs its client an answer and nothing else.
 */
#ifndef NVKEEP_SRC_ADMIN_KEY_H
#define NVKEEP_SRC_ADMIN_KEY_H

#include "crypto/secret.h"

enum { ADMIN_KEY_MS = 5000 };

struct admin_key;

/* Takes *fd: a pipe, a socket or a file. strips: one final newline is dropped. ERR_USAGE. */
int admin_key_new(int *fd, bool strips, struct admin_key **ret, struct err *e) MUST_CHECK;
void admin_key_free(struct admin_key *k);
DEFINE_OWNED(admin_key);

int admin_key_fd(const struct admin_key *k);
int64_t admin_key_limit(const struct admin_key *k); /* now_ms() */

/* What is there. 1: this is all, and the key is the caller's; 0: more may come. ERR_KEY_MISSING: it
 * is empty; ERR_USAGE: too long, or too slow. */
int admin_key_read(struct admin_key *k, struct secret **ret, size_t *ret_bytes,
                   struct err *e) MUST_CHECK;

#endif
