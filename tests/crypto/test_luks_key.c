#include "crypto/luks_key.h"

#include <ctype.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"
#include "tests/crypto/helpers.h"

/* ---- a second implementation of the way there, from the text of [LUKS1 2.4 and 4] ---- */

static void af_hash(enum hash_alg alg, uint8_t *d, size_t n)
{
    size_t digest = hash_bytes(alg);
    for (size_t i = 0; i * digest < n; i++) {
        uint8_t be[4] = {0, 0, 0, (uint8_t)i}, out[HASH_MAX_BYTES];
        size_t len = n - i * digest < digest ? n - i * digest : digest;
        hash_compute(alg, (struct span[]){{be, 4}, {d + i * digest, len}}, 2, out);
        memcpy(d + i * digest, out, len);
    }
}

/* A volume with one slot (number 0) that costs one iteration, which luks_slot_seal() refuses to
 * make. key: key_bytes of the volume key. Returns its material. */
static uint8_t *cheap_volume(const char *name, const char *mode, const char *hash_spec,
                             const struct luks_cipher *how, enum hash_alg hash, const uint8_t *key,
                             const char *pass, struct luks_header *ret)
{
    struct luks_header h = {.cipher = *how, .hash = hash, .digest_iterations = 1};
    size_t n = how->key_bytes, sectors = luks_slot_sectors(n);
    uint8_t *m = calloc(sectors, 512), d[64] = {0}, slot_key[64];
    OWNED(sector_cipher) c = NULL;
    uint64_t seed = 99;
    struct err e;
    assert_non_null(m);
    snprintf(h.cipher_name, sizeof(h.cipher_name), "%s", name);
    snprintf(h.cipher_mode, sizeof(h.cipher_mode), "%s", mode);
    snprintf(h.hash_spec, sizeof(h.hash_spec), "%s", hash_spec);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        h.slot[i].material_sector = 8 + i * (uint32_t)sectors;
    h.slot[0].active = true;
    h.slot[0].iterations = 1;
    memset(h.slot[0].salt, 0x51, sizeof(h.slot[0].salt));
    memset(h.digest_salt, 0x52, sizeof(h.digest_salt));
    assert_int_equal(
        pbkdf2(hash, key, n, h.digest_salt, sizeof(h.digest_salt), 1, h.digest, 20, NULL), 0);
    assert_int_equal(pbkdf2(hash, pass, strlen(pass), h.slot[0].salt, 32, 1, slot_key, n, NULL), 0);

    for (size_t i = 0; i < 3999; i++) {
        for (size_t j = 0; j < n; j++)
            d[j] ^= m[i * n + j] = (uint8_t)next_random(&seed);
        af_hash(hash, d, n);
    }
    for (size_t j = 0; j < n; j++)
        m[3999 * n + j] = key[j] ^ d[j];
    assert_done(sector_cipher_with(how, slot_key, &c, &e), e);
    sector_encrypt(c, 0, (4000 * n + 511) / 512, m);
    *ret = h;
    return m;
}

/* Opens slot 0 with `pass`: 1, 0 or -1. */
static int try_pass(const struct luks_header *h, const uint8_t *material, const char *pass,
                    struct volume_key **ret)
{
    OWNED(secret) s = secret_of(pass);
    struct err e;
    int r = luks_slot_open(h, 0, material, s, strlen(pass), NULL, ret, &e);
    if (r < 0)
        fail_msg("%s", e.text);
    return r;
}

