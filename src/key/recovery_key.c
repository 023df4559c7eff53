#include "src/key/recovery_key.h"

#include <string.h>

#include "crypto/prim.h"

enum { CHECKS = 6, DATA = RECOVERY_CHARS - CHECKS, MIN_GAPS = 4 };
#define BECH32M UINT32_C(0x2bc830a3)

static const char alphabet[] = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/* The characters are the key: neither a branch nor an address depends on one that is right. */

/* The v-th character, v below 32. */
static uint8_t character(uint8_t v)
{
    uint8_t c = 0;
    for (uint32_t i = 0; i < 32; i++)
        c |= (uint8_t)((uint8_t)alphabet[i] & (0u - (((i ^ v) - 1) >> 31)));
    return c;
}

/* Its number, 255: it has none. */
static uint8_t value(uint8_t c)
{
    uint32_t v = 255, small = c | ((uint32_t)(c - 'A') < 26 ? 0x20u : 0u);
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t same = 0u - ((((uint8_t)alphabet[i] ^ small) - 1) >> 31);
        v = (v & ~same) | (i & same);
    }
    return (uint8_t)v;
}

/* The remainder of the code's polynomial [BIP 173]. */
static uint32_t remainder_of(const uint8_t *values, size_t n)
{
    static const uint32_t generator[] = {0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd,
                                         0x2a1462b3};
    uint32_t r = 1;
    for (size_t i = 0; i < n; i++) {
        uint32_t top = r >> 25;
        r = ((r & 0x1ffffff) << 5) ^ values[i];
        for (size_t bit = 0; bit < 5; bit++)
            r ^= generator[bit] & (0u - ((top >> bit) & 1));
    }
    return r;
}

static void add_checks(uint8_t values[RECOVERY_CHARS])
{
    memset(values + DATA, 0, CHECKS);
    uint32_t r = remainder_of(values, RECOVERY_CHARS) ^ BECH32M;
    for (size_t i = 0; i < CHECKS; i++)
        values[DATA + i] = (r >> (5 * (CHECKS - 1 - i))) & 31;
}

static void print(const uint8_t values[RECOVERY_CHARS], uint8_t *to)
{
    for (size_t i = 0; i < RECOVERY_CHARS; i++) {
        if (i > 0 && i % RECOVERY_GROUP == 0)
            *to++ = '-';
        *to++ = character(values[i]);
    }
}

int recovery_key_new(struct secret **ret, struct err *e)
{
    OWNED(secret) raw = NULL;
    OWNED(secret) text = NULL;
    if (secret_new(RECOVERY_CHARS, &raw, e) < 0 || secret_new(RECOVERY_TEXT_BYTES, &text, e) < 0)
        return -1;
    uint8_t *values = secret_bytes(raw);
    if (random_bytes(values, DATA, e) < 0)
        return -1;
    for (size_t i = 0; i < DATA; i++)
        values[i] &= 31;
    add_checks(values);
    print(values, secret_bytes(text));
    *ret = MOVE(text);
    return 0;
}

static bool is_gap(uint8_t c)
{
    return c == '-' || c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Nothing of the key is in the message but the one character that is none of its. */
static int read_values(const uint8_t *text, size_t n, uint8_t values[RECOVERY_CHARS], struct err *e)
{
    size_t found = 0;
    char buf[8];
    for (size_t i = 0; i < n; i++) {
        if (is_gap(text[i]))
            continue;
        uint8_t v = value(text[i]);
        if (v > 31)
            return err_set(e, ERR_USAGE,
                           "the recovery key: character %zu (in group %zu) is \"%s\", which is in "
                           "no recovery key",
                           found + 1, found / RECOVERY_GROUP + 1,
                           err_quote(buf, sizeof(buf), text + i, 1));
        if (found < RECOVERY_CHARS)
            values[found] = v;
        found++;
    }
    if (found == RECOVERY_CHARS)
        return 0;
    return err_set(e, ERR_USAGE, "the recovery key: it has %zu characters, and wanted are %d",
                   found, RECOVERY_CHARS);
}

int recovery_key_read(const uint8_t *text, size_t n, struct secret **ret, struct err *e)
{
    OWNED(secret) raw = NULL;
    OWNED(secret) printed = NULL;
    if (secret_new(RECOVERY_CHARS, &raw, e) < 0 || secret_new(RECOVERY_TEXT_BYTES, &printed, e) < 0)
        return -1;
    uint8_t *values = secret_bytes(raw);
    if (read_values(text, n, values, e) < 0)
        return -1;
    if (remainder_of(values, RECOVERY_CHARS) != BECH32M)
        return err_set(e, ERR_USAGE,
                       "the recovery key: there is a mistake in it (its check characters do not "
                       "agree with the others); compare it with what was written down");
    print(values, secret_bytes(printed));
    *ret = MOVE(printed);
    return 0;
}

bool recovery_key_is_meant(const uint8_t *text, size_t n)
{
    size_t gaps = 0, others = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = text[i], small = c | 0x20;
        bool word = (c >= '0' && c <= '9') || (small >= 'a' && small <= 'z');
        if (!word && !is_gap(c))
            return false;
        gaps += !word;
        others += word;
    }
    return others == RECOVERY_CHARS && gaps >= MIN_GAPS;
}
