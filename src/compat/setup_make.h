/* What swtpm_setup is asked to do to a TPM's state, from the command line to the committed state.
 */
#ifndef NVKEEP_COMPAT_SETUP_MAKE_H
#define NVKEEP_COMPAT_SETUP_MAKE_H

#include "src/compat/compat_policy.h"
#include "src/compat/setup_args.h"
#include "src/compat/setup_signer.h"

/* ERR_USAGE where a state is there and it was not said what shall become of it. A failure leaves
 * what was there, or nothing; *ret_advice, the caller's: how to go on, where there is a way. */
int setup_make(const struct setup_args *args, const struct setup_config *config,
               const struct compat_policy *policy, const struct setup_log *log,
               mode_t callers_umask, char **ret_advice, struct err *e) MUST_CHECK;

#endif
