#include "crypto/sector_cipher.h"

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"
#include "tests/crypto/helpers.h"
#include "tests/crypto/known_key.h"

/* ---- published vectors ---- */

static void xts_is_that_of_ieee_1619(void **state)
{
    /* [IEEE 1619-2007 annex B, vectors 10 and 4]: 512-byte data units */
    static const struct {
        struct luks_cipher how;
        const char *key;
        uint64_t sector;
        const char *cipher;
    } v[] = {
        {{CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64},
         "2718281828459045235360287471352662497757247093699959574966967627"
         "3141592653589793238462643383279502884197169399375105820974944592",
         0xff,
         "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
         "5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd"
         "5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0"
         "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca"
         "2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0"
         "b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f"
         "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec"
         "583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a"
         "84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1"
         "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae"
         "9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29"
         "a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac"
         "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f"
         "645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385"
         "1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa"
         "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"},
        {{CIPHER_AES128, MODE_XTS, IVGEN_PLAIN64, 0, 32},
         "27182818284590452353602874713526 31415926535897932384626433832795",
         0,
         "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"
         "c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412"
         "328063fd2aab53e5ea1e0a9f332500a5df9487d07a5c92cc512c8866c7e860ce"
         "93fdf166a24912b422976146ae20ce846bb7dc9ba94a767aaef20c0d61ad0265"
         "5ea92dc4c4e41a8952c651d33174be51a10c421110e6d81588ede82103a252d8"
         "a750e8768defffed9122810aaeb99f9172af82b604dc4b8e51bcb08235a6f434"
         "1332e4ca60482a4ba1a03b3e65008fc5da76b70bf1690db4eae29c5f1badd03c"
         "5ccf2a55d705ddcd86d449511ceb7ec30bf12b1fa35b913f9f747a8afd1b130e"
         "94bff94effd01a91735ca1726acd0b197c4e5b03393697e126826fb6bbde8ecc"
         "1e08298516e2c9ed03ff3c1b7860f6de76d4cecd94c8119855ef5297ca67e9f3"
         "e7ff72b1e99785ca0a7e7720c5b36dc6d72cac9574c8cbbc2f801e23e56fd344"
         "b07f22154beba0f08ce8891e643ed995c94d9a69c9f1b5f499027a78572aeebd"
         "74d20cc39881c213ee770b1010e4bea718846977ae119f7a023ab58cca0ad752"
         "afe656bb3c17256a9f6e9bf19fdd5a38fc82bbe872c5539edb609ef4f79c203e"
         "bb140f2e583cb2ad15b4aa5b655016a8449277dbd477ef2c8d6c017db738b18d"
         "eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(sector_cipher) c = NULL;
        uint8_t key[64], plain[SECTOR_BYTES], buf[SECTOR_BYTES];
        struct err e;
        assert_int_equal(unhex(v[i].key, key, sizeof(key)), v[i].how.key_bytes);
        assert_done(sector_cipher_with(&v[i].how, key, &c, &e), e);
        for (size_t j = 0; j < sizeof(plain); j++)
            plain[j] = (uint8_t)j;
        memcpy(buf, plain, sizeof(buf));
        sector_encrypt(c, v[i].sector, 1, buf);
        assert_hex(buf, v[i].cipher);
        sector_decrypt(c, v[i].sector, 1, buf);
        assert_memory_equal(buf, plain, sizeof(buf));
    }
}

/* ---- every combination against a second, plain reading of the rules ---- */

static enum cipher_alg family_member(enum cipher_alg alg, size_t key_bytes)
{
    for (enum cipher_alg a = CIPHER_AES128; a <= CIPHER_TWOFISH256; a++)
        if (a / 3 == alg / 3 && cipher_key_bytes(a) == key_bytes)
            return a;
    fail();
    return alg;
}

static void reference_iv(const struct luks_cipher *how, const uint8_t *key, uint64_t sector,
                         uint8_t iv[16])
{
    uint8_t digest[HASH_MAX_BYTES];
    struct err e;
    memset(iv, 0, 16);
    for (size_t i = 0; i < (how->ivgen == IVGEN_PLAIN ? 4 : 8); i++)
        iv[i] = (uint8_t)(sector >> 8 * i);
    if (how->ivgen != IVGEN_ESSIV)
        return;
    OWNED(block_cipher) c = NULL;
    hash_compute(how->essiv_hash, &(struct span){key, how->key_bytes}, 1, digest);
    assert_done(
        block_cipher_new(family_member(how->alg, hash_bytes(how->essiv_hash)), digest, &c, &e), e);
    block_encrypt(c, 16, iv, iv);
}

/* One block after the other, one bit after the other. */
static void times_x(uint8_t t[16])
{
    unsigned carry = 0;
    for (size_t i = 0; i < 16; i++) {
        unsigned v = (unsigned)t[i] << 1 | carry;
        carry = v >> 8;
        t[i] = (uint8_t)v;
    }
    if (carry)
        t[0] ^= 0x87;
}

static void add_one(uint8_t *counter, size_t n)
{
    for (size_t i = n; i-- > 0;)
        if (++counter[i] != 0)
            return;
}

static void reference_encrypt(const struct luks_cipher *how, const uint8_t *key, uint64_t sector,
                              uint8_t *buf)
{
    OWNED(block_cipher) c = NULL;
    OWNED(block_cipher) tweak = NULL;
    struct err e;
    uint8_t iv[16], t[16];
    size_t n = cipher_block_bytes(how->alg);
    reference_iv(how, key, sector, iv);
    assert_done(block_cipher_new(how->alg, key, &c, &e), e);
    if (how->mode == MODE_XTS) {
        assert_done(block_cipher_new(how->alg, key + how->key_bytes / 2, &tweak, &e), e);
        block_encrypt(tweak, 16, iv, iv);
    }
    for (size_t at = 0; at < SECTOR_BYTES; at += n) {
        if (how->mode == MODE_CTR) {
            block_encrypt(c, n, t, iv);
            add_one(iv, n);
            for (size_t i = 0; i < n; i++)
                buf[at + i] ^= t[i];
            continue;
        }
        for (size_t i = 0; i < n && how->mode != MODE_ECB; i++)
            buf[at + i] ^= iv[i];
        block_encrypt(c, n, buf + at, buf + at);
        for (size_t i = 0; i < n && how->mode == MODE_XTS; i++)
            buf[at + i] ^= iv[i];
        if (how->mode == MODE_XTS)
            times_x(iv);
        if (how->mode == MODE_CBC)
            memcpy(iv, buf + at, n);
    }
}

/* Sectors in one call, around the size of a batch, at both ends of the numbers. */
static void agrees(const struct luks_cipher *how, uint64_t *seed)
{
    static const uint64_t places[] = {0, 1, UINT64_C(0xfffffffe), UINT64_C(0xfffffffffffffff0),
                                      UINT64_C(0xfeffffffffffffff)};
    uint8_t key[64], plain[19 * SECTOR_BYTES], buf[19 * SECTOR_BYTES], wanted[19 * SECTOR_BYTES];
    OWNED(sector_cipher) c = NULL;
    struct err e;
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)next_random(seed);
    for (size_t i = 0; i < sizeof(plain); i++)
        plain[i] = (uint8_t)next_random(seed);
    assert_done(sector_cipher_with(how, key, &c, &e), e);
    for (size_t p = 0; p < ARRAY_LEN(places); p++) {
        size_t n = 1 + next_random(seed) % 17;
        memcpy(wanted, plain, sizeof(plain));
        for (size_t i = 0; i < n; i++)
            reference_encrypt(how, key, places[p] + i, wanted + (1 + i) * SECTOR_BYTES);
        memcpy(buf, plain, sizeof(plain));
        sector_encrypt(c, places[p], n, buf + SECTOR_BYTES);
        assert_memory_equal(buf, wanted, sizeof(wanted)); /* the neighbours as well */
        sector_decrypt(c, places[p], n, buf + SECTOR_BYTES);
        assert_memory_equal(buf, plain, sizeof(plain));
    }
    sector_encrypt(c, 7, 0, NULL);
    sector_decrypt(c, 7, 0, NULL);
}

