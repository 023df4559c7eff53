/* Only a file that has no name yet can be published; an existing one is never replaced.
 *
 * expect: incompatible pointer type
 */
#include "backend/blk.h"

int f(struct blk_new **n, struct blk_rw **w, struct err *e);
int f(struct blk_new **n, struct blk_rw **w, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_publish(n, e);
#else
    return blk_publish(w, e);
#endif
}
