#include "tests/support/resign.h"

#include <string.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"

enum { FULL = 1, PART_BYTES = 400, SALT_AT = 16, SUM_AT = 448, MAC_AT = 480 };

/* ---- the reference sector ---- */

static int derived(const uint8_t sector[512], const struct volume_key *key, const char *label,
                   struct mac_key **ret, struct err *e)
{
    uint8_t k[32];
    hkdf_sha256(sector + SALT_AT, 32, volume_key_peek(key), volume_key_cipher(key)->key_bytes,
                label, k, sizeof(k));
    return mac_key_new(k, sizeof(k), ret, e);
}

int resign_record_key(const uint8_t sector[512], const struct volume_key *key, struct mac_key **ret,
                      struct err *e)
{
    return derived(sector, key, "nvkeep record store 1", ret, e);
}

void resign_reference(uint8_t sector[512], const struct volume_key *key)
{
    uint8_t digest[32];
    OWNED(mac_key) m = NULL;
    struct err e;
    hash_compute(HASH_SHA256, &(struct span){sector, SUM_AT}, 1, digest);
    memcpy(sector + SUM_AT, digest, 16);
    if (derived(sector, key, "nvkeep reference sector 1", &m, &e) < 0)
        abort();
    mac_compute(m, &(struct span){sector, MAC_AT}, 1, sector + MAC_AT);
}

/* ---- records ---- */

void resign_sector(const struct mac_key *k, unsigned area, uint32_t position, uint8_t sector[512])
{
    uint8_t place[13] = "nvkeep-S";
    place[8] = (uint8_t)area;
    put_be32(place + 9, position);
    const struct span parts[] = {{place, sizeof(place)}, {sector, 480}};
    mac_compute(k, parts, 2, sector + 480);
}

/* Makes the record that seems to begin at `position` right; returns its sectors, at least 1. */
static size_t resign_record(const struct mac_key *k, const struct resign_areas *a, unsigned area,
                            size_t position, const uint8_t before[32], uint8_t ret_mac[32])
{
    static const uint8_t none[32];
    uint8_t *first = a->area[area] + position * 512;
    size_t n = get_be16(first + 14), left = get_be32(first + 24);
    struct span parts[6 + RESIGN_MAX_SECTORS] = {
        {"nvkeep-R", 8}, {first[28] == FULL ? none : before, 32}, {first + 16, 8}, /* epoch */
        {first + 4, 8},                                                            /* generation */
        {first + 28, 1},                                                           /* kind */
        {first + 24, 4},                                                           /* bytes */
    };
    size_t n_parts = 6;
    if (n == 0 || n > a->n_sectors[area] - position)
        n = 1;
    for (size_t i = 0; i < n; i++) {
        size_t part = left < PART_BYTES ? left : PART_BYTES;
        parts[n_parts++] = (struct span){first + i * 512 + 64, part};
        left -= part;
    }
    mac_compute(k, parts, n_parts, ret_mac);
    for (size_t i = 0; i < n; i++) {
        memcpy(first + i * 512 + 32, ret_mac, 32);
        resign_sector(k, area, (uint32_t)(position + i), first + i * 512);
    }
    return n;
}

void resign_records(const struct mac_key *k, const struct resign_areas *a)
{
    static const uint8_t none[32];
    uint8_t mac[2][32], chain[32];
    for (unsigned area = 0; area < 2; area++)
        (void)resign_record(k, a, area, 0, none, mac[area]);
    bool b_is_newer = get_be64(a->area[1] + 4) > get_be64(a->area[0] + 4);
    memcpy(chain, mac[b_is_newer], sizeof(chain));
    for (size_t at = 0; at < a->n_sectors[2];)
        at += resign_record(k, a, 2, at, chain, chain);
}
