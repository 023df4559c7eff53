/* The search for the newest state in what the disk holds. Pure: looks at bytes that were read.
 *
 * Private to the store and its tests. What a writer keeps to (W) is what lets the search (R) tell a
 * write that was cut off from damage:
 *
 *  W1  Sectors of generation g+1 are written only after generation g was flushed with success, or,
 *      as the first checkpoint of an owner, after it was found whole.
 *  W2  A log record is appended only behind a record that this same owner wrote and flushed since
 *      it opened and since its last failure. The first commit of an owner, and the first after a
 *      failed one, is a checkpoint.
 *  W3  A checkpoint goes to the area that does not hold the base of the current state.
 *  W4  The log begins anew, at position 0, only after a checkpoint was flushed.
 *  W5  After a failed commit the next one writes, even if the state did not change: what it
 *      acknowledges lies ahead of whatever the failed one left.
 *  W6  An owner writes one epoch higher than the one it found.
 *  W7  A failed commit overwrites the first sector that it wrote with zeroes, as well as it can:
 *      the page cache may show a record that the disk never had, and a later flush does not vouch
 *      for it. It does so anew for earlier failed ones, whose zeroes the failed flush leaves as
 *      doubtful; and so does the checkpoint that succeeds at last, for what was tried in the log,
 *      in its own flush: that would be the state if the checkpoint were damaged one day. An opener
 *      flushes once, before it serves what it found.
 *  W8  Where the claim does not keep every other writer out, an owner reads, before each write, the
 *      first sector of the checkpoint area that does not hold its base, which is where the first
 *      checkpoint of a new owner goes (W2, W3). If it verifies, is not what was there when the
 *      owner opened, and has an epoch higher than the owner's, or as high while he has not
 * committed anything yet (two that opened the same state) and it is none of his own failed
 * attempts, somebody else has taken over: the owner writes nothing any more.
 *
 *  W9  Going back to an older state because of damage, which only happens when somebody asks for it
 *      (store_recover.h), is one checkpoint in the area that does not hold the base of the state
 *      that verifies. Its generation is higher than that of every sector that verifies or is damage
 *      (R4), and three or more beyond the state's: as long as only part of it arrived, R3 reports
 *      it, even where it has overwritten all traces of the damage. Its epoch is higher by as much,
 *      an epoch being used up only together with a generation. What does not verify and claims even
 *      more is noise so far (it is 2^20 ahead), but need not stay so: it is overwritten with zeroes
 *      and flushed before. Afterwards all that is left over claims less (R7).
 *
 *  R1  The base is the newest checkpoint whose sectors are all there and whose record MAC is right.
 *  R2  From position 0 of the log every record counts that is whole, has the next generation, an
 *      epoch not lower and a record MAC that chains onto the one before. The rest of the log is
 *      whatever earlier rounds and attempts have left.
 *  R3  A sector that verifies and claims a generation two or more beyond the one reached, of an
 *      epoch not lower: the one between was acknowledged (W1) and is missing. Damage. (But see R6.)
 *  R4  A sector that does not verify, but has a mark that claims a generation beyond the one
 *      reached: a disk writes sectors whole or not at all, so no cut-off write leaves this. Damage.
 *  R5  A whole record of the next generation, at its place in the log, that does not chain: no
 *      order of writes leaves this. Damage.
 *  R6  Sectors of the next generation that verify, with others of that record missing (old content,
 *      zeroes, noise): the attempt that was cut off. It was never acknowledged. Harmless. The same
 *      of the generation after the next, in a checkpoint area and of a higher epoch: the first
 *      checkpoint of an owner that found the generation between in the page cache, where a failed
 *      flush had left it, and not on the disk (W2, W7).
 *  R7  Everything that claims the generation reached or an older one, and everything without a
 *      mark: leftovers. Harmless.
 *
 * One thing cannot be told from R6: whole sectors of the very last acknowledged write replaced by
 * something else entirely. They look like a write that never arrived. The same of the last ones, if
 * nothing is left that speaks of them.
 */
#ifndef NVKEEP_BACKEND_STORE_SCAN_H
#define NVKEEP_BACKEND_STORE_SCAN_H

#include "backend/store_record.h"

struct scan {
    const struct mac_key *key;
    const uint8_t *area[3]; /* by enum record_area; decrypted */
    size_t n_sectors[3];
    struct span *spans; /* scratch: one more than the largest of n_sectors */
};

struct scan_result {
    enum record_area base; /* AREA_CHECKPOINT_A or _B */
    struct record_head base_head;
    uint64_t generation, epoch;    /* of the newest record */
    uint8_t mac[RECORD_MAC_BYTES]; /* of the newest record */
    uint32_t n_records;            /* in the log, onto the base */
    uint32_t log_used;             /* sectors they take */
    uint32_t torn_sectors;         /* of R6 */
    /* W8: record MAC in the first sector of the checkpoint area that does not hold the base; zeroes
     * where that sector does not verify. */
    uint8_t beside[RECORD_MAC_BYTES];
};

enum record_area area_beside(enum record_area base); /* the other of the two checkpoint areas */

/* ERR_STATE_CORRUPT: says what is damaged or missing, and the newest generation that verifies. */
int store_scan(const struct scan *s, struct scan_result *ret, struct err *e) MUST_CHECK;

/* The newest state that verifies, even beside damage: *ret_damage is then what store_scan() would
 * have failed with; kind ERR_NONE: all is sound. ERR_STATE_CORRUPT: no state verifies. */
int store_scan_best(const struct scan *s, struct scan_result *ret, struct err *ret_damage,
                    struct err *e) MUST_CHECK;

/* What the disk speaks of beyond the state that store_scan_best() reached. */
struct scan_claims {
    uint64_t newest;            /* W9: generation; at least the one reached */
    uint64_t epoch;             /* W9: highest that verifies */
    uint64_t newest_after_this; /* generation that the owner or a later one began to write */
};
void store_scan_claims(const struct scan *s, const struct scan_result *at, struct scan_claims *ret);

/* W9: does sector i of the area claim more than that generation, and not verify? */
bool store_scan_is_stray(const struct scan *s, enum record_area area, size_t i,
                         uint64_t generation);

#endif
