#include "src/make/rsa_public.h"

#include <stdbool.h>
#include <string.h>

#include "crypto/prim.h"
#include "crypto/secret.h"
#include "src/base/bytes.h"

enum { WORDS = RSA_PUBLIC_BYTES / 4, BITS = RSA_PUBLIC_BYTES * 8, DIGEST = 20 };

/* Little-endian words. */
struct number {
    uint32_t w[WORDS];
};

static struct number number_in(const uint8_t p[RSA_PUBLIC_BYTES])
{
    struct number n;
    for (size_t i = 0; i < WORDS; i++)
        n.w[i] = get_be32(p + 4 * (WORDS - 1 - i));
    return n;
}

static void number_out(const struct number *n, uint8_t ret[RSA_PUBLIC_BYTES])
{
    for (size_t i = 0; i < WORDS; i++)
        put_be32(ret + 4 * (WORDS - 1 - i), n->w[i]);
}

/* *a -= m where *a, with `carry` above its highest word, is not less than m. Without a branch:
 * what is encrypted is a password. */
static void reduce_once(struct number *a, uint32_t carry, const struct number *m)
{
    struct number less;
    uint64_t borrow = 0;
    for (size_t i = 0; i < WORDS; i++) {
        uint64_t d = (uint64_t)a->w[i] - m->w[i] - borrow;
        less.w[i] = (uint32_t)d;
        borrow = d >> 63;
    }
    uint32_t take = (uint32_t)0 - (uint32_t)(carry | (borrow ^ 1));
    for (size_t i = 0; i < WORDS; i++)
        a->w[i] = (less.w[i] & take) | (a->w[i] & ~take);
    wipe(&less, sizeof(less));
}

/* *a = *a + (b masked) mod m; both below m. */
static void add(struct number *a, const struct number *b, uint32_t mask, const struct number *m)
{
    uint64_t carry = 0;
    for (size_t i = 0; i < WORDS; i++) {
        carry += (uint64_t)a->w[i] + (b->w[i] & mask);
        a->w[i] = (uint32_t)carry;
        carry >>= 32;
    }
    reduce_once(a, (uint32_t)carry, m);
}

/* Bit by bit: twenty milliseconds for what is done twice in the life of a TPM. */
static struct number multiply(const struct number *a, const struct number *b,
                              const struct number *m)
{
    struct number r = {{0}};
    for (size_t i = BITS; i-- > 0;) {
        add(&r, &r, UINT32_MAX, m);
        add(&r, a, (uint32_t)0 - (b->w[i / 32] >> (i % 32) & 1), m);
    }
    return r;
}

void rsa_public(const uint8_t modulus[RSA_PUBLIC_BYTES], const uint8_t in[RSA_PUBLIC_BYTES],
                uint8_t ret[RSA_PUBLIC_BYTES])
{
    enum { SQUARINGS = 16 }; /* 65537 = 2^16 + 1 */
    const struct number m = number_in(modulus);
    struct number base = number_in(in);
    struct number r = base;
    for (int i = 0; i < SQUARINGS; i++)
        r = multiply(&r, &r, &m);
    r = multiply(&r, &base, &m);
    number_out(&r, ret);
    wipe(&base, sizeof(base));
    wipe(&r, sizeof(r));
}

/* p[i] ^= MGF1(seed)[i] */
static void mask(const uint8_t *seed, size_t seed_bytes, uint8_t *p, size_t n)
{
    uint8_t digest[DIGEST], counter[4];
    for (uint32_t block = 0; block * (size_t)DIGEST < n; block++) {
        put_be32(counter, block);
        const struct span parts[] = {{seed, seed_bytes}, {counter, sizeof(counter)}};
        hash_compute(HASH_SHA1, parts, ARRAY_LEN(parts), digest);
        for (size_t i = 0, at = block * (size_t)DIGEST; i < DIGEST && at + i < n; i++)
            p[at + i] ^= digest[i];
    }
    wipe(digest, sizeof(digest));
}

int rsa_oaep_encrypt(const uint8_t modulus[RSA_PUBLIC_BYTES], const char *label, const void *p,
                     size_t n, uint8_t ret[RSA_PUBLIC_BYTES], struct err *e)
{
    uint8_t block[RSA_PUBLIC_BYTES] = {0};
    uint8_t *const seed = block + 1, *const data = seed + DIGEST;
    const size_t data_bytes = sizeof(block) - 1 - DIGEST;
    const struct span what = {label, strlen(label)};
    if (n > OAEP_MAX_BYTES)
        return err_set(e, ERR_USAGE, "%zu bytes are too many for one block of RSA", n);
    if (random_bytes(seed, DIGEST, e) < 0)
        return -1;
    hash_compute(HASH_SHA1, &what, 1, data);
    data[data_bytes - n - 1] = 1;
    memcpy(data + data_bytes - n, p, n);
    mask(seed, DIGEST, data, data_bytes);
    mask(data, data_bytes, seed, DIGEST);
    rsa_public(modulus, block, ret);
    wipe(block, sizeof(block));
    return 0;
}
