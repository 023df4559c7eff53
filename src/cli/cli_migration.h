/* The options of serve that are about migration, from text to what serve() takes, and which of them
 * contradict each other. Nothing is opened here.
 */
#ifndef NVKEEP_SRC_CLI_MIGRATION_H
#define NVKEEP_SRC_CLI_MIGRATION_H

#include "src/cli/cli.h"
#include "src/serve/serve.h"

/* --migration, --migration-seal, --tpm2, --tpm12, and what they and --key admin need of the others,
 * which *o has already. The texts of a are changed. ERR_USAGE. */
int cli_migration(const struct cli_args *a, struct serve_options *o, struct err *e) MUST_CHECK;

#endif
