/* The result of a commit is looked at. [S1.12]
 *
 * expect: unused.result|ignoring return value
 */
#include "backend/store.h"

void f(struct store *s, const struct state_change *c, struct err *e);
void f(struct store *s, const struct state_change *c, struct err *e)
{
#ifdef MUST_COMPILE
    if (store_commit(s, c, e) < 0)
        return;
#else
    store_commit(s, c, e);
#endif
}
