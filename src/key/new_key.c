#include "src/key/new_key.h"

#include <string.h>
#include <sys/stat.h>

#include "backend/blk.h"
#include "crypto/prim.h"

enum { RANDOM_BYTES = 32, QUOTED_BYTES = 200 };

/* Digit v (0 to 63) of [RFC 4648 4]. By arithmetic: v is part of the key, and neither a branch nor
 * an address may depend on it. Each term applies to the digits above its bound. */
static uint8_t base64_digit(uint32_t v)
{
    return (uint8_t)('A' + v + ('a' - 'Z' - 1) * ((25 - v) >> 31) -
                     ('z' + 1 - '0') * ((51 - v) >> 31) - ('9' + 1 - '+') * ((61 - v) >> 31) +
                     ('/' - '+' - 1) * ((62 - v) >> 31));
}

/* n is not a multiple of three here in general; `ret` has 4 * ceil(n / 3) bytes. */
static void base64(const uint8_t *p, size_t n, uint8_t *ret)
{
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)p[i] << 16;
        three |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
        three |= i + 2 < n ? p[i + 2] : 0;
        *ret++ = base64_digit(three >> 18);
        *ret++ = base64_digit(three >> 12 & 63);
        *ret++ = i + 1 < n ? base64_digit(three >> 6 & 63) : '=';
        *ret++ = i + 2 < n ? base64_digit(three & 63) : '=';
    }
}

/* Whole, or not at all: a key that was cut off would be in the way of every later start. */
static int write_file(const char *path, const struct secret *key, struct err *e)
{
    OWNED(blk_new) file = NULL;
    char buf[QUOTED_BYTES];
    struct stat st;
    if (lstat(path, &st) == 0)
        return err_set(e, ERR_USAGE, "%s exists; --new-key makes a new file and never replaces one",
                       err_quote(buf, sizeof(buf), path, strlen(path)));
    if (blk_create(path, NEW_KEY_TEXT_BYTES, &file, e) < 0)
        return err_prefix(e, "the key file");
    blk_new_share(file);
    if (blk_write(blk_new_rw(file), (struct host){0}, secret_peek(key), NEW_KEY_TEXT_BYTES, e) <
            0 ||
        blk_publish(&file, e) < 0)
        return err_prefix(e, "the key file");
    return 0;
}

int new_key_file(const char *path, struct secret **ret, size_t *ret_bytes, struct err *e)
{
    OWNED(secret) raw = NULL;
    OWNED(secret) text = NULL;
    if (secret_new(RANDOM_BYTES, &raw, e) < 0 || secret_new(NEW_KEY_TEXT_BYTES, &text, e) < 0 ||
        random_bytes(secret_bytes(raw), RANDOM_BYTES, e) < 0)
        return -1;
    base64(secret_peek(raw), RANDOM_BYTES, secret_bytes(text));
    if (write_file(path, text, e) < 0)
        return -1;
    *ret = MOVE(text);
    *ret_bytes = NEW_KEY_TEXT_BYTES;
    return 0;
}
