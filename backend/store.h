/* The record store: the newest state of one TPM, in two checkpoint areas and a log.
 *
 * A commit appends one record to the log, or writes one checkpoint, then flushes once, then
 * returns: what store_commit() acknowledged is durable. Nothing is written when nothing changed.
 * Opening takes the newest intact checkpoint and every record that chains onto it; it never writes
 * and has nothing to recover. What it cannot explain by a write that was cut off is damage, and is
 * reported (ERR_STATE_CORRUPT), never rolled back silently; the way back, for somebody who asks for
 * it, is store_recover.h. Sectors are described in
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

/* The blobs of one state. The TPM's have the numbers of swtpm's control channel (PTM_BLOB_TYPE_*);
 * the origin is ours: where this state came from, see store_origin.h. */
enum blob_kind { BLOB_PERMANENT = 1, BLOB_VOLATILE = 2, BLOB_SAVESTATE = 3, BLOB_ORIGIN = 4 };
enum { N_TPM_BLOBS = 3, N_BLOBS = 4, BLOB_MAX_BYTES = 512 * 1024 };

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
 * ERR_STATE_CORRUPT (says which record and what still can be opened); ERR_UNSUPPORTED: generation
 * or epoch are so high that they could run out. A store that was made to receive a migration opens,
 * and holds no blob. */
int store_open(struct qcow_disk_rw **d, struct store **ret, struct err *e) MUST_CHECK;
void store_free(struct store *s); /* lets the claim go */
DEFINE_OWNED(store);
/* The store is freed and the claim let go, but what it lay on stays open: *ret can be claimed again
 * (blk_claim). Nothing is written. */
void store_release(struct store **s, struct blk **ret);
/* The same, and the claim is the caller's. */
void store_disarm(struct store **s, struct blk_rw **ret);

/* NULL when there is no such blob. The bytes are the store's (secret memory), valid until the next
 * commit. */
const uint8_t *store_get(const struct store *s, enum blob_kind kind, size_t *ret_bytes);

/* Durable on return, or the store is as it was: store_get() answers the old state, and what the
 * disk holds is old or new. A later commit may succeed (it rewrites what may not have arrived).
 * ERR_STORAGE; ERR_UNSUPPORTED when the state is larger than a checkpoint area.
 *
 * ERR_FENCED: another owner's epoch is on the disk. Nothing was written, and nothing ever will be:
 * every later commit fails with the same error. Looked for before each write where the claim alone
 * does not keep every other writer out (blk_claim_is_enough). */
int store_commit(struct store *s, const struct state_change *change, struct err *e) MUST_CHECK;

const struct ref_facts *store_facts(const struct store *s);
/* Where the keys of its image are, for as long as nobody else has taken over (ERR_FENCED): to be
 * asked for anew before each access. */
struct key_area;
int store_key_area(struct store *s, struct key_area *ret, struct err *e) MUST_CHECK;
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

/* Which state this is, exactly: two stores with equal marks end with the same record. */
struct store_mark {
    uint64_t generation, epoch;
    uint8_t mac[32]; /* of the newest record; it authenticates all that the state is made of */
};
void store_mark(const struct store *s, struct store_mark *ret);
bool store_mark_equal(const struct store_mark *a, const struct store_mark *b);

/* The same search without a claim, for `check`, `verify-key`, `info` and a migration that is being
 * prepared: reads a running instance's image as well as it can be read (a commit may be under way:
 * tries again a few times). What was found is a copy, in secret memory. */
struct store_look;
int store_look(const struct qcow_disk *d, struct store_look **ret, struct err *e) MUST_CHECK;
void store_look_free(struct store_look *l);
DEFINE_OWNED(store_look);
const uint8_t *store_look_get(const struct store_look *l, enum blob_kind kind, size_t *ret_bytes);
const struct ref_facts *store_look_facts(const struct store_look *l);
void store_look_stats(const struct store_look *l, struct store_stats *ret);
void store_look_mark(const struct store_look *l, struct store_mark *ret);

/* For `create`: the layout for a disk of so many sectors, and the first checkpoint (generation 1,
 * epoch 1) written through qcow_new_write(). ERR_USAGE: the disk is too small. A first state
 * without any blob makes a store that waits for a migration. */
int store_plan(uint64_t disk_sectors, struct store_layout *ret, struct err *e) MUST_CHECK;
int store_format(struct qcow_new *n, const struct ref_facts *facts, const struct mac_key *key,
                 const struct state_change *first, struct err *e) MUST_CHECK;

#endif
