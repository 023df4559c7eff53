/* swtpm's blobs under a migration key. */
#include "migration/blob.h"
#include "src/base/bytes.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/migration/blob_golden.h"

static void not_opened(const struct file *f, const struct migration_key *key, enum err_kind kind,
                       const char *says)
{
    struct secret *s = NULL;
    struct err e = {0};
    size_t n = 4711;
    assert_int_equal(blob_open(f->b, f->n, key, &s, &n, &e), -1);
    assert_null(s);
    assert_int_equal(n, 4711);
    if (e.kind != kind || !strstr(e.text, says))
        fail_msg("%s, no \"%s\": %s", err_class(e.kind)->name, says, e.text);
}

/* Saved by swtpm with the keys 01 02 03 .., of 128 and 256 bits. */
static void blobs_that_swtpm_sealed_are_opened_and_the_key_is_checked(void **state)
{
    static const char *const names[] = {"wire_tpm2_permanent_known_key128",
                                        "wire_tpm2_permanent_known_key256"};
    OWNED(migration_key) small = known_migration_key(128, 1);
    OWNED(migration_key) large = known_migration_key(256, 1);
    OWNED(migration_key) other = known_migration_key(128, 2);
    const struct migration_key *keys[] = {small, large};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct file f = golden(names[i]);
        OWNED(secret) s = NULL;
        struct err e = {0};
        size_t n = 0;
        assert_int_equal(blob_open(f.b, f.n, keys[i], &s, &n, &e), 0);
        assert_true(n > 1000);
        assert_memory_equal(secret_peek(s), "\x00\x03\xab\x36", 4); /* a TPM's permanent state */
        not_opened(&f, NULL, ERR_KEY_MISSING, "--migration-key");
        not_opened(&f, keys[1 - i], ERR_KEY_WRONG,
                   i == 0 ? "of 128 bits, and" : "of 256 bits, and");
    }
    struct file f = golden(names[0]);
    not_opened(&f, other, ERR_KEY_WRONG, "another one, or is damaged");
}

static void plain_blobs_need_no_key_and_a_key_is_not_ignored(void **state)
{
    static const char *const names[] = {"wire_tpm2_permanent", "file_tpm2_permanent",
                                        "file_tpm2_permanent_key128"};
    OWNED(migration_key) key = known_migration_key(128, 1);
    struct file f = golden(names[0]);
    OWNED(secret) s = NULL;
    struct blob_part plain;
    struct err e = {0};
    size_t n = 0;
    (void)state;
    assert_int_equal(blob_open(f.b, f.n, NULL, &s, &n, &e), 0);
    assert_int_equal(blob_plain(f.b, f.n, &plain, &e), 0);
    assert_int_equal(n, plain.n);
    assert_memory_equal(secret_peek(s), plain.p, n);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        f = golden(names[i]);
        not_opened(&f, key, ERR_KEY_UNEXPECTED, "not encrypted, and a migration key was given");
    }
}

static void states_of_every_size_are_sealed_and_opened(void **state)
{
    static const size_t sizes[] = {1, 9, 10, 11, 1299, 150000, BLOB_MAX_BYTES};
    static uint8_t content[BLOB_MAX_BYTES];
    (void)state;
    memset(content, 0x5a, sizeof(content));
    for (unsigned bits = 128; bits <= 256; bits += 128)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            OWNED(migration_key) key = known_migration_key(bits, 1);
            OWNED(secret) blob = NULL;
            OWNED(secret) back = NULL;
            size_t n = 0, len = 0;
            struct err e = {0};
            assert_int_equal(blob_seal(key, content, sizes[i], &blob, &n, &e), 0);
            assert_true(n <= BLOB_ENVELOPE_MAX);
            assert_null(memmem(secret_peek(blob), n, content, 9));
            assert_int_equal(blob_open(secret_peek(blob), n, key, &back, &len, &e), 0);
            assert_int_equal(len, sizes[i]);
            assert_memory_equal(secret_peek(back), content, len);
        }
}

static void no_state_and_too_much_of_it_are_not_sealed(void **state)
{
    static uint8_t content[BLOB_MAX_BYTES + 1];
    static const size_t sizes[] = {0, sizeof(content)};
    OWNED(migration_key) key = known_migration_key(128, 1);
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct secret *blob = NULL;
        struct err e = {0};
        size_t n = 4711;
        assert_int_equal(blob_seal(key, content, sizes[i], &blob, &n, &e), -1);
        assert_int_equal(e.kind, ERR_UNSUPPORTED);
        assert_null(blob);
        assert_int_equal(n, 4711);
    }
}

