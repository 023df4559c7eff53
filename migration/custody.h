/* Custody of one TPM's state: the image with its key, the claim over it, and what is handed over.
 *
 * The daemon and the library keep to the same hooks. Which of them is allowed when is said by
 * handover.h; what they do to storage and bytes is here; the TPM itself is the caller's:
 *
 *     prepare save   custody_check_save     nothing happens; can it be exported?
 *     save           custody_export_begin, custody_export for each kind: one instant, all durable
 *     release        custody_release        the claim is let go, the mark is remembered
 *     take back      custody_take_back      claimed again, and nobody else ran: ERR_FENCED if so
 *     prepare load   custody_prepare_load   nothing happens; any number of times
 *     load           custody_stage for each blob: opened, authenticated, one set
 *     commit load    custody_take_over      claimed, read afresh, compared with the set
 *     abort load     custody_forget_set
 *
 * A store is in the caller's hand from the call that gave it to custody_release(). What a set may
 * replace:
 *   - exported from this very image (shared storage, or a copy of it): the image must hold exactly
 *     the generation the set was exported at. Older: a copy that is not finished, or a rolled back
 *     one; newer: an old set. Both are ERR_STATE_ROLLED_BACK, unless rules.rewind.
 *   - exported from another image: this one holds no TPM yet, or the same TPM (lineage) at an
 *     earlier clock. Otherwise ERR_STATE_FOREIGN, or ERR_STATE_ROLLED_BACK unless rules.rewind.
 *   - swtpm's blobs: nothing is known about them. Under a migration key whoever has it made them.
 *     In the clear they are taken by an image that holds no TPM yet or one that came so, and by
 *     others with SEAL_OFF. Otherwise ERR_STATE_FOREIGN.
 *
 * A set that is stored here already and was never used may be stored again in any case: whoever
 * stored it has failed.
 *
 * The clock (store_origin.h) counts commits. It tells a copy that lagged behind, and whatever was
 * captured on the way; two that both went on from one state are told apart only by how far they
 * came: the one that has done less is refused. swtpm's blobs have none. Where one is taken, the
 * clock goes on by one, and may stay behind that of an image which the TPM left before: to go back
 * there sealed needs rules.rewind then.
 */
#ifndef NVKEEP_MIGRATION_CUSTODY_H
#define NVKEEP_MIGRATION_CUSTODY_H

#include "backend/image.h"
#include "backend/store_origin.h"
#include "crypto/envelope.h"
#include "migration/handover.h"

enum seal_policy {
    SEAL_AUTO,     /* out: sealed (migration key if there is one, else the image's);
                      in: sealed; plain only where there is no migration key, see below */
    SEAL_OFF,      /* out: swtpm's blobs (under the migration key if there is one);
                      in: sealed; plain where there is no migration key */
    SEAL_REQUIRED, /* out: sealed; in: sealed */
};

struct custody_rules {
    enum seal_policy seal;
    struct migration_key *migration_key; /* NULL: none; borrowed */
    bool rewind;                         /* an older state is what is wanted (restore, loadvm) */
    unsigned armed_ms; /* how long a prepared hand-over stays armed; 0: none is required */
};

struct custody;

/* Takes the image. first: HO_IDLE (its store is in the caller's hand) or HO_AWAY. */
int custody_new(struct image **i, const struct custody_rules *rules, enum handover_state first,
                struct custody **ret, struct err *e) MUST_CHECK;
/* For storage that is still being copied: the image need not be there yet. The passphrase is kept
 * until it has opened it. Takes both on success. */
int custody_await(struct image_file **f, struct secret **pass, size_t pass_bytes,
                  const struct custody_rules *rules, struct custody **ret,
                  struct err *e) MUST_CHECK;
void custody_free(struct custody *c);
DEFINE_OWNED(custody);

/* False: of an image that is being copied, as long as it could not be opened. */
bool custody_has_image(const struct custody *c);

/* The key of the image. NULL: there is none yet. */
const struct volume_key *custody_key(const struct custody *c);

/* --- the table --- */

enum handover_state custody_state(const struct custody *c);
/* What is to be done about an event. HO_NO: *e says what is wrong (ERR_USAGE, in EXPORTED and for
 * an incomplete set ERR_LOCKED and ERR_STATE_EMPTY). */
