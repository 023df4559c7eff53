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
static inline void known_key_last_stripe(uint8_t stripe[64])
{
    uint8_t d[64] = {0}, be[4], out[20];
    for (size_t i = 0; i < 3999; i++)
        for (size_t j = 0; j < 64; j += 20) {
            size_t len = 64 - j < 20 ? 64 - j : 20;
            put_be32(be, (uint32_t)(j / 20));
            hash_compute(HASH_SHA1, (struct span[]){{be, 4}, {d + j, len}}, 2, out);
            memcpy(d + j, out, len);
        }
    for (size_t j = 0; j < 64; j++)
        stripe[j] = (uint8_t)(d[j] ^ j);
}

/* how: of a cipher with 64 bytes of key. */
static inline struct volume_key *known_key_for(const struct luks_cipher *how)
{
    struct luks_header h = {.cipher = *how, .hash = HASH_SHA1, .digest_iterations = 1};
    OWNED_HEAP uint8_t *m = calloc(luks_slot_sectors(64), 512);
    OWNED(sector_cipher) c = NULL;
    OWNED(secret) pass = NULL;
    struct volume_key *k = NULL;
    uint8_t key[64], slot_key[64];
    struct err e;
    for (size_t i = 0; i < 64; i++)
        key[i] = (uint8_t)i;
    h.slot[0].active = true;
    h.slot[0].iterations = 1;
    if (!m || secret_new(1, &pass, &e) < 0 ||
        pbkdf2(HASH_SHA1, key, 64, h.digest_salt, 32, 1, h.digest, 20, NULL) ||
        pbkdf2(HASH_SHA1, "", 0, h.slot[0].salt, 32, 1, slot_key, 64, NULL) ||
        sector_cipher_with(how, slot_key, &c, &e) < 0)
        abort();
    known_key_last_stripe(m + 3999 * 64);
    sector_encrypt(c, 0, 500, m);
    if (luks_slot_open(&h, 0, m, pass, 0, NULL, &k, &e) != 1)
        abort();
    return k;
}

static inline struct volume_key *known_key(void)
{
    static const struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    return known_key_for(&how);
}

#endif
