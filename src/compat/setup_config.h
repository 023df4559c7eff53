/* swtpm_setup.conf: who signs, and the PCR banks where none are named. */
#ifndef NVKEEP_COMPAT_SETUP_CONFIG_H
#define NVKEEP_COMPAT_SETUP_CONFIG_H

#include <limits.h>
#include <stdbool.h>

#include "src/compat/setup_log.h"

struct setup_config {
    char *tool, *tool_config, *tool_options; /* owned; NULL: not named */
    char *pcr_banks;                         /* owned */
};

/* path: NULL: $XDG_CONFIG_HOME or $HOME/.config, else /etc; where none is there, the signer is
 * ours. ERR_USAGE: a file that was named cannot be read. */
int setup_config_read(const char *path, struct setup_config *ret, struct err *e) MUST_CHECK;
void setup_config_clear(struct setup_config *c);

/* The swtpm_localca next to this program, or else the first in PATH. */
void setup_config_signer(char ret[PATH_MAX]);

/* Where a user has his configuration; false: nowhere, or too deep. */
enum { CONFIG_HOME_BYTES = 3900 };
bool setup_config_home(char ret[CONFIG_HOME_BYTES]);

/* --create-config-files: for an account of its own. words: NULL, or "overwrite", "root" and
 * "skip-if-exist" with commas. ERR_USAGE. */
int setup_config_create(const char *words, const struct setup_log *log, struct err *e) MUST_CHECK;

#endif
