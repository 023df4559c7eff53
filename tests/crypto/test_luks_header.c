#include "crypto/luks_header.h"

#include "crypto/luks_key.h"
#include "src/base/bytes.h"
#include "tests/crypto/helpers.h"

/* Where the fields lie [LUKS1 On-Disk Format 1.2.3, 2.1 and 2.2]; written down a second time. */
enum {
    AT_VERSION = 6,
    AT_NAME = 8,
    AT_MODE = 40,
    AT_HASH = 72,
    AT_PAYLOAD = 104,
    AT_KEY_BYTES = 108,
    AT_DIGEST = 112,
    AT_DIGEST_SALT = 132,
    AT_DIGEST_ITERATIONS = 164,
    AT_UUID = 168,
    AT_SLOTS = 208,
    SLOT_BYTES = 48,
    IN_ITERATIONS = 4,
    IN_SALT = 8,
    IN_MATERIAL = 40,
    IN_STRIPES = 44,
};

static uint8_t *slot_at(uint8_t *header, unsigned slot)
{
    return header + AT_SLOTS + slot * SLOT_BYTES;
}

static void put_text(uint8_t *field, size_t room, const char *text)
{
    memset(field, 0, room);
    memcpy(field, text, strlen(text));
}

/* A header as it should be, made here and not by the code under test; slot 0 is in use. */
static uint64_t make(uint8_t b[LUKS_HEADER_BYTES], const char *name, const char *mode,
                     const char *hash, uint32_t key_bytes)
{
    uint32_t slot_sectors = (key_bytes * 4000 + 511) / 512;
    slot_sectors = (slot_sectors + 7) / 8 * 8;
    memset(b, 0, LUKS_HEADER_BYTES);
    memcpy(b, "LUKS\xba\xbe\0\1", 8);
    put_text(b + AT_NAME, 32, name);
    put_text(b + AT_MODE, 32, mode);
    put_text(b + AT_HASH, 32, hash);
    put_be32(b + AT_PAYLOAD, 8 + 8 * slot_sectors);
    put_be32(b + AT_KEY_BYTES, key_bytes);
    memset(b + AT_DIGEST, 0xd1, 20);
    memset(b + AT_DIGEST_SALT, 0xd2, 32);
    put_be32(b + AT_DIGEST_ITERATIONS, 1000);
    put_text(b + AT_UUID, 40, "01234567-89ab-4cde-8f01-23456789abcd");
    for (unsigned i = 0; i < 8; i++) {
        put_be32(slot_at(b, i), i == 0 ? 0x00ac71f3 : 0x0000dead);
        put_be32(slot_at(b, i) + IN_ITERATIONS, i == 0 ? 2000 : 0);
        memset(slot_at(b, i) + IN_SALT, i == 0 ? 0x5a : 0, 32);
        put_be32(slot_at(b, i) + IN_MATERIAL, 8 + i * slot_sectors);
        put_be32(slot_at(b, i) + IN_STRIPES, 4000);
    }
    return UINT64_C(512) * (8 + 8 * slot_sectors);
}

static uint64_t make_default(uint8_t b[LUKS_HEADER_BYTES])
{
    return make(b, "aes", "xts-plain64", "sha256", 64);
}

static void sizes_are_those_that_qemu_and_cryptsetup_use(void **state)
{
    (void)state;
    assert_int_equal(luks_slot_sectors(16), 128);
    assert_int_equal(luks_slot_sectors(24), 192); /* 96000 bytes are no whole number of sectors */
    assert_int_equal(luks_slot_sectors(32), 256);
    assert_int_equal(luks_slot_sectors(48), 376);
    assert_int_equal(luks_slot_sectors(64), 504);
    assert_int_equal(luks_slot_sectors(128), 1000); /* not one sector more than need be */
    assert_int_equal(luks_slot_sectors(42), 336);   /* 328 sectors and a quarter */
    assert_int_equal(luks_area_bytes(16), 528384);
    assert_int_equal(luks_area_bytes(32), 1052672);
    assert_int_equal(luks_area_bytes(64), 2068480);
}