static void the_right_passphrase_gives_the_volume_key_for_every_cipher_and_hash(void **state)
{
    static const struct {
        const char *name, *mode, *hash_spec;
        enum hash_alg hash;
        struct luks_cipher how;
    } v[] = {
        {"aes",
         "xts-plain64",
         "sha256",
         HASH_SHA256,
         {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64}},
        {"aes",
         "xts-plain64",
         "sha512",
         HASH_SHA512,
         {CIPHER_AES192, MODE_XTS, IVGEN_PLAIN64, 0, 48}},
        {"aes",
         "cbc-essiv:sha256",
         "sha1",
         HASH_SHA1,
         {CIPHER_AES192, MODE_CBC, IVGEN_ESSIV, HASH_SHA256, 24}},
        {"serpent",
         "ctr-plain",
         "sha384",
         HASH_SHA384,
         {CIPHER_SERPENT256, MODE_CTR, IVGEN_PLAIN, 0, 32}},
        {"twofish",
         "xts-essiv:sha256",
         "ripemd160",
         HASH_RIPEMD160,
         {CIPHER_TWOFISH256, MODE_XTS, IVGEN_ESSIV, HASH_SHA256, 64}},
        {"cast5",
         "cbc-plain64",
         "md5",
         HASH_MD5,
         {CIPHER_CAST5_128, MODE_CBC, IVGEN_PLAIN64, 0, 16}},
        {"cast5", "ecb", "sha224", HASH_SHA224, {CIPHER_CAST5_128, MODE_ECB, IVGEN_NONE, 0, 16}},
    };
    static const uint8_t key[64] = "the volume key, which is long enough for every cipher there is";
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED(volume_key) k = NULL;
        struct luks_header h, again;
        uint8_t bytes[LUKS_HEADER_BYTES];
        struct err e;
        OWNED_HEAP uint8_t *m = cheap_volume(v[i].name, v[i].mode, v[i].hash_spec, &v[i].how,
                                             v[i].hash, key, "correct horse", &h);
        luks_header_encode(&h, bytes); /* the whole way, through the bytes */
        assert_done(luks_header_decode(bytes, luks_area_bytes(v[i].how.key_bytes), &again, &e), e);
        assert_int_equal(try_pass(&again, m, "correct horse", &k), 1);
        assert_memory_equal(volume_key_peek(k), key, v[i].how.key_bytes);
        assert_int_equal(volume_key_cipher(k)->key_bytes, v[i].how.key_bytes);
        volume_key_free(MOVE(k));
        assert_int_equal(try_pass(&again, m, "correct horsf", &k), 0);
        assert_null(k);
    }
}

/* On volumes that other tools made as well: a second passphrase for each. */
static void a_slot_is_sealed_under_the_cipher_and_hash_of_its_volume(void **state)
{
    static const struct {
        const char *name, *mode, *hash_spec;
        enum hash_alg hash;
        struct luks_cipher how;
    } v[] = {
        {"aes", "cbc-plain64", "sha1", HASH_SHA1, {CIPHER_AES192, MODE_CBC, IVGEN_PLAIN64, 0, 24}},
        {"aes",
         "xts-plain64",
         "sha512",
         HASH_SHA512,
         {CIPHER_AES192, MODE_XTS, IVGEN_PLAIN64, 0, 48}},
        {"cast5",
         "ctr-plain64",
         "ripemd160",
         HASH_RIPEMD160,
         {CIPHER_CAST5_128, MODE_CTR, IVGEN_PLAIN64, 0, 16}},
    };
    static const uint8_t key[64] = "the volume key, which is long enough for every cipher there is";
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct luks_header h;
        OWNED(volume_key) k = NULL;
        OWNED(volume_key) again = NULL;
        OWNED(secret) pass = secret_of("second");
        struct err e;
        size_t n = v[i].how.key_bytes, room = (size_t)luks_slot_sectors(n) * 512;
        OWNED_HEAP uint8_t *m = cheap_volume(v[i].name, v[i].mode, v[i].hash_spec, &v[i].how,
                                             v[i].hash, key, "first", &h);
        OWNED_HEAP uint8_t *second = malloc(room + 1);
        assert_int_equal(try_pass(&h, m, "first", &k), 1);
        memset(second, 0xee, room + 1);
        assert_done(luks_slot_seal(&h, 6, k, pass, 6, 1000, NULL, second, &e), e);
        assert_int_equal(second[room], 0xee);
        assert_int_equal(luks_slot_open(&h, 6, second, pass, 6, NULL, &again, &e), 1);
        assert_memory_equal(volume_key_peek(again), key, n);
    }
}

