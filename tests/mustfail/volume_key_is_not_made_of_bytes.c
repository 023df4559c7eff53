/* A volume key comes out of a slot that matched, never out of memory somebody filled. [S0.9]
 *
 * expect: storage size of .k. isn|incomplete type
 */
#include "crypto/luks_key.h"

void f(struct volume_key **from);
void f(struct volume_key **from)
{
#ifdef MUST_COMPILE
    OWNED(volume_key) k = MOVE(*from);
    (void)k;
#else
    struct volume_key k = {0};
    *from = &k;
#endif
}
