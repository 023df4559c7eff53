/* The endorsement keys of a TPM whose state is at hand: asked for on the workbench, without a
 * guest. Nothing of what happens there is kept.
 */
#ifndef NVKEEP_SRC_EK_READ_H
#define NVKEEP_SRC_EK_READ_H

#include "backend/tpm_workbench.h"
#include "src/make/ek_print.h"

enum { EK_MOST = 8 };

struct ek_list {
    struct {
        uint32_t handle; /* 0: not persistent: what its seed and the standard template give.
                            TPM 1.2: the one that it has */
        char algorithm[EK_ALGORITHM_BYTES];
        uint8_t fingerprint[SHA256_BYTES];
    } ek[EK_MOST];
    size_t n; /* 0: the TPM shows none: its owner keeps it, or it has none yet */
};

/* blobs: the permanent state is used. */
int ek_read(enum device_kind kind, const struct tpm_blobs *blobs, struct ek_list *ret,
            struct err *e) MUST_CHECK;

#endif