static void all_fields_arrive(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    struct luks_header h;
    struct err e;
    (void)state;
    uint64_t area = make_default(b);
    assert_done(luks_header_decode(b, area, &h, &e), e);
    assert_string_equal(h.cipher_name, "aes");
    assert_string_equal(h.cipher_mode, "xts-plain64");
    assert_string_equal(h.hash_spec, "sha256");
    assert_string_equal(h.uuid, "01234567-89ab-4cde-8f01-23456789abcd");
    assert_int_equal(h.cipher.alg, CIPHER_AES256);
    assert_int_equal(h.cipher.mode, MODE_XTS);
    assert_int_equal(h.cipher.ivgen, IVGEN_PLAIN64);
    assert_int_equal(h.cipher.key_bytes, 64);
    assert_int_equal(h.hash, HASH_SHA256);
    assert_int_equal(h.payload_sector, 4040);
    assert_int_equal(h.digest[19], 0xd1);
    assert_int_equal(h.digest_salt[31], 0xd2);
    assert_int_equal(h.digest_iterations, 1000);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(h.slot[i].active, i == 0);
        assert_int_equal(h.slot[i].iterations, i == 0 ? 2000 : 0);
        assert_int_equal(h.slot[i].salt[31], i == 0 ? 0x5a : 0);
        assert_int_equal(h.slot[i].material_sector, 8 + i * 504);
    }
    luks_header_encode(&h, again);
    assert_memory_equal(again, b, sizeof(b));
}

static void everything_qemu_can_create_is_accepted(void **state)
{
    static const struct {
        const char *name, *mode;
        uint32_t key_bytes;
        struct luks_cipher how;
    } v[] = {
        {"aes", "xts-plain64", 32, {CIPHER_AES128, MODE_XTS, IVGEN_PLAIN64}},
        {"aes", "xts-plain64", 48, {CIPHER_AES192, MODE_XTS, IVGEN_PLAIN64}},
        {"aes", "xts-plain64", 64, {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64}},
        {"aes", "xts-plain64:sha256", 64, {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64}},
        {"aes", "xts-plain", 64, {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN}},
        {"aes", "xts-essiv:sha256", 64, {CIPHER_AES256, MODE_XTS, IVGEN_ESSIV, HASH_SHA256}},
        {"aes", "cbc-essiv:sha256", 16, {CIPHER_AES128, MODE_CBC, IVGEN_ESSIV, HASH_SHA256}},
        {"aes", "cbc-essiv:md5", 32, {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_MD5}},
        {"aes", "cbc-plain64", 24, {CIPHER_AES192, MODE_CBC, IVGEN_PLAIN64}},
        {"aes", "ctr-plain64", 32, {CIPHER_AES256, MODE_CTR, IVGEN_PLAIN64}},
        {"aes", "ecb-plain64", 32, {CIPHER_AES256, MODE_ECB, IVGEN_PLAIN64}},
        {"aes", "ecb", 32, {CIPHER_AES256, MODE_ECB, IVGEN_NONE}},
        {"serpent", "xts-plain64", 32, {CIPHER_SERPENT128, MODE_XTS, IVGEN_PLAIN64}},
        {"serpent", "cbc-plain", 24, {CIPHER_SERPENT192, MODE_CBC, IVGEN_PLAIN}},
        {"serpent",
         "cbc-essiv:sha256",
         32,
         {CIPHER_SERPENT256, MODE_CBC, IVGEN_ESSIV, HASH_SHA256}},
        {"twofish", "xts-plain64", 64, {CIPHER_TWOFISH256, MODE_XTS, IVGEN_PLAIN64}},
        {"twofish", "ctr-plain", 16, {CIPHER_TWOFISH128, MODE_CTR, IVGEN_PLAIN}},
        {"cast5", "cbc-plain64", 16, {CIPHER_CAST5_128, MODE_CBC, IVGEN_PLAIN64}},
        {"cast5", "ctr-plain", 16, {CIPHER_CAST5_128, MODE_CTR, IVGEN_PLAIN}},
        {"cast5", "ecb-plain64", 16, {CIPHER_CAST5_128, MODE_ECB, IVGEN_PLAIN64}},
    };
    static const char *const hashes[] = {"md5",    "sha1",   "sha224",   "sha256",
                                         "sha384", "sha512", "ripemd160"};
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    struct luks_header h;
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++)
        for (size_t j = 0; j < ARRAY_LEN(hashes); j++) {
            uint64_t area = make(b, v[i].name, v[i].mode, hashes[j], v[i].key_bytes);
            assert_done(luks_header_decode(b, area, &h, &e), e);
            assert_int_equal(h.cipher.alg, v[i].how.alg);
            assert_int_equal(h.cipher.mode, v[i].how.mode);
            assert_int_equal(h.cipher.ivgen, v[i].how.ivgen);
            if (h.cipher.ivgen == IVGEN_ESSIV)
                assert_int_equal(h.cipher.essiv_hash, v[i].how.essiv_hash);
            assert_int_equal(h.cipher.key_bytes, v[i].key_bytes);
            assert_int_equal(h.hash, (enum hash_alg)j);
            luks_header_encode(&h, again);
            assert_memory_equal(again, b, sizeof(b));
        }
}

