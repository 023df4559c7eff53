/* The way back from damage, which is gone because somebody asked for it and never otherwise: the
 * newest state that still verifies, written anew so that the store opens again.
 *
 *     qcow_disk_rw --recovery_new--> recovery --recovery_write--> (the store is sound)
 *
 * A struct recovery proves that the claim is held and that some state verifies, whole: a checkpoint
 * and every log record that chains onto it up to the damage. It is about records only: everything
 * below them was found sound. Looking at it writes nothing. Rule W9 of store_scan.h says what is
 * written; at every point, a crash leaves a store that still reports its damage and from which the
 * same state can be recovered, or one that opens with it.
 */
#ifndef NVKEEP_BACKEND_STORE_RECOVER_H
#define NVKEEP_BACKEND_STORE_RECOVER_H

#include "backend/store_origin.h"

struct recovery;

/* Takes the disk on success. ERR_STATE_CORRUPT: no state verifies, says what is there instead;
 * ERR_STORAGE: the same, and there are sectors that cannot be read. */
int recovery_new(struct qcow_disk_rw **d, struct recovery **ret, struct err *e) MUST_CHECK;
void recovery_free(struct recovery *r); /* lets the claim go */
DEFINE_OWNED(recovery);

struct recovery_facts {
    struct err damage;          /* as store_open() reports it; kind ERR_NONE: nothing to recover;
                                   ERR_STORAGE: nothing is wrong but sectors that cannot be read */
    uint64_t generation, epoch; /* of the newest state that verifies */
    uint64_t n_records;         /* in the log, onto its checkpoint */
    bool present[N_BLOBS];      /* index: kind - 1 */
    size_t n_bytes[N_BLOBS];
    bool has_origin;
    struct store_origin origin;
    /* The newest generation that something is left of. At most those after `generation` are lost:
     * the last of them may never have been acknowledged, or be that of a recovery that was cut off.
     */
    uint64_t newest;
    uint64_t next_generation, next_epoch; /* with which the state is written */
    uint64_t n_unreadable; /* sectors that the storage did not give; writing overwrites them */
};
void recovery_facts(const struct recovery *r, struct recovery_facts *ret);
const struct ref_facts *recovery_ref_facts(const struct recovery *r);

/* Everything that the image's storage holds, in a new file: whole and durable under that name, or
 * not at all. ERR_USAGE: the file is there already. */
int recovery_backup(const struct recovery *r, const char *path, struct err *e) MUST_CHECK;

/* Only where there is damage. Durable on return, and read back: the store opens. Once; after a
 * failure, begin anew. ERR_FENCED: somebody wrote meanwhile in spite of the claim; nothing was
 * written here. */
int recovery_write(struct recovery *r, struct err *e) MUST_CHECK;

#endif