static void every_cipher_mode_and_ivgen_agrees_with_the_plain_reading(void **state)
{
    uint64_t seed = 42;
    size_t n = 0;
    (void)state;
    for (enum cipher_alg alg = CIPHER_AES128; alg <= CIPHER_CAST5_128; alg++)
        for (enum cipher_mode mode = MODE_ECB; mode <= MODE_XTS; mode++)
            for (enum ivgen ivgen = IVGEN_NONE; ivgen <= IVGEN_ESSIV; ivgen++)
                for (unsigned h = 0; h < 2; h++) {
                    struct luks_cipher how = {alg, mode, ivgen, h ? HASH_MD5 : HASH_SHA256,
                                              cipher_key_bytes(alg) * (mode == MODE_XTS ? 2 : 1)};
                    if ((ivgen == IVGEN_NONE) != (mode == MODE_ECB))
                        continue;
                    if (alg == CIPHER_CAST5_128 && (mode == MODE_XTS || ivgen == IVGEN_ESSIV))
                        continue;
                    if (ivgen != IVGEN_ESSIV && h > 0)
                        continue;
                    agrees(&how, &seed);
                    n++;
                }
    assert_int_equal(n, 10 + 9 * 12 + 4);
}

static void the_number_of_the_sector_matters_and_only_plain_forgets_its_upper_half(void **state)
{
    static const uint8_t key[64] = {1, 2, 3};
    struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    OWNED(sector_cipher) plain64 = NULL;
    OWNED(sector_cipher) plain = NULL;
    uint8_t a[SECTOR_BYTES] = {0}, b[SECTOR_BYTES] = {0};
    struct err e;
    (void)state;
    assert_done(sector_cipher_with(&how, key, &plain64, &e), e);
    how.ivgen = IVGEN_PLAIN;
    assert_done(sector_cipher_with(&how, key, &plain, &e), e);
    sector_encrypt(plain64, 5, 1, a);
    sector_encrypt(plain64, UINT64_C(0x100000005), 1, b);
    assert_memory_not_equal(a, b, sizeof(a));
    sector_decrypt(plain64, 6, 1, a);
    assert_false(bytes_all_zero(a, sizeof(a)));

    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    sector_encrypt(plain, 5, 1, a);
    sector_encrypt(plain, UINT64_C(0x100000005), 1, b);
    assert_memory_equal(a, b, sizeof(a));
}