/* ---- refusals ---- */

static void refused(const uint8_t *b, uint64_t area, enum err_kind kind, const char *word,
                    const char *found)
{
    struct luks_header h, before;
    struct err e;
    memset(&h, 0xee, sizeof(h));
    before = h;
    assert_refused(luks_header_decode(b, area, &h, &e), e, kind, "LUKS header", word, found);
    assert_memory_equal(&h, &before, sizeof(h));
}

static void what_is_no_luks1_header_is_refused(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES] = {0};
    (void)state;
    refused(b, 1 << 22, ERR_STATE_CORRUPT, "magic is \"\\x00\\x00\\x00\\x00\\x00\\x00\"",
            "LUKS\\xba\\xbe");
    memset(b, 0xff, sizeof(b));
    refused(b, 1 << 22, ERR_STATE_CORRUPT, "magic", "\\xff");
    uint64_t area = make_default(b);
    b[AT_VERSION + 1] = 2;
    refused(b, area, ERR_UNSUPPORTED, "LUKS2", "LUKS1");
    b[AT_VERSION + 1] = 0;
    refused(b, area, ERR_UNSUPPORTED, "version is 0", "wanted 1");
    b[AT_VERSION] = 1;
    refused(b, area, ERR_UNSUPPORTED, "version is 256", "wanted 1");
}

static void unknown_algorithms_are_refused_by_name(void **state)
{
    static const struct {
        const char *name, *mode, *hash;
        uint32_t key_bytes;
        const char *field, *found;
    } v[] = {
        {"des3", "xts-plain64", "sha256", 64, "cipher-name", "\"des3\""},
        {"aes256", "xts-plain64", "sha256", 64, "cipher-name", "\"aes256\""},
        {"", "xts-plain64", "sha256", 64, "cipher-name", "\"\""},
        {"aes", "gcm-plain64", "sha256", 64, "cipher-mode", "\"gcm-plain64\""},
        {"aes", "xts", "sha256", 64, "cipher-mode", "\"xts\""},
        {"aes", "xts-", "sha256", 64, "cipher-mode", "\"xts-\""},
        {"aes", "-plain64", "sha256", 64, "cipher-mode", "\"-plain64\""},
        {"aes", "", "sha256", 64, "cipher-mode", "\"\""},
        {"aes", "xts-plain6", "sha256", 64, "cipher-mode", "\"xts-plain6\""},
        {"aes", "xts-plain64be", "sha256", 64, "cipher-mode", "plain64be"},
        {"aes", "xts-benbi", "sha256", 64, "cipher-mode", "benbi"},
        {"aes", "xts-plain64:", "sha256", 64, "cipher-mode", "\"xts-plain64:\""},
        {"aes", "xts-plain64:sha255", "sha256", 64, "cipher-mode", "sha255"},
        {"aes", "cbc-essiv", "sha256", 32, "cipher-mode", "\"cbc-essiv\""},
        {"aes", "cbc-benbi:sha256", "sha256", 32, "cipher-mode", "benbi:sha256"},
        {"aes", "cbc-:sha256", "sha256", 32, "cipher-mode", "cbc-:sha256"},
        {"aes", "cbc-e:sha256", "sha256", 32, "cipher-mode", "cbc-e:sha256"},
        {"aes", "cbc-essi:sha256", "sha256", 32, "cipher-mode", "essi:sha256"},
        {"aes", "cbc-tcw:sha256", "sha256", 32, "cipher-mode", "tcw:sha256"},
        {"aes", "cbc-essiv64:sha256", "sha256", 32, "cipher-mode", "essiv64:sha256"},
        {"aes", "cbc-essiv:sha1", "sha256", 32, "cipher-mode", "essiv:sha1"},
        {"aes", "cbc-essiv:sha512", "sha256", 32, "cipher-mode", "essiv:sha512"},
        {"cast5", "xts-plain64", "sha256", 32, "cipher-mode", "cast5"},
        {"cast5", "cbc-essiv:md5", "sha256", 16, "cipher-mode", "essiv:md5"},
        {"aes", "xts-plain64", "sha3-256", 64, "hash-spec", "\"sha3-256\""},
        {"aes", "xts-plain64", "", 64, "hash-spec", "\"\""},
    };
    uint8_t b[LUKS_HEADER_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint64_t area = make(b, v[i].name, v[i].mode, v[i].hash, v[i].key_bytes);
        refused(b, area, ERR_UNSUPPORTED, v[i].field, v[i].found);
    }
}

