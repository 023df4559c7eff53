/* What is claimed and what was looked at have marks of one type, to be compared; which of the two
 * it is taken from cannot be confused. [S3.20]
 *
 * expect: incompatible pointer type
 */
#include "backend/image.h"

void f(const struct store *s, const struct store_look *seen, struct store_mark *ret);
void f(const struct store *s, const struct store_look *seen, struct store_mark *ret)
{
#ifdef MUST_COMPILE
    store_mark(s, ret);
#else
    store_mark(seen, ret);
#endif
}
