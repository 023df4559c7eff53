/* What store.c and store_snapshot.c share; nobody else includes this. */
#ifndef NVKEEP_BACKEND_STORE_PRIV_H
#define NVKEEP_BACKEND_STORE_PRIV_H

#include "backend/store_state.h"

enum { TRIED_MOST = 8 };

struct store {
    struct qcow_disk_rw *disk;
    struct store_content now;
    struct secret *record; /* in which records are made and encrypted */
    struct scan_result at; /* the newest acknowledged record, and where the log ends */
    uint64_t own_epoch;    /* W6 */
    bool may_append;       /* W2: the newest record was written and flushed by us */
    bool unsettled;        /* W5: a failed commit may have left something */
    bool log_tried;        /* W7: one of them in the log, behind what is used of it */
    struct secret *beside; /* W8: room for one sector; NULL: the claim is enough */
    struct err fenced;     /* W8: kind ERR_NONE unless somebody has taken over */
    /* W8: the first sectors of our last failed checkpoints, any of which may be there again */
    uint8_t tried[TRIED_MOST][RECORD_MAC_BYTES];
    unsigned n_tried;
};

/* W8. ERR_FENCED; s->fenced then. */
int store_look_for_other_owner(struct store *s, struct err *e) MUST_CHECK;
/* Borrowed. */
struct state_view store_look_view(const struct store_look *l);

#endif
