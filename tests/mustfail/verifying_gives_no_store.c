/* What verify-key learns is plain data; nothing that could write comes out of it. [S3.9]
 *
 * expect: incompatible pointer type
 */
#include "backend/image.h"

int f(const char *path, const struct secret *pass, struct image_report *report, struct store **s,
      struct err *e);
int f(const char *path, const struct secret *pass, struct image_report *report, struct store **s,
      struct err *e)
{
#ifdef MUST_COMPILE
    return image_verify(path, pass, 8, false, NULL, report, e);
#else
    return image_verify(path, pass, 8, false, NULL, s, e);
#endif
}
