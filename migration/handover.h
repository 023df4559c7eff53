/* Who may do what with the state, and when: one table. Pure; touches nothing.
 *
 * A state says two things at once: is the image claimed by us, and what does the emulator think
 * that its TPM is doing. Nobody else in the program remembers whether the claim is held.
 *
 *      INIT                 first GET                last GET                 reply written
 *   IDLE ------> RUNNING -----------> EXPORTING -----------> EXPORTED ------------------> RELEASED
 *    ^ ^          |  ^ ^                  |                      |                          |  |
 *    | +---STOP---+  | +---- COMMAND, STOP, hang-up, failure ----+ reply not written        |  |
 *    |               +------------------ LOCK_STORAGE: same generation ---------------------+  |
 *    |               |  +-- COMMAND, LOCK_STORAGE -- RECLAIMING <-- LOCK_STORAGE: still held --+
 *    |            used: first COMMAND
 *    |               |                                                 STOP, hang-up
 *    |            LOADED <--INIT: claim, verify, take over-- AWAY_SET <--blobs-- AWAY
 *    |               +----- hang-up, end: let go, nothing was done ----------------^
 *    +--blobs--> IDLE_PART, IDLE_SET --INIT: one commit--> RUNNING
 *
 *   RELEASED, RECLAIMING, LOADED -- STOP --> RELEASED_OFF -- INIT: nobody else ran --> RUNNING
 *   any of these -- another owner's epoch was found --> FENCED -- hang-up --> AWAY
 *
 * claimed:      IDLE*, RUNNING, LOADED, EXPORTING, EXPORTED
 * not claimed:  RELEASED, RECLAIMING (the TPM is frozen in memory); RELEASED_OFF, _PART, _SET,
 *               AWAY*, FENCED (it is off)
 *
 * *_PART: something was handed in that is not a whole set, or was refused; *_SET: a whole one.
 * LOADED: the state was handed over to us and stored, and no command was executed yet. Until then
 * the one who handed it over may take it back: his emulator may have found out later than ours that
 * the migration failed.
 */
#ifndef NVKEEP_MIGRATION_HANDOVER_H
#define NVKEEP_MIGRATION_HANDOVER_H

#include <stdbool.h>

enum handover_state {
    HO_IDLE,
    HO_IDLE_PART,
    HO_IDLE_SET,
    HO_RUNNING,
    HO_LOADED,
    HO_EXPORTING,
    HO_EXPORTED,
    HO_RELEASED,
    HO_RECLAIMING,
    HO_RELEASED_OFF,
    HO_RELEASED_PART,
    HO_RELEASED_SET,
    HO_AWAY,
    HO_AWAY_PART,
    HO_AWAY_SET,
    HO_FENCED,
    HO_N_STATES
};

enum handover_event {
    HO_INIT,      /* CMD_INIT of a daemon that may start from what is stored */
    HO_INIT_LOAD, /* CMD_INIT of one that waits for a migration, until it has had one */
    HO_STOP,
    HO_COMMAND,
    HO_STAGE_PART, /* a blob was handed in and is good; more must come */
    HO_STAGE_LAST, /* and with it the set is whole */
    HO_STAGE_BAD,  /* a blob was refused */
    HO_GET_PART,   /* a blob was asked for; of this set others were not asked for yet */
    HO_GET_LAST,   /* and all have been asked for now */
    HO_GET_FAILED, /* it could not be given */
    HO_SENT,       /* the reply that completes the set was written */
    HO_UNSENT,     /* it will never be: its client has gone */
    HO_LOCK_STORAGE,
    HO_HANGUP, /* the emulator's data connection was lost */
    HO_FENCE,  /* an action or a commit found another owner: ERR_FENCED (after its own rule) */
    HO_END,    /* SHUTDOWN, or the process ends */
    HO_N_EVENTS
};

/* What makes the step true. It is done first; only when it succeeded is the next state entered.
 * TAKE_BACK* commit in any case, so that a late TAKE_OVER finds another generation also on storage
 * where claims do not exclude each other. */
enum handover_action {
    HO_DO_NOTHING,
    HO_DO_START,       /* power on from the claimed store (marked as used, if it is not yet) */
    HO_DO_START_SET,   /* power on with the set: committed as one generation, with its origin */
    HO_DO_CLAIM_START, /* claim, read afresh, then as HO_DO_START */
    HO_DO_TAKE_OVER, /* claim, read afresh, compare with the set, then as HO_DO_START_SET, unused */
    HO_DO_TAKE_BACK, /* claim, read afresh, same mark as at release or our own set unused: mark as
                        used, go on */
    HO_DO_TAKE_BACK_START,  /* power off, compare as HO_DO_TAKE_BACK, then as HO_DO_START */
    HO_DO_TAKE_BACK_EXPORT, /* HO_DO_TAKE_BACK, then HO_DO_EXPORT; if only that fails: release */
    HO_DO_MARK_USED,        /* commit that the state that was handed over is in use now */
    HO_DO_EXPORT,           /* serve from one instant: taken now, if there is none yet */
    HO_DO_USED_EXPORT,      /* HO_DO_MARK_USED, then HO_DO_EXPORT */
    HO_DO_DROP_EXPORT,      /* that instant is over; nothing was given away */
    HO_DO_DROP_SET,         /* forget what was handed in */
    HO_DO_POWER_OFF,        /* no orderly shutdown: the guest was reset, or the state is not ours */
    HO_DO_SHUT_DOWN, /* the orderly shutdown that the guest forgot; power off; let the claim go */
    HO_DO_LET_GO,    /* power off, write nothing, forget set and instant, let the claim go; remember
                        the mark */
    HO_DO_RELEASE,   /* let the claim go, the TPM stays frozen in memory; remember the mark */
};

enum handover_verdict {
    HO_FORGOTTEN = 0, /* never there: a test looks for it */
    HO_NO,            /* refused: not in this state; nothing changes */
    HO_YES,           /* do the action, then `next` */
    HO_FROZEN,        /* HO_COMMAND: not executed; the TPM answers that it cannot now */
};

struct handover_rule {
    enum handover_verdict verdict;
    enum handover_action action;
    enum handover_state next;
    enum handover_state failed; /* where a failed action leaves */
};

struct handover_table {
    struct handover_rule rule[HO_N_STATES][HO_N_EVENTS];
};
extern const struct handover_table handover_table;

static inline const struct handover_rule *handover_look(enum handover_state s,
                                                        enum handover_event v)
{
    return &handover_table.rule[s][v];
}

bool handover_is_claimed(enum handover_state s);
const char *handover_state_name(enum handover_state s); /* "RUNNING" */
const char *handover_event_name(enum handover_event v);

#endif
