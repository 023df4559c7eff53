/* What swtpm prints and ends: its capabilities, the states that there are, what libtpms says. */
#ifndef NVKEEP_COMPAT_EMULATOR_PRINT_H
#define NVKEEP_COMPAT_EMULATOR_PRINT_H

#include "src/compat/emulator_args.h"

int emulator_print_capabilities(enum device_kind kind, FILE *to, struct err *e) MUST_CHECK;
/* The sizes are those in the image where its key is known, else permall has that of the file. */
int emulator_print_states(struct emulator_args *a, FILE *to, struct err *e) MUST_CHECK;
int emulator_print_info(const struct emulator_args *a, FILE *to, struct err *e) MUST_CHECK;

#endif
