/* The key is an argument of unlocking; there is no call that sets one on something open. [S1.1]
 *
 * expect: implicit declaration|undeclared function
 */
#include "backend/qcow.h"

int f(struct qcow_image **img, struct volume_key **key, struct qcow_volume **ret, struct err *e);
int f(struct qcow_image **img, struct volume_key **key, struct qcow_volume **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_unlock(img, key, ret, e);
#else
    return qcow_set_key(*img, *key, e);
#endif
}