/* swtpm's MAC covers neither header nor lengths: what is changed there is met by the decoder. Only
 * bits that say nothing may be flipped: the size of a state key where there is none, and versions
 * that we can read as well. */
static void every_flipped_bit_of_a_sealed_blob_is_refused(void **state)
{
    OWNED(migration_key) key = known_migration_key(256, 1);
    struct file f = golden("wire_tpm2_permanent_known_key256");
    size_t n_opened = 0;
    (void)state;
    for (size_t bit = 0; bit < 8 * f.n; bit++) {
        struct secret *s = NULL;
        struct err e = {0};
        size_t n;
        f.b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (blob_open(f.b, f.n, key, &s, &n, &e) == 0) {
            n_opened++;
            if (bit / 8 > 5)
                fail_msg("bit %zu of byte %zu changes nothing", bit % 8, bit / 8);
        }
        secret_free(s);
        f.b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    print_message("%zu of %zu bits say nothing\n", n_opened, 8 * f.n);
    assert_true(n_opened < 16);
}

static void every_truncation_of_a_sealed_blob_is_refused(void **state)
{
    OWNED(migration_key) key = known_migration_key(128, 1);
    struct file f = golden("wire_tpm2_permanent_known_key128");
    size_t whole = f.n;
    (void)state;
    for (f.n = 0; f.n < whole; f.n++) {
        struct secret *s = NULL;
        struct err e = {0};
        size_t n;
        assert_int_equal(blob_open(f.b, f.n, key, &s, &n, &e), -1);
        assert_true(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_STATE_FOREIGN);
    }
}

/* Whoever has the key sealed a layer that is none of ours. */
static void what_is_sealed_and_is_no_state_is_refused(void **state)
{
    static const struct {
        uint8_t inner[16];
        size_t n;
        uint8_t flags;
        enum err_kind kind;
        const char *says;
    } v[] = {
        {{0, 1, 0, 0, 0, 2, 7, 7}, 8, 0x06, ERR_NONE, ""},
        {{0, 1, 0, 0, 0, 3, 7, 7}, 8, 0x06, ERR_STATE_CORRUPT, "cut off"},
        {{0, 1, 0, 0, 0, 1, 7, 7}, 8, 0x06, ERR_STATE_CORRUPT, "cut off"},
        {{0, 1, 0, 0, 0, 0}, 6, 0x06, ERR_STATE_CORRUPT, "empty"},
        {{0, 4, 0, 0, 0, 2, 7, 7}, 8, 0x06, ERR_STATE_CORRUPT, "its fields are others"},
        {{0, 1, 0, 0, 0, 2, 7, 7}, 8, 0x07, ERR_STATE_CORRUPT, "state layer is encrypted"},
        {{9, 9, 0, 0, 0, 2, 7, 7}, 8, 0x06, ERR_UNSUPPORTED, "unknown kind"},
    };
    OWNED(migration_key) key = known_migration_key(128, 1);
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct file f = {.n = 10 + 6 + 16 + 6 + 32 + 6 + 16};
        struct bytes_out o = bytes_out(f.b, sizeof(f.b));
        OWNED(secret) s = NULL;
        struct err e = {0};
        size_t n = 0;
        bytes_put(&o, (const uint8_t[]){2, 1, 0, 10, 0, v[i].flags, 0, 0, 0, (uint8_t)f.n}, 10);
        bytes_put(&o, (const uint8_t[]){0, 5, 0, 0, 0, 16}, 6);
        bytes_put_zero(&o, 16);
        bytes_put(&o, (const uint8_t[]){0, 3, 0, 0, 0, 32}, 6);
        bytes_put_zero(&o, 32);
        bytes_put(&o, (const uint8_t[]){0, 7, 0, 0, 0, 16}, 6);
        assert_int_equal(migration_layer_bytes(key, v[i].n), 16);
        assert_int_equal(
            migration_layer_seal(key, v[i].inner, v[i].n, f.b + 16, f.b + 38, f.b + 76, &e), 0);
        if (v[i].kind == ERR_NONE)
            assert_int_equal(blob_open(f.b, f.n, key, &s, &n, &e), 0);
        else
            not_opened(&f, key, v[i].kind, v[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blobs_that_swtpm_sealed_are_opened_and_the_key_is_checked),
        cmocka_unit_test(plain_blobs_need_no_key_and_a_key_is_not_ignored),
        cmocka_unit_test(states_of_every_size_are_sealed_and_opened),
        cmocka_unit_test(no_state_and_too_much_of_it_are_not_sealed),
        cmocka_unit_test(every_flipped_bit_of_a_sealed_blob_is_refused),
        cmocka_unit_test(every_truncation_of_a_sealed_blob_is_refused),
        cmocka_unit_test(what_is_sealed_and_is_no_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
