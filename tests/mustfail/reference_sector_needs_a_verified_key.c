/* The reference sector is checked against the volume key, not against a passphrase. [S3.7]
 *
 * expect: incompatible pointer type
 */
#include "crypto/ref_sector.h"

int f(const uint8_t *sector, const struct secret *pass, const struct volume_key *key,
      struct ref_facts *facts, struct mac_key **ret, struct err *e);
int f(const uint8_t *sector, const struct secret *pass, const struct volume_key *key,
      struct ref_facts *facts, struct mac_key **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return ref_sector_verify(sector, key, facts, ret, e);
#else
    return ref_sector_verify(sector, pass, facts, ret, e);
#endif
}
