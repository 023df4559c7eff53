/* A store may commit at any time; it is never opened on a disk that cannot be written. [S0.9]
 *
 * expect: incompatible pointer type
 */
#include "backend/store.h"

int f(struct qcow_disk **r, struct qcow_disk_rw **d, struct store **ret, struct err *e);
int f(struct qcow_disk **r, struct qcow_disk_rw **d, struct store **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return store_open(d, ret, e);
#else
    return store_open(r, ret, e);
#endif
}
