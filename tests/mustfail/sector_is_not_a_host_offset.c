/* A place on the disk is not a place in the file. [S2.5]
 *
 * expect: incompatible type
 */
#include "backend/blk.h"

int f(struct blk *b, struct host h, struct sector s, uint8_t *buf, struct err *e);
int f(struct blk *b, struct host h, struct sector s, uint8_t *buf, struct err *e)
{
#ifdef MUST_COMPILE
    return blk_read(b, h, buf, 512, e);
#else
    return blk_read(b, s, buf, 512, e);
#endif
}
