/* What several tests of this folder need. */
#ifndef NVKEEP_TESTS_CRYPTO_HELPERS_H
#define NVKEEP_TESTS_CRYPTO_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/secret.h"
#include "tests/support/sanitized.h" /* mlock() does nothing there */

/* Returns the number of bytes; spaces are allowed. */
static inline size_t unhex(const char *hex, void *ret, size_t room)
{
    size_t n = 0;
    for (const char *p = hex; *p; p++) {
        unsigned v;
        if (*p == ' ')
            continue;
        assert_true(n < room);
        assert_int_equal(sscanf(p, "%2x", &v), 1);
        ((uint8_t *)ret)[n++] = (uint8_t)v;
        p++;
    }
    return n;
}

#define assert_hex(bytes, hex)                                                                     \
    do {                                                                                           \
        uint8_t wanted_[1024];                                                                     \
        size_t n_ = unhex(hex, wanted_, sizeof(wanted_));                                          \
        assert_memory_equal(bytes, wanted_, n_);                                                   \
    } while (0)

static inline struct secret *secret_of(const char *text)
{
    struct secret *s = NULL;
    struct err e;
    size_t n = strlen(text);
    if (secret_new(n ? n : 1, &s, &e) < 0)
        fail_msg("%s", e.text);
    memcpy(secret_bytes(s), text, n);
    return s;
}

#define assert_done(call, e)                                                                       \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            fail_msg("%s", (e).text);                                                              \
    } while (0)

/* One failure of the wanted class whose text has all the words. */
#define assert_refused(call, e, wanted_kind, ...)                                                  \
    do {                                                                                           \
        const char *words_[] = {__VA_ARGS__};                                                      \
        (e) = (struct err){0};                                                                     \
        assert_int_equal(call, -1);                                                                \
        if ((e).kind != (wanted_kind))                                                             \
            fail_msg("%s: %s", err_class((e).kind)->name, (e).text);                               \
        for (size_t w_ = 0; w_ < ARRAY_LEN(words_); w_++)                                          \
            if (!strstr((e).text, words_[w_]))                                                     \
                fail_msg("no \"%s\" in: %s", words_[w_], (e).text);                                \
    } while (0)

/* The same sequence in every run. [xorshift64*] */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

#endif
