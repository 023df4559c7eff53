/* A key slot whose material is hostile, for every cipher, mode and hash. Input: which of them, two
 * iteration counts, the slot, and bytes that fill its stripes again and again. What the stripes
 * give is computed here from the text of LUKS1, and the header's digest made that of it: so the
 * slot must open with that very key, and with any other digest not at all. The key is then sealed
 * in another slot, with the input's begin as passphrase, and must come out again.
 *
 * Class: luks
 */
#include <stdio.h>
#include <string.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

static const struct {
    const char *name, *mode;
    uint8_t key_bytes;
} ciphers[] = {
    {"aes", "xts-plain64", 64},
    {"aes", "xts-plain64", 32},
    {"aes", "xts-plain", 48},
    {"aes", "cbc-essiv:sha256", 16},
    {"aes", "cbc-essiv:md5", 24},
    {"aes", "cbc-plain", 32},
    {"aes", "ecb", 16},
    {"aes", "ctr-plain64", 16},
    {"serpent", "xts-plain64", 64},
    {"serpent", "cbc-plain64", 24},
    {"serpent", "ctr-essiv:sha256", 16},
    {"twofish", "xts-plain64", 32},
    {"twofish", "ecb", 24},
    {"twofish", "cbc-essiv:sha256", 32},
    {"cast5", "cbc-plain64", 16},
    {"cast5", "ctr-plain", 16},
    {"cast5", "ecb", 16},
    {"cast5", "cbc-plain:sha256", 16},
};
static const char *const hashes[] = {"md5",    "sha1",   "sha224",   "sha256",
                                     "sha384", "sha512", "ripemd160"};
enum { ITERATIONS_BELOW = 5, PASS_MAX = 64 };

/* What a reader of the header makes of these names. */
static bool make_header(struct bytes_in *in, struct luks_header *ret)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    unsigned which = bytes_u8(in) % ARRAY_LEN(ciphers), hash = bytes_u8(in) % ARRAY_LEN(hashes);
    struct luks_header h = {.digest_iterations = 1};
    struct err e;
    snprintf(h.cipher_name, sizeof(h.cipher_name), "%s", ciphers[which].name);
    snprintf(h.cipher_mode, sizeof(h.cipher_mode), "%s", ciphers[which].mode);
    snprintf(h.hash_spec, sizeof(h.hash_spec), "%s", hashes[hash]);
    snprintf(h.uuid, sizeof(h.uuid), "%s", "00010203-0405-4607-8809-0a0b0c0d0e0f");
    h.cipher.key_bytes = ciphers[which].key_bytes;
    for (uint32_t i = 0; i < LUKS_N_SLOTS; i++)
        h.slot[i].material_sector = 8 + i * luks_slot_sectors(h.cipher.key_bytes);
    luks_header_encode(&h, bytes);
    return luks_header_decode(bytes, luks_area_bytes(h.cipher.key_bytes), ret, &e) == 0;
}

/* [LUKS1 2.4] */
static void diffuse(enum hash_alg alg, uint8_t *d, size_t n)
{
    size_t digest = hash_bytes(alg);
    for (uint32_t i = 0; i * digest < n; i++) {
        uint8_t number[4], out[HASH_MAX_BYTES];
        size_t part = n - i * digest < digest ? n - i * digest : digest;
        put_be32(number, i);
        hash_compute(alg, (struct span[]){{number, 4}, {d + i * digest, part}}, 2, out);
        memcpy(d + i * digest, out, part);
    }
}

static void merge(const struct luks_header *h, const struct luks_slot *s, const struct secret *pass,
                  size_t pass_bytes, uint8_t *material, uint8_t *ret)
{
    size_t n = h->cipher.key_bytes, sectors = (n * LUKS_STRIPES + 511) / 512;
    uint8_t slot_key[LUKS_MAX_KEY_BYTES];
    OWNED(sector_cipher) c = NULL;
    struct err e;
    PROMISE(pbkdf2(h->hash, secret_peek(pass), pass_bytes, s->salt, 32, s->iterations, slot_key, n,
                   NULL) == 0);
    PROMISE(sector_cipher_with(&h->cipher, slot_key, &c, &e) == 0);
    sector_decrypt(c, 0, sectors, material);
    memset(ret, 0, n);
    for (size_t i = 0; i < LUKS_STRIPES; i++) {
        for (size_t j = 0; j < n; j++)
            ret[j] ^= material[i * n + j];
        if (i < LUKS_STRIPES - 1)
            diffuse(h->hash, ret, n);
    }
}

static void check_seal(struct luks_header *h, unsigned slot, const struct volume_key *key,
                       const struct secret *pass, size_t pass_bytes)
{
    OWNED_HEAP uint8_t *material = malloc(luks_slot_sectors(h->cipher.key_bytes) * (size_t)512);
    OWNED(volume_key) again = NULL;
    struct err e;
    PROMISE(material);
    PROMISE(luks_slot_seal(h, slot, key, pass, pass_bytes, LUKS_MIN_ITERATIONS, NULL, material,
                           &e) == 0);
    PROMISE(luks_slot_open(h, slot, material, pass, pass_bytes, NULL, &again, &e) == 1);
    PROMISE(!memcmp(volume_key_peek(again), volume_key_peek(key), h->cipher.key_bytes));
}

static void check_slot(struct luks_header *h, unsigned slot, bool seal, const uint8_t *material,
                       const uint8_t *want, const struct secret *pass, size_t pass_bytes)
{
    OWNED(volume_key) key = NULL;
    struct err e;
    h->digest[slot] ^= 0x10;
    PROMISE(luks_slot_open(h, slot, material, pass, pass_bytes, NULL, &key, &e) == 0 && !key);
    h->digest[slot] ^= 0x10;
    PROMISE(luks_slot_open(h, slot, material, pass, pass_bytes, NULL, &key, &e) == 1);
    PROMISE(!memcmp(volume_key_peek(key), want, h->cipher.key_bytes));
    if (seal)
        check_seal(h, (slot + 1) % LUKS_N_SLOTS, key, pass, pass_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    struct luks_header h;
    if (n < 6 || !make_header(&in, &h))
        return 0;
    unsigned how = bytes_u8(&in), slot = how % LUKS_N_SLOTS;
    h.digest_iterations = 1 + bytes_u8(&in) % (ITERATIONS_BELOW - 1);
    h.slot[slot].iterations = 1 + bytes_u8(&in) % (ITERATIONS_BELOW - 1);
    h.slot[slot].active = true;

    size_t room = luks_slot_sectors(h.cipher.key_bytes) * (size_t)512;
    size_t pass_bytes = in.left < PASS_MAX ? in.left : PASS_MAX;
    uint8_t want[LUKS_MAX_KEY_BYTES];
    OWNED_HEAP uint8_t *material = malloc(room);
    OWNED_HEAP uint8_t *decrypted = malloc(room);
    OWNED(secret) pass = NULL;
    struct err e;
    PROMISE(material && decrypted && secret_new(PASS_MAX, &pass, &e) == 0);
    memcpy(secret_bytes(pass), in.at, pass_bytes);
    for (size_t i = 0; i < room; i++)
        material[i] = in.at[i % in.left];
    memcpy(decrypted, material, room);
    merge(&h, &h.slot[slot], pass, pass_bytes, decrypted, want);
    PROMISE(pbkdf2(h.hash, want, h.cipher.key_bytes, h.digest_salt, 32, h.digest_iterations,
                   h.digest, LUKS_DIGEST_BYTES, NULL) == 0);
    check_slot(&h, slot, how & 0x80, material, want, pass, pass_bytes);
    return 0;
}
