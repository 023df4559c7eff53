/* What the two files of the library share: the handle, and how results leave. */
#ifndef NVKEEP_SRC_NVKEEP_PRIV_H
#define NVKEEP_SRC_NVKEEP_PRIV_H

#include "migration/custody.h"
#include "src/nvkeep.h"

struct nvkeep {
    struct custody *custody; /* has the image; freed after the store */
    struct store *store;
    struct secret *out[N_TPM_BLOBS]; /* what was exported, of one instant */
    size_t n_out[N_TPM_BLOBS];
    unsigned asked; /* bit (kind - 1) */
};

/* -1, and *ret filled. */
int library_report(const struct err *e, struct nvkeep_error *ret);
int library_take_key(const struct nvkeep_key *key, struct secret **ret, struct watch *ret_watch,
                     struct err *e) MUST_CHECK;
/* Takes both on success. */
int library_handle(struct custody **c, struct store **store, struct nvkeep **ret,
                   struct err *e) MUST_CHECK;
/* Ends an export, and marks as used what was handed over, with the same commit. */
int library_commit(struct nvkeep *h, struct state_change *change, struct err *e) MUST_CHECK;

#endif
