/* Who lets the claim go has no store any more: releasing takes it away. [S3.25]
 *
 * expect: incompatible pointer type
 */
#include "backend/image.h"

void f(struct image *i, struct store *s);
void f(struct image *i, struct store *s)
{
#ifdef MUST_COMPILE
    image_release(i, &s);
#else
    image_release(i, s);
#endif
}
