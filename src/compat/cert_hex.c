#include "src/compat/cert_hex.h"

static int value_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hex_read(const char *text, size_t n, struct hex_number *ret, struct err *e)
{
    char buf[20];
    if (n % 2)
        return err_set(e, ERR_USAGE, "Got an odd number of hex digits (%zu).", n);
    if (n == 0 || n / 2 > HEX_BYTES)
        return err_set(e, ERR_USAGE, "%zu hex digits; there have to be 2 to %d", n, 2 * HEX_BYTES);
    struct hex_number h = {.n = n / 2};
    for (size_t i = 0; i < n; i++) {
        int v = value_of(text[i]);
        if (v < 0)
            return err_set(e, ERR_USAGE, "Illegal hex character '%s'.",
                           err_quote(buf, sizeof(buf), text + i, 1));
        h.p[i / 2] = (uint8_t)(h.p[i / 2] * 16 + v);
    }
    *ret = h;
    return 0;
}
