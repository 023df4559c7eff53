/* What a user can do about a state of swtpm's that was found in the way, to the letter. */
#ifndef NVKEEP_COMPAT_IMPORT_H
#define NVKEEP_COMPAT_IMPORT_H

#include "src/compat/compat_place.h"
#include "src/key/swtpm_key.h"

/* The command that takes it over, for any shell: whatever is in the names and however long they
 * are, it is one line of printable characters. After it the start that was refused succeeds as it
 * is. key: what the state is encrypted with; where that is not in a file, the line says FILE.
 * iter_ms: of a passphrase. The caller's; NULL: no memory. */
char *compat_import_command(const struct compat_place *p, const struct swtpm_key_source *key,
                            unsigned iter_ms);

#endif