static void texts_must_end_and_be_printable(void **state)
{
    static const struct {
        size_t at, n;
        const char *name;
    } fields[] = {{AT_NAME, 32, "cipher-name"},
                  {AT_MODE, 32, "cipher-mode"},
                  {AT_HASH, 32, "hash-spec"},
                  {AT_UUID, 40, "uuid"}};
    uint8_t b[LUKS_HEADER_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        uint64_t area = make_default(b);
        memset(b + fields[i].at, 'a', fields[i].n);
        refused(b, area, ERR_STATE_CORRUPT, fields[i].name, "NUL");
        make_default(b);
        b[fields[i].at + 1] = 0x1b;
        refused(b, area, ERR_STATE_CORRUPT, fields[i].name, "\\x1b");
        b[fields[i].at + 1] = 0xc3;
        refused(b, area, ERR_STATE_CORRUPT, fields[i].name, "\\xc3");
        b[fields[i].at + 1] = 0x7f;
        refused(b, area, ERR_STATE_CORRUPT, fields[i].name, "\\x7f");
        b[fields[i].at + 1] = ' ';
        refused(b, area, ERR_STATE_CORRUPT, fields[i].name, " ");
        make_default(b);
        memset(b + fields[i].at, 0x21, 1); /* the first that may stand there, and the last */
        memset(b + fields[i].at + 1, 0x7e, 1);
        struct luks_header h;
        struct err e;
        if (fields[i].at != AT_UUID)
            refused(b, area, ERR_UNSUPPORTED, fields[i].name, "!~");
        else
            assert_done(luks_header_decode(b, area, &h, &e), e);
    }
}

static void the_key_must_be_as_long_as_cipher_and_mode_need_it(void **state)
{
    static const struct {
        const char *name, *mode;
        uint32_t key_bytes;
    } v[] = {
        {"aes", "xts-plain64", 16}, {"aes", "xts-plain64", 24},  {"aes", "xts-plain64", 0},
        {"aes", "xts-plain64", 63}, {"aes", "xts-plain64", 128}, {"aes", "xts-plain64", UINT32_MAX},
        {"aes", "cbc-plain64", 64}, {"aes", "cbc-plain64", 48},  {"cast5", "cbc-plain64", 32},
    };
    uint8_t b[LUKS_HEADER_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        char found[32];
        make(b, v[i].name, v[i].mode, "sha256", 64);
        put_be32(b + AT_KEY_BYTES, v[i].key_bytes);
        snprintf(found, sizeof(found), "key-bytes is %u,", v[i].key_bytes);
        refused(b, UINT64_MAX, ERR_STATE_CORRUPT, found, v[i].mode);
    }
}

static void slots_must_lie_inside_the_area_and_apart(void **state)
{
    static const struct {
        unsigned slot;
        uint32_t at;
        const char *word;
    } v[] = {
        {0, 0, "key slot 0 lies at sector 0"},
        {0, 7, "key slot 0 lies at sector 7"},
        {7, 3537, "key slot 7 lies at sector 3537"}, /* one sector too far */
        {7, 4040, "key slot 7"},
        {7, UINT32_C(0xfffffff0), "key slot 7 lies at sector 4294967280"}, /* wraps in 32 bits */
        {3, UINT32_C(0xfffffe08), "key slot 3"},
        {1, 8, "key slots 0 and 1 overlap"},
        {1, 511, "key slots 0 and 1 overlap"},
        {1, 513, "key slots 1 and 2 overlap"},
        {6, 3535, "key slots 6 and 7 overlap"},
        {2, 4, "key slot 2"},
    };
    uint8_t b[LUKS_HEADER_BYTES];
    struct luks_header h;
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint64_t area = make_default(b);
        put_be32(slot_at(b, v[i].slot) + IN_MATERIAL, v[i].at);
        refused(b, area, ERR_STATE_CORRUPT, v[i].word, "sector");
    }
    uint64_t area = make_default(b);
    refused(b, area - 1, ERR_STATE_CORRUPT, "key slot 7", "4039");
    refused(b, 0, ERR_STATE_CORRUPT, "key slot 0", "wanted within 8 to 0");
    /* Any order and any gap will do. */
    put_be32(slot_at(b, 0) + IN_MATERIAL, 8 + 7 * 504);
    put_be32(slot_at(b, 7) + IN_MATERIAL, 8);
    assert_done(luks_header_decode(b, area, &h, &e), e);
    put_be32(slot_at(b, 7) + IN_MATERIAL, UINT32_C(0xfffffff0));
    assert_done(luks_header_decode(b, UINT64_C(512) * 0x100000200, &h, &e), e);
}