/* S0.5 S3.3: on the arithmetic alone; whole images are tried elsewhere. */
static void ten_thousand_wrong_passphrases_open_nothing(void **state)
{
    static const struct luks_cipher how = {CIPHER_AES128, MODE_CBC, IVGEN_PLAIN64, 0, 16};
    struct volume_key *const before = (void *)state, *k = before;
    struct luks_header h;
    OWNED(secret) pass = NULL;
    uint64_t seed = 1;
    struct err e;
    unsigned accepted = 0;
    (void)state;
    OWNED_HEAP uint8_t *m = cheap_volume("aes", "cbc-plain64", "sha1", &how, HASH_SHA1,
                                         (const uint8_t *)"sixteen bytes ok", "right", &h);
    assert_done(secret_new(64, &pass, &e), e);
    for (unsigned i = 0; i < 10000; i++) {
        size_t n = 1 + next_random(&seed) % 63;
        for (size_t j = 0; j < n; j++)
            secret_bytes(pass)[j] = (uint8_t)next_random(&seed);
        accepted += luks_slot_open(&h, 0, m, pass, n, NULL, &k, &e) != 0;
    }
    assert_int_equal(accepted, 0);
    assert_ptr_equal(k, before);
    k = NULL;
    assert_int_equal(try_pass(&h, m, "right", &k), 1);
    volume_key_free(k);
}

