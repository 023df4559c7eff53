#include "crypto/ref_sector.h"

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"
#include "tests/crypto/helpers.h"
#include "tests/crypto/known_key.h"

enum { SALT_AT = 16, KEY_ID_AT = 48, BODY_AT = 64, SUM_AT = 448, END_AT = 464, MAC_AT = 480 };

static const struct ref_facts sound = {
    .instance = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    .device = DEVICE_TPM20,
    .layout = {{8, 648}, 640, UINT64_C(0x100000000), 512},
    .header_digest = {0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a,
                      0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x50, 0x51, 0x52, 0x53, 0x54, 0x55,
                      0x56, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f},
};

static struct volume_key *new_key(void)
{
    struct luks_header h;
    struct volume_key *k = NULL;
    struct err e;
    assert_done(luks_volume_new(1000, &h, &k, &e), e);
    return k;
}

static void encode(const struct volume_key *key, uint8_t sector[SECTOR_BYTES])
{
    OWNED(mac_key) m = NULL;
    struct err e;
    assert_done(ref_sector_encode(&sound, key, sector, &m, &e), e);
}

static enum err_kind verdict(const uint8_t sector[SECTOR_BYTES], const struct volume_key *key,
                             struct err *e)
{
    struct ref_facts f, before;
    struct mac_key *const nothing = (void *)e, *m = nothing;
    memset(&f, 0x77, sizeof(f));
    before = f;
    if (ref_sector_verify(sector, key, &f, &m, e) == 0) {
        mac_key_free(m);
        return ERR_NONE;
    }
    assert_ptr_equal(m, nothing);
    assert_memory_equal(&f, &before, sizeof(f));
    return e->kind;
}

static void refused(const uint8_t sector[SECTOR_BYTES], const struct volume_key *key,
                    enum err_kind kind, const char *word)
{
    struct err e = {0};
    enum err_kind k = verdict(sector, key, &e);
    if (k != kind)
        fail_msg("%s: %s", err_class(k)->name, e.text);
    if (!strstr(e.text, word))
        fail_msg("no \"%s\" in: %s", word, e.text);
}

/* Puts checksum and MAC right after a change, as somebody with the volume key could. */
static void sign(uint8_t sector[SECTOR_BYTES], const struct volume_key *key)
{
    uint8_t k[32], digest[32];
    OWNED(mac_key) m = NULL;
    struct err e;
    hash_compute(HASH_SHA256, &(struct span){sector, SUM_AT}, 1, digest);
    memcpy(sector + SUM_AT, digest, 16);
    hkdf_sha256(sector + SALT_AT, 32, volume_key_peek(key), 64, "nvkeep reference sector 1", k, 32);
    assert_done(mac_key_new(k, sizeof(k), &m, &e), e);
    mac_compute(m, &(struct span){sector, MAC_AT}, 1, sector + MAC_AT);
}

/* ---- what is sound ---- */

/* S3.2 */
static void what_was_encoded_is_verified(void **state)
{
    static const enum device_kind kinds[] = {DEVICE_TPM12, DEVICE_TPM20};
    OWNED(volume_key) key = new_key();
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        uint8_t sector[SECTOR_BYTES], a[32], b[32];
        struct ref_facts in = sound, out;
        OWNED(mac_key) written = NULL;
        OWNED(mac_key) read_back = NULL;
        in.device = kinds[i];
        assert_done(ref_sector_encode(&in, key, sector, &written, &e), e);
        assert_done(ref_sector_verify(sector, key, &out, &read_back, &e), e);
        assert_memory_equal(out.instance, in.instance, sizeof(in.instance));
        assert_int_equal(out.device, in.device);
        assert_memory_equal(&out.layout, &in.layout, sizeof(in.layout));
        assert_memory_equal(out.header_digest, in.header_digest, sizeof(in.header_digest));
        mac_compute(written, &(struct span){"x", 1}, 1, a);
        mac_compute(read_back, &(struct span){"x", 1}, 1, b);
        assert_memory_equal(a, b, sizeof(a));
    }
}

