/* The result of a flush is looked at.
 *
 * expect: unused.result|ignoring return value
 */
#include "backend/blk.h"

void f(struct blk_rw *w, struct err *e);
void f(struct blk_rw *w, struct err *e)
{
#ifdef MUST_COMPILE
    if (blk_flush(w, e) < 0)
        return;
#else
    blk_flush(w, e);
#endif
}