static void a_key_of_another_cipher_makes_no_sector_cipher(void **state)
{
    struct luks_header h;
    OWNED(volume_key) key = NULL;
    struct err e;
    (void)state;
    assert_done(luks_volume_new(1000, &h, &key, &e), e);
    struct luks_cipher others[] = {h.cipher, h.cipher, h.cipher, h.cipher, h.cipher};
    others[0].alg = CIPHER_SERPENT256;
    others[1].mode = MODE_CBC;
    others[2].ivgen = IVGEN_PLAIN;
    others[3].key_bytes = 32;
    others[4].ivgen = IVGEN_ESSIV;
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        struct sector_cipher *c = NULL;
        assert_refused(sector_cipher_new(&others[i], key, &c, &e), e, ERR_STATE_CORRUPT,
                       "LUKS header", "another cipher");
        assert_null(c);
    }
    OWNED(sector_cipher) c = NULL;
    assert_done(sector_cipher_new(&h.cipher, key, &c, &e), e);

    /* ESSIV has one thing more that may differ; elsewhere it means nothing. */
    static const struct luks_cipher essiv = {CIPHER_AES128, MODE_CBC, IVGEN_ESSIV, HASH_SHA256, 16};
    OWNED(volume_key) essiv_key = known_key_for(&essiv);
    struct luks_cipher md5 = essiv, plain = h.cipher;
    struct sector_cipher *none = NULL;
    md5.essiv_hash = HASH_MD5;
    assert_refused(sector_cipher_new(&md5, essiv_key, &none, &e), e, ERR_STATE_CORRUPT,
                   "LUKS header", "another cipher");
    OWNED(sector_cipher) same = NULL;
    assert_done(sector_cipher_new(&essiv, essiv_key, &same, &e), e);
    OWNED(sector_cipher) unused = NULL;
    plain.essiv_hash = HASH_SHA512;
    assert_done(sector_cipher_new(&plain, key, &unused, &e), e);
}

static void essiv_needs_a_digest_that_is_a_key(void **state)
{
    static const uint8_t key[64];
    static const struct luks_cipher bad[] = {
        {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_SHA1, 32},
        {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_SHA512, 32},
        {CIPHER_CAST5_128, MODE_CBC, IVGEN_ESSIV, HASH_MD5, 16},
    };
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct sector_cipher *c = NULL;
        assert_refused(sector_cipher_with(&bad[i], key, &c, &e), e, ERR_UNSUPPORTED, "ESSIV");
        assert_null(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(xts_is_that_of_ieee_1619),
        cmocka_unit_test(every_cipher_mode_and_ivgen_agrees_with_the_plain_reading),
        cmocka_unit_test(the_number_of_the_sector_matters_and_only_plain_forgets_its_upper_half),
        cmocka_unit_test(a_key_of_another_cipher_makes_no_sector_cipher),
        cmocka_unit_test(essiv_needs_a_digest_that_is_a_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
