/* State changes by a commit, not by writing into what the store lends.
 *
 * expect: read-only|const-qualified|not assignable
 */
#include "backend/store.h"

void f(const struct store *s, uint8_t *copy);
void f(const struct store *s, uint8_t *copy)
{
#ifdef MUST_COMPILE
    size_t n;
    copy[0] = store_get(s, BLOB_PERMANENT, &n)[0];
#else
    size_t n;
    *store_get(s, BLOB_PERMANENT, &n) = copy[0];
#endif
}