static void slot_states_and_stripes_have_no_other_values(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES];
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        char who[32];
        uint64_t area = make_default(b);
        snprintf(who, sizeof(who), "key slot %u", i);
        put_be32(slot_at(b, i), 0x00ac71f2);
        refused(b, area, ERR_STATE_CORRUPT, who, "0x00ac71f2");
        make_default(b);
        put_be32(slot_at(b, i) + IN_STRIPES, 3999);
        refused(b, area, ERR_STATE_CORRUPT, who, "3999");
        put_be32(slot_at(b, i) + IN_STRIPES, UINT32_MAX);
        refused(b, area, ERR_STATE_CORRUPT, who, "4294967295");
    }
}

static void no_active_slot_is_not_for_the_decoder_to_judge(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES];
    struct luks_header h;
    struct err e;
    (void)state;
    uint64_t area = make_default(b);
    put_be32(slot_at(b, 0), 0x0000dead);
    assert_done(luks_header_decode(b, area, &h, &e), e);
    for (unsigned i = 0; i < 8; i++)
        assert_false(h.slot[i].active);
}

static void iteration_counts_of_zero_are_refused_where_they_count(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES];
    (void)state;
    uint64_t area = make_default(b);
    put_be32(slot_at(b, 0) + IN_ITERATIONS, 0);
    refused(b, area, ERR_STATE_CORRUPT, "key slot 0", "0 iterations");
    make_default(b);
    put_be32(b + AT_DIGEST_ITERATIONS, 0);
    refused(b, area, ERR_STATE_CORRUPT, "mk-digest-iterations", "0");
}

static void the_cost_of_all_slots_together_is_capped(void **state)
{
    const uint32_t cap = (uint32_t)LUKS_MAX_ITERATIONS;
    uint8_t b[LUKS_HEADER_BYTES];
    struct luks_header h;
    struct err e;
    (void)state;
    uint64_t area = make_default(b);
    put_be32(slot_at(b, 0) + IN_ITERATIONS, UINT32_MAX);
    refused(b, area, ERR_UNSUPPORTED, "4294968295", "268435456");
    put_be32(slot_at(b, 0) + IN_ITERATIONS, cap - 1000);
    assert_done(luks_header_decode(b, area, &h, &e), e);
    put_be32(slot_at(b, 0) + IN_ITERATIONS, cap - 999);
    refused(b, area, ERR_UNSUPPORTED, "268435457", "268435456");

    make_default(b);
    put_be32(b + AT_DIGEST_ITERATIONS, UINT32_MAX);
    refused(b, area, ERR_UNSUPPORTED, "4294969295", "268435456");

    /* A slot that is off costs nothing, eight that are on cost eight digests as well. */
    make_default(b);
    put_be32(slot_at(b, 5) + IN_ITERATIONS, UINT32_MAX);
    assert_done(luks_header_decode(b, area, &h, &e), e);
    for (unsigned i = 0; i < 8; i++) {
        put_be32(slot_at(b, i), 0x00ac71f3);
        put_be32(slot_at(b, i) + IN_ITERATIONS, cap / 8 - 1000);
    }
    assert_done(luks_header_decode(b, area, &h, &e), e);
    put_be32(b + AT_DIGEST_ITERATIONS, 1001);
    refused(b, area, ERR_UNSUPPORTED, "268435464", "268435456");
}

/* ---- all bits ---- */

/* Which bits may change without a refusal: what is bound by the volume key's digest (a wrong value
 * opens nothing), what is not used, and what another valid header would say as well. */
