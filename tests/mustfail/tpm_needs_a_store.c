/* A TPM has a store it alone may write; a disk is not enough. [S3.10]
 *
 * expect: incompatible pointer type
 */
#include "backend/tpm.h"

int f(struct qcow_disk_rw **d, struct store **s, struct tpm **ret, struct err *e);
int f(struct qcow_disk_rw **d, struct store **s, struct tpm **ret, struct err *e)
{
#ifdef MUST_COMPILE
    return tpm_new(s, ret, e);
#else
    return tpm_new(d, ret, e);
#endif
}
