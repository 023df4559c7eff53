/* What the owner of a machine decides about what stands in for swtpm and swtpm_setup there.
 *
 * Their callers (libvirt) build the command line and the environment themselves, so
 * neither can hold a policy; a file can, and a package can ship it. /etc/nvkeep/swtpm.conf,
 * or the file that NVKEEP_SWTPM_CONF names:
 *
 *     # comment
 *     require-key = yes          no key, no start (default: no: a random key next to the image)
 *     migration-seal = required  as serve's option (default: off: what travels is swtpm's)
 *     iter-time = 2000           how long one try of a passphrase takes, in ms (default: 250)
 *
 * A line that is not understood ends the start: a policy that was misread is worse than none.
 */
#ifndef NVKEEP_COMPAT_POLICY_H
#define NVKEEP_COMPAT_POLICY_H

#include <stdbool.h>

#include "migration/custody.h"

struct compat_policy {
    bool require_key;
    enum seal_policy seal;
    unsigned iter_ms; /* of a passphrase that a new image is given */
};

const char *compat_policy_path(void);

/* Where there is no file: the defaults. It binds what starts from an image that is there as well as
 * what makes one. ERR_USAGE. */
int compat_policy_read(struct compat_policy *ret, struct err *e) MUST_CHECK;

#endif
