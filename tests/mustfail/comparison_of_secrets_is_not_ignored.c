/* A comparison nobody looks at is a check that cannot fail.
 *
 * expect: unused.result|ignoring return value
 */
#include "crypto/secret.h"

void f(const void *a, const void *b);
void f(const void *a, const void *b)
{
#ifdef MUST_COMPILE
    if (!equal_constant_time(a, b, 32))
        return;
#else
    equal_constant_time(a, b, 32);
#endif
}
