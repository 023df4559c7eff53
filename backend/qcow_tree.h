/* A tree of its own: L1, L2 tables and data for one disk, in clusters that nobody else uses.
 * Private to the qcow layer.
 */
#ifndef NVKEEP_BACKEND_QCOW_TREE_H
#define NVKEEP_BACKEND_QCOW_TREE_H

#include "backend/qcow_change.h"
#include "backend/qcow_snapshot.h"

struct qcow_tree {
    const struct qcow_disk *from; /* whose reference sector it gets */
    const struct qcow_piece *record;
    const uint8_t *branch; /* QCOW_BRANCH_BYTES */
    /* It is to live: all clusters of the store are there, and marked as not shared. Otherwise those
     * that hold something. */
    bool lives;

    struct host l1, l2, data;
    uint32_t n_l2, n_data;
};
int tree_take(struct qcow_tree *t, struct qcow_change *c, struct err *e) MUST_CHECK;
/* After change_raise(). */
int tree_write(const struct qcow_tree *t, struct qcow_change *c, struct err *e) MUST_CHECK;

#endif
