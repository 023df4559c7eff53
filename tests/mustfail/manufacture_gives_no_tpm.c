/* Making a new state and running a TPM are two things: a missing state never becomes a running
 * TPM. [S3.18]
 *
 * expect: incompatible pointer type
 */
#include "backend/tpm.h"

int f(struct tpm_blobs *first, struct tpm **t, struct err *e);
int f(struct tpm_blobs *first, struct tpm **t, struct err *e)
{
#ifdef MUST_COMPILE
    return tpm_manufacture(DEVICE_TPM20, first, e);
#else
    return tpm_manufacture(DEVICE_TPM20, t, e);
#endif
}
