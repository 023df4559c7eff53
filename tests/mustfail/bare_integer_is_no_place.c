/* A place always says which kind of place it is. [S2.5]
 *
 * expect: incompatible type
 */
#include "backend/blk.h"

int f(struct blk *b, uint64_t n, uint8_t *buf, struct err *e);
int f(struct blk *b, uint64_t n, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_read(b, (struct host){n}, buf, 512, e);
#else
    return blk_read(b, n, buf, 512, e);
#endif
}
