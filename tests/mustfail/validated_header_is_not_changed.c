/* A header that was validated stays as it was read. [S2.6]
 *
 * expect: read-only|returns a const value
 */
#include "backend/qcow.h"

void f(const struct qcow_image *img, uint64_t *ret);
void f(const struct qcow_image *img, uint64_t *ret)
{
#ifdef MUST_COMPILE
    *ret = qcow_image_header(img)->size;
#else
    qcow_image_header(img)->size = *ret;
#endif
}
