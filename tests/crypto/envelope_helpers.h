/* An envelope with a known header, and the migration keys of the tests. */
#ifndef NVKEEP_TESTS_CRYPTO_ENVELOPE_HELPERS_H
#define NVKEEP_TESTS_CRYPTO_ENVELOPE_HELPERS_H

#include <stdlib.h>
#include <string.h>

#include "crypto/envelope.h"

static inline struct envelope_head known_head(enum envelope_use use, enum envelope_key key)
{
    struct envelope_head h = {
        .use = use,
        .key = key,
        .device = DEVICE_TPM20,
        .generation = 0x1234567890,
        .epoch = 7,
        .clock = 0x987654,
        .library = 0x000902,
        .kinds = 3,
        .kind = use == ENVELOPE_STATE ? 1 : 0,
    };
    for (size_t i = 0; i < 16; i++) {
        h.set[i] = (uint8_t)(0x10 + i);
        h.image[i] = (uint8_t)(0x20 + i);
        h.lineage[i] = (uint8_t)(0x30 + i);
    }
    for (size_t i = 0; i < SHA256_BYTES; i++)
        h.mac[i] = (uint8_t)(0xa0 + i);
    return h;
}

/* Field by field: there are gaps between them. */
static inline bool same_head(const struct envelope_head *a, const struct envelope_head *b)
{
    return a->use == b->use && a->key == b->key && a->device == b->device &&
           a->generation == b->generation && a->epoch == b->epoch && a->clock == b->clock &&
           a->library == b->library && a->kinds == b->kinds && a->kind == b->kind &&
           !memcmp(a->set, b->set, 16) && !memcmp(a->image, b->image, 16) &&
           !memcmp(a->lineage, b->lineage, 16) && !memcmp(a->mac, b->mac, SHA256_BYTES);
}

/* Bytes first, first + 1, .. */
static inline struct migration_key *known_migration_key(unsigned bits, uint8_t first)
{
    OWNED(secret) text = NULL;
    struct migration_key *k = NULL;
    struct err e;
    if (secret_new(bits / 8, &text, &e) < 0)
        abort();
    for (size_t i = 0; i < bits / 8; i++)
        secret_bytes(text)[i] = (uint8_t)(first + i);
    if (migration_key_parse(MIGRATION_KEY_BINARY, bits, text, bits / 8, &k, &e) < 0)
        abort();
    return k;
}

#endif
