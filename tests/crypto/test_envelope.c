/* The sealed envelope. */
#include "crypto/envelope.h"

#include "src/base/bytes.h"
#include "tests/crypto/envelope_fixture.h"

/* ---- what is sealed is opened ---- */

static void what_was_sealed_is_opened_for_every_use_and_key(void **state)
{
    (void)state;
    for (size_t u = 0; u < ARRAY_LEN(uses); u++)
        for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
            struct sealed s = seal(uses[u], kinds[k]);
            struct envelope_head want = known_head(uses[u], kinds[k]), head = {0};
            OWNED(secret) content = NULL;
            size_t n = 0;
            struct err e;
            assert_true(envelope_is(s.b, s.n));
            assert_done(envelope_open(uses[u], &made.keys, s.b, s.n, &head, &content, &n, &e), e);
            assert_int_equal(n, CONTENT);
            assert_memory_equal(secret_peek(content), made.content, CONTENT);
            assert_true(same_head(&head, &want));
        }
}

static void contents_of_any_size_come_back(void **state)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 65500, ENVELOPE_CONTENT_MAX};
    static uint8_t content[ENVELOPE_CONTENT_MAX + 1],
        sealed[ENVELOPE_CONTENT_MAX + ENVELOPE_OVERHEAD_MAX];
    struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY), head;
    struct err e;
    size_t n = 0;
    (void)state;
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i * 31);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        OWNED(secret) back = NULL;
        size_t len = 99;
        assert_done(envelope_seal(&h, &made.keys, content, sizes[i], sealed, &n, &e), e);
        assert_true(n <= sizes[i] + ENVELOPE_OVERHEAD_MAX);
        assert_done(envelope_open(ENVELOPE_STATE, &made.keys, sealed, n, &head, &back, &len, &e),
                    e);
        assert_int_equal(len, sizes[i]);
        if (sizes[i] == 0)
            assert_null(back);
        else
            assert_memory_equal(secret_peek(back), content, len);
        sealed[n - 1] ^= 1; /* also nothing is authentic or not */
        assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, sealed, n, &e), ERR_STATE_CORRUPT);
        assert_non_null(strstr(e.text, "not authentic"));
    }
    n = 55;
    assert_refused(envelope_seal(&h, &made.keys, content, sizeof(content), sealed, &n, &e), e,
                   ERR_UNSUPPORTED, "524289");
    assert_int_equal(n, 55);
}

static void the_widest_header_fits(void **state)
{
    struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY), head;
    uint8_t b[ENVELOPE_OVERHEAD_MAX];
    struct secret *none = NULL;
    size_t n = 0, len;
    struct err e;
    (void)state;
    h.generation = h.epoch = h.clock = UINT64_MAX;
    h.library = UINT32_MAX;
    h.kinds = 7;
    h.kind = 3;
    h.device = DEVICE_TPM12;
    assert_done(envelope_seal(&h, &made.keys, NULL, 0, b, &n, &e), e);
    assert_done(envelope_open(ENVELOPE_STATE, &made.keys, b, n, &head, &none, &len, &e), e);
    assert_true(same_head(&head, &h));
    print_message("%zu bytes around a content\n", n);
}

/* Equal contents under equal headers: neither keys nor ciphertexts repeat. */
static void no_two_envelopes_share_a_key(void **state)
{
    struct sealed a = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY),
                  b = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    size_t same = 0;
    (void)state;
    assert_int_equal(a.n, b.n);
    for (size_t i = a.n - CONTENT - TAG; i < a.n; i++)
        same += a.b[i] == b.b[i];
    assert_true(same < 10);
}

static void the_content_is_not_in_the_envelope(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct sealed s = seal(ENVELOPE_STATE, kinds[k]);
        for (size_t i = 0; i + 8 <= CONTENT; i++)
            assert_null(memmem(s.b, s.n, made.content + i, 8));
    }
}

