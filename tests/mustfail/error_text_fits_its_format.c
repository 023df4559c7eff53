/* A message is formatted from what it says it is.
 *
 * expect: -Wformat|format specifies type|expects argument of type
 */
#include "src/base/err.h"

int f(struct err *e, const char *what);
int f(struct err *e, const char *what)
{
#ifdef MUST_COMPILE
    return err_set(e, ERR_USAGE, "%s", what);
#else
    return err_set(e, ERR_USAGE, "%d", what);
#endif
}
