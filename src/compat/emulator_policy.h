/* What the owner of a machine decides about the daemon that stands in for swtpm.
 *
 * Its callers (libvirt, Proxmox) build the command line and the environment themselves, so neither
 * can hold a policy; a file can, and a package can ship it. SYSCONFDIR/nvkeep/swtpm.conf, or the
 * file that NVKEEP_SWTPM_CONF names:
 *
 *     # comment
 *     require-key = yes          no key, no start (default: no: a random key next to the image)
 *     migration-seal = required  as serve's option (default: off: what travels is swtpm's)
 *
 * A line that is not understood ends the start: a policy that was misread is worse than none.
 */
#ifndef NVKEEP_COMPAT_EMULATOR_POLICY_H
#define NVKEEP_COMPAT_EMULATOR_POLICY_H

#include <stdbool.h>

#include "migration/custody.h"

struct emulator_policy {
    bool require_key;
    enum seal_policy seal;
};

/* Where there is no file: the defaults. ERR_USAGE. */
int emulator_policy_read(struct emulator_policy *ret, struct err *e) MUST_CHECK;

#endif
