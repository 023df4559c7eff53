#include "crypto/luks_header.h"

#include <string.h>

#include "src/base/bytes.h"

/* [LUKS1 On-Disk Format 1.2.3, 2.1 and 2.2] */
enum {
    VERSION = 1,
    NAME_BYTES = 32,
    UUID_BYTES = 40,
    FIRST_SLOT = 208,
    HEADER_SECTORS = 8, /* slots begin behind it and are aligned to it */
    LUKS_SECTOR_BYTES = 512,
};
static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
#define SLOT_ACTIVE   UINT32_C(0x00ac71f3)
#define SLOT_INACTIVE UINT32_C(0x0000dead)

/* ---- names ---- */

static const struct {
    char name[12];
    enum hash_alg alg;
} hash_names[] = {
    {"md5", HASH_MD5},
    {"sha1", HASH_SHA1},
    {"sha224", HASH_SHA224},
    {"sha256", HASH_SHA256},
    {"sha384", HASH_SHA384},
    {"sha512", HASH_SHA512},
    {"ripemd160", HASH_RIPEMD160},
};

static const struct {
    char name[9];
    enum cipher_alg alg;
} ciphers[] = {
    {"aes", CIPHER_AES128},         {"aes", CIPHER_AES192},         {"aes", CIPHER_AES256},
    {"serpent", CIPHER_SERPENT128}, {"serpent", CIPHER_SERPENT192}, {"serpent", CIPHER_SERPENT256},
    {"twofish", CIPHER_TWOFISH128}, {"twofish", CIPHER_TWOFISH192}, {"twofish", CIPHER_TWOFISH256},
    {"cast5", CIPHER_CAST5_128},
};

static const struct {
    char name[4];
    enum cipher_mode mode;
} modes[] = {{"ecb", MODE_ECB}, {"cbc", MODE_CBC}, {"ctr", MODE_CTR}, {"xts", MODE_XTS}};

static bool hash_by_name(const char *name, enum hash_alg *ret)
{
    for (size_t i = 0; i < ARRAY_LEN(hash_names); i++)
        if (!strcmp(name, hash_names[i].name)) {
            *ret = hash_names[i].alg;
            return true;
        }
    return false;
}

static int unsupported(const char *field, const char *found, const char *wanted, struct err *e)
{
    char q[140];
    return err_set(e, ERR_UNSUPPORTED, "LUKS header: %s is \"%s\", which is not implemented (%s)",
                   field, err_quote(q, sizeof(q), found, strlen(found)), wanted);
}

/* "plain64", "essiv:sha256", and the hash that QEMU may append where it means nothing. */
static int parse_ivgen(const char *whole, const char *text, struct luks_cipher *c, struct err *e)
{
    static const char wanted[] = "plain, plain64 or essiv with md5 or sha256 behind the mode";
    const char *colon = strchrnul(text, ':');
    size_t n = (size_t)(colon - text);
    enum hash_alg hash = HASH_SHA256;
    if (*colon && !hash_by_name(colon + 1, &hash))
        return unsupported("cipher-mode", whole, wanted, e);
    if (n == 5 && !memcmp(text, "plain", n))
        c->ivgen = IVGEN_PLAIN;
    else if (n == 7 && !memcmp(text, "plain64", n))
        c->ivgen = IVGEN_PLAIN64;
    else if (n == 5 && !memcmp(text, "essiv", n) && *colon)
        c->ivgen = IVGEN_ESSIV;
    else
        return unsupported("cipher-mode", whole, wanted, e);
    if (c->ivgen != IVGEN_ESSIV)
        return 0;
    /* The digest is a cipher key, and CAST5 takes none of that length here. */
    if ((hash_bytes(hash) != 16 && hash_bytes(hash) != 32) || c->alg == CIPHER_CAST5_128)
        return unsupported("cipher-mode", whole, wanted, e);
    c->essiv_hash = hash;
    return 0;
}