struct handover_rule custody_rule(const struct custody *c, enum handover_event v, struct err *e);
void custody_enter(struct custody *c, enum handover_state s);

/* --- the claim --- */

int custody_claim(struct custody *c, struct store **ret, struct err *e) MUST_CHECK;
/* Against the set that was staged. */
int custody_take_over(struct custody *c, struct store **ret, struct err *e) MUST_CHECK;
/* Against what was remembered at release: the same mark, or our own set, stored by whoever received
 * it and never used. Commits that it was taken back: whoever still holds the set comes too late,
 * and an owner that could not be kept out is fenced. ERR_LOCKED; ERR_FENCED. */
int custody_take_back(struct custody *c, struct store **ret, struct err *e) MUST_CHECK;
/* Nothing is written. remember: for custody_take_back(). */
void custody_release(struct custody *c, struct store **s, bool remember);

/* The state of a snapshot in the place of what is stored; the TPM is off. The store is another one
 * afterwards, or NULL where it could not be opened again. */
int custody_apply(struct custody *c, const char *snapshot, struct store **s,
                  struct err *e) MUST_CHECK;

/* --- what is given away --- */

/* What was handed over and not used yet: true, and what to commit to mark it as used. */
bool custody_unused(const struct store *s, uint8_t ret[ORIGIN_BYTES]);

/* One instant: kinds that exist (bit kind - 1) and libtpms' version. Forgets an earlier one. With
 * armed_ms: ERR_USAGE unless armed. ERR_STATE_CORRUPT: the store's own record of its origin. */
int custody_export_begin(struct custody *c, const struct store *s, unsigned kinds, uint32_t library,
                         struct err *e) MUST_CHECK;
/* One blob as it travels: *ret_n bytes of *ret. *ret_encrypted: for the reply's flags. */
int custody_export(struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                   struct secret **ret, size_t *ret_n, bool *ret_encrypted,
                   struct err *e) MUST_CHECK;
void custody_export_end(struct custody *c);

/* --- what is handed in --- */

/* May the set that was staged replace what is in this store? rewind: an older state is what is
 * wanted. custody_take_over() asks it with rules.rewind. */
int custody_accepts_set(const struct custody *c, const struct store *s, bool rewind,
                        struct err *e) MUST_CHECK;
/* Opens and checks one blob. *ret: the state in it, *ret_n bytes; NULL and 0: there is none of that
 * kind. On failure the set so far is forgotten. A permanent state begins a new set. */
int custody_stage(struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                  struct secret **ret, size_t *ret_n, struct err *e) MUST_CHECK;
bool custody_set_is_whole(const struct custody *c);
bool custody_set_is_sealed(const struct custody *c); /* in an envelope of ours */
void custody_forget_set(struct custody *c);
/* To be committed together with the set: used: it needs no first command any more. */
void custody_set_origin(const struct custody *c, const struct store *s, bool used,
                        uint8_t ret[ORIGIN_BYTES]);

/* --- prepared hand-over: texts (hexadecimal) of envelopes --- */

enum { CUSTODY_TOKEN_MAX = 2048 };

/* The state as it is in the image now, without a claim, for the caller to show to libtpms (where
 * the store holds a TPM yet). Opens the image first where that could not be done yet. */
int custody_prepare_load(struct custody *c, const struct watch *watch, struct store_look **ret,
                         struct err *e) MUST_CHECK;
int custody_check_save(const struct custody *c, struct err *e) MUST_CHECK;
/* Source: prepare-outgoing. */
int custody_offer(struct custody *c, const struct store *s, uint32_t library,
                  char ret[CUSTODY_TOKEN_MAX], struct err *e) MUST_CHECK;
/* Destination: prepare-incoming. look: of custody_prepare_load(). library: ours. */
int custody_ready(struct custody *c, const char *offer, const struct store_look *look,
                  uint32_t library, char ret[CUSTODY_TOKEN_MAX], struct err *e) MUST_CHECK;
/* Source: commit-outgoing. Armed for rules.armed_ms (or a minute). */
int custody_arm(struct custody *c, const char *ready, struct err *e) MUST_CHECK;
bool custody_is_armed(const struct custody *c);
void custody_disarm(struct custody *c);

#endif
