/* A TPM on the workbench: it runs in memory alone, while it is made or changed before its first
 * (or next) use.
 *
 *     nothing, or a state --tpm_workbench_new--> workbench --tpm_workbench_finish--> tpm_blobs
 *
 * What its commands change reaches no disk. The caller commits the finished state as one
 * generation, or forgets it: a TPM half made does not exist. It is that one TPM of the process (see
 * tpm.h), always on, and answers at locality 0.
 */
#ifndef NVKEEP_BACKEND_TPM_WORKBENCH_H
#define NVKEEP_BACKEND_TPM_WORKBENCH_H

#include "backend/tpm.h"

struct tpm_workbench;

/* from: the state to begin with, copied, of which the permanent one is used (the others belong to a
 * run that ends here); NULL: a new TPM. It was not started up. ERR_STATE_CORRUPT, ERR_UNSUPPORTED
 * where libtpms refuses the state. */
int tpm_workbench_new(enum device_kind kind, const struct tpm_blobs *from,
                      struct tpm_workbench **ret, struct err *e) MUST_CHECK;
void tpm_workbench_free(struct tpm_workbench *w);
DEFINE_OWNED(tpm_workbench);

/* One command. The response has a whole header and, with code 0 or another, is the TPM's own.
 * ERR_STORAGE: libtpms failed or could not keep something; the workbench is of no use then. */
int tpm_workbench_run(struct tpm_workbench *w, const uint8_t *cmd, size_t cmd_bytes,
                      uint8_t resp[TPM_BUFFER_BYTES], size_t *ret_resp_bytes,
                      struct err *e) MUST_CHECK;

const struct tpm *tpm_workbench_tpm(const struct tpm_workbench *w); /* for tpm_info() */

/* The state it has now, and that libtpms reads it again. The workbench is empty afterwards: it is
 * only to be freed. */
int tpm_workbench_finish(struct tpm_workbench *w, struct tpm_blobs *ret, struct err *e) MUST_CHECK;

#endif
