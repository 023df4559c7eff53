/* Snapshots of a store's state: the one record that a snapshot holds.
 *
 * What a snapshot holds is the newest acknowledged state, whole. The store itself stays where it
 * is.
 */
#ifndef NVKEEP_BACKEND_STORE_SNAPSHOT_H
#define NVKEEP_BACKEND_STORE_SNAPSHOT_H

#include "backend/qcow_snapshot.h"
#include "backend/store_origin.h"

/* The state as it is now, durable on return. ERR_FENCED as in store_commit(); ERR_USAGE: the name.
 * On failure nothing has happened, unless it says that it is not known. */
int store_snapshot_create(struct store *s, const char *name, struct err *e) MUST_CHECK;
int store_snapshot_delete(struct store *s, const char *id_or_name, struct err *e) MUST_CHECK;
/* The caller clears. */
int store_snapshot_list(const struct store *s, struct snapshot_list *ret, struct err *e) MUST_CHECK;

/* What is to live from now on: the state of `from`, as one full record at position 0 of the first
 * checkpoint area of `d`. origin NULL: that of the state. */
struct store_rebirth {
    const struct store_look *from;
    const uint8_t *origin; /* ORIGIN_BYTES */
    uint64_t generation, epoch;
};
int store_replace(struct qcow_disk *d, struct blk_rw *w, const struct store_rebirth *b,
                  struct err *e) MUST_CHECK;

#endif
