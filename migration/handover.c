#include "migration/handover.h"

#define YES(action_, next_, failed_)                                                               \
    {                                                                                              \
        .verdict = HO_YES, .action = HO_DO_##action_, .next = HO_##next_, .failed = HO_##failed_   \
    }
#define STAY(state) YES(NOTHING, state, state)
#define FROZEN(state)                                                                              \
    {                                                                                              \
        .verdict = HO_FROZEN, .next = HO_##state, .failed = HO_##state                             \
    }
#define NO(state)                                                                                  \
    {                                                                                              \
        .verdict = HO_NO, .next = HO_##state, .failed = HO_##state                                 \
    }

/* Rows that some states share. */
#define NO_EXPORT(state)                                                                           \
    [HO_GET_PART] = NO(state), [HO_GET_LAST] = NO(state), [HO_GET_FAILED] = STAY(state)
#define NO_STAGING(state)                                                                          \
    [HO_STAGE_PART] = NO(state), [HO_STAGE_LAST] = NO(state), [HO_STAGE_BAD] = STAY(state)
#define STAGING(family)                                                                            \
    [HO_STAGE_PART] = STAY(family##_PART), [HO_STAGE_LAST] = STAY(family##_SET),                   \
    [HO_STAGE_BAD] = STAY(family##_PART)
#define NOTHING_SENT(state) [HO_SENT] = STAY(state), [HO_UNSENT] = STAY(state)

/* One line for each state and event; what is not here would be HO_NO without a state to stay in,
 * and is looked for by a test. */
/* clang-format off */
const struct handover_table handover_table = {.rule = {
    /* Claimed; the TPM is off. */
    [HO_IDLE] = {
        [HO_INIT]         = YES(START, RUNNING, IDLE),
        [HO_INIT_LOAD]    = YES(START, RUNNING, IDLE),
        [HO_STOP]         = STAY(IDLE),
        [HO_COMMAND]      = STAY(IDLE),
        STAGING(IDLE),
        NO_EXPORT(IDLE),
        NOTHING_SENT(IDLE),
        [HO_LOCK_STORAGE] = STAY(IDLE),
        [HO_HANGUP]       = STAY(IDLE),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(LET_GO, AWAY, AWAY),
    },
    [HO_IDLE_PART] = {
        [HO_INIT]         = NO(IDLE_PART),
        [HO_INIT_LOAD]    = NO(IDLE_PART),
        [HO_STOP]         = YES(DROP_SET, IDLE, IDLE),
        [HO_COMMAND]      = STAY(IDLE_PART),
        STAGING(IDLE),
        NO_EXPORT(IDLE_PART),
        NOTHING_SENT(IDLE_PART),
        [HO_LOCK_STORAGE] = STAY(IDLE_PART),
        [HO_HANGUP]       = YES(DROP_SET, IDLE, IDLE),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(LET_GO, AWAY, AWAY),
    },
    [HO_IDLE_SET] = {
        [HO_INIT]         = YES(START_SET, RUNNING, IDLE_SET),
        [HO_INIT_LOAD]    = YES(START_SET, RUNNING, IDLE_SET),
        [HO_STOP]         = YES(DROP_SET, IDLE, IDLE),
        [HO_COMMAND]      = STAY(IDLE_SET),
        STAGING(IDLE),
        NO_EXPORT(IDLE_SET),
        NOTHING_SENT(IDLE_SET),
        [HO_LOCK_STORAGE] = STAY(IDLE_SET),
        [HO_HANGUP]       = YES(DROP_SET, IDLE, IDLE),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(LET_GO, AWAY, AWAY),
    },

    /* Claimed; the TPM is on. */
    [HO_RUNNING] = {
        [HO_INIT]         = YES(START, RUNNING, IDLE),
        [HO_INIT_LOAD]    = YES(START, RUNNING, IDLE),
        [HO_STOP]         = YES(POWER_OFF, IDLE, IDLE),
        [HO_COMMAND]      = STAY(RUNNING),
        NO_STAGING(RUNNING),
        [HO_GET_PART]     = YES(EXPORT, EXPORTING, RUNNING),
        [HO_GET_LAST]     = YES(EXPORT, EXPORTED, RUNNING),
        [HO_GET_FAILED]   = STAY(RUNNING),
        NOTHING_SENT(RUNNING),
        [HO_LOCK_STORAGE] = STAY(RUNNING),
        [HO_HANGUP]       = STAY(RUNNING),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(SHUT_DOWN, AWAY, AWAY),
    },
    /* Until the first command nothing has happened here: whoever handed the state over may still
     * want it back, and gets it as soon as our emulator gives up. */
    [HO_LOADED] = {
        [HO_INIT]         = YES(START, RUNNING, IDLE),
        [HO_INIT_LOAD]    = YES(START, RUNNING, IDLE),
        [HO_STOP]         = YES(LET_GO, RELEASED_OFF, RELEASED_OFF),
        [HO_COMMAND]      = YES(MARK_USED, RUNNING, LOADED),
        NO_STAGING(LOADED),
        [HO_GET_PART]     = YES(USED_EXPORT, EXPORTING, LOADED),
        [HO_GET_LAST]     = YES(USED_EXPORT, EXPORTED, LOADED),
        [HO_GET_FAILED]   = STAY(LOADED),
        NOTHING_SENT(LOADED),
        [HO_LOCK_STORAGE] = STAY(LOADED),
        [HO_HANGUP]       = YES(LET_GO, AWAY, AWAY),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(LET_GO, AWAY, AWAY),
    },
    [HO_EXPORTING] = {
        [HO_INIT]         = YES(START, RUNNING, IDLE),
        [HO_INIT_LOAD]    = YES(START, RUNNING, IDLE),
        [HO_STOP]         = YES(POWER_OFF, IDLE, IDLE),
        [HO_COMMAND]      = YES(DROP_EXPORT, RUNNING, RUNNING),
        NO_STAGING(EXPORTING),
        [HO_GET_PART]     = YES(EXPORT, EXPORTING, RUNNING),
        [HO_GET_LAST]     = YES(EXPORT, EXPORTED, RUNNING),
        [HO_GET_FAILED]   = YES(DROP_EXPORT, RUNNING, RUNNING),
        [HO_SENT]         = STAY(EXPORTING),
        [HO_UNSENT]       = YES(DROP_EXPORT, RUNNING, RUNNING),
        [HO_LOCK_STORAGE] = YES(DROP_EXPORT, RUNNING, RUNNING),
        [HO_HANGUP]       = YES(DROP_EXPORT, RUNNING, RUNNING),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(SHUT_DOWN, AWAY, AWAY),
    },
    /* Whether the other side has it all is known as soon as the reply has left, or cannot leave any
     * more. Until then nothing may happen that only one owner may do. */
    [HO_EXPORTED] = {
        [HO_INIT]         = NO(EXPORTED),
        [HO_INIT_LOAD]    = NO(EXPORTED),
        [HO_STOP]         = NO(EXPORTED),
        [HO_COMMAND]      = FROZEN(EXPORTED),
        NO_STAGING(EXPORTED),
        NO_EXPORT(EXPORTED),
        [HO_SENT]         = YES(RELEASE, RELEASED, RELEASED),
        [HO_UNSENT]       = YES(DROP_EXPORT, RUNNING, RUNNING),
        [HO_LOCK_STORAGE] = NO(EXPORTED),
        [HO_HANGUP]       = STAY(EXPORTED),
        [HO_FENCE]        = YES(LET_GO, FENCED, FENCED),
        [HO_END]          = YES(LET_GO, AWAY, AWAY),
    },

    /* Not claimed; the TPM is in memory as it was when its state was given away. An emulator that
     * asks for the state once more never resumed the guest in between, and will not say
     * LOCK_STORAGE when it does, should this request fail: then the next command takes back. */
    [HO_RELEASED] = {
        [HO_INIT]         = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_INIT_LOAD]    = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_STOP]         = YES(POWER_OFF, RELEASED_OFF, RELEASED_OFF),
        [HO_COMMAND]      = FROZEN(RELEASED),
        NO_STAGING(RELEASED),
        [HO_GET_PART]     = YES(TAKE_BACK_EXPORT, EXPORTING, RECLAIMING),
        [HO_GET_LAST]     = YES(TAKE_BACK_EXPORT, EXPORTED, RECLAIMING),
        [HO_GET_FAILED]   = STAY(RECLAIMING),
        NOTHING_SENT(RELEASED),
        [HO_LOCK_STORAGE] = YES(TAKE_BACK, RUNNING, RECLAIMING),
        [HO_HANGUP]       = YES(POWER_OFF, AWAY, AWAY),
        [HO_FENCE]        = YES(POWER_OFF, FENCED, FENCED),
        [HO_END]          = YES(POWER_OFF, AWAY, AWAY),
    },
    [HO_RECLAIMING] = {
        [HO_INIT]         = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_INIT_LOAD]    = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_STOP]         = YES(POWER_OFF, RELEASED_OFF, RELEASED_OFF),
        [HO_COMMAND]      = YES(TAKE_BACK, RUNNING, RECLAIMING),
        NO_STAGING(RECLAIMING),
        [HO_GET_PART]     = YES(TAKE_BACK_EXPORT, EXPORTING, RECLAIMING),
        [HO_GET_LAST]     = YES(TAKE_BACK_EXPORT, EXPORTED, RECLAIMING),
        [HO_GET_FAILED]   = STAY(RECLAIMING),
        NOTHING_SENT(RECLAIMING),
        [HO_LOCK_STORAGE] = YES(TAKE_BACK, RUNNING, RECLAIMING),
        [HO_HANGUP]       = YES(POWER_OFF, AWAY, AWAY),
        [HO_FENCE]        = YES(POWER_OFF, FENCED, FENCED),
        [HO_END]          = YES(POWER_OFF, AWAY, AWAY),
    },

    /* Not claimed; the TPM is off. */
    /* The emulator that gave the state away, or got it and never used it, is still here: it may
     * start again only if nobody else has. */
    [HO_RELEASED_OFF] = {
        [HO_INIT]         = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_INIT_LOAD]    = YES(TAKE_BACK_START, RUNNING, RELEASED_OFF),
        [HO_STOP]         = STAY(RELEASED_OFF),
        [HO_COMMAND]      = STAY(RELEASED_OFF),
        STAGING(RELEASED),
        NO_EXPORT(RELEASED_OFF),
        NOTHING_SENT(RELEASED_OFF),
        [HO_LOCK_STORAGE] = NO(RELEASED_OFF),
        [HO_HANGUP]       = STAY(AWAY),
        [HO_FENCE]        = STAY(FENCED),
        [HO_END]          = STAY(AWAY),
    },
    /* What it is handed, it may start; without that it is where it was. */
    [HO_RELEASED_PART] = {
        [HO_INIT]         = NO(RELEASED_PART),
        [HO_INIT_LOAD]    = NO(RELEASED_PART),
        [HO_STOP]         = YES(DROP_SET, RELEASED_OFF, RELEASED_OFF),
        [HO_COMMAND]      = STAY(RELEASED_PART),
        STAGING(RELEASED),
        NO_EXPORT(RELEASED_PART),
        NOTHING_SENT(RELEASED_PART),
        [HO_LOCK_STORAGE] = NO(RELEASED_PART),
        [HO_HANGUP]       = YES(DROP_SET, AWAY, AWAY),
        [HO_FENCE]        = YES(DROP_SET, FENCED, FENCED),
        [HO_END]          = YES(DROP_SET, AWAY, AWAY),
    },
    [HO_RELEASED_SET] = {
        [HO_INIT]         = YES(TAKE_OVER, LOADED, RELEASED_SET),
        [HO_INIT_LOAD]    = YES(TAKE_OVER, LOADED, RELEASED_SET),
        [HO_STOP]         = YES(DROP_SET, RELEASED_OFF, RELEASED_OFF),
        [HO_COMMAND]      = STAY(RELEASED_SET),
        STAGING(RELEASED),
        NO_EXPORT(RELEASED_SET),
        NOTHING_SENT(RELEASED_SET),
        [HO_LOCK_STORAGE] = NO(RELEASED_SET),
        [HO_HANGUP]       = YES(DROP_SET, AWAY, AWAY),
        [HO_FENCE]        = YES(DROP_SET, FENCED, FENCED),
        [HO_END]          = YES(DROP_SET, AWAY, AWAY),
    },
    [HO_AWAY] = {
        [HO_INIT]         = YES(CLAIM_START, RUNNING, AWAY),
        [HO_INIT_LOAD]    = NO(AWAY),
        [HO_STOP]         = STAY(AWAY),
        [HO_COMMAND]      = STAY(AWAY),
        STAGING(AWAY),
        NO_EXPORT(AWAY),
        NOTHING_SENT(AWAY),
        [HO_LOCK_STORAGE] = NO(AWAY),
        [HO_HANGUP]       = STAY(AWAY),
        [HO_FENCE]        = STAY(AWAY),
        [HO_END]          = STAY(AWAY),
    },
    [HO_AWAY_PART] = {
        [HO_INIT]         = NO(AWAY_PART),
        [HO_INIT_LOAD]    = NO(AWAY_PART),
        [HO_STOP]         = YES(DROP_SET, AWAY, AWAY),
        [HO_COMMAND]      = STAY(AWAY_PART),
        STAGING(AWAY),
        NO_EXPORT(AWAY_PART),
        NOTHING_SENT(AWAY_PART),
        [HO_LOCK_STORAGE] = NO(AWAY_PART),
        [HO_HANGUP]       = YES(DROP_SET, AWAY, AWAY),
        [HO_FENCE]        = STAY(AWAY_PART),
        [HO_END]          = YES(DROP_SET, AWAY, AWAY),
    },
    [HO_AWAY_SET] = {
        [HO_INIT]         = YES(TAKE_OVER, LOADED, AWAY_SET),
        [HO_INIT_LOAD]    = YES(TAKE_OVER, LOADED, AWAY_SET),
        [HO_STOP]         = YES(DROP_SET, AWAY, AWAY),
        [HO_COMMAND]      = STAY(AWAY_SET),
        STAGING(AWAY),
        NO_EXPORT(AWAY_SET),
        NOTHING_SENT(AWAY_SET),
        [HO_LOCK_STORAGE] = NO(AWAY_SET),
        [HO_HANGUP]       = YES(DROP_SET, AWAY, AWAY),
        [HO_FENCE]        = STAY(AWAY_SET),
        [HO_END]          = YES(DROP_SET, AWAY, AWAY),
    },
    /* Somebody else ran with this state. Nothing that this emulator says (a reset of its guest, for
     * instance) makes it the owner again; the next emulator starts from what is stored. */
    [HO_FENCED] = {
        [HO_INIT]         = NO(FENCED),
        [HO_INIT_LOAD]    = NO(FENCED),
        [HO_STOP]         = STAY(FENCED),
        [HO_COMMAND]      = FROZEN(FENCED),
        NO_STAGING(FENCED),
        NO_EXPORT(FENCED),
        NOTHING_SENT(FENCED),
        [HO_LOCK_STORAGE] = NO(FENCED),
        [HO_HANGUP]       = STAY(AWAY),
        [HO_FENCE]        = STAY(FENCED),
        [HO_END]          = STAY(AWAY),
    },
}};
/* clang-format on */

bool handover_is_claimed(enum handover_state s)
{
    return s <= HO_EXPORTED;
}

const char *handover_state_name(enum handover_state s)
{
    static const char *const names[HO_N_STATES] = {
        "IDLE",     "IDLE_PART", "IDLE_SET",   "RUNNING",      "LOADED",        "EXPORTING",
        "EXPORTED", "RELEASED",  "RECLAIMING", "RELEASED_OFF", "RELEASED_PART", "RELEASED_SET",
        "AWAY",     "AWAY_PART", "AWAY_SET",   "FENCED",
    };
    return names[s];
}

const char *handover_event_name(enum handover_event v)
{
    static const char *const names[HO_N_EVENTS] = {
        "INIT",         "INIT_LOAD", "STOP",     "COMMAND",    "STAGE_PART", "STAGE_LAST",
        "STAGE_BAD",    "GET_PART",  "GET_LAST", "GET_FAILED", "SENT",       "UNSENT",
        "LOCK_STORAGE", "HANGUP",    "FENCE",    "END",
    };
    return names[v];
}
