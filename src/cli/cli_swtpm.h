/* What import and export have in common on the command line. */
#ifndef NVKEEP_SRC_CLI_SWTPM_H
#define NVKEEP_SRC_CLI_SWTPM_H

#include "src/cli/cli.h"
#include "src/key/swtpm_key.h"
#include "src/make/swtpm_state.h"

/* The one word behind the operand. */
int cli_one_more(const struct cli_args *a, const char **ret, struct err *e) MUST_CHECK;
/* Of an option with the grammar of swtpm's --key; does nothing where it is not given. */
int cli_swtpm_key_parse(const struct cli_args *a, enum cli_option_id id,
                        struct swtpm_key_source *ret, struct err *e) MUST_CHECK;

#endif
