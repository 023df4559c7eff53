/* Sectors are decrypted with a key that matched its digest, not with bytes. [S3.26]
 *
 * expect: incompatible pointer type
 */
#include "crypto/sector_cipher.h"

int f(const struct luks_cipher *how, const struct secret *bytes, const struct volume_key *key,
      struct sector_cipher **ret, struct err *e);
int f(const struct luks_cipher *how, const struct secret *bytes, const struct volume_key *key,
      struct sector_cipher **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return sector_cipher_new(how, key, ret, e);
#else
    return sector_cipher_new(how, bytes, ret, e);
#endif
}
