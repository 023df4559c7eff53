/* Reading needs no claim; a volume can only be read.
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_volume *v, struct qcow_disk_rw *d, uint8_t *buf, struct err *e);
int f(struct qcow_volume *v, struct qcow_disk_rw *d, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_disk_write(d, (struct sector){0}, 1, buf, e);
#else
    return qcow_disk_write(v, (struct sector){0}, 1, buf, e);
#endif
}
