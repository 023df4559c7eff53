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
    for (size_t i = 0; i < n; i++)
        if (value_of(text[i]) < 0)
            return err_set(e, ERR_USAGE, "Illegal hex character '%s'.",
                           err_quote(buf, sizeof(buf), text + i, 1));
    for (size_t i = 0; i < n / 2; i++)
        ret->p[i] = (uint8_t)(value_of(text[2 * i]) << 4 | value_of(text[2 * i + 1]));
    ret->n = n / 2;
    return 0;
}
