/* Unlocked is not yet ours: disk reads need the disk whose reference sector matched. [S1.3]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_volume *v, struct qcow_disk *d, uint8_t *buf, struct err *e);
int f(struct qcow_volume *v, struct qcow_disk *d, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_disk_read(d, (struct sector){0}, 1, buf, e);
#else
    return qcow_disk_read(v, (struct sector){0}, 1, buf, e);
#endif
}