/* S3.7 */
static void each_reference_sector_has_its_own_salt_and_record_key(void **state)
{
    OWNED(volume_key) key = new_key();
    OWNED(mac_key) m1 = NULL;
    OWNED(mac_key) m2 = NULL;
    uint8_t s1[SECTOR_BYTES], s2[SECTOR_BYTES], a[32], b[32];
    struct err e;
    (void)state;
    assert_done(ref_sector_encode(&sound, key, s1, &m1, &e), e);
    assert_done(ref_sector_encode(&sound, key, s2, &m2, &e), e);
    assert_memory_not_equal(s1 + SALT_AT, s2 + SALT_AT, 32);
    assert_memory_not_equal(s1 + KEY_ID_AT, s2 + KEY_ID_AT, 16);
    assert_memory_not_equal(s1 + MAC_AT, s2 + MAC_AT, 32);
    uint8_t varies[32] = {0}; /* every byte of it is drawn */
    for (size_t n = 0; n < 16; n++) {
        OWNED(mac_key) m = NULL;
        uint8_t s[SECTOR_BYTES];
        assert_done(ref_sector_encode(&sound, key, s, &m, &e), e);
        for (size_t i = 0; i < sizeof(varies); i++)
            varies[i] |= s[SALT_AT + i] ^ s1[SALT_AT + i];
    }
    for (size_t i = 0; i < sizeof(varies); i++)
        assert_int_not_equal(varies[i], 0);
    mac_compute(m1, &(struct span){"x", 1}, 1, a);
    mac_compute(m2, &(struct span){"x", 1}, 1, b);
    assert_memory_not_equal(a, b, sizeof(a));
}

/* Made by a second program (Python's hmac and hashlib, DER by hand) from the text of ref_sector.h
 * and nvkeep.asn. S2.14 */
static void the_sector_of_the_specification_is_understood(void **state)
{
    static const char vector[] = "6e766b65657052530001006c00000000a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
                                 "b0b1b2b3b4b5b6b7b8b9babbbcbdbebf3e2eb7df74be76f44a65eebadd972ac3"
                                 "306a0201010410000102030405060708090a0b0c0d0e0f060567810501020608"
                                 "2b6f028c5300010206082a864886f70d02090420404142434445464748494a4b"
                                 "4c4d4e4f505152535455565758595a5b5c5d5e5f301602010802020288020202"
                                 "8002050100000000020202000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "0000000000000000000000000000000000000000000000000000000000000000"
                                 "189b23737d4260dc83fbe37e758352326e766b65657052532d7468652d656e64"
                                 "3cf2ba286befbedad22d6ed9550fe3c625ba974e68d0e420e63e36015085f677";
    OWNED(volume_key) key = known_key();
    uint8_t sector[SECTOR_BYTES], mac[32];
    struct ref_facts f;
    OWNED(mac_key) m = NULL;
    struct err e;
    (void)state;
    assert_int_equal(unhex(vector, sector, sizeof(sector)), SECTOR_BYTES);
    assert_done(ref_sector_verify(sector, key, &f, &m, &e), e);
    assert_memory_equal(f.instance, sound.instance, sizeof(f.instance));
    assert_memory_equal(&f.layout, &sound.layout, sizeof(f.layout));
    assert_memory_equal(f.header_digest, sound.header_digest, sizeof(f.header_digest));
    assert_int_equal(f.device, DEVICE_TPM20);
    mac_compute(m, &(struct span){"a record", 8}, 1, mac);
    assert_hex(mac, "31390ecc8a769be0d74266c4cb39b7c1d0f450bfebca961e48d379aefb3c9546");
}

static void the_widest_numbers_fit_and_come_back(void **state)
{
    OWNED(volume_key) key = new_key();
    OWNED(mac_key) m1 = NULL;
    OWNED(mac_key) m2 = NULL;
    uint8_t sector[SECTOR_BYTES];
    struct ref_facts in = sound, out;
    const uint64_t end = (INT64_MAX / 512) & ~UINT64_C(7);
    struct err e;
    (void)state;
    in.layout = (struct store_layout){{end - 16, end - 8}, 8, 8, end - 24};
    assert_done(ref_sector_encode(&in, key, sector, &m1, &e), e);
    assert_done(ref_sector_verify(sector, key, &out, &m2, &e), e);
    assert_memory_equal(&out.layout, &in.layout, sizeof(in.layout));
}

