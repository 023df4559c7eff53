/* Anyone may read a blk; only the claim, a blk_rw, can be written. [S3.25]
 *
 * expect: incompatible pointer type
 */
#include "backend/blk.h"

int f(struct blk *b, struct blk_rw *w, const void *p, struct err *e);
int f(struct blk *b, struct blk_rw *w, const void *p, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_write(w, (struct host){0}, p, 512, e);
#else
    return blk_write(b, (struct host){0}, p, 512, e);
#endif
}
