/* The sealed envelope. [S3.3, S3.8] */
#include "crypto/envelope.h"

#include "src/base/bytes.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"
#include "tests/crypto/known_key.h"

enum { CONTENT = 77, ROOM = CONTENT + ENVELOPE_OVERHEAD_MAX, TAG = 16 };

/* Made once: both keys, others of their kinds, and a content. */
static struct {
    struct envelope_keys keys, others;
    uint8_t content[CONTENT];
} made;

static const enum envelope_use uses[] = {ENVELOPE_STATE, ENVELOPE_OFFER, ENVELOPE_READY};
static const enum envelope_key kinds[] = {ENVELOPE_IMAGE_KEY, ENVELOPE_MIGRATION_KEY};

struct sealed {
    uint8_t b[ROOM];
    size_t n;
};

static struct sealed seal(enum envelope_use use, enum envelope_key key)
{
    struct envelope_head h = known_head(use, key);
    struct sealed s = {0};
    struct err e;
    assert_done(envelope_seal(&h, &made.keys, made.content, CONTENT, s.b, &s.n, &e), e);
    assert_true(s.n > CONTENT && s.n <= sizeof(s.b));
    return s;
}

/* Nothing comes out, whatever the class. */
static enum err_kind refusal(enum envelope_use use, const struct envelope_keys *keys,
                             const uint8_t *p, size_t n, struct err *e)
{
    struct envelope_head h, before;
    struct secret *content = NULL;
    size_t len = 4711;
    memset(&h, 0x5a, sizeof(h));
    before = h;
    *e = (struct err){0};
    assert_int_equal(envelope_open(use, keys, p, n, &h, &content, &len, e), -1);
    assert_null(content);
    assert_int_equal(len, 4711);
    assert_memory_equal(&h, &before, sizeof(h));
    assert_true(e->text[0] != 0);
    return e->kind;
}

static void refused(enum envelope_use use, const struct envelope_keys *keys, const struct sealed *s,
                    enum err_kind kind, const char *word)
{
    struct err e;
    enum err_kind got = refusal(use, keys, s->b, s->n, &e);
    if (got != kind || !strstr(e.text, word))
        fail_msg("%s, no \"%s\": %s", err_class(got)->name, word, e.text);
}

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
            assert_memory_equal(&head, &want, sizeof(head));
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
    h.generation = h.epoch = UINT64_MAX;
    h.library = UINT32_MAX;
    h.kinds = 7;
    h.kind = 3;
    h.device = DEVICE_TPM12;
    assert_done(envelope_seal(&h, &made.keys, NULL, 0, b, &n, &e), e);
    assert_done(envelope_open(ENVELOPE_STATE, &made.keys, b, n, &head, &none, &len, &e), e);
    assert_memory_equal(&head, &h, sizeof(h));
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

/* ---- what is not ours is refused ---- */

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
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        for (size_t made_for = 0; made_for < ARRAY_LEN(uses); made_for++)
            for (size_t wanted = 0; wanted < ARRAY_LEN(uses); wanted++) {
                struct sealed s = seal(uses[made_for], kinds[k]);
                if (made_for != wanted)
                    refused(uses[wanted], &made.keys, &s, ERR_STATE_FOREIGN, "wanted");
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

/* ---- damage ---- */

/* Where keyId and salt lie: what is changed there looks like another key. */
static size_t key_id_at(const struct sealed *s)
{
    for (size_t at = 0; at + 2 < s->n; at++)
        if (!memcmp(s->b + at, "\x04\x10", 2))
            return at + 2;
    fail_msg("no key id");
    return 0;
}

/* S3.3 */
static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct sealed s = seal(ENVELOPE_STATE, kinds[k]);
        enum err_kind other = kinds[k] == ENVELOPE_IMAGE_KEY ? ERR_STATE_FOREIGN : ERR_KEY_WRONG;
        size_t id = key_id_at(&s), content = s.n - CONTENT - TAG, n[ERR_N_KINDS] = {0};
        for (size_t bit = 0; bit < 8 * s.n; bit++) {
            struct err e;
            size_t at = bit / 8;
            s.b[at] ^= (uint8_t)(1 << bit % 8);
            enum err_kind got = refusal(ENVELOPE_STATE, &made.keys, s.b, s.n, &e);
            s.b[at] ^= (uint8_t)(1 << bit % 8);
            n[got]++;
            if (at == 0)
                assert_int_equal(got, ERR_STATE_FOREIGN);
            else if (at >= content)
                assert_int_equal(got, ERR_STATE_CORRUPT);
            else if ((at >= id && at < id + 16) || (at >= id + 18 && at < id + 18 + 32))
                assert_int_equal(got, other);
            else if (got != ERR_STATE_CORRUPT && got != ERR_UNSUPPORTED && got != ERR_STATE_FOREIGN)
                fail_msg("bit %zu: %s: %s", bit, err_class(got)->name, e.text);
        }
        print_message("%zu bits: %zu corrupt, %zu foreign, %zu unsupported, %zu wrong key\n",
                      8 * s.n, n[ERR_STATE_CORRUPT], n[ERR_STATE_FOREIGN], n[ERR_UNSUPPORTED],
                      n[ERR_KEY_WRONG]);
        assert_int_equal(n[other], 8 * (16 + 32) + (other == ERR_STATE_FOREIGN ? 8 : 0));
    }
}