static int parse_mode(const char *text, struct luks_cipher *c, struct err *e)
{
    const char *dash = strchrnul(text, '-');
    size_t n = (size_t)(dash - text);
    for (size_t i = 0; i < ARRAY_LEN(modes); i++)
        if (n == strlen(modes[i].name) && !memcmp(text, modes[i].name, n)) {
            c->mode = modes[i].mode;
            c->ivgen = IVGEN_NONE;
            if (*dash)
                return parse_ivgen(text, dash + 1, c, e);
            /* Only ECB does without an IV. */
            return c->mode == MODE_ECB
                       ? 0
                       : unsupported("cipher-mode", text, "mode-ivgen, such as xts-plain64", e);
        }
    return unsupported("cipher-mode", text, "ecb, cbc, ctr or xts", e);
}

/* The name gives the family, the length of the key its member. */
static int parse_cipher(const struct luks_header *h, uint32_t key_bytes, struct luks_cipher *ret,
                        struct err *e)
{
    struct luks_cipher c = {.key_bytes = key_bytes};
    bool known = false;
    for (size_t i = 0; i < ARRAY_LEN(ciphers); i++)
        known |= !strcmp(h->cipher_name, ciphers[i].name);
    if (!known)
        return unsupported("cipher-name", h->cipher_name, "aes, serpent, twofish or cast5", e);

    /* Which member of its family it is shows only with the mode; whether it is CAST5 matters now.
     */
    c.alg = strcmp(h->cipher_name, "cast5") ? CIPHER_AES256 : CIPHER_CAST5_128;
    if (parse_mode(h->cipher_mode, &c, e) < 0)
        return -1;
    if (c.mode == MODE_XTS && cipher_block_bytes(c.alg) != 16)
        return unsupported("cipher-mode", h->cipher_mode, "cast5 goes with ecb, cbc or ctr", e);
    size_t keys = c.mode == MODE_XTS ? 2 : 1;
    for (size_t i = 0; i < ARRAY_LEN(ciphers); i++)
        if (!strcmp(h->cipher_name, ciphers[i].name) &&
            cipher_key_bytes(ciphers[i].alg) * keys == key_bytes) {
            c.alg = ciphers[i].alg;
            *ret = c;
            return 0;
        }
    return err_set(e, ERR_STATE_CORRUPT,
                   "LUKS header: key-bytes is %u, but %s in mode %s takes %s bytes", key_bytes,
                   h->cipher_name, h->cipher_mode,
                   c.alg == CIPHER_CAST5_128 ? "16"
                   : keys == 2               ? "32, 48 or 64"
                                             : "16, 24 or 32");
}

/* ---- sizes ---- */

uint32_t luks_slot_sectors(size_t key_bytes)
{
    size_t sectors = (key_bytes * LUKS_STRIPES + LUKS_SECTOR_BYTES - 1) / LUKS_SECTOR_BYTES;
    return (uint32_t)((sectors + HEADER_SECTORS - 1) / HEADER_SECTORS * HEADER_SECTORS);
}

uint64_t luks_area_bytes(size_t key_bytes)
{
    return (HEADER_SECTORS + LUKS_N_SLOTS * (uint64_t)luks_slot_sectors(key_bytes)) *
           LUKS_SECTOR_BYTES;
}

/* ---- decode ---- */

/* As it is in the header, before anything was judged. */
struct raw {
    uint8_t magic[sizeof(magic)];
    uint16_t version;
    uint8_t name[NAME_BYTES], mode[NAME_BYTES], hash[NAME_BYTES], uuid[UUID_BYTES];
    uint32_t key_bytes;
    struct {
        uint32_t state, stripes;
    } slot[LUKS_N_SLOTS];
};

static void read_fields(const uint8_t *bytes, struct raw *raw, struct luks_header *h)
{
    struct bytes_in in = bytes_in(bytes, LUKS_HEADER_BYTES);
    bytes_copy_out(&in, raw->magic, sizeof(raw->magic));
    raw->version = bytes_be16(&in);
    bytes_copy_out(&in, raw->name, sizeof(raw->name));
    bytes_copy_out(&in, raw->mode, sizeof(raw->mode));
    bytes_copy_out(&in, raw->hash, sizeof(raw->hash));
    h->payload_sector = bytes_be32(&in);
    raw->key_bytes = bytes_be32(&in);
    bytes_copy_out(&in, h->digest, sizeof(h->digest));
    bytes_copy_out(&in, h->digest_salt, sizeof(h->digest_salt));
    h->digest_iterations = bytes_be32(&in);
    bytes_copy_out(&in, raw->uuid, sizeof(raw->uuid));
    for (size_t i = 0; i < LUKS_N_SLOTS; i++) {
        struct luks_slot *s = &h->slot[i];
        raw->slot[i].state = bytes_be32(&in);
        s->iterations = bytes_be32(&in);
        bytes_copy_out(&in, s->salt, sizeof(s->salt));
        s->material_sector = bytes_be32(&in);
        raw->slot[i].stripes = bytes_be32(&in);
    }
}