static bool may_be_accepted(size_t byte)
{
    if (byte >= AT_PAYLOAD && byte < AT_KEY_BYTES)
        return true; /* not used: qcow2 says where the data are */
    if (byte >= AT_DIGEST && byte < AT_UUID)
        return true; /* digest, its salt, its iterations */
    if (byte >= AT_UUID && byte < AT_SLOTS)
        return true; /* a name, and what follows its NUL */
    if (byte < AT_SLOTS)
        return (byte >= AT_NAME + 4 && byte < AT_MODE) ||  /* behind the NUL of "aes" */
               (byte >= AT_MODE + 12 && byte < AT_HASH) || /* of "xts-plain64" */
               (byte >= AT_HASH + 7 && byte < AT_PAYLOAD); /* of "sha256" */
    size_t in_slot = (byte - AT_SLOTS) % SLOT_BYTES;
    return in_slot >= IN_ITERATIONS && in_slot < IN_MATERIAL;
}

/* S2.6 */
static void every_flipped_bit_is_refused_or_changes_only_its_own_field(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    size_t n_refused = 0, n_accepted = 0;
    (void)state;
    uint64_t area = make_default(b);
    for (size_t bit = 0; bit < 8 * sizeof(b); bit++) {
        struct luks_header h;
        struct err e = {0};
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (luks_header_decode(b, area, &h, &e) < 0) {
            n_refused++;
            assert_true(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_UNSUPPORTED);
        } else {
            n_accepted++;
            if (!may_be_accepted(bit / 8))
                fail_msg("bit %zu of byte %zu was accepted", bit % 8, bit / 8);
            /* What was accepted says what the bytes say: only the flipped byte differs, or (behind
             * a NUL) none of those that mean something. */
            luks_header_encode(&h, again);
            for (size_t i = 0; i < sizeof(b); i++)
                if (again[i] != b[i])
                    assert_true(i == bit / 8 && again[i] == 0 && may_be_accepted(i));
        }
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(n_refused + n_accepted, 592 * 8);
    assert_true(n_refused > 900);
}

static void noise_is_refused_and_never_more(void **state)
{
    uint64_t seed = 7;
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        struct luks_header h, h2;
        struct err e;
        uint64_t area = make_default(b);
        for (unsigned i = 0; i < 1 + round % 8; i++)
            b[next_random(&seed) % sizeof(b)] = (uint8_t)next_random(&seed);
        if (luks_header_decode(b, area, &h, &e) < 0)
            continue;
        luks_header_encode(&h, again);
        assert_done(luks_header_decode(again, area, &h2, &e), e);
        luks_header_encode(&h2, b);
        assert_memory_equal(again, b, sizeof(b));
    }
}

static void a_new_volume_decodes_to_itself(void **state)
{
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    struct luks_header h, h2;
    OWNED(volume_key) key = NULL;
    struct err e;
    (void)state;
    assert_done(luks_volume_new(1234, &h, &key, &e), e);
    luks_header_encode(&h, b);
    assert_done(luks_header_decode(b, luks_area_bytes(64), &h2, &e), e);
    luks_header_encode(&h2, again);
    assert_memory_equal(b, again, sizeof(b));
    assert_string_equal(h2.cipher_name, "aes");
    assert_string_equal(h2.cipher_mode, "xts-plain64");
    assert_string_equal(h2.hash_spec, "sha256");
    assert_int_equal(h2.digest_iterations, 1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_that_qemu_and_cryptsetup_use),
        cmocka_unit_test(all_fields_arrive),
        cmocka_unit_test(everything_qemu_can_create_is_accepted),
        cmocka_unit_test(what_is_no_luks1_header_is_refused),
        cmocka_unit_test(unknown_algorithms_are_refused_by_name),
        cmocka_unit_test(texts_must_end_and_be_printable),
        cmocka_unit_test(the_key_must_be_as_long_as_cipher_and_mode_need_it),
        cmocka_unit_test(slots_must_lie_inside_the_area_and_apart),
        cmocka_unit_test(slot_states_and_stripes_have_no_other_values),
        cmocka_unit_test(no_active_slot_is_not_for_the_decoder_to_judge),
        cmocka_unit_test(iteration_counts_of_zero_are_refused_where_they_count),
        cmocka_unit_test(the_cost_of_all_slots_together_is_capped),
        cmocka_unit_test(every_flipped_bit_is_refused_or_changes_only_its_own_field),
        cmocka_unit_test(noise_is_refused_and_never_more),
        cmocka_unit_test(a_new_volume_decodes_to_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
