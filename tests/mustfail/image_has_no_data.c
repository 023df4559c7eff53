/* A validated image without its key cannot read guest data. [S0.9]
 *
 * expect: incompatible pointer type
 */
#include "backend/qcow.h"

int f(struct qcow_image *img, struct qcow_volume *v, uint8_t *buf, struct err *e);
int f(struct qcow_image *img, struct qcow_volume *v, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return qcow_volume_read(v, (struct sector){0}, 1, buf, e);
#else
    return qcow_volume_read(img, (struct sector){0}, 1, buf, e);
#endif
}