/* ret has room for one byte more than the field. */
static int take_text(const char *field, const uint8_t *raw, size_t raw_bytes, char *ret,
                     struct err *e)
{
    char q[200];
    size_t n = strnlen((const char *)raw, raw_bytes);
    bool printable = true;
    for (size_t i = 0; i < n; i++)
        printable &= raw[i] > 0x20 && raw[i] < 0x7f;
    if (n == raw_bytes || !printable)
        return err_set(e, ERR_STATE_CORRUPT, "LUKS header: %s is \"%s\", wanted %s", field,
                       err_quote(q, sizeof(q), raw, n),
                       printable ? "a NUL within the field" : "printable characters");
    memcpy(ret, raw, n + 1);
    return 0;
}

static int check_slots(const struct raw *raw, uint64_t area_bytes, struct luks_header *h,
                       struct err *e)
{
    uint64_t sectors = luks_slot_sectors(h->cipher.key_bytes);
    uint64_t area_sectors = area_bytes / LUKS_SECTOR_BYTES;
    for (size_t i = 0; i < LUKS_N_SLOTS; i++) {
        struct luks_slot *s = &h->slot[i];
        uint64_t at = s->material_sector;
        if (raw->slot[i].state != SLOT_ACTIVE && raw->slot[i].state != SLOT_INACTIVE)
            return err_set(e, ERR_STATE_CORRUPT,
                           "LUKS header: state of key slot %zu is 0x%08x, wanted 0x%08x (in use) "
                           "or 0x%08x (free)",
                           i, raw->slot[i].state, SLOT_ACTIVE, SLOT_INACTIVE);
        s->active = raw->slot[i].state == SLOT_ACTIVE;
        if (raw->slot[i].stripes != LUKS_STRIPES)
            return err_set(e, ERR_STATE_CORRUPT,
                           "LUKS header: key slot %zu has %u stripes, wanted %u", i,
                           raw->slot[i].stripes, LUKS_STRIPES);
        if (at < HEADER_SECTORS || !range_within(at, sectors, area_sectors))
            return err_set(e, ERR_STATE_CORRUPT,
                           "LUKS header: key slot %zu lies at sector %llu and takes %llu sectors, "
                           "wanted within %d to %llu",
                           i, (unsigned long long)at, (unsigned long long)sectors, HEADER_SECTORS,
                           (unsigned long long)area_sectors);
        for (size_t j = 0; j < i; j++) {
            uint64_t other = h->slot[j].material_sector;
            if (at < other + sectors && other < at + sectors)
                return err_set(e, ERR_STATE_CORRUPT,
                               "LUKS header: key slots %zu and %zu overlap (sectors %llu and %llu, "
                               "%llu each)",
                               j, i, (unsigned long long)other, (unsigned long long)at,
                               (unsigned long long)sectors);
        }
    }
    return 0;
}

/* What trying every slot costs; the digest is computed after each. */
static int check_cost(const struct luks_header *h, struct err *e)
{
    uint64_t sum = h->digest_iterations;
    size_t n_active = 0;
    if (h->digest_iterations == 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "LUKS header: mk-digest-iterations is 0, wanted at least 1");
    for (size_t i = 0; i < LUKS_N_SLOTS; i++) {
        if (!h->slot[i].active)
            continue;
        if (h->slot[i].iterations == 0)
            return err_set(e, ERR_STATE_CORRUPT,
                           "LUKS header: key slot %zu has 0 iterations, wanted at least 1", i);
        sum += h->slot[i].iterations + (n_active++ > 0 ? (uint64_t)h->digest_iterations : 0);
    }
    if (sum > LUKS_MAX_ITERATIONS)
        return err_set(e, ERR_UNSUPPORTED,
                       "LUKS header: trying its key slots would take %llu iterations of PBKDF2, "
                       "at most %llu are done; if this volume is yours, add a cheaper slot and "
                       "remove this one with cryptsetup or qemu-img amend",
                       (unsigned long long)sum, (unsigned long long)LUKS_MAX_ITERATIONS);
    return 0;
}

