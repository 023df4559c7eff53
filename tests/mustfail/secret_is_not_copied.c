/* A secret has one owner and is never copied by an assignment. [S2.9]
 *
 * expect: storage size of .b. isn|incomplete type
 */
#include "crypto/secret.h"

void f(struct secret **a);
void f(struct secret **a)
{
#ifdef MUST_COMPILE
    OWNED(secret) b = MOVE(*a);
    (void)b;
#else
    struct secret b = **a;
    (void)b;
#endif
}
