/* Up to one blob of each kind, in secret memory: each kept as it is below, set, or deleted.
 *
 * The TPM lays such sets over its store: what libtpms stored since the last commit, what was staged
 * for the next power-on. Pure bookkeeping; a set owns copies, and keeps its memory
 * (locked, not wiped) from one use to the next until blob_set_clear().
 */
#ifndef NVKEEP_BACKEND_BLOB_SET_H
#define NVKEEP_BACKEND_BLOB_SET_H

#include "backend/store.h"

struct blob_set {
    struct {
        struct secret *at; /* NULL, or room for at least n bytes */
        size_t n;
        enum { BLOB_SET_KEEPS = 0, BLOB_SET_HOLDS, BLOB_SET_DELETES } what;
    } blob[N_BLOBS]; /* index: kind - 1 */
};

/* Copies. ERR_UNSUPPORTED above BLOB_MAX_BYTES; ERR_STORAGE: no locked memory. The set is unchanged
 * then. */
int blob_set_put(struct blob_set *b, enum blob_kind kind, const uint8_t *p, size_t n,
                 struct err *e) MUST_CHECK;
void blob_set_delete(struct blob_set *b, enum blob_kind kind);

bool blob_set_is_empty(const struct blob_set *b); /* keeps everything */
/* True where the set has a say about this kind; *ret is NULL then when it is deleted. */
bool blob_set_get(const struct blob_set *b, enum blob_kind kind, const uint8_t **ret,
                  size_t *ret_bytes);
/* Lays the set over *change, for store_commit(); borrowed from the set. */
void blob_set_overlay(const struct blob_set *b, struct state_change *change);

void blob_set_reset(struct blob_set *b); /* keeps everything again */
void blob_set_clear(struct blob_set *b); /* and gives the memory back, wiped */

#endif
