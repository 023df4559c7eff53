/* A flush belongs to the writer.
 *
 * expect: incompatible pointer type
 */
#include "backend/blk.h"

int f(struct blk *b, struct blk_rw *w, struct err *e);
int f(struct blk *b, struct blk_rw *w, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_flush(w, e);
#else
    return blk_flush(b, e);
#endif
}
