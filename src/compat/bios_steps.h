/* What a BIOS says to a TPM after power-on: the commands of swtpm_bios, in its order. A command
 * that the TPM refuses is reported, and the next one is sent all the same.
 */
#ifndef NVKEEP_COMPAT_BIOS_STEPS_H
#define NVKEEP_COMPAT_BIOS_STEPS_H

#include <stdbool.h>

#include "src/compat/bios_link.h"

enum bios_startup { BIOS_CLEAR, BIOS_STATE, BIOS_DEACTIVATED, BIOS_NO_STARTUP };

struct bios {
    struct bios_target to;
    bool tpm2;
    enum bios_startup startup;
    bool startup_only, self_test, activate, give_up_presence;
};

/* How many the TPM refused. -1: it cannot be reached. */
int bios_run(const struct bios *b, unsigned *ret_refused, bool *ret_needs_reset,
             struct err *e) MUST_CHECK;

#endif
