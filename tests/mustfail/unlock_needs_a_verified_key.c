/* A passphrase is not a key: unlocking takes what luks_slot_open() verified. [S0.9]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_image **img, struct secret **pass, struct volume_key **key,
      struct qcow_volume **ret, struct err *e);
int f(struct qcow_image **img, struct secret **pass, struct volume_key **key,
      struct qcow_volume **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_unlock(img, key, ret, e);
#else
    return qcow_unlock(img, pass, ret, e);
#endif
}
