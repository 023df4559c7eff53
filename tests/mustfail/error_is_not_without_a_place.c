/* An error always has a place to go. [S1.14]
 *
 * expect: null passed|argument 1 null|-Wnonnull
 */
#include "src/base/err.h"

int f(struct err *e);
int f(struct err *e)
{
#ifdef MUST_COMPILE
    return err_set(e, ERR_USAGE, "text");
#else
    return err_set(NULL, ERR_USAGE, "text");
#endif
}