static void every_truncation_and_every_byte_too_many_is_refused(void **state)
{
    struct sealed s = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    struct err e;
    (void)state;
    for (size_t n = 0; n < s.n; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, s.b, n);
        assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, exact, n, &e),
                         n == 0 ? ERR_STATE_FOREIGN : ERR_STATE_CORRUPT);
        free(exact);
    }
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, s.b, s.n + 1, &e), ERR_STATE_CORRUPT);
}

static void what_is_no_envelope_is_foreign_and_what_is_too_long_is_refused_unread(void **state)
{
    static uint8_t b[ENVELOPE_CONTENT_MAX + ENVELOPE_OVERHEAD_MAX + 1];
    struct err e;
    (void)state;
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, b, 64, &e), ERR_STATE_FOREIGN);
    b[0] = 0x02; /* a blob of swtpm's */
    assert_false(envelope_is(b, 1));
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, b, 64, &e), ERR_STATE_FOREIGN);
    b[0] = 0x30;
    assert_true(envelope_is(b, 1));
    assert_false(envelope_is(b, 0));
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, b, sizeof(b), &e), ERR_UNSUPPORTED);
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, b, sizeof(b) - 1, &e), ERR_STATE_CORRUPT);
}

/* ---- other spellings, other versions ---- */

/* Replaces the first `old` by `put` and makes the lengths right again: of the header, of all. */
static struct sealed respelled(const struct sealed *from, const char *old_hex, const char *put_hex)
{
    uint8_t old[64], put[64];
    size_t old_n = unhex(old_hex, old, sizeof(old)), put_n = unhex(put_hex, put, sizeof(put));
    struct sealed s = *from;
    const uint8_t *at = memmem(s.b, s.n, old, old_n);
    assert_non_null(at);
    size_t where = (size_t)(at - s.b);
    int grows = (int)put_n - (int)old_n;
    /* 30 82 aa aa 30 81 hh .. : as the vectors of this file have it */
    assert_int_equal(s.b[1], 0x82);
    assert_int_equal(s.b[4], 0x30);
    assert_int_equal(s.b[5], 0x81);
    memmove(s.b + where + put_n, s.b + where + old_n, s.n - where - old_n);
    memcpy(s.b + where, put, put_n);
    s.n = (size_t)((int)s.n + grows);
    s.b[6] = (uint8_t)(s.b[6] + grows);
    put_be16(s.b + 2, (uint16_t)(get_be16(s.b + 2) + grows));
    return s;
}

static void a_header_that_is_not_ours_is_refused_before_any_key_is_tried(void **state)
{
    static const struct {
        const char *old, *put;
        enum err_kind kind;
        const char *word;
    } v[] = {
        {"020101 020101", "020102 020101", ERR_UNSUPPORTED, "version 2"},
        {"020101 020101", "02020100 020101", ERR_UNSUPPORTED, "version 256"},
        {"020101 020101", "0209010000000000000000 020101", ERR_STATE_CORRUPT,
         "begin with a version"},
        {"020101 020101", "0200 020101", ERR_UNSUPPORTED, "version 0"},
        {"020101 020101", "040101 020101", ERR_STATE_CORRUPT, "begin with a version"},
        {"020101 020101", "02020001 020101", ERR_STATE_CORRUPT, "decode its body"},
        {"020101 020101", "020101 02020001", ERR_STATE_CORRUPT, "decode its body"},
        {"020101 020101", "020101 020100", ERR_STATE_CORRUPT, "use is 0"},
        {"020101 020101", "020101 020104", ERR_STATE_CORRUPT, "use is 4"},
        {"020101 020101 020101", "020101 020101 020103", ERR_STATE_CORRUPT, "kind of key is 3"},
        {"020101 020101 020101", "020101 020101", ERR_STATE_CORRUPT, "decode its body"},
        {"020101 020101 020101", "020101 020101 020101 020101", ERR_STATE_CORRUPT, "decode"},
        {"060960864801650304012e", "0609608648016503040106", ERR_UNSUPPORTED,
         "the cipher is 2.16.840.1.101.3.4.1.6"},
        {"0605678105 0102", "0605678105 0103", ERR_UNSUPPORTED, "device"},
        {"0410101112131415161718191a1b1c1d1e1f", "040f101112131415161718191a1b1c1d1e",
         ERR_STATE_CORRUPT, "its body"},
        {"0205 1234567890", "0205 f234567890", ERR_STATE_CORRUPT, "read its body"},
        {"0205 1234567890", "0206 001234567890", ERR_STATE_CORRUPT, "decode its body"},
        {"0205 1234567890", "0209 010000000000000000", ERR_STATE_CORRUPT, "read its body"},
        {"02020902 020103 020101", "0205 0100000000 020103 020101", ERR_STATE_CORRUPT,
         "version of libtpms"},
        {"020103 020101", "020108 020101", ERR_STATE_CORRUPT, "set of blobs is 8"},
        {"020103 020101", "020103 020104", ERR_STATE_CORRUPT, "kind of blob is 4"},
        {"020103 020101", "020103 020100", ERR_STATE_CORRUPT, "kind of blob is 0"},
        {"020103 020101", "020103 020101 020101", ERR_STATE_CORRUPT, "decode its body"},
    };
    struct sealed s = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    (void)state;
    /* First as it is: what is put in place of itself opens. */
    struct sealed same = respelled(&s, "020101 020101", "020101 020101");
    assert_memory_equal(same.b, s.b, s.n);
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct sealed changed = respelled(&s, v[i].old, v[i].put);
        refused(ENVELOPE_STATE, &made.others, &changed, v[i].kind, v[i].word);
    }
}

