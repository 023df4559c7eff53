/* The migration key: where it comes from, and swtpm's layer around what travels. That swtpm agrees
 * is shown with swtpm itself in tests/migration. */
#include "crypto/migration_key.h"

#include "crypto/migration_key_priv.h"
#include "src/base/bytes.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"

static const char hex128[] = "000102030405060708090a0b0c0d0e0f",
                  hex256[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/* ---- where it comes from ---- */

static struct migration_key *parsed(enum migration_key_form form, unsigned bits, const char *text,
                                    size_t n)
{
    OWNED(secret) s = secret_of(text);
    struct migration_key *k = NULL;
    struct err e;
    assert_done(migration_key_parse(form, bits, s, n, &k, &e), e);
    return k;
}

static void keys_in_hex_are_read_as_swtpm_reads_them(void **state)
{
    static const struct {
        const char *before, *behind;
    } around[] = {{"", ""}, {"0x", ""}, {"", "\n"}, {"0x", "\n"}, {"", "\r\n"}, {"", " \t\n\n"}};
    static const char mixed[] = "ABCDEFabcdef00112233445566778899";
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(around); i++)
        for (unsigned bits = 128; bits <= 256; bits += 128) {
            char text[128];
            int n = snprintf(text, sizeof(text), "%s%s%s", around[i].before,
                             bits == 128 ? hex128 : hex256, around[i].behind);
            OWNED(migration_key) k = parsed(MIGRATION_KEY_HEX, bits, text, (size_t)n);
            assert_int_equal(migration_key_bits(k), bits);
            assert_hex(migration_key_peek(k), bits == 128 ? hex128 : hex256);
        }
    OWNED(migration_key) upper = parsed(MIGRATION_KEY_HEX, 128, mixed, 32);
    assert_hex(migration_key_peek(upper), "abcdefabcdef00112233445566778899");
}

static void binary_keys_are_taken_as_they_are(void **state)
{
    (void)state;
    OWNED(migration_key) a = parsed(MIGRATION_KEY_BINARY, 128, "0123456789abcde\n", 16);
    assert_memory_equal(migration_key_peek(a), "0123456789abcde\n", 16);
    OWNED(migration_key) b = parsed(MIGRATION_KEY_BINARY, 256, hex128, 32);
    assert_memory_equal(migration_key_peek(b), hex128, 32);
}

/* And the message has nothing of the key in it. */
static void what_is_no_such_key_is_refused_by_length_or_digit(void **state)
{
    static const struct {
        enum migration_key_form form;
        unsigned bits;
        const char *text, *word;
        enum err_kind kind;
    } v[] = {
        {MIGRATION_KEY_HEX, 128, "", "0 characters", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "\n", "0 characters", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "0x", "0 characters", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "5ecre700000000000000000000000",
         "29 characters where a key of 128", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 256, hex128, "32 characters where a key of 256", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, hex256, "64 characters where a key of 128", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "5ecre700000000000000000000000000", "character 4", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "0X5ec000000000000000000000000000", "character 2", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, " 5ec0000000000000000000000000000", "character 1", ERR_KEY_WRONG},
        /* What stands next to the digits in ASCII. */
        {MIGRATION_KEY_HEX, 128, "0000/000000000000000000000000000", "character 5", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "00000:00000000000000000000000000", "character 6", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "000000@0000000000000000000000000", "character 7", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "0000000G000000000000000000000000", "character 8", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "00000000`00000000000000000000000", "character 9", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 128, "0000000000000000000000000000000g", "character 32", ERR_KEY_WRONG},
        {MIGRATION_KEY_BINARY, 128, "5ecre7", "6 bytes where a key of 128 bits has 16",
         ERR_KEY_WRONG},
        {MIGRATION_KEY_BINARY, 128, hex128, "32 bytes", ERR_KEY_WRONG},
        {MIGRATION_KEY_BINARY, 128, "0123456789abcdef\n", "17 bytes", ERR_KEY_WRONG},
        {MIGRATION_KEY_HEX, 192, hex128, "192 bits", ERR_USAGE},
        {MIGRATION_KEY_HEX, 0, hex128, "0 bits", ERR_USAGE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(secret) s = secret_of(v[i].text);
        struct migration_key *k = NULL;
        struct err e;
        assert_refused(migration_key_parse(v[i].form, v[i].bits, s, strlen(v[i].text), &k, &e), e,
                       v[i].kind, v[i].word);
        assert_null(k);
        assert_null(strstr(e.text, "5ec"));
    }
}

/* Computed with Python's hashlib. The newline counts. */
static void passphrases_become_the_keys_that_swtpm_makes_of_them(void **state)
{
    static const struct {
        enum migration_kdf kdf;
        unsigned bits;
        const char *key;
    } v[] = {
        {MIGRATION_KDF_PBKDF2, 128, "e81778cbf35a42adbf863190293801a4"},
        {MIGRATION_KDF_PBKDF2, 256,
         "e81778cbf35a42adbf863190293801a4e91c10a4dbb86d4278200a9b9604c912"},
        {MIGRATION_KDF_SHA512, 128, "88dfe3e01f75f7de33c309cf3b2a8af8"},
        {MIGRATION_KDF_SHA512, 256,
         "88dfe3e01f75f7de33c309cf3b2a8af874875d0ebe89c5a887eb09d5622eb032"},
    };
    OWNED(secret) pass = secret_of("a passphrase\n");
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(migration_key) k = NULL;
        assert_done(migration_key_derive(v[i].kdf, v[i].bits, pass, 13, &k, &e), e);
        assert_int_equal(migration_key_bits(k), v[i].bits);
        assert_hex(migration_key_peek(k), v[i].key);
    }
    struct migration_key *none = NULL;
    assert_refused(migration_key_derive(MIGRATION_KDF_PBKDF2, 512, pass, 13, &none, &e), e,
                   ERR_USAGE, "512 bits");
    assert_null(none);
}

