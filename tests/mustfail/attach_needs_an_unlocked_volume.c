/* The reference sector cannot be read through an image without its key. [S1.3]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_image **img, struct qcow_volume **v, struct qcow_disk **ret, struct err *e);
int f(struct qcow_image **img, struct qcow_volume **v, struct qcow_disk **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_attach(v, ret, e);
#else
    return qcow_attach(img, ret, e);
#endif
}
