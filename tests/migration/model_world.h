/* A model of the hand-over: two hosts, each with a daemon and an emulator, and their storage.
 *
 * The daemons follow a table of migration/handover.h, the real one or one with a deliberate mistake
 * in it; what an action does to storage is written down here once more, from migration/custody.h,
 * in a few lines each. The emulators do what QEMU 7.2 was seen to do, and may die at any step. A
 * world is a plain value without padding: the search compares and hashes its bytes.
 *
 * The TPM's content is two counters: changes that were acknowledged as durable, and changes in
 * memory that last until the power goes. acked_* is what the one guest has been told. */
#ifndef NVKEEP_TESTS_MODEL_WORLD_H
#define NVKEEP_TESTS_MODEL_WORLD_H

#include <stdint.h>

#include "migration/handover.h"

enum { HOSTS = 2, SETS = 5 };

enum model_storage {
    SHARED_WITH_LOCKS,
    SHARED_WITHOUT_LOCKS, /* both claims succeed; a stale owner is found out at its next commit */
    SEPARATE,
};

/* Mistakes in what the actions do, which no table shows. */
enum model_mistake {
    NO_MISTAKE,
    TAKE_BACK_COMPARES_NOTHING,
    TAKE_BACK_WRITES_NOTHING,
    TAKE_BACK_FORGETS_ITS_RECORD, /* one that was written, although the commit failed */
    TAKE_OVER_ONLY_ONCE,          /* a set that was stored and never used is not taken again */
    TAKE_OVER_COMPARES_NOTHING,
    CLAIM_WITHOUT_KEY,
    EXPORT_AFTER_FAILED_COMMIT, /* takes the instant without writing again */
};

struct model_bounds {
    uint8_t commands, exports, crashes, faults, conts, resets, pauses, starts;
};

struct model {
    const struct handover_table *table;
    enum model_storage storage;
    bool return_path; /* on: the source waits to hear that the guest runs. Off: also a save file */
    bool wrong_key;   /* at host B */
    enum model_mistake mistake;
    struct model_bounds most;
};

enum emulator_phase {
    EMU_NONE,
    EMU_RESET, /* CMD_STOP was said, CMD_INIT is next */
    EMU_RUN,
    EMU_PAUSED,
    EMU_GET,      /* permanent state */
    EMU_GET_WAIT, /* for the reply */
    EMU_GOT,      /* it is in the socket */
    EMU_GET_LAST,
    EMU_LAST_WAIT,
    EMU_LAST_GOT,
    EMU_SENT, /* all was asked for; the stream is on its way */
    EMU_POST, /* migration completed, says the emulator; the guest is stopped */
    EMU_IN,   /* -incoming */
    EMU_IN_SET,
    EMU_IN_SET_LAST,
    EMU_IN_INIT,
    EMU_IN_LOADED, /* the TPM is there, the rest of the machine is not yet */
};

struct model_daemon {
    uint8_t alive, state, waits; /* waits: for a migration, and has had none yet */
    uint8_t on, d, m;            /* the TPM in memory */
    uint8_t claim, seen, unused; /* holds it; the newest record it knows; that one is unused */
    uint8_t dirty;               /* the record of a commit that failed, and was written */
    uint8_t given, given_set;    /* the record and the set that it remembers */
    uint8_t staged, out, asked;  /* sets: handed in whole, being exported; blobs asked for */
    uint8_t hangup;              /* its emulator has gone; it has not noticed yet */
    uint8_t reply;               /* not written yet: 1 of a part, 2 of the last */
};

struct model_emulator {
    uint8_t phase, relock, was_paused, set;
    uint8_t loaded; /* runs what came by this set */
};

struct model_image {
    uint8_t record, d;
    uint8_t set, used; /* the origin */
    uint8_t back;      /* the newest record says that somebody took back: who, and which set */
};

struct model_set {
    uint8_t d, m, record, image;
};

struct world {
    struct model_daemon daemon[HOSTS];
    struct model_emulator emulator[HOSTS];
    struct model_image image[HOSTS]; /* shared: the first */
    struct model_set set[SETS];      /* 0: none */
    uint8_t n_sets, n_records;
    uint8_t stream[2], stream_whole;
    uint8_t acked_d, acked_m;
    struct model_bounds left;
    uint8_t outside; /* a human or the emulator has made a second guest: no daemon can know */
    uint8_t broken;  /* enum violation */
};

enum violation {
    SOUND,
    TWO_OWNERS,
    TWO_EXECUTE,
    EXECUTED_WITHOUT_CLAIM,
    ANOTHER_STATE,
    ACKNOWLEDGED_LOST,
    WRITE_WITHOUT_CLAIM,
    WRITE_BY_TWO,
    WRITE_UNDER_WRONG_KEY,
    RELEASED_TOO_EARLY,
    CLAIM_NOT_AS_THE_STATE_SAYS,
    DEAD_END,
    N_VIOLATIONS
};
const char *violation_text(enum violation v);

/* --- the daemon --- */

enum model_fault { NO_FAULT, FAULT_NOT_WRITTEN, FAULT_WRITTEN };
enum model_outcome { DONE, REFUSED, FROZEN, FAILED };

enum model_outcome daemon_fire(const struct model *m, struct world *w, int h, enum handover_event v,
                               enum model_fault f);
/* One TPM command of the guest. *True if it was executed and acknowledged. */
bool daemon_command(const struct model *m, struct world *w, int h, bool durable,
                    enum model_fault f);
void daemon_start(const struct model *m, struct world *w, int h, bool incoming);
void daemon_gone(struct world *w, int h);
struct model_image *image_of(const struct model *m, struct world *w, int h);
bool daemon_may_take_back(const struct model *m, const struct world *w, int h);
bool daemon_may_take_over(const struct model *m, const struct world *w, int h, unsigned set);

/* --- all steps --- */

typedef void step_fn(void *ctx, const struct world *next, const char *what, int host);
/* helpful: only what goes on without anything new: no command, no crash, no failure of storage; a
 * person says `cont`, or loads the saved file once more. */
void world_steps(const struct model *m, const struct world *w, bool helpful, step_fn *step,
                 void *ctx);
void world_begin(const struct model *m, struct world *ret);
/* Also what can be seen of a world only by trying: that not both sides execute. */
enum violation world_judge(const struct model *m, const struct world *w);
/* Somebody can use the TPM now. */
bool world_runs(const struct model *m, const struct world *w);
/* Somebody has the guest's state whole, and nobody else has used it. */
bool world_must_go_on(const struct model *m, const struct world *w);
void world_print(const struct world *w);

/* --- the search --- */

struct model_result {
    uint64_t states, steps, outside;
    enum violation violation; /* the nearest; SOUND: none */
};
/* All worlds that can be reached; ends at the first violation, nearest first, and prints the way
 * there. False: no memory. */
bool model_search(const struct model *m, bool print, struct model_result *ret);

#endif
