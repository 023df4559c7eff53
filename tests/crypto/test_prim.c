#include "crypto/prim.h"

#include "src/base/bytes.h"
#include "tests/crypto/helpers.h"

#define TEXT(s)                                                                                    \
    {                                                                                              \
        (s), sizeof(s) - 1                                                                         \
    }

static void hashes_give_their_published_digests_of_abc(void **state)
{
    static const struct {
        enum hash_alg alg;
        const char *digest;
    } v[] = {
        {HASH_MD5, "900150983cd24fb0d6963f7d28e17f72"}, /* [RFC 1321 A.5] */
        {HASH_SHA1, "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {HASH_SHA224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"},
        {HASH_SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {HASH_SHA384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
                      "8086072ba1e7cc2358baeca134c825a7"},
        {HASH_SHA512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                      "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
        {HASH_RIPEMD160, "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint8_t d[HASH_MAX_BYTES + 1], again[HASH_MAX_BYTES];
        d[hash_bytes(v[i].alg)] = 0x77;
        hash_compute(v[i].alg, &(struct span){"abc", 3}, 1, d);
        assert_int_equal(strlen(v[i].digest), 2 * hash_bytes(v[i].alg));
        assert_hex(d, v[i].digest);
        assert_int_equal(d[hash_bytes(v[i].alg)], 0x77);
        hash_compute(v[i].alg, (struct span[]){TEXT("a"), {NULL, 0}, TEXT("bc")}, 3, again);
        assert_memory_equal(again, d, hash_bytes(v[i].alg));
    }
}

/* [RFC 4231 4] */
static void macs_are_those_of_rfc_4231(void **state)
{
    static const struct {
        const char *key, *data, *mac;
    } v[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {"4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
         "dddddddddddddddddddddddddddddddddddd",
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {"0102030405060708090a0b0c0d0e0f10111213141516171819",
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
         "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
    };
    struct err e;
    uint8_t long_key[131], mac[SHA256_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(mac_key) k = NULL;
        uint8_t key[64], data[64];
        size_t key_bytes = unhex(v[i].key, key, sizeof(key));
        size_t n = unhex(v[i].data, data, sizeof(data));
        assert_done(mac_key_new(key, key_bytes, &k, &e), e);
        mac_compute(k, &(struct span){data, n}, 1, mac);
        assert_hex(mac, v[i].mac);
        mac_compute(k, (struct span[]){{data, 3}, {data + 3, n - 3}}, 2, mac);
        assert_hex(mac, v[i].mac); /* a key can be used again, and parts are one text */
    }
    OWNED(mac_key) k = NULL;
    memset(long_key, 0xaa, sizeof(long_key));
    assert_done(mac_key_new(long_key, sizeof(long_key), &k, &e), e);
    mac_compute(k, &(struct span)TEXT("Test Using Larger Than Block-Size Key - Hash Key First"), 1,
                mac);
    assert_hex(mac, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    mac_compute(k,
                &(struct span)TEXT("This is a test using a larger than block-size key and a larger "
                                   "than block-size data. The key needs to be hashed before being "
                                   "used by the HMAC algorithm."),
                1, mac);
    assert_hex(mac, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}

/* [RFC 5869 A.1 to A.3]; the info of the first two is binary, so theirs goes in as a string with
 * bytes above 0x7f where the vector allows it. */
static void derived_keys_are_those_of_rfc_5869(void **state)
{
    uint8_t ikm[80], salt[80], okm[82], longest[8160];
    char info[81] = {0};
    (void)state;
    memset(ikm, 0x0b, 22);
    for (size_t i = 0; i < 13; i++)
        salt[i] = (uint8_t)i;
    for (size_t i = 0; i < 10; i++)
        info[i] = (char)(0xf0 + i);
    hkdf_sha256(salt, 13, ikm, 22, info, okm, 42);
    assert_hex(okm, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
                    "34007208d5b887185865");

    for (size_t i = 0; i < 80; i++) {
        ikm[i] = (uint8_t)i;
        salt[i] = (uint8_t)(0x60 + i);
        info[i] = (char)(0xb0 + i);
    }
    hkdf_sha256(salt, 80, ikm, 80, info, okm, 82);
    assert_hex(okm, "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
                    "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
                    "cc30c58179ec3e87c14c01d5c1f3434f1d87");

    memset(ikm, 0x0b, 22);
    hkdf_sha256(NULL, 0, ikm, 22, "", okm, 42);
    assert_hex(okm, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
                    "9d201395faa4b61a96c8");

    hkdf_sha256(NULL, 0, ikm, 22, "", longest, sizeof(longest));
    assert_memory_equal(longest, okm, 42);
}

static void stretched(enum hash_alg alg, struct span pass, struct span salt, uint32_t n,
                      const char *wanted)
{
    uint8_t out[256];
    assert_int_equal(pbkdf2(alg, pass.p, pass.n, salt.p, salt.n, n, out, strlen(wanted) / 2, NULL),
                     0);
    assert_hex(out, wanted);
}
#define STRETCHED(alg, pass, salt, n, wanted)                                                      \
    stretched(alg, (struct span)TEXT(pass), (struct span)TEXT(salt), n, wanted)

static void stretching_is_that_of_the_rfcs(void **state)
{
    (void)state;
    /* [RFC 6070 2] */
    STRETCHED(HASH_SHA1, "password", "salt", 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6");
    STRETCHED(HASH_SHA1, "password", "salt", 2, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957");
    STRETCHED(HASH_SHA1, "password", "salt", 4096, "4b007901b765489abead49d926f721d065a429c1");
    STRETCHED(HASH_SHA1, "passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096,
              "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038");
    STRETCHED(HASH_SHA1, "pass\0word", "sa\0lt", 4096, "56fa6aa75548099dcc37d7f03425e0c3");
    /* [RFC 7914 11] */
    STRETCHED(HASH_SHA256, "passwd", "salt", 1,
              "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
              "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783");
    STRETCHED(HASH_SHA256, "Password", "NaCl", 80000,
              "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
              "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d");
}

/* Made by OpenSSL 3.0 (Python's hashlib.pbkdf2_hmac) from 200 times "k" and 32 times "s": more
 * blocks than are computed side by side, and a number of iterations that is no multiple of how
 * many are done between two looks at the watch. */
static void stretching_agrees_with_openssl_for_every_hash(void **state)
{
    static const struct {
        enum hash_alg alg;
        const char *out;
    } v[] = {
        {HASH_MD5, "cb287fe849287817f8572d133f0e5767ff6fe40db7e676088b3b937ec7c20288"
                   "413f2e82fe3851ffa02e19a92418da62740f15d5e83c06d13d87caee1dc7eed2"
                   "c27295f60aa19b79b5a31fbac97ad2a0cc4d7dfd557cbf29c8e4a365592ed982"
                   "689a8023c86aa9f510c354c6cb01450eaa5a1a7f76d9c28277da2e3a2e9d1b04"
                   "74d68dc44a643202de5c911fb504a8c40af5e4c8ae33667c63d7fc8513ba5beb"
                   "620a0402ee266f3bd500544e04825e8f0de060a53d1cce095f65b53ba5dba8e5"
                   "d5b02196e89f0663"},
        {HASH_SHA1, "a2ab18b731fdca0ea2ccdce7670923f03aca2aa6fdf3f58f96de4c1a001374cc"
                    "16156fa626f96a003197a3ca7f858219f9b77fe3418de95c967a4a3d47d9834e"
                    "ead2ae372b5e0a4d618c8fa168aac296dc5630654a71286173ee2b2c31caf80e"
                    "6b64f1a6af85016ea9a156c2c6d619f75f3a74fd6f641b9be20303404b727844"
                    "4787a66ff37556382acee401a1394eccbfa34cf9fe5842d1cf17312c41487a1b"
                    "7d03d97bb548c3248b923411f7e75f7477bfef9370af89c39820be92dbd7af12"
                    "1035c4dd891dc1f3"},
        {HASH_SHA224, "111433a583588003494939e9afb73d4c5fefabf18075c9f5f2a1491ecc429b58"
                      "84f5d8778b16259eee877d88306f616b9375a0c0029d2b51d4c448559494c600"
                      "82557f42f81d8e21ba6ffb8147974480dd21cee4b22793eef4fe4fd2e173aad8"
                      "178c7a174c4130a406706a6c1409e93e5d473a1f2f9da0ff7c17bd86e0685c6d"
                      "94620522f879a543c197e3eb83978120fcda65602bf9a10aaa11fd06b1f2213e"
                      "7c5dc89dd924525b5a0781268e5669d82eefe40fa2b7101b3d78b012269993d6"
                      "f78a45670e2c6574"},
        {HASH_SHA256, "cfcbeaa46a3f5a05ec90038d6244ed9b6dffb062c7ae525ea81e0e3aaaa4a9ec"
                      "4c3c9c58dad125b8c062fa885b606f06dc6eeb08ef56643922f2fd2fc965fcc9"
                      "f87970cb0ff7a0b4ed2eed45b75ef90b455ef71f068100c4320a354cb2cc9cdd"
                      "4529bc377ba27641febbf1fc8b9f670e018ec8c3407d4e0c328dd3da10d4a471"
                      "a1737cf41d34aeac3852d592e94e6aa2637d7793544ff51ac5f2bc63cca88d8d"
                      "7c740cb6d83f80c74481011c33eb8da28d2346024d7f3ff1196b5cec44085d1f"
                      "20e4498bc0641eba"},
        {HASH_SHA384, "535509a5ca2df5d57a8640bec84fd230cdfcb340cb9bb245139963c4791581a4"
                      "910ccd0bc44676113f38e1160daeb39f839f8d0abf6844b9c90556c2bcfca19a"
                      "87bad82ef7d2a00f9fa89f34282becf6b2f936839ff51240ded2b939813be856"
                      "86560b862e2c638ce0956f89f51745680a9536035c3272bbf9a6473c19192882"
                      "5dafd98354b72559e33ff7023e976f62597caf93cbae3da046182402f9801251"
                      "766d5ff9a1eddfabcb3bc11dbf419af21637721f8b69bbce85e7b98e7b810a94"
                      "bca1ab5d607c6c23"},
        {HASH_SHA512, "8a515ee2e5a87b0761f83054afbbf9e80f47370233430f813d47d6578c599be1"
                      "b79b24ee024b4bf7f30b53a57ef0345953ca012da8e57b2e4da6ca2065d2dbfe"
                      "7164331c9d64fd8db5c53d3f94f7f52d58f5b6708a32a54771db7cfa464f114e"
                      "0c110f869a41fb32d786f1ebb9756eb9d6680266753fee3942fa738432db2e1b"
                      "34073dbf27342ccabecb9d52ace95ca8bd3517a80b13d300be584c4f567d2ee3"
                      "1addea926f488e4a78b069e1c8829ed86ba317d64dc9d45235c3256d49260f70"
                      "5e98258059f8d98d"},
        {HASH_RIPEMD160, "04ef1d524916938f7f58a6b552378dada5c6f9b817930c0a087dccbfc41bb663"
                         "375dbcf3caa41acd6f50a4700cb0a6672056dcde2c87332e45d60f3cdebe8477"
                         "8c30f6f8baba2e368873856577b12c2381be873c242cf882a5a855de140e0fef"
                         "3da5b3cf178d6677cfa593f6e45d9de47ee43be5511f252264e9c63604020445"
                         "9b5f265a773bb72c2c4e644a72277ee7bda438456906235db4a1c1da4b1d4c51"
                         "7363e9ee703fd8e50b32c164462fe3aae59f1d98061133b8c5a96ea1232f9ee7"
                         "537da11b8db77b82"},
    };
    char pass[201] = {0}, salt[33] = {0};
    (void)state;
    memset(pass, 'k', 200);
    memset(salt, 's', 32);
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        stretched(v[i].alg, (struct span){pass, 200}, (struct span){salt, 32}, 4099, v[i].out);
}

static void the_empty_passphrase_can_be_stretched(void **state)
{
    uint8_t a[32], b[32];
    (void)state;
    assert_int_equal(pbkdf2(HASH_SHA256, NULL, 0, "salt", 4, 3, a, sizeof(a), NULL), 0);
    assert_int_equal(pbkdf2(HASH_SHA256, "", 0, "salt", 4, 3, b, sizeof(b), NULL), 0);
    assert_memory_equal(a, b, sizeof(a));
    assert_false(bytes_all_zero(a, sizeof(a)));
}

struct looks {
    uint64_t n, last, total, stop_at;
    bool backwards;
};

static bool look(void *ctx, uint64_t done, uint64_t total)
{
    struct looks *l = ctx;
    l->n++;
    l->backwards |= done < l->last;
    l->last = done;
    l->total = total;
    return l->stop_at == 0 || l->n < l->stop_at;
}

static void the_watch_sees_all_iterations_go_by(void **state)
{
    uint8_t out[64];
    (void)state;
    for (enum hash_alg alg = HASH_MD5; alg <= HASH_RIPEMD160; alg++) {
        struct looks l = {0};
        struct watch w = {look, &l};
        assert_int_equal(pbkdf2(alg, "p", 1, "s", 1, 100000, out, sizeof(out), &w), 0);
        assert_true(l.n >= 20); /* a look every 5000 iterations or more often: milliseconds */
        assert_false(l.backwards);
        assert_int_equal(l.last, 100000);
        assert_int_equal(l.total, 100000);
    }
}

static void a_stopped_stretching_leaves_nothing(void **state)
{
    (void)state;
    for (enum hash_alg alg = HASH_MD5; alg <= HASH_RIPEMD160; alg++)
        for (uint64_t stop = 1; stop <= 4; stop++) {
            uint8_t out[200];
            struct looks l = {.stop_at = stop};
            struct watch w = {look, &l};
            memset(out, 0xff, sizeof(out));
            size_t n = stop % 2 ? 64 : 192; /* blocks that are done together, and more of them */
            assert_int_equal(pbkdf2(alg, "p", 1, "s", 1, 12000, out, n, &w), 1);
            assert_int_equal(l.n, stop); /* never asked again */
            assert_true(bytes_all_zero(out, n));
            assert_int_equal(out[n], 0xff);
        }
}

static void block_ciphers_are_the_published_ones(void **state)
{
    static const struct {
        enum cipher_alg alg;
        const char *key, *plain, *cipher;
    } v[] = {
        /* [FIPS 197 C] */
        {CIPHER_AES128, "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff",
         "69c4e0d86a7b0430d8cdb78070b4c55a"},
        {CIPHER_AES192, "000102030405060708090a0b0c0d0e0f1011121314151617",
         "00112233445566778899aabbccddeeff", "dda97ca4864cdfe06eaf70a0ec0d7191"},
        {CIPHER_AES256, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
         "00112233445566778899aabbccddeeff", "8ea2b7ca516745bfeafc49904b496089"},
        /* NESSIE, Serpent, set 1 vector 0 */
        {CIPHER_SERPENT128, "80000000000000000000000000000000", "00000000000000000000000000000000",
         "264e5481eff42a4606abda06c0bfda3d"},
        {CIPHER_SERPENT192, "800000000000000000000000000000000000000000000000",
         "00000000000000000000000000000000", "9e274ead9b737bb21efcfca548602689"},
        {CIPHER_SERPENT256, "8000000000000000000000000000000000000000000000000000000000000000",
         "00000000000000000000000000000000", "a223aa1288463c0e2be38ebd825616c0"},
        /* Schneier et al., Twofish, appendix B */
        {CIPHER_TWOFISH128, "00000000000000000000000000000000", "00000000000000000000000000000000",
         "9f589f5cf6122c32b6bfec2f2ae8c35a"},
        {CIPHER_TWOFISH192, "0123456789abcdeffedcba98765432100011223344556677",
         "00000000000000000000000000000000", "cfd1d2e5a9be9cdf501f13b892bd2248"},
        {CIPHER_TWOFISH256, "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff",
         "00000000000000000000000000000000", "37527be0052334b89f0cfccae87cfa20"},
        /* [RFC 2144 B.1] */
        {CIPHER_CAST5_128, "0123456712345678234567893456789a", "0123456789abcdef",
         "238b4fe5847e44b2"},
    };
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(block_cipher) c = NULL;
        uint8_t key[32], plain[64], out[64];
        size_t n = cipher_block_bytes(v[i].alg);
        assert_int_equal(unhex(v[i].key, key, sizeof(key)), cipher_key_bytes(v[i].alg));
        assert_int_equal(unhex(v[i].plain, plain, sizeof(plain)), n);
        assert_done(block_cipher_new(v[i].alg, key, &c, &e), e);
        block_encrypt(c, n, out, plain);
        assert_hex(out, v[i].cipher);
        block_decrypt(c, n, out, out);
        assert_memory_equal(out, plain, n);
        /* Several blocks are each on their own, and in place is the same as elsewhere. */
        memcpy(plain + n, plain, n);
        block_encrypt(c, 2 * n, plain, plain);
        assert_hex(plain, v[i].cipher);
        assert_memory_equal(plain + n, plain, n);
    }
}

static void random_bytes_differ_and_fill_all(void **state)
{
    uint8_t a[300] = {0}, b[300] = {0};
    struct err e;
    (void)state;
    assert_done(random_bytes(a, sizeof(a), &e), e);
    assert_done(random_bytes(b, sizeof(b), &e), e);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_false(bytes_all_zero(a + 280, 20));
    assert_done(random_bytes(NULL, 0, &e), e);
}

/* [SP 800-38A F.2] */
static void cbc_is_that_of_sp_800_38a(void **state)
{
    static const struct {
        enum cipher_alg alg;
        const char *key, *cipher;
    } v[] = {
        {CIPHER_AES128, "2b7e151628aed2a6abf7158809cf4f3c",
         "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"},
        {CIPHER_AES256, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
         "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"},
    };
    uint8_t key[32], iv[16], plain[32], out[32], back[32];
    struct err e;
    (void)state;
    unhex("000102030405060708090a0b0c0d0e0f", iv, sizeof(iv));
    unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51", plain, 32);
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(block_cipher) c = NULL;
        unhex(v[i].key, key, sizeof(key));
        assert_done(block_cipher_new(v[i].alg, key, &c, &e), e);
        block_cbc_encrypt(c, iv, sizeof(out), out, plain);
        assert_hex(out, v[i].cipher);
        block_cbc_decrypt(c, iv, sizeof(out), back, out);
        assert_memory_equal(back, plain, sizeof(back));
        assert_hex(iv, "000102030405060708090a0b0c0d0e0f");
    }
}

/* Test cases 13 to 16 of the proposal that became [SP 800-38D]. */
static const struct gcm_vector {
    const char *key, *nonce, *ad, *plain, *cipher, *tag;
} gcm_vectors[] = {
    {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000",
     "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
    {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000",
     "", "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18",
     "d0d1c8a799996bf0265b98b5d48ab919"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

static void gcm_is_that_of_its_published_test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(gcm_vectors); i++) {
        const struct gcm_vector *v = &gcm_vectors[i];
        uint8_t key[32], nonce[12], ad[32], plain[64], out[65], tag[16], back[64];
        struct err e;
        unhex(v->key, key, sizeof(key));
        unhex(v->nonce, nonce, sizeof(nonce));
        struct span a = {ad, unhex(v->ad, ad, sizeof(ad))};
        size_t n = unhex(v->plain, plain, sizeof(plain));
        out[n] = 0x77;
        assert_done(aead_seal(key, nonce, a, (struct span){plain, n}, out, tag, &e), e);
        assert_hex(out, v->cipher);
        assert_hex(tag, v->tag);
        assert_int_equal(out[n], 0x77);
        assert_int_equal(aead_open(key, nonce, a, (struct span){out, n}, tag, back, &e), 1);
        assert_memory_equal(back, plain, n);
    }
}

static void a_wrong_tag_gives_zeroes(void **state)
{
    static const uint8_t key[32] = {1}, nonce[12] = {2}, plain[40] = {3};
    uint8_t out[40], tag[16], ad[3] = "ad", back[40];
    struct err e;
    (void)state;
    assert_done(aead_seal(key, nonce, (struct span){ad, 3}, (struct span){plain, 40}, out, tag, &e),
                e);
    uint8_t *changed[] = {&out[0], &out[39], &tag[0], &tag[15], &ad[0], &ad[2]};
    for (size_t i = 0; i < ARRAY_LEN(changed); i++) {
        memset(back, 0x55, sizeof(back));
        *changed[i] ^= 0x80;
        assert_int_equal(
            aead_open(key, nonce, (struct span){ad, 3}, (struct span){out, 40}, tag, back, &e), 0);
        *changed[i] ^= 0x80;
        assert_true(bytes_all_zero(back, sizeof(back)));
    }
    assert_int_equal(
        aead_open(key, nonce, (struct span){ad, 3}, (struct span){out, 40}, tag, back, &e), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes_give_their_published_digests_of_abc),
        cmocka_unit_test(macs_are_those_of_rfc_4231),
        cmocka_unit_test(derived_keys_are_those_of_rfc_5869),
        cmocka_unit_test(stretching_is_that_of_the_rfcs),
        cmocka_unit_test(stretching_agrees_with_openssl_for_every_hash),
        cmocka_unit_test(the_empty_passphrase_can_be_stretched),
        cmocka_unit_test(the_watch_sees_all_iterations_go_by),
        cmocka_unit_test(a_stopped_stretching_leaves_nothing),
        cmocka_unit_test(block_ciphers_are_the_published_ones),
        cmocka_unit_test(random_bytes_differ_and_fill_all),
        cmocka_unit_test(cbc_is_that_of_sp_800_38a),
        cmocka_unit_test(gcm_is_that_of_its_published_test_cases),
        cmocka_unit_test(a_wrong_tag_gives_zeroes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