/* The hexadecimal lines behind the last "Test vector." of the text. */
static size_t vector_of_the_text(uint8_t *ret, size_t room)
{
    static char text[1 << 17];
    char path[4096], hex[2048];
    const char *top = getenv("NVKEEP_SOURCE");
    snprintf(path, sizeof(path), "%s/src/doc/format.md", top ? top : ".");
    FILE *in = fopen(path, "r");
    if (!in)
        fail_msg("cannot open %s", path);
    text[fread(text, 1, sizeof(text) - 1, in)] = 0;
    fclose(in);
    const char *at = strstr(text, "## 6. The sealed envelope");
    at = at ? strstr(at, "**Test vector.**") : NULL;
    at = at ? strstr(at, "\n    30") : NULL;
    if (!at)
        fail_msg("no test vector of the envelope in %s", path);
    size_t n = 0;
    for (; !strncmp(at, "\n    ", 5); at += strcspn(at, "\n")) {
        at += 5;
        size_t line = strcspn(at, "\n");
        assert_true(n + line < sizeof(hex));
        memcpy(hex + n, at, line);
        n += line;
    }
    hex[n] = 0;
    return unhex(hex, ret, room);
}

/* S2.14. The vector was made by another program, from the text. */
static void the_test_vector_of_the_text_is_opened(void **state)
{
    struct envelope_head want = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY), head;
    OWNED(secret) content = NULL;
    uint8_t b[ROOM];
    struct err e;
    size_t n = vector_of_the_text(b, sizeof(b)), len = 0;
    (void)state;
    assert_done(envelope_open(ENVELOPE_STATE, &made.keys, b, n, &head, &content, &len, &e), e);
    assert_int_equal(len, 16);
    assert_memory_equal(secret_peek(content), "0123456789abcdef", 16);
    assert_true(same_head(&head, &want));
}

/* ---- what is not ours is refused ---- */

/* S3.3 S3.8 */
static void another_key_is_told_from_damage(void **state)
{
    struct envelope_keys mixed = {made.others.image, made.keys.migration};
    struct sealed image = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY),
                  migration = seal(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY);
    struct envelope_head head;
    OWNED(secret) content = NULL;
    struct err e;
    size_t n;
    (void)state;
    refused(ENVELOPE_STATE, &made.others, &image, ERR_STATE_FOREIGN, "key of another image");
    refused(ENVELOPE_STATE, &made.others, &migration, ERR_KEY_WRONG, "another migration key");
    refused(ENVELOPE_STATE, &mixed, &image, ERR_STATE_FOREIGN, "key of another image");
    /* The image's key does not matter where the migration key was used. */
    assert_done(
        envelope_open(ENVELOPE_STATE, &mixed, migration.b, migration.n, &head, &content, &n, &e),
        e);
}

/* Equal bytes in the beginning, and another length. */
static void keys_of_another_length_are_other_keys(void **state)
{
    OWNED(migration_key) half = known_migration_key(128, 0x80);
    OWNED(migration_key) whole = known_migration_key(256, 0x80);
    struct sealed s = seal(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY);
    (void)state;
    refused(ENVELOPE_STATE, &(struct envelope_keys){NULL, half}, &s, ERR_KEY_WRONG,
            "another migration key");
    struct envelope_head head;
    OWNED(secret) content = NULL;
    struct err e;
    size_t n;
    assert_done(envelope_open(ENVELOPE_STATE, &(struct envelope_keys){NULL, whole}, s.b, s.n, &head,
                              &content, &n, &e),
                e);
}

/* The key's id, derived here from the key's bytes, no more and no fewer, and from all of the salt.
 */
static void a_migration_key_is_used_whole(void **state)
{
    (void)state;
    for (unsigned bits = 128; bits <= 256; bits += 128) {
        OWNED(migration_key) key = known_migration_key(bits, 0x11);
        struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY);
        uint8_t bytes[32], id[16];
        struct sealed s = {0};
        struct err e;
        for (size_t i = 0; i < bits / 8; i++)
            bytes[i] = (uint8_t)(0x11 + i);
        assert_done(envelope_seal(&h, &(struct envelope_keys){NULL, key}, made.content, CONTENT,
                                  s.b, &s.n, &e),
                    e);
        const uint8_t *at = memmem(s.b, s.n, "\x04\x10", 2);
        assert_non_null(at);
        assert_memory_equal(at + 2 + 16, "\x04\x20", 2);
        hkdf_sha256(at + 2 + 16 + 2, 32, bytes, bits / 8, "nvkeep envelope 1 migration key id", id,
                    sizeof(id));
        assert_memory_equal(at + 2, id, sizeof(id));
    }
}

