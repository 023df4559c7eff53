/* The volume key 00 01 02 .. 3f, for vectors and for inputs that are the same in every run. A
 * volume key is only made by a slot that opens, so this makes such a slot.
 */
#ifndef NVKEEP_TESTS_CRYPTO_KNOWN_KEY_H
#define NVKEEP_TESTS_CRYPTO_KNOWN_KEY_H

#include <stdlib.h>
#include <string.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"

/* 3999 stripes of zeroes are as good as random ones here [LUKS1 2.4]. */
static inline void known_key_last_stripe(uint8_t *stripe, size_t key_bytes)
{
    uint8_t d[LUKS_MAX_KEY_BYTES] = {0}, be[4], out[20];
    for (size_t i = 0; i < 3999; i++)
        for (size_t j = 0; j < key_bytes; j += 20) {
            size_t len = key_bytes - j < 20 ? key_bytes - j : 20;
            put_be32(be, (uint32_t)(j / 20));
            hash_compute(HASH_SHA1, (struct span[]){{be, 4}, {d + j, len}}, 2, out);
            memcpy(d + j, out, len);
        }
    for (size_t j = 0; j < key_bytes; j++)
        stripe[j] = (uint8_t)(d[j] ^ j);
}

/* Slot 0 of *ret opens with the empty passphrase, with the least work that there can be; returns
 * its material, malloc()ed. Names, uuid and places are the caller's. */
static inline uint8_t *known_key_slot(const struct luks_cipher *how, struct luks_header *ret)
{
    size_t n = how->key_bytes, used = (n * LUKS_STRIPES + 511) / 512;
    uint8_t *m = calloc(luks_slot_sectors(n), 512);
    OWNED(sector_cipher) c = NULL;
    uint8_t key[LUKS_MAX_KEY_BYTES], slot_key[LUKS_MAX_KEY_BYTES];
    struct err e;
    *ret = (struct luks_header){.cipher = *how, .hash = HASH_SHA1, .digest_iterations = 1};
    for (size_t i = 0; i < n; i++)
        key[i] = (uint8_t)i;
    ret->slot[0].active = true;
    ret->slot[0].iterations = 1;
    if (!m || pbkdf2(HASH_SHA1, key, n, ret->digest_salt, 32, 1, ret->digest, 20, NULL) ||
        pbkdf2(HASH_SHA1, "", 0, ret->slot[0].salt, 32, 1, slot_key, n, NULL) ||
        sector_cipher_with(how, slot_key, &c, &e) < 0)
        abort();
    known_key_last_stripe(m + 3999 * n, n);
    sector_encrypt(c, 0, used, m);
    return m;
}

/* Of any cipher; the key has as many bytes as that takes. */
static inline struct volume_key *known_key_for(const struct luks_cipher *how)
{
    struct luks_header h;
    OWNED_HEAP uint8_t *m = known_key_slot(how, &h);
    OWNED(secret) pass = NULL;
    struct volume_key *k = NULL;
    struct err e;
    if (secret_new(1, &pass, &e) < 0 || luks_slot_open(&h, 0, m, pass, 0, NULL, &k, &e) != 1)
        abort();
    return k;
}

static inline struct volume_key *known_key(void)
{
    static const struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    return known_key_for(&how);
}

#endif
