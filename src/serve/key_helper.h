/* Changes the keys of the image that is being served, while its TPM goes on.
 *
 * A thread of its own stretches passphrases and splits keys, at low priority; each access to the
 * image is a turn of the worker, between two commands of the TPM: one piece of key material, or one
 * sector of the header. It is made before the daemon is confined, and sleeps until there is
 * something to do. One change at a time.
 *
 *     main thread --key_helper_begin--> this thread --worker_do_keys--> worker
 *                 <-- key_helper_done --            <------------------
 */
#ifndef NVKEEP_SRC_KEY_HELPER_H
#define NVKEEP_SRC_KEY_HELPER_H

#include "backend/key_change.h"
#include "src/serve/worker.h"

struct key_task {
    enum key_task_kind {
        KEY_TASK_LIST,
        KEY_TASK_TEST,   /* pass: which slots does it open? */
        KEY_TASK_ADD,    /* pass: the new one */
        KEY_TASK_REMOVE, /* pass: one that stays; slot: what goes */
        KEY_TASK_ROTATE, /* pass: the new one; slot: what goes */
    } kind;
    struct secret *pass; /* owned; NULL for LIST */
    size_t pass_bytes;
    int slot;    /* of ADD: or KEY_SLOT_ANY */
    unsigned ms; /* what one try of a new key shall take */
    /* What became of it. */
    struct luks_header header;
    unsigned opens; /* TEST: bit n: slot n */
    struct key_changed done;
    struct err error; /* kind ERR_NONE: it succeeded */
};
void key_task_free(struct key_task *t);
DEFINE_OWNED(key_task);

struct key_helper;
int key_helper_new(struct key_helper **ret, struct err *e) MUST_CHECK;
/* What is under way is cut short, in order. Before worker_free(). */
void key_helper_free(struct key_helper *h);
DEFINE_OWNED(key_helper);
/* The same without waiting; nothing is begun any more. */
void key_helper_stop(struct key_helper *h);

int key_helper_fd(const struct key_helper *h); /* readable when one is done */
/* Takes the task. ERR_LOCKED: another one is under way. */
int key_helper_begin(struct key_helper *h, struct worker *w, struct key_task **t,
                     struct err *e) MUST_CHECK;
/* The caller's. NULL: none. */
struct key_task *key_helper_done(struct key_helper *h);

#endif
