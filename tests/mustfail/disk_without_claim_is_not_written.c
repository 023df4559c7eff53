/* A verified disk is still read-only until it was armed with the claim. [S3.25]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_disk *r, struct qcow_disk_rw *d, uint8_t *buf, struct err *e);
int f(struct qcow_disk *r, struct qcow_disk_rw *d, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_disk_write(d, (struct sector){0}, 1, buf, e);
#else
    return qcow_disk_write(r, (struct sector){0}, 1, buf, e);
#endif
}