/* S3.8 */
static void a_missing_key_is_named(void **state)
{
    static const struct envelope_keys none;
    struct sealed image = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY),
                  migration = seal(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY);
    struct envelope_keys only_image = {made.keys.image, NULL};
    struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_MIGRATION_KEY);
    struct sealed out = {0};
    struct err e;
    (void)state;
    refused(ENVELOPE_STATE, &only_image, &migration, ERR_KEY_MISSING, "--migration-key");
    refused(ENVELOPE_STATE, &none, &image, ERR_KEY_MISSING, "no image is open");
    assert_refused(envelope_seal(&h, &only_image, made.content, 1, out.b, &out.n, &e), e,
                   ERR_KEY_MISSING, "--migration-key");
    assert_true(bytes_all_zero(&out, sizeof(out)));
}

static void an_envelope_of_another_use_is_foreign(void **state)
{
    static const char *const names[] = {"a TPM's state", "the token of prepare-outgoing",
                                        "the token of prepare-incoming"};
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        for (size_t made_for = 0; made_for < ARRAY_LEN(uses); made_for++)
            for (size_t wanted = 0; wanted < ARRAY_LEN(uses); wanted++) {
                struct sealed s = seal(uses[made_for], kinds[k]);
                char text[200];
                snprintf(text, sizeof(text), "it holds %s, wanted %s", names[made_for],
                         names[wanted]);
                if (made_for != wanted)
                    refused(uses[wanted], &made.keys, &s, ERR_STATE_FOREIGN, text);
            }
}

/* The use in the header changed by hand; it was no other key's doing that it is refused. */
static void a_use_that_was_changed_is_damage(void **state)
{
    struct sealed s = seal(ENVELOPE_OFFER, ENVELOPE_IMAGE_KEY);
    (void)state;
    for (size_t at = 0; at + 3 < s.n; at++)
        if (!memcmp(s.b + at, "\x02\x01\x01\x02\x01\x02\x02\x01\x01", 9)) {
            s.b[at + 5] = ENVELOPE_READY;
            refused(ENVELOPE_READY, &made.keys, &s, ERR_STATE_CORRUPT, "not authentic");
            return;
        }
    fail_msg("version, use and key were not found");
}

static void heads_that_make_no_sense_are_not_sealed(void **state)
{
    const struct envelope_head good = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    struct envelope_head bad[6];
    struct sealed s = {0};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        bad[i] = good;
    bad[0].use = 0;
    bad[1].key = 3;
    bad[2].device = 0;
    bad[3].kinds = 8;
    bad[4].kind = 0;
    bad[5].use = ENVELOPE_OFFER; /* with a kind of blob */
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_refused(envelope_seal(&bad[i], &made.keys, made.content, 1, s.b, &s.n, &e), e,
                       i < 3 ? ERR_USAGE : ERR_STATE_CORRUPT, "envelope");
    assert_true(bytes_all_zero(&s, sizeof(s)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sealed_is_opened_for_every_use_and_key),
        cmocka_unit_test(contents_of_any_size_come_back),
        cmocka_unit_test(the_widest_header_fits),
        cmocka_unit_test(no_two_envelopes_share_a_key),
        cmocka_unit_test(the_content_is_not_in_the_envelope),
        cmocka_unit_test(the_test_vector_of_the_text_is_opened),
        cmocka_unit_test(another_key_is_told_from_damage),
        cmocka_unit_test(keys_of_another_length_are_other_keys),
        cmocka_unit_test(a_migration_key_is_used_whole),
        cmocka_unit_test(a_missing_key_is_named),
        cmocka_unit_test(an_envelope_of_another_use_is_foreign),
        cmocka_unit_test(a_use_that_was_changed_is_damage),
        cmocka_unit_test(heads_that_make_no_sense_are_not_sealed),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
