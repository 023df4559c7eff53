/* What verify-key, check and info --key have in common: the image read with its key. */
#ifndef NVKEEP_SRC_CMD_VERIFY_H
#define NVKEEP_SRC_CMD_VERIFY_H

#include "backend/image.h"
#include "src/cli/cli.h"
#include "src/cli/cli_text.h"

/* Gets the key, verifies the image read-only and without a lock, shows progress. */
int cli_verify(struct cli_run *run, bool full, bool may_ask, struct image_report *ret,
               struct err *e) MUST_CHECK;

/* And keeps what was read. */
int cli_verify_look(struct cli_run *run, bool full, bool may_ask, struct image_report *ret,
                    struct store_look **ret_look, struct err *e) MUST_CHECK;

/* What only the key shows, as JSON. */
void report_inside(struct cli_run *run, const struct image_report *r);
/* To be put behind what is said of the device: empty, or that the image holds no TPM yet. */
const char *waits_text(const struct image_report *r);

#endif
