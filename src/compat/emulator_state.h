/* swtpm's --tpmstate: where the state is. */
#ifndef NVKEEP_COMPAT_EMULATOR_STATE_H
#define NVKEEP_COMPAT_EMULATOR_STATE_H

#include <sys/types.h>

#include "src/compat/compat_place.h"

/* text: the argument of --tpmstate; NULL: $TPM_PATH. *ret_mode: of a new image; 0: not said.
 * ERR_USAGE: no place was named, or not by the rules; ERR_UNSUPPORTED: of a kind that there is not.
 */
int emulator_state_parse(const char *text, enum device_kind device, struct compat_place *ret,
                         mode_t *ret_mode, struct err *e) MUST_CHECK;

#endif
