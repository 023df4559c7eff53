/* A disk is armed with a claim, not with a file somebody opened. [S3.25]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_disk **d, struct blk **b, struct blk_rw **w, struct qcow_disk_rw **ret,
      struct err *e);
int f(struct qcow_disk **d, struct blk **b, struct blk_rw **w, struct qcow_disk_rw **ret,
      struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_arm(d, w, ret, e);
#else
    return qcow_arm(d, b, ret, e);
#endif
}
