/* What was seen without a claim cannot be written to. [S3.16]
 *
 * expect: incompatible pointer type
 */
#include "backend/image.h"

int f(struct store_look *seen, struct store *s, const struct state_change *c, struct err *e);
int f(struct store_look *seen, struct store *s, const struct state_change *c, struct err *e)
{
#ifdef MUST_COMPILE
    return store_commit(s, c, e);
#else
    return store_commit(seen, c, e);
#endif
}
