/* The record store: the newest state of one TPM, in two checkpoint areas and a log.
 *
 * A commit appends one record to the log, or writes one checkpoint, then flushes once, then
 * returns: what store_commit() acknowledged is durable. Nothing is written when nothing changed.
 * Opening takes the newest intact checkpoint and every record that chains onto it; it never writes
 * and there is no recovery code. What it cannot explain by a write that was cut off is damage, and
 * is reported (ERR_STATE_CORRUPT), never rolled back silently. Sectors are described in
 * store_record.h, payloads in store_diff.h, the numbered rules of writing and searching in
 * store_scan.h, all of it for other readers in src/doc/format.md.
 *
 * The first commit of whoever opened, and the first after a failed one, is a checkpoint; the others
 * go to the log while they fit. Memory: the state, and one buffer for a record of its size; a
 * commit asks for more only when the state outgrows them.
 *
 * A store proves that the newest intact generation was found and is known. It is used by one
 * thread.
 */
#ifndef NVKEEP_BACKEND_STORE_H
#define NVKEEP_BACKEND_STORE_H

#include "backend/qcow.h"

/* The blobs of one state. Numbers are those of swtpm's control channel (PTM_BLOB_TYPE_*). */
enum blob_kind { BLOB_PERMANENT = 1, BLOB_VOLATILE = 2, BLOB_SAVESTATE = 3 };
enum { N_BLOBS = 3, BLOB_MAX_BYTES = 512 * 1024 };

/* What a commit does to one blob. */
struct blob_change {
    enum { BLOB_KEEP = 0, BLOB_SET, BLOB_DELETE } what;
    const uint8_t *p; /* BLOB_SET; borrowed for the call; may be store_get()'s of this very kind */
    size_t n;         /* may be 0: present and empty */
};
struct state_change {
    struct blob_change blob[N_BLOBS]; /* index: kind - 1 */
};

struct store;

/* Takes the disk on success. Flushes once, so that what is served is durable; writes nothing.
 * ERR_STATE_CORRUPT (says which record and what still can be opened);
 * ERR_STATE_EMPTY cannot happen here: a store is created with its first state. */
int store_open(struct qcow_disk_rw **d, struct store **ret, struct err *e) MUST_CHECK;
void store_free(struct store *s); /* lets the claim go */
DEFINE_OWNED(store);

/* NULL when there is no such blob. The bytes are the store's (secret memory), valid until the next
 * commit. */
const uint8_t *store_get(const struct store *s, enum blob_kind kind, size_t *ret_bytes);

/* Durable on return, or the store is as it was: store_get() answers the old state, and what the
 * disk holds is old or new. A later commit may succeed (it rewrites what may not have arrived).
 * ERR_STORAGE; ERR_UNSUPPORTED when the state is larger than a checkpoint area. */
int store_commit(struct store *s, const struct state_change *change, struct err *e) MUST_CHECK;

const struct ref_facts *store_facts(const struct store *s);
/* The disk below, borrowed; for `check` and for the tests. */
const struct qcow_disk *store_disk(const struct store *s);

struct store_stats {
    uint64_t generation; /* of the newest acknowledged state; the first is 1 */
    uint64_t epoch;      /* of the owner who wrote it */
    uint64_t log_sectors, log_used;
    uint64_t checkpoint_bytes; /* largest state that fits, in bytes */
    uint64_t state_bytes;
    uint64_t n_records;    /* in the log, onto the checkpoint */
    uint64_t torn_sectors; /* traces of a write that was cut off, harmless */
};
void store_stats(const struct store *s, struct store_stats *ret);

/* The same search without a claim, for `check`, `verify-key` and `info`: reads a running instance's
 * image as well as it can be read (a commit may be under way: tries again a few times). */
int store_inspect(const struct qcow_disk *d, struct store_stats *ret, struct err *e) MUST_CHECK;

/* For `create`: the layout for a disk of so many sectors, and the first checkpoint (generation 1,
 * epoch 1) written through qcow_new_write(). ERR_USAGE: the disk is too small. */
int store_plan(uint64_t disk_sectors, struct store_layout *ret, struct err *e) MUST_CHECK;
int store_format(struct qcow_new *n, const struct ref_facts *facts, const struct mac_key *key,
                 const struct state_change *first, struct err *e) MUST_CHECK;

#endif
