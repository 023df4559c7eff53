/* Commands to a TPM, wherever it is, one connection for each, as swtpm_bios makes them: so the
 * daemon may be one that takes one command for each connection, and one that ends behind the last.
 */
#ifndef NVKEEP_COMPAT_BIOS_LINK_H
#define NVKEEP_COMPAT_BIOS_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"

enum { BIOS_RESPONSE_MAX = 4096, BIOS_SECONDS = 20 };

/* The one that is not NULL; tcp before unix_path before device. */
struct bios_target {
    const char *tcp, *unix_path, *device;
};

/* A response is a whole one: its header is there, and its size is that of what came. */
int bios_exchange(const struct bios_target *to, const uint8_t *command, size_t n,
                  uint8_t ret[BIOS_RESPONSE_MAX], size_t *ret_n, struct err *e) MUST_CHECK;

#endif