int luks_header_decode(const uint8_t bytes[LUKS_HEADER_BYTES], uint64_t area_bytes,
                       struct luks_header *ret, struct err *e)
{
    struct luks_header h = {0};
    struct raw raw;
    char q[40];
    read_fields(bytes, &raw, &h);

    if (memcmp(raw.magic, magic, sizeof(magic)))
        return err_set(e, ERR_STATE_CORRUPT,
                       "LUKS header: magic is \"%s\", wanted \"LUKS\\xba\\xbe\"",
                       err_quote(q, sizeof(q), raw.magic, sizeof(raw.magic)));
    if (raw.version == 2)
        return err_set(e, ERR_UNSUPPORTED,
                       "LUKS header: version is 2 (LUKS2), and qcow2 images hold LUKS1 only");
    if (raw.version != VERSION)
        return err_set(e, ERR_UNSUPPORTED, "LUKS header: version is %u, wanted %d", raw.version,
                       VERSION);
    if (take_text("cipher-name", raw.name, NAME_BYTES, h.cipher_name, e) < 0 ||
        take_text("cipher-mode", raw.mode, NAME_BYTES, h.cipher_mode, e) < 0 ||
        take_text("hash-spec", raw.hash, NAME_BYTES, h.hash_spec, e) < 0 ||
        take_text("uuid", raw.uuid, UUID_BYTES, h.uuid, e) < 0 ||
        parse_cipher(&h, raw.key_bytes, &h.cipher, e) < 0)
        return -1;
    if (!hash_by_name(h.hash_spec, &h.hash))
        return unsupported("hash-spec", h.hash_spec,
                           "md5, sha1, sha224, sha256, sha384, sha512 or ripemd160", e);
    if (check_slots(&raw, area_bytes, &h, e) < 0 || check_cost(&h, e) < 0)
        return -1;
    *ret = h;
    return 0;
}

/* ---- encode ---- */

static void put_text(struct bytes_out *out, const char *text, size_t field_bytes)
{
    size_t n = strnlen(text, field_bytes - 1);
    bytes_put(out, text, n);
    bytes_put_zero(out, field_bytes - n);
}

static void put_slot(struct bytes_out *out, const struct luks_slot *s)
{
    bytes_put_be32(out, s->active ? SLOT_ACTIVE : SLOT_INACTIVE);
    bytes_put_be32(out, s->iterations);
    bytes_put(out, s->salt, sizeof(s->salt));
    bytes_put_be32(out, s->material_sector);
    bytes_put_be32(out, LUKS_STRIPES);
}

size_t luks_slot_offset(unsigned slot)
{
    return FIRST_SLOT + (size_t)slot * LUKS_SLOT_BYTES;
}

void luks_slot_encode(const struct luks_slot *s, unsigned slot, uint8_t header[LUKS_HEADER_BYTES])
{
    struct bytes_out out = bytes_out(header + luks_slot_offset(slot), LUKS_SLOT_BYTES);
    put_slot(&out, s);
}

void luks_header_encode(const struct luks_header *h, uint8_t ret[LUKS_HEADER_BYTES])
{
    struct bytes_out out = bytes_out(ret, LUKS_HEADER_BYTES);
    bytes_put(&out, magic, sizeof(magic));
    bytes_put_be16(&out, VERSION);
    put_text(&out, h->cipher_name, NAME_BYTES);
    put_text(&out, h->cipher_mode, NAME_BYTES);
    put_text(&out, h->hash_spec, NAME_BYTES);
    bytes_put_be32(&out, h->payload_sector);
    bytes_put_be32(&out, (uint32_t)h->cipher.key_bytes);
    bytes_put(&out, h->digest, sizeof(h->digest));
    bytes_put(&out, h->digest_salt, sizeof(h->digest_salt));
    bytes_put_be32(&out, h->digest_iterations);
    put_text(&out, h->uuid, UUID_BYTES);
    for (size_t i = 0; i < LUKS_N_SLOTS; i++)
        put_slot(&out, &h->slot[i]);
}
