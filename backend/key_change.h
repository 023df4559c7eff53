/* One change of an image's keys, whole: what `key add`, `remove` and `rotate` do to an image, and
 * the daemon to the one that it serves.
 *
 * Each can be done again after it was interrupted, wherever that was, and then does what is left.
 */
#ifndef NVKEEP_BACKEND_KEY_CHANGE_H
#define NVKEEP_BACKEND_KEY_CHANGE_H

#include "backend/qcow_keys.h"

struct key_new {
    const struct secret *pass;
    size_t bytes;
    uint32_t iterations;
    int slot;   /* or KEY_SLOT_ANY */
    bool fresh; /* made a moment ago: no slot can have it yet */
};
struct key_changed {
    unsigned slot;    /* of the new key */
    bool was_there;   /* it was in that slot already */
    unsigned removed; /* slots that held a key before (bit n: slot n) */
    unsigned swept;   /* slots whose material was still to be overwritten */
};

/* ERR_USAGE also where it is there already, and in another slot than the one that was named. */
int key_change_add(struct qcow_keys *k, const struct volume_key *key, const struct key_new *n,
                   const struct watch *watch, struct key_changed *ret, struct err *e) MUST_CHECK;
/* slots: to be removed. seen: as for qcow_keys_remove(). */
int key_change_remove(struct qcow_keys *k, unsigned slots, unsigned seen, struct key_changed *ret,
                      struct err *e) MUST_CHECK;
/* The new one is added and seen to open, then `old` is removed. ERR_USAGE: they are the same key.
 * On failure ret says how far it came. */
int key_change_rotate(struct qcow_keys *k, const struct volume_key *key, unsigned old,
                      const struct key_new *n, const struct watch *watch, struct key_changed *ret,
                      struct err *e) MUST_CHECK;

/* The lowest; slots is not 0. */
unsigned key_first_slot(unsigned slots);

#endif
