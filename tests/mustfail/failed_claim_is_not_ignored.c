/* Going on without the claim is not possible by oversight. [S3.25]
 *
 * expect: unused.result|ignoring return value
 */
#include "backend/image.h"

void f(struct image *i, struct store **s, struct err *e);
void f(struct image *i, struct store **s, struct err *e)
{
#ifdef MUST_COMPILE
    if (image_claim(i, s, e) < 0)
        *s = NULL;
#else
    image_claim(i, s, e);
#endif
}