static void one_flipped_bit_in_digest_salt_or_material_opens_nothing(void **state)
{
    static const struct luks_cipher how = {CIPHER_AES128, MODE_XTS, IVGEN_PLAIN64, 0, 32};
    struct volume_key *k = NULL;
    struct luks_header h, bad;
    uint64_t seed = 5;
    (void)state;
    OWNED_HEAP uint8_t *m =
        cheap_volume("aes", "xts-plain64", "sha1", &how, HASH_SHA1,
                     (const uint8_t *)"thirty-two bytes of a volume key", "right", &h);
    for (unsigned bit = 0; bit < 8 * sizeof(h.digest); bit += 3) {
        bad = h;
        bad.digest[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(try_pass(&bad, m, "right", &k), 0);
    }
    for (unsigned bit = 0; bit < 8 * LUKS_SALT_BYTES; bit += 5) {
        bad = h;
        bad.slot[0].salt[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(try_pass(&bad, m, "right", &k), 0);
        bad = h;
        bad.digest_salt[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(try_pass(&bad, m, "right", &k), 0);
    }
    for (unsigned i = 0; i < 200; i++) {
        size_t bit = i < 2 ? i * (8 * 4000 * 32 - 1) : next_random(&seed) % (8 * 4000 * 32);
        m[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(try_pass(&h, m, "right", &k), 0);
        m[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    bad = h;
    bad.slot[0].iterations = 2;
    assert_int_equal(try_pass(&bad, m, "right", &k), 0);
    bad = h;
    bad.digest_iterations = 2;
    assert_int_equal(try_pass(&bad, m, "right", &k), 0);
    assert_null(k);
    assert_int_equal(try_pass(&h, m, "right", &k), 1);
    volume_key_free(k);
}

/* ---- volumes of our own ---- */

struct volume {
    struct luks_header h;
    struct volume_key *key;
    uint8_t *material; /* of one slot */
};

static void volume_make(struct volume *v)
{
    struct err e;
    *v = (struct volume){0};
    assert_done(luks_volume_new(1000, &v->h, &v->key, &e), e);
    v->material = malloc((size_t)luks_slot_sectors(64) * 512);
    assert_non_null(v->material);
    memset(v->material, 0xee, (size_t)luks_slot_sectors(64) * 512);
}

static void volume_drop(struct volume *v)
{
    volume_key_free(v->key);
    free(v->material);
}

static void what_a_slot_seals_that_slot_opens(void **state)
{
    static const char *const passes[] = {
        "", "a", "with a newline\n",
        "longer than one block of SHA-256: 012345678901234567890123456789"};
    struct volume v;
    struct err e;
    (void)state;
    volume_make(&v);
    for (unsigned i = 0; i < ARRAY_LEN(passes); i++) {
        unsigned slot = i * 2 + 1;
        OWNED(secret) pass = secret_of(passes[i]);
        OWNED(volume_key) k = NULL;
        struct luks_header before = v.h;
        assert_done(luks_slot_seal(&v.h, slot, v.key, pass, strlen(passes[i]), 1000 + i, NULL,
                                   v.material, &e),
                    e);
        assert_true(v.h.slot[slot].active);
        assert_int_equal(v.h.slot[slot].iterations, 1000 + i);
        assert_int_equal(v.h.slot[slot].material_sector, before.slot[slot].material_sector);
        before.slot[slot] = v.h.slot[slot];
        assert_memory_equal(&before, &v.h, sizeof(before)); /* nothing else changed */
        assert_int_equal(
            luks_slot_open(&v.h, slot, v.material, pass, strlen(passes[i]), NULL, &k, &e), 1);
        assert_memory_equal(volume_key_peek(k), volume_key_peek(v.key), 64);
        /* One byte less is another passphrase. */
        OWNED(volume_key) none = NULL;
        if (passes[i][0])
            assert_int_equal(luks_slot_open(&v.h, slot, v.material, pass, strlen(passes[i]) - 1,
                                            NULL, &none, &e),
                             0);
    }
    volume_drop(&v);
}

static void sealing_twice_gives_other_salt_and_material(void **state)
{
    struct volume v;
    OWNED(secret) pass = secret_of("same");
    size_t n = (size_t)luks_slot_sectors(64) * 512;
    OWNED_HEAP uint8_t *first = malloc(n);
    struct err e;
    (void)state;
    volume_make(&v);
    assert_done(luks_slot_seal(&v.h, 0, v.key, pass, 4, 1000, NULL, v.material, &e), e);
    struct luks_header h = v.h;
    memcpy(first, v.material, n);
    assert_done(luks_slot_seal(&v.h, 0, v.key, pass, 4, 1000, NULL, v.material, &e), e);
    assert_memory_not_equal(h.slot[0].salt, v.h.slot[0].salt, LUKS_SALT_BYTES);
    size_t same = 0;
    for (size_t i = 0; i + 16 <= 256000; i += 16)
        same += !memcmp(first + i, v.material + i, 16);
    assert_int_equal(same, 0);
    assert_true(bytes_all_zero(v.material + 256000, n - 256000)); /* behind the last stripe */
    volume_drop(&v);
}

static void each_new_volume_is_another_one(void **state)
{
    struct volume a, b;
    (void)state;
    volume_make(&a);
    volume_make(&b);
    const uint8_t *k = volume_key_peek(a.key);
    assert_memory_not_equal(k, volume_key_peek(b.key), 64);
    assert_memory_not_equal(k, k + 32, 32); /* equal halves would undo XTS */
    assert_memory_not_equal(a.h.digest_salt, b.h.digest_salt, LUKS_SALT_BYTES);
    assert_memory_not_equal(a.h.digest, b.h.digest, LUKS_DIGEST_BYTES);
    assert_string_not_equal(a.h.uuid, b.h.uuid);
    assert_int_equal(strlen(a.h.uuid), 36);
    for (size_t i = 0; i < 36; i++)
        if (i == 8 || i == 13 || i == 18 || i == 23)
            assert_int_equal(a.h.uuid[i], '-');
        else
            assert_true(isxdigit((unsigned char)a.h.uuid[i]));
    assert_int_equal(a.h.uuid[14], '4'); /* random, and says so */
    assert_non_null(strchr("89ab", a.h.uuid[19]));
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        assert_false(a.h.slot[i].active);
        assert_int_equal(a.h.slot[i].material_sector, 8 + 504 * i);
    }
    volume_drop(&a);
    volume_drop(&b);
}

static void costs_that_could_not_be_opened_again_are_not_written(void **state)
{
    struct volume v;
    OWNED(secret) pass = secret_of("x");
    struct err e;
    struct luks_header h = {0};
    struct volume_key *k = NULL;
    (void)state;
    assert_refused(luks_volume_new(999, &h, &k, &e), e, ERR_USAGE, "999", "at least 1000");
    assert_null(k);
    volume_make(&v);
    h = v.h;
    assert_refused(luks_slot_seal(&v.h, 0, v.key, pass, 1, 999, NULL, v.material, &e), e, ERR_USAGE,
                   "999", "at least 1000", "key slot 0");
    assert_refused(luks_slot_seal(&v.h, 0, v.key, pass, 1, UINT32_MAX, NULL, v.material, &e), e,
                   ERR_USAGE, "4294967295", "268435456");
    assert_memory_equal(&h, &v.h, sizeof(h));
    /* What the other slots cost counts. */
    v.h.slot[1].active = true;
    v.h.slot[1].iterations = (uint32_t)LUKS_MAX_ITERATIONS - 1000 - 2000 + 1;
    assert_refused(luks_slot_seal(&v.h, 0, v.key, pass, 1, 1000, NULL, v.material, &e), e,
                   ERR_USAGE, "over all slots");
    v.h.slot[1].iterations--;
    assert_done(luks_slot_seal(&v.h, 0, v.key, pass, 1, 1000, NULL, v.material, &e), e);
    uint8_t bytes[LUKS_HEADER_BYTES];
    luks_header_encode(&v.h, bytes);
    assert_done(luks_header_decode(bytes, luks_area_bytes(64), &h, &e), e);
    volume_drop(&v);
}

/* ---- the watch ---- */

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

static void the_watch_sees_slot_and_digest_go_by(void **state)
{
    struct volume v;
    OWNED(secret) pass = secret_of("x");
    OWNED(volume_key) k = NULL;
    struct looks l = {0};
    struct watch w = {look, &l};
    struct err e;
    (void)state;
    volume_make(&v);
    assert_done(luks_slot_seal(&v.h, 0, v.key, pass, 1, 30000, &w, v.material, &e), e);
    assert_true(l.n >= 6 && l.last == 30000 && l.total == 30000 && !l.backwards);
    l = (struct looks){0};
    assert_int_equal(luks_slot_open(&v.h, 0, v.material, pass, 1, &w, &k, &e), 1);
    assert_true(l.n >= 7 && l.last == 31000 && l.total == 31000 && !l.backwards);
    volume_drop(&v);
}

static void a_watch_that_says_no_stops_opening_and_sealing(void **state)
{
    struct volume v;
    OWNED(secret) pass = secret_of("x");
    struct volume_key *k = NULL;
    struct looks all = {0};
    struct watch w = {look, &all};
    struct err e;
    (void)state;
    volume_make(&v);
    assert_done(luks_slot_seal(&v.h, 0, v.key, pass, 1, 9000, NULL, v.material, &e), e);
    assert_int_equal(luks_slot_open(&v.h, 0, v.material, pass, 1, &w, &k, &e), 1);
    volume_key_free(MOVE(k));
    for (uint64_t stop = 1; stop <= all.n; stop++) {
        struct looks l = {.stop_at = stop};
        w.ctx = &l;
        assert_refused(luks_slot_open(&v.h, 0, v.material, pass, 1, &w, &k, &e), e, ERR_USAGE,
                       "interrupted");
        assert_null(k);
        assert_int_equal(l.n, stop);
    }
    struct luks_header h = v.h;
    struct looks l = {.stop_at = 2};
    w.ctx = &l;
    assert_refused(luks_slot_seal(&v.h, 1, v.key, pass, 1, 9000, &w, v.material, &e), e, ERR_USAGE,
                   "interrupted");
    assert_memory_equal(&h, &v.h, sizeof(h));
    volume_drop(&v);
}

static void iterations_grow_with_the_time_and_have_bounds(void **state)
{
    (void)state;
    assert_int_equal(luks_iterations_for(0), LUKS_MIN_ITERATIONS);
    uint32_t some = luks_iterations_for(100), more = luks_iterations_for(10000);
    assert_true(some >= LUKS_MIN_ITERATIONS);
    assert_true(more > some);
    assert_true(luks_iterations_for(UINT32_MAX) <= LUKS_MAX_ITERATIONS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_right_passphrase_gives_the_volume_key_for_every_cipher_and_hash),
        cmocka_unit_test(a_slot_is_sealed_under_the_cipher_and_hash_of_its_volume),
        cmocka_unit_test(ten_thousand_wrong_passphrases_open_nothing),
        cmocka_unit_test(one_flipped_bit_in_digest_salt_or_material_opens_nothing),
        cmocka_unit_test(what_a_slot_seals_that_slot_opens),
        cmocka_unit_test(sealing_twice_gives_other_salt_and_material),
        cmocka_unit_test(each_new_volume_is_another_one),
        cmocka_unit_test(costs_that_could_not_be_opened_again_are_not_written),
        cmocka_unit_test(the_watch_sees_slot_and_digest_go_by),
        cmocka_unit_test(a_watch_that_says_no_stops_opening_and_sealing),
        cmocka_unit_test(iterations_grow_with_the_time_and_have_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
