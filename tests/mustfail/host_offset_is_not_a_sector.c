/* A place in the file is not a place on the disk. [S2.5]
 *
 * expect: incompatible type
 */
#include "backend/qcow.h"

int f(struct qcow_disk *d, struct host h, struct sector s, uint8_t *buf, struct err *e);
int f(struct qcow_disk *d, struct host h, struct sector s, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_disk_read(d, s, 1, buf, e);
#else
    return qcow_disk_read(d, h, 1, buf, e);
#endif
}
