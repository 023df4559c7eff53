/* The state of one TPM in memory, and how a store finds it on a disk. Private to the store.
 *
 * The bytes rest in secret memory sized by need. A struct store_content is either all zero
 * (nothing) or what store_load() or a commit left: it never holds half of a change.
 */
#ifndef NVKEEP_BACKEND_STORE_STATE_H
#define NVKEEP_BACKEND_STORE_STATE_H

#include "backend/store_diff.h"
#include "backend/store_scan.h"
#include "crypto/secret.h"

struct store_content {
    struct secret *blob[N_BLOBS]; /* may be there while the blob is not: kept for its return */
    size_t n[N_BLOBS];
    bool present[N_BLOBS];
};

void content_clear(struct store_content *c);
struct state_view content_view(const struct store_content *c);

/* Memory for `n` bytes and some growth, or NULL in *ret where `have` suffices. */
int content_reserve(const struct secret *have, size_t n, struct secret **ret,
                    struct err *e) MUST_CHECK;

/* Everything in the three areas read, searched and put together. *ret_content is a new value; the
 * caller clears it. *ret_record is a buffer in which the full record of that state fits. */
int store_load(const struct qcow_disk *d, struct scan_result *ret_found,
               struct store_content *ret_content, struct secret **ret_record,
               struct err *e) MUST_CHECK;

/* The same where part of it may be damaged (W9): the newest state that verifies. */
struct salvage {
    struct err damage; /* kind ERR_NONE: there is none */
    struct scan_result at;
    struct scan_claims claims;
    struct store_content content;
    struct secret *record;                /* as above */
    uint64_t next_generation, next_epoch; /* of the checkpoint that is to replace it */
    struct sector *strays;                /* to be overwritten with zeroes before */
    size_t n_strays;
    struct sector *unreadable; /* and these behind it, so that the store can be read again */
    size_t n_unreadable;
};
/* ERR_STATE_CORRUPT: nothing verifies. Sectors that the storage does not give count as zeroes, and
 * as damage (ERR_STORAGE) where there is no other. The caller clears. */
int store_salvage(const struct qcow_disk *d, struct salvage *ret, struct err *e) MUST_CHECK;
void salvage_clear(struct salvage *s);

/* First sector of an area on the disk, and how many it has. */
struct sector area_first(const struct store_layout *l, enum record_area area);
uint64_t area_sectors(const struct store_layout *l, enum record_area area);

#endif
