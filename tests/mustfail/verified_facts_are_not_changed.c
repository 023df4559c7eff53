/* What the reference sector vouched for stays as it was read. [S2.6]
 *
 * expect: read-only|returns a const value
 */
#include "backend/store.h"

void f(const struct store *s, enum device_kind *ret);
void f(const struct store *s, enum device_kind *ret)
{
#ifdef MUST_COMPILE
    *ret = store_facts(s)->device;
#else
    store_facts(s)->device = *ret;
#endif
}
