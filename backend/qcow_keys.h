/* The eight key slots of an image, and how keys are added and removed.
 *
 *     qcow_keys_open --> which keys are there --qcow_keys_try--> which of them this passphrase
 * opens
 *
 *     adding                                     removing
 *       1 key material into a free slot, flushed   1 the slot is disabled in the header, flushed
 *       2 read back: it opens, with the key        2 its key material is overwritten, flushed,
 * twice 3 the slot is enabled in the header, flushed
 *
 * Every change to the header that counts is one write of one sector: whenever the power fails, each
 * slot is as it was or as it shall be. (The entry of slot 6 lies in two sectors. Its state is in
 * the first; the second is written while the slot is disabled.) A key is removed only while another
 * slot was seen to open, so that there is no moment without a key that works.
 *
 * What was interrupted is finished by doing it again: a key that was added is found
 * (qcow_keys_try), and the material of disabled slots is overwritten where that was not done yet
 * (qcow_keys_sweep).
 *
 * All of it goes through a struct key_io: the same code runs on a claimed image and in the daemon,
 * where each access takes its turn between two commands of the TPM.
 */
#ifndef NVKEEP_BACKEND_QCOW_KEYS_H
#define NVKEEP_BACKEND_QCOW_KEYS_H

#include "backend/qcow_key_io.h"

struct qcow_keys;

/* Reads the header. */
int qcow_keys_open(const struct key_io *io, struct qcow_keys **ret, struct err *e) MUST_CHECK;
void qcow_keys_free(struct qcow_keys *k);
DEFINE_OWNED(qcow_keys);
const struct luks_header *qcow_keys_header(const struct qcow_keys *k); /* as it is now */
/* The header may have been written to. False after a failure: nothing that counts has changed. */
bool qcow_keys_touched(const struct qcow_keys *k);

/* Tries all active slots. *ret_slots: those that it opens (bit n: slot n), 0: none. ret_key may be
 * NULL; it is set only where *ret_slots is not 0. */
int qcow_keys_try(struct qcow_keys *k, const struct secret *pass, size_t pass_bytes,
                  const struct watch *watch, unsigned *ret_slots, struct volume_key **ret_key,
                  struct err *e) MUST_CHECK;

enum { KEY_SLOT_ANY = -1 };
/* slot: 0 to 7, or the first free one. ERR_USAGE: it is taken, or all are. */
int qcow_keys_add(struct qcow_keys *k, int slot, const struct volume_key *key,
                  const struct secret *pass, size_t pass_bytes, uint32_t iterations,
                  const struct watch *watch, unsigned *ret_slot, struct err *e) MUST_CHECK;

/* seen: slots that a key was seen to open, of qcow_keys_try() or _add(). ERR_USAGE: it is the last,
 * or none of `seen` would stay. Of a slot that holds no key only the material is overwritten, where
 * that was not done yet. */
int qcow_keys_remove(struct qcow_keys *k, unsigned slot, unsigned seen, struct err *e) MUST_CHECK;

/* The same for all slots that hold no key. *ret_n: how many were not overwritten yet. */
int qcow_keys_sweep(struct qcow_keys *k, unsigned *ret_n, struct err *e) MUST_CHECK;

#endif
