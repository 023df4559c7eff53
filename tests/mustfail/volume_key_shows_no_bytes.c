/* Outside crypto/ a volume key is opaque. [S1.20]
 *
 * expect: incomplete (type|definition)|invalid use of undefined type|dereferencing pointer to
 * incomplete
 */
#include "crypto/luks_key.h"

int f(const struct volume_key *k);
int f(const struct volume_key *k)
{
#ifdef MUST_COMPILE
    return k != NULL;
#else
    return *(const char *)&(*k).bytes[0];
#endif
}
