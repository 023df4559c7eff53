/* What blk_of() lends is for reading, also while the claim is held.
 *
 * expect: incompatible pointer type|discards qualifiers|discards .const. qualifier
 */
#include "backend/blk.h"

int f(struct blk_rw *w, const void *p, struct err *e);
int f(struct blk_rw *w, const void *p, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_write(w, (struct host){0}, p, 512, e);
#else
    return blk_write(blk_of(w), (struct host){0}, p, 512, e);
#endif
}
