/* Envelopes that were damaged, cut off, spelled otherwise, or made by another version. */
#include "crypto/der.h"
#include "src/base/bytes.h"
#include "tests/crypto/envelope_fixture.h"

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

/* Lengths that agree with each other, and leave no room for what has to be there. */
static void a_content_without_room_for_its_tag_is_damage(void **state)
{
    struct sealed s = seal(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    size_t at = 4, n_header = 3 + (size_t)s.b[6]; /* 30 82 aa aa 30 81 hh .. */
    (void)state;
    for (size_t left = 0; left <= TAG; left++) {
        struct sealed t = {0};
        struct bytes_out out = bytes_out(t.b, sizeof(t.b));
        der_put_head(&out, DER_SEQUENCE, n_header + 2 + left);
        bytes_put(&out, s.b + at, n_header);
        der_put_head(&out, DER_OCTET_STRING, left);
        bytes_put(&out, s.b + s.n - left, left);
        assert_false(out.bad);
        t.n = out.n;
        refused(ENVELOPE_STATE, &made.keys, &t, ERR_STATE_CORRUPT,
                left < TAG ? "lengths" : "not authentic");
    }
}

/* `n` bytes of header that begin with our version; what else it says does not matter. */
static void with_header(size_t n, const char *word)
{
    uint8_t b[1000] = {0};
    struct bytes_out out = bytes_out(b, sizeof(b));
    struct err e;
    der_put_head(&out, DER_SEQUENCE, n + der_head_bytes(TAG) + TAG);
    der_put_head(&out, DER_SEQUENCE, n - der_head_bytes(n - 4));
    bytes_put(&out, (const uint8_t[]){2, 1, 1}, 3);
    bytes_put_zero(&out, n - der_head_bytes(n - 4) - 3);
    der_put_head(&out, DER_OCTET_STRING, TAG);
    bytes_put_zero(&out, TAG);
    assert_false(out.bad);
    assert_int_equal(refusal(ENVELOPE_STATE, &made.keys, b, out.n, &e), ERR_STATE_CORRUPT);
    if (!strstr(e.text, word))
        fail_msg("%zu bytes, no \"%s\": %s", n, word, e.text);
}

static void a_header_of_any_length_is_refused_without_being_copied(void **state)
{
    (void)state;
    with_header(255, "decode its body");
    with_header(256, "decode its body");
    with_header(257, "a header of 257 bytes");
    with_header(600, "a header of 600 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(every_truncation_and_every_byte_too_many_is_refused),
        cmocka_unit_test(what_is_no_envelope_is_foreign_and_what_is_too_long_is_refused_unread),
        cmocka_unit_test(a_header_that_is_not_ours_is_refused_before_any_key_is_tried),
        cmocka_unit_test(lengths_in_another_form_are_damage),
        cmocka_unit_test(a_content_without_room_for_its_tag_is_damage),
        cmocka_unit_test(a_header_of_any_length_is_refused_without_being_copied),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
