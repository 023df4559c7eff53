/* The TPM as the machine shows it at 0xfed40000: TIS (FIFO) or CRB [PTP 1.05].
 *
 * The guest never interprets commands: bytes go in, bytes come out. A call that fails says why in
 * words; the interface is then idle again.
 */
#ifndef NVKEEP_GUEST_TPM_PORT_H
#define NVKEEP_GUEST_TPM_PORT_H

#include "machine.h"

enum { TPM_MAX_BYTES = 4096 };

struct tpm_port {
    bool crb;
    uint32_t locality;
    uint32_t id; /* device and vendor */
    bool family2;
};

/* NULL, or what is wrong. */
const char *tpm_port_find(struct tpm_port *ret);
/* Takes another locality, after giving back the one it has. */
const char *tpm_port_locality(struct tpm_port *p, uint32_t locality);
/* abort_ms: asks the TPM to give up after so many milliseconds; 0: never. The response to that is
 * whatever the TPM says: a canceled command, or a result where it was faster. */
const char *tpm_port_run(struct tpm_port *p, const uint8_t *cmd, size_t n, uint32_t abort_ms,
                         uint8_t *resp, size_t *ret_bytes);

#endif
