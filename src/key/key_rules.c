#include "src/key/key_rules.h"

#include <inttypes.h>
#include <string.h>

#include "crypto/luks_key.h"

/* Length of the UTF-8 sequence at p, 0 where there is none: overlong forms, surrogates and code
 * points above 10FFFF are not UTF-8 [RFC 3629 4]. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
    size_t n = p[0] < 0x80         ? 1
               : p[0] >> 5 == 0x6  ? 2
               : p[0] >> 4 == 0xe  ? 3
               : p[0] >> 3 == 0x1e ? 4
                                   : 0;
    if (n == 0 || n > left)
        return 0;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (p[i] >> 6 != 0x2)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : n;
}

int key_usable_by_qemu(const struct secret *key, size_t n, struct err *e)
{
    const uint8_t *p = secret_peek(key);
    if (n == 0)
        return err_set(e, ERR_USAGE, "the passphrase is empty; choose one");
    if (memchr(p, 0, n))
        return err_set(e, ERR_USAGE,
                       "the passphrase contains a NUL byte, which qemu-img cannot use; encode the "
                       "key as text, for example in base64, or let --new-key make one");
    for (size_t at = 0; at < n;) {
        size_t step = utf8_length(p + at, n - at);
        if (step == 0)
            return err_set(e, ERR_USAGE,
                           "the passphrase is not valid UTF-8 (byte %zu), which qemu-img demands; "
                           "encode the key as text, for example in base64, or let --new-key make "
                           "one",
                           at + 1);
        at += step;
    }
    return 0;
}

/* luks_iterations_for() ends at half of what every open accepts for slots and digest together; what
 * reaches that end is less than was asked for. */
int key_cost(unsigned ms, uint32_t *ret_iterations, struct err *e)
{
    uint32_t n = luks_iterations_for(ms);
    if (n >= LUKS_MAX_ITERATIONS / 2)
        return err_set(e, ERR_USAGE,
                       "%u ms for one try of the key are more than %" PRIu32
                       " iterations on this machine, which is more than an image may cost to "
                       "open; choose less",
                       ms, n);
    *ret_iterations = n;
    return 0;
}
