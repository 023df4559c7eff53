/* Peeking into a secret is reading.
 *
 * expect: read-only|const-qualified|not assignable
 */
#include "crypto/secret.h"

void f(struct secret *s);
void f(struct secret *s)
{
#ifdef MUST_COMPILE
    secret_bytes(s)[0] = 1;
#else
    *secret_peek(s) = 1;
#endif
}
