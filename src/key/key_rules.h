/* What the key of a new image must be, and what one try of it shall cost. Program and library make
 * images by the same rules.
 */
#ifndef NVKEEP_SRC_KEY_RULES_H
#define NVKEEP_SRC_KEY_RULES_H

#include "crypto/secret.h"

/* Could stock qemu-img use it? ERR_USAGE with the reason: empty, NUL byte, not UTF-8. */
int key_usable_by_qemu(const struct secret *key, size_t n, struct err *e) MUST_CHECK;

/* What one try costs where nobody says otherwise: a passphrase must be slow to guess, and
 * stretching adds nothing to a key of random bits.
 *
 * Who calls swtpm gives all secrets as passphrases (libvirt). They are random as a rule; one that a
 * person chose gets something. libvirt opens an image two or three times at each start, which is
 * what more would cost: the daemon has its socket before it has stretched a passphrase to the end.
 */
enum { PASSPHRASE_MS = 2000, SECRET_MS = 250, RANDOM_KEY_MS = 10 };

/* Iterations that take about `ms` milliseconds here. ERR_USAGE: so many that the image would be
 * refused when it is opened. */
int key_cost(unsigned ms, uint32_t *ret_iterations, struct err *e) MUST_CHECK;

#endif