/* ---- the layer ---- */

struct layer {
    uint8_t b[256];
    size_t n;
    uint8_t mac[SHA256_BYTES], iv[MIGRATION_IV_MAX];
};

static struct layer sealed(const struct migration_key *k, const uint8_t *p, size_t n)
{
    struct layer l = {.n = migration_layer_bytes(k, n)};
    struct err e;
    assert_true(l.n <= sizeof(l.b));
    assert_done(migration_layer_seal(k, p, n, l.b, l.mac, l.iv, &e), e);
    return l;
}

static void refused(const struct migration_key *k, const struct layer *l, enum err_kind kind,
                    const char *word)
{
    struct secret *s = NULL;
    size_t n = 4711;
    struct err e;
    assert_refused(migration_layer_open(k, l->b, l->n, l->mac, l->iv, &s, &n, &e), e, kind, word);
    assert_null(s);
    assert_int_equal(n, 4711);
}

static void layers_of_every_length_are_opened_again(void **state)
{
    uint8_t p[100];
    (void)state;
    memset(p, 0x10, sizeof(p)); /* like padding */
    for (unsigned bits = 128; bits <= 256; bits += 128) {
        OWNED(migration_key) k = known_migration_key(bits, 1);
        for (size_t n = 1; n <= sizeof(p); n++) {
            struct layer l = sealed(k, p, n);
            OWNED(secret) back = NULL;
            size_t len = 0;
            struct err e;
            assert_true(l.n > n && l.n <= n + bits / 8 && l.n % (bits / 8) == 0);
            assert_done(migration_layer_open(k, l.b, l.n, l.mac, l.iv, &back, &len, &e), e);
            assert_int_equal(len, n);
            assert_memory_equal(secret_peek(back), p, n);
        }
    }
}

static void equal_contents_are_sealed_under_different_ivs(void **state)
{
    static const uint8_t p[32];
    OWNED(migration_key) k = known_migration_key(256, 1);
    struct layer a = sealed(k, p, sizeof(p)), b = sealed(k, p, sizeof(p));
    (void)state;
    assert_memory_not_equal(a.iv, b.iv, 16);
    assert_memory_not_equal(a.iv + 16, b.iv + 16, 16);
    assert_memory_not_equal(a.b, b.b, 16);
}

static void every_flipped_bit_of_a_layer_is_a_wrong_key(void **state)
{
    static const uint8_t p[20] = {1, 2, 3};
    (void)state;
    for (unsigned bits = 128; bits <= 256; bits += 128) {
        OWNED(migration_key) k = known_migration_key(bits, 1);
        struct layer l = sealed(k, p, sizeof(p));
        struct {
            uint8_t *p;
            size_t n;
        } part[] = {{l.b, l.n}, {l.mac, sizeof(l.mac)}, {l.iv, bits / 8}};
        for (size_t i = 0; i < ARRAY_LEN(part); i++)
            for (size_t bit = 0; bit < 8 * part[i].n; bit++) {
                part[i].p[bit / 8] ^= (uint8_t)(1 << bit % 8);
                refused(k, &l, ERR_KEY_WRONG, "same key");
                part[i].p[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
        OWNED(migration_key) other = known_migration_key(bits, 2);
        refused(other, &l, ERR_KEY_WRONG, "another one, or is damaged");
    }
}

/* With the right MAC: somebody who has the key wrote nonsense. */
static void authentic(const struct migration_key *k, struct layer *l, const uint8_t *plain)
{
    OWNED(block_cipher) c = NULL;
    OWNED(mac_key) m = NULL;
    struct err e;
    assert_done(block_cipher_new(CIPHER_AES128, migration_key_peek(k), &c, &e), e);
    assert_done(mac_key_new(migration_key_peek(k), 16, &m, &e), e);
    block_cbc_encrypt(c, l->iv, l->n / 16 * 16, l->b, plain);
    mac_compute(m, (struct span[]){{l->b, l->n}, {l->iv, 16}}, 2, l->mac);
}

static void padding_that_is_wrong_under_a_right_mac_is_damage(void **state)
{
    OWNED(migration_key) k = known_migration_key(128, 1);
    uint8_t plain[32];
    struct layer l = {.n = 32};
    (void)state;
    static const uint8_t last[] = {0, 17, 32, 0xff, 3};
    for (size_t i = 0; i < ARRAY_LEN(last); i++) {
        memset(plain, 0x77, sizeof(plain));
        plain[31] = last[i];
        authentic(k, &l, plain);
        refused(k, &l, ERR_STATE_CORRUPT, "padding");
    }
    memset(plain, 16, sizeof(plain)); /* padding and nothing else */
    l.n = 16;
    authentic(k, &l, plain);
    refused(k, &l, ERR_STATE_CORRUPT, "nothing in it");
    static const size_t odd[] = {0, 1, 15, 17, 31};
    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        l.n = odd[i];
        authentic(k, &l, plain);
        refused(k, &l, ERR_STATE_CORRUPT, "whole blocks");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_in_hex_are_read_as_swtpm_reads_them),
        cmocka_unit_test(binary_keys_are_taken_as_they_are),
        cmocka_unit_test(what_is_no_such_key_is_refused_by_length_or_digit),
        cmocka_unit_test(passphrases_become_the_keys_that_swtpm_makes_of_them),
        cmocka_unit_test(layers_of_every_length_are_opened_again),
        cmocka_unit_test(equal_contents_are_sealed_under_different_ivs),
        cmocka_unit_test(every_flipped_bit_of_a_layer_is_a_wrong_key),
        cmocka_unit_test(padding_that_is_wrong_under_a_right_mac_is_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