/* The same message with its lengths written longer than need be. */
static void lengths_in_another_form_are_damage(void **state)
{
    struct sealed s = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY), t = s;
    (void)state;
    /* all: 30 82 aaaa -> 30 83 00aaaa */
    memmove(t.b + 5, s.b + 4, s.n - 4);
    memcpy(t.b, (const uint8_t[]){0x30, 0x83, 0x00, s.b[2], s.b[3]}, 5);
    t.n = s.n + 1;
    refused(ENVELOPE_STATE, &made.keys, &t, ERR_STATE_CORRUPT, "lengths");
    /* header: 30 81 hh -> 30 82 00hh */
    t = s;
    memmove(t.b + 8, s.b + 7, s.n - 7);
    memcpy(t.b + 4, (const uint8_t[]){0x30, 0x82, 0x00, s.b[6]}, 4);
    put_be16(t.b + 2, (uint16_t)(get_be16(s.b + 2) + 1));
    t.n = s.n + 1;
    refused(ENVELOPE_STATE, &made.keys, &t, ERR_STATE_CORRUPT, "lengths");
    /* content: 04 5d -> 04 81 5d */
    size_t at = s.n - CONTENT - TAG;
    t = s;
    assert_int_equal(s.b[at - 1], CONTENT + TAG);
    memmove(t.b + at + 1, s.b + at, CONTENT + TAG);
    t.b[at - 1] = 0x81;
    t.b[at] = CONTENT + TAG;
    put_be16(t.b + 2, (uint16_t)(get_be16(s.b + 2) + 1));
    t.n = s.n + 1;
    refused(ENVELOPE_STATE, &made.keys, &t, ERR_STATE_CORRUPT, "lengths");
    /* indefinite */
    t = s;
    t.b[1] = 0x80;
    refused(ENVELOPE_STATE, &made.keys, &t, ERR_STATE_CORRUPT, "lengths");
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

static struct volume_key *new_volume_key(void)
{
    struct luks_header h;
    struct volume_key *k = NULL;
    struct err e;
    assert_done(luks_volume_new(1000, &h, &k, &e), e);
    return k;
}

static struct {
    struct volume_key *image[2];
    struct migration_key *migration[2];
} owned;

static int make(void **state)
{
    (void)state;
    owned.image[0] = known_key();
    owned.image[1] = new_volume_key();
    owned.migration[0] = known_migration_key(256, 0x80);
    owned.migration[1] = known_migration_key(256, 0x81);
    made.keys = (struct envelope_keys){owned.image[0], owned.migration[0]};
    made.others = (struct envelope_keys){owned.image[1], owned.migration[1]};
    for (size_t i = 0; i < CONTENT; i++)
        made.content[i] = (uint8_t)(i * 7);
    return 0;
}

static int drop(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        volume_key_free(owned.image[i]);
        migration_key_free(owned.migration[i]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_sealed_is_opened_for_every_use_and_key),
        cmocka_unit_test(contents_of_any_size_come_back),
        cmocka_unit_test(the_widest_header_fits),
        cmocka_unit_test(no_two_envelopes_share_a_key),
        cmocka_unit_test(the_content_is_not_in_the_envelope),
        cmocka_unit_test(another_key_is_told_from_damage),
        cmocka_unit_test(keys_of_another_length_are_other_keys),
        cmocka_unit_test(a_missing_key_is_named),
        cmocka_unit_test(an_envelope_of_another_use_is_foreign),
        cmocka_unit_test(a_use_that_was_changed_is_damage),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(every_truncation_and_every_byte_too_many_is_refused),
        cmocka_unit_test(what_is_no_envelope_is_foreign_and_what_is_too_long_is_refused_unread),
        cmocka_unit_test(a_header_that_is_not_ours_is_refused_before_any_key_is_tried),
        cmocka_unit_test(lengths_in_another_form_are_damage),
        cmocka_unit_test(heads_that_make_no_sense_are_not_sealed),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