/* ---- what is damaged ---- */

/* S2.6 S3.8 */
static void every_flipped_bit_is_damage_and_never_foreign(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t sector[SECTOR_BYTES];
    struct err e;
    (void)state;
    encode(key, sector);
    assert_int_equal(verdict(sector, key, &e), ERR_NONE);
    for (size_t bit = 0; bit < 8 * SECTOR_BYTES; bit++) {
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(verdict(sector, key, &e), ERR_STATE_CORRUPT);
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(verdict(sector, key, &e), ERR_NONE);
}

/* The same seen from the disk: a flipped bit of the encrypted sector scrambles one block of sixteen
 * bytes. S1.9 S3.8 */
static void every_flipped_bit_of_the_encrypted_sector_is_damage(void **state)
{
    OWNED(volume_key) key = new_key();
    OWNED(sector_cipher) c = NULL;
    uint8_t sector[SECTOR_BYTES], disk[SECTOR_BYTES];
    struct err e;
    (void)state;
    encode(key, sector);
    assert_done(sector_cipher_new(volume_key_cipher(key), key, &c, &e), e);
    sector_encrypt(c, 4711, 1, sector);
    for (size_t bit = 0; bit < 8 * SECTOR_BYTES; bit++) {
        memcpy(disk, sector, sizeof(disk));
        disk[bit / 8] ^= (uint8_t)(1 << bit % 8);
        sector_decrypt(c, 4711, 1, disk);
        refused(disk, key, ERR_STATE_CORRUPT, "damaged");
    }
}

static void any_two_scrambled_blocks_are_damage_while_one_magic_is_left(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t sector[SECTOR_BYTES], bad[SECTOR_BYTES];
    uint64_t seed = 3;
    struct err e;
    (void)state;
    encode(key, sector);
    for (size_t i = 0; i < SECTOR_BYTES; i += 16)
        for (size_t j = 0; j <= i; j += 16) {
            memcpy(bad, sector, sizeof(bad));
            for (size_t k = 0; k < 16; k++) {
                bad[i + k] = (uint8_t)next_random(&seed);
                bad[j + k] = (uint8_t)next_random(&seed);
            }
            assert_int_equal(verdict(bad, key, &e),
                             i == END_AT && j == 0 ? ERR_STATE_FOREIGN : ERR_STATE_CORRUPT);
        }
}

/* ---- what is not ours ---- */

/* S3.8 */
static void a_disk_without_our_magics_is_foreign(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t sector[SECTOR_BYTES] = {0};
    uint64_t seed = 11;
    (void)state;
    refused(sector, key, ERR_STATE_FOREIGN, "does not begin with a reference sector");
    for (size_t round = 0; round < 100; round++) {
        for (size_t i = 0; i < sizeof(sector); i++)
            sector[i] = (uint8_t)next_random(&seed);
        refused(sector, key, ERR_STATE_FOREIGN, "not made by nvkeep");
    }
    memset(sector, 0, sizeof(sector));
    memcpy(sector + 510, "\x55\xaa", 2); /* a partition table */
    refused(sector, key, ERR_STATE_FOREIGN, "first sector is destroyed");
}

/* What qemu-img convert into a new LUKS image leaves there. S3.8 */
static void a_sound_sector_of_another_volume_is_foreign_and_says_why(void **state)
{
    OWNED(volume_key) key = new_key();
    OWNED(volume_key) other = new_key();
    uint8_t sector[SECTOR_BYTES];
    struct err e;
    (void)state;
    encode(other, sector);
    refused(sector, key, ERR_STATE_FOREIGN, "another volume key");
    refused(sector, key, ERR_STATE_FOREIGN, "copied from another encrypted volume");
    /* Copied and damaged: not sound any more, so nothing can be said about where it is from. */
    for (size_t bit = 0; bit < 8 * SUM_AT + 128; bit += 7) {
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(verdict(sector, key, &e), ERR_STATE_CORRUPT);
        sector[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* ---- authenticated, and yet not for us ---- */

static void newer_versions_and_unknown_algorithms_are_unsupported(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t good[SECTOR_BYTES], s[SECTOR_BYTES];
    (void)state;
    encode(key, good);
    sign(good, key);
    memcpy(s, good, sizeof(s));
    s[9] = 2;
    sign(s, key);
    refused(s, key, ERR_UNSUPPORTED, "version is 2");
    s[9] = 0; /* nor is there an older one */
    sign(s, key);
    refused(s, key, ERR_UNSUPPORTED, "version is 0");

    memcpy(s, good, sizeof(s));
    assert_memory_equal(s + BODY_AT + 2, "\x02\x01\x01", 3);
    s[BODY_AT + 4] = 2;
    sign(s, key);
    refused(s, key, ERR_UNSUPPORTED, "body has version 2");
    s[BODY_AT + 4] = 0;
    sign(s, key);
    refused(s, key, ERR_UNSUPPORTED, "body has version 0");

    memcpy(s, good, sizeof(s));
    assert_memory_equal(s + BODY_AT + 23, "\x06\x05\x67\x81\x05\x01\x02", 7);
    s[BODY_AT + 29] = 1; /* the last arc of 2.23.133.1.2 */
    sign(s, key);
    refused(s, key, ERR_UNSUPPORTED, "kind of device is 2.23.133.1.1");
}

static void authenticated_nonsense_is_damage(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t good[SECTOR_BYTES], s[SECTOR_BYTES];
    struct err e;
    size_t n;
    (void)state;
    encode(key, good);
    n = get_be16(good + 10);
    /* One change each, and everything behind it signed again. */
    const struct {
        size_t at;
        uint8_t to;
    } v[] = {
        {0, 'N'},               /* magic */
        {11, (uint8_t)(n - 1)}, /* body cut short */
        {11, (uint8_t)(n + 1)}, /* a byte behind the body */
        {10, 0xff},             /* longer than the sector */
        {12, 1},                /* padding */
        {13, 1},                /* padding */
        {15, 1},                /* padding */
        {BODY_AT + n, 1},       /* padding */
        {SUM_AT - 1, 1},        /* padding */
        {BODY_AT, 0x31},        /* SET for SEQUENCE */
        {BODY_AT + 1, 0x80},    /* indefinite length */
        {BODY_AT + 2, 0xff},    /* length */
        {BODY_AT + 5, 0x05},    /* instance: another type */
        {BODY_AT + 6, 0x0f},    /* instance: a byte less */
    };
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        memcpy(s, good, sizeof(s));
        s[v[i].at] = v[i].to;
        sign(s, key);
        assert_int_equal(verdict(s, key, &e), ERR_STATE_CORRUPT);
    }
    memcpy(s, good, sizeof(s));
    memset(s + BODY_AT, 0, SUM_AT - BODY_AT);
    s[10] = s[11] = 0;
    sign(s, key);
    assert_int_equal(verdict(s, key, &e), ERR_STATE_CORRUPT); /* an empty body */
}

/* A spelling that DER forbids though it means the same. */
static void a_body_in_another_spelling_is_damage(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t s[SECTOR_BYTES];
    (void)state;
    encode(key, s);
    size_t n = get_be16(s + 10);
    assert_int_equal(s[BODY_AT + 1], n - 2);
    memmove(s + BODY_AT + 2, s + BODY_AT + 1, n - 1);
    s[BODY_AT + 1] = 0x81; /* a length below 128 in the long form */
    put_be16(s + 10, (uint16_t)(n + 1));
    sign(s, key);
    refused(s, key, ERR_STATE_CORRUPT, "decode its body");
}

/* Puts `n` bytes in the place of `old_n` at `at` of the body and makes the lengths right again: of
 * the layout when the place lies in it, of the body, and in front of both. */
static void splice(uint8_t *s, size_t at, size_t old_n, const void *bytes, size_t n)
{
    enum { LAYOUT = 84 };
    size_t body = get_be16(s + 10);
    int grows = (int)n - (int)old_n;
    uint8_t *p = s + BODY_AT;
    assert_int_equal(p[LAYOUT], 0x30);
    memmove(p + at + n, p + at + old_n, body - at - old_n);
    if (grows < 0)
        memset(p + body + grows, 0, (size_t)-grows);
    memcpy(p + at, bytes, n);
    p[1] = (uint8_t)(p[1] + grows);
    p[LAYOUT + 1 + (at < LAYOUT ? grows : 0)] =
        (uint8_t)(p[LAYOUT + 1 + (at < LAYOUT ? grows : 0)] + (at > LAYOUT ? grows : 0));
    put_be16(s + 10, (uint16_t)((int)body + grows));
}

static void fields_that_are_der_but_not_ours_are_refused(void **state)
{
    /* Places in the body of `sound`. */
    enum { INSTANCE = 5, MAC = 40, DIGEST = 50, CHECKPOINT_A = 86, LOG_SECTORS = 104 };
    static const struct {
        size_t at;
        const char *old, *put;
        enum err_kind kind;
        const char *word;
    } v[] = {
        {INSTANCE, "0410000102030405060708090a0b0c0d0e0f", "040f000102030405060708090a0b0c0d0e",
         ERR_STATE_CORRUPT, "read its body"}, /* a byte less */
        {INSTANCE, "0410000102030405060708090a0b0c0d0e0f", "0411000102030405060708090a0b0c0d0e0f10",
         ERR_STATE_CORRUPT, "read its body"},
        {MAC, "06082a864886f70d0209", "06082a864886f70d020b", ERR_UNSUPPORTED,
         "the MAC is 1.2.840.113549.2.11"},
        {DIGEST, "0420404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f", "0400",
         ERR_STATE_CORRUPT, "read its body"},
        {CHECKPOINT_A, "020108", "020188", ERR_STATE_CORRUPT, "read its body"}, /* negative */
        {CHECKPOINT_A, "020108", "0209010000000000000008", ERR_STATE_CORRUPT,
         "read its body"}, /* beyond 64 bits */
        {CHECKPOINT_A, "020108", "0209000000000000000008", ERR_STATE_CORRUPT,
         "decode its body"}, /* zeroes in front: libtasn1 takes it for good */
        {CHECKPOINT_A, "020108", "020a00000000000000000008", ERR_STATE_CORRUPT, "read its body"},
        {LOG_SECTORS, "02020200", "0203000200", ERR_STATE_CORRUPT, "decode its body"},
        {LOG_SECTORS, "02020200", "0200", ERR_STATE_CORRUPT, "its body"}, /* no number at all */
        {LOG_SECTORS, "02020200", "", ERR_STATE_CORRUPT, "decode its body"},
        {LOG_SECTORS, "02020200", "02020200020101", ERR_STATE_CORRUPT, "decode its body"},
    };
    OWNED(volume_key) key = new_key();
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint8_t s[SECTOR_BYTES], old[64], put[64];
        size_t old_n = unhex(v[i].old, old, sizeof(old)), n = unhex(v[i].put, put, sizeof(put));
        encode(key, s);
        assert_memory_equal(s + BODY_AT + v[i].at, old, old_n);
        splice(s, v[i].at, old_n, put, n);
        sign(s, key);
        refused(s, key, v[i].kind, v[i].word);
    }
}

static void the_cipher_of_the_volume_must_be_the_one_it_was_made_for(void **state)
{
    static const struct luks_cipher serpent = {CIPHER_SERPENT256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    static const struct luks_cipher aes128_xts = {CIPHER_AES128, MODE_XTS, IVGEN_PLAIN64, 0, 32};
    static const struct luks_cipher aes256_cbc = {CIPHER_AES256, MODE_CBC, IVGEN_PLAIN64, 0, 32};
    OWNED(volume_key) aes_key = known_key();
    OWNED(volume_key) serpent_key = known_key_for(&serpent);
    struct mac_key *m = NULL;
    uint8_t s[SECTOR_BYTES] = {0};
    struct err e;
    (void)state;
    encode(aes_key, s);
    refused(s, serpent_key, ERR_STATE_CORRUPT, "1.3.111.2.1619.0.1.2, but the LUKS header says");
    /* Keys of equal length and bytes, of ciphers that both have a name. */
    OWNED(volume_key) xts_key = known_key_for(&aes128_xts);
    OWNED(volume_key) cbc_key = known_key_for(&aes256_cbc);
    encode(xts_key, s);
    refused(s, cbc_key, ERR_STATE_CORRUPT,
            "made for cipher 1.3.111.2.1619.0.1.1, but the LUKS header says "
            "2.16.840.1.101.3.4.1.42");
    memset(s, 0, sizeof(s));
    assert_refused(ref_sector_encode(&sound, serpent_key, s, &m, &e), e, ERR_UNSUPPORTED,
                   "aes in mode xts or cbc");
    assert_null(m);
    assert_true(bytes_all_zero(s, sizeof(s)));
}

static void layouts_that_overlap_or_end_nowhere_are_neither_written_nor_read(void **state)
{
    static const struct {
        struct store_layout layout;
        const char *word;
    } v[] = {
        {{{8, 648}, 640, 1288, 0}, "empty"},
        {{{8, 648}, 0, 1288, 512}, "empty"},
        {{{8, 647}, 640, 1288, 512}, "aligned"},
        {{{8, 648}, 640, 1288, 513}, "aligned"},
        {{{0, 648}, 640, 1288, 512}, "overlap"},
        {{{8, 640}, 640, 1288, 512}, "overlap"},
        {{{8, 648}, 640, 1280, 512}, "overlap"},
        {{{648, 648}, 640, 1288, 512}, "overlap"},
        {{{8, 648}, 640, 16, 8}, "overlap"},
        {{{8, 648}, 640, UINT64_MAX - 7, 8}, "beyond"},
        {{{8, 648}, 640, UINT64_C(1) << 62, 8}, "beyond"},
        {{{8, UINT64_MAX - 15}, 640, 1288, 512}, "beyond"},
    };
    OWNED(volume_key) key = new_key();
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint8_t s[SECTOR_BYTES];
        struct ref_facts f = sound;
        struct mac_key *m = NULL;
        memset(s, 0x33, sizeof(s));
        f.layout = v[i].layout;
        assert_refused(ref_sector_encode(&f, key, s, &m, &e), e, ERR_STATE_CORRUPT, "layout",
                       v[i].word);
        assert_null(m);
        for (size_t j = 0; j < sizeof(s); j++)
            assert_int_equal(s[j], 0x33);
    }
    /* And read: the first checkpoint moved from 8 to 0 by hand. */
    uint8_t s[SECTOR_BYTES];
    encode(key, s);
    for (size_t at = BODY_AT; at < SUM_AT; at++)
        if (!memcmp(s + at, "\x02\x01\x08\x02\x02\x02\x88", 7)) {
            s[at + 2] = 0;
            sign(s, key);
            refused(s, key, ERR_STATE_CORRUPT, "overlap");
            return;
        }
    fail_msg("the layout was not found in the body");
}

static void an_unknown_device_is_not_written(void **state)
{
    OWNED(volume_key) key = new_key();
    uint8_t s[SECTOR_BYTES];
    struct ref_facts f = sound;
    struct mac_key *m = NULL;
    struct err e;
    (void)state;
    f.device = 0;
    assert_refused(ref_sector_encode(&f, key, s, &m, &e), e, ERR_USAGE, "device");
    assert_null(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_encoded_is_verified),
        cmocka_unit_test(each_reference_sector_has_its_own_salt_and_record_key),
        cmocka_unit_test(the_sector_of_the_specification_is_understood),
        cmocka_unit_test(the_widest_numbers_fit_and_come_back),
        cmocka_unit_test(every_flipped_bit_is_damage_and_never_foreign),
        cmocka_unit_test(every_flipped_bit_of_the_encrypted_sector_is_damage),
        cmocka_unit_test(any_two_scrambled_blocks_are_damage_while_one_magic_is_left),
        cmocka_unit_test(a_disk_without_our_magics_is_foreign),
        cmocka_unit_test(a_sound_sector_of_another_volume_is_foreign_and_says_why),
        cmocka_unit_test(newer_versions_and_unknown_algorithms_are_unsupported),
        cmocka_unit_test(authenticated_nonsense_is_damage),
        cmocka_unit_test(a_body_in_another_spelling_is_damage),
        cmocka_unit_test(fields_that_are_der_but_not_ours_are_refused),
        cmocka_unit_test(the_cipher_of_the_volume_must_be_the_one_it_was_made_for),
        cmocka_unit_test(layouts_that_overlap_or_end_nowhere_are_neither_written_nor_read),
        cmocka_unit_test(an_unknown_device_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
