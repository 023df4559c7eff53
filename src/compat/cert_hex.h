/* Hexadecimal digits as swtpm_cert's options take them. Pure. */
#ifndef NVKEEP_COMPAT_CERT_HEX_H
#define NVKEEP_COMPAT_CERT_HEX_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"

enum { HEX_BYTES = 1024 };

struct hex_number {
    uint8_t p[HEX_BYTES];
    size_t n;
};

/* n digits, two to a byte. ERR_USAGE: an odd number of them, none, too many, or no digits. */
int hex_read(const char *text, size_t n, struct hex_number *ret, struct err *e) MUST_CHECK;

#endif
