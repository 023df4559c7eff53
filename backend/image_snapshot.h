/* An older state in the place of the newest one, because somebody asks for it: that of a snapshot
 * (apply), or what another tool has put there already (adopt).
 *
 * It lives in a tree of its own afterwards, under a generation and an epoch higher than any there
 * were, with an origin that says that it was restored. Owners that were left behind are fenced.
 */
#ifndef NVKEEP_BACKEND_IMAGE_SNAPSHOT_H
#define NVKEEP_BACKEND_IMAGE_SNAPSHOT_H

#include "backend/image.h"
#include "backend/store_snapshot.h"

/* What is there, without the key and without a claim. The caller clears. */
int image_snapshots(const char *path, struct snapshot_list *ret, struct err *e) MUST_CHECK;

struct image_restored {
    struct ref_facts facts;
    struct err rolled_back; /* what opening says of the image; kind ERR_NONE: nothing is wrong */
    uint64_t generation, epoch; /* of the state that lives from now on, where it comes from */
    uint64_t next_generation, next_epoch; /* with which it does */
};

/* Claims the image for the time of the call. Durable on return. The store must not be open. */
int image_apply(struct image *i, const char *id_or_name, struct image_restored *ret,
                struct err *e) MUST_CHECK;
/* The same where the store is open, which is another one afterwards. Where it fails it is the old
 * one; NULL: not even that could be opened again, and the claim was let go. */
int image_apply_open(struct image *i, const char *id_or_name, struct store **s,
                     struct image_restored *ret, struct err *e) MUST_CHECK;
/* write false: only says what it would do. Where nothing is to be adopted, nothing is written. */
int image_adopt(struct image *i, bool write, struct image_restored *ret, struct err *e) MUST_CHECK;

#endif
