/* DER: the elements that are read without libtasn1, and that libtasn1 agrees with them. */
#include "crypto/der.h"

#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"
#include "tests/crypto/known_key.h"

static void heads_are_written_in_the_shortest_form(void **state)
{
    static const struct {
        size_t n;
        const char *head;
    } v[] = {
        {0, "0400"},
        {1, "0401"},
        {127, "047f"},
        {128, "048180"},
        {255, "0481ff"},
        {256, "04820100"},
        {65535, "0482ffff"},
        {65536, "0483010000"},
        {524304, "0483080010"},
        {0xffffff, "0483ffffff"},
    };
    static uint8_t room[DER_HEAD_MAX + 0xffffff];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct bytes_out out = bytes_out(room, DER_HEAD_MAX);
        der_put_head(&out, DER_OCTET_STRING, v[i].n);
        assert_false(out.bad);
        assert_int_equal(out.n, der_head_bytes(v[i].n));
        assert_int_equal(out.n, strlen(v[i].head) / 2);
        assert_hex(room, v[i].head);
        struct bytes_in in = bytes_in(room, out.n + v[i].n);
        struct bytes_in content = der_take(&in, DER_OCTET_STRING);
        assert_false(content.bad);
        assert_int_equal(content.left, v[i].n);
        assert_ptr_equal(content.at, room + out.n);
        assert_true(bytes_done(&in));
    }
}

static void what_is_spelled_otherwise_or_cut_off_is_bad(void **state)
{
    static const char *const v[] = {
        "",
        "04",
        "0402aa",
        "0302aabb",
        "048101aa",
        "04820001aa",
        "0481",
        "048180",
        "048200",
        "0480aa0000",
        "0484000000 01aa",
        "0485000000 0001aa",
        "04ff",
        "0484ffffffff",
        "0483ffffff",
        "048400000000",
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        uint8_t b[32];
        struct bytes_in in = bytes_in(b, unhex(v[i], b, sizeof(b)));
        struct bytes_in content = der_take(&in, DER_OCTET_STRING);
        if (!content.bad || !in.bad || content.left != 0)
            fail_msg("%s was taken", v[i]);
        /* And stays bad. */
        assert_true(der_take(&in, DER_OCTET_STRING).bad);
    }
}

/* The framing is ours, the module says what it is to be. */
static void an_envelope_is_the_value_that_the_module_describes(void **state)
{
    static const uint8_t content[1000] = {1};
    OWNED(volume_key) image = known_key();
    struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    uint8_t b[sizeof(content) + ENVELOPE_OVERHEAD_MAX], back[sizeof(content) + 16];
    size_t n = 0;
    struct err e;
    (void)state;
    assert_done(envelope_seal(&h, &(struct envelope_keys){image, NULL}, content, sizeof(content), b,
                              &n, &e),
                e);
    OWNED(der) d = NULL;
    assert_done(der_new("NVKEEP.SealedEnvelope", "envelope", &d, &e), e);
    assert_done(der_decode(d, b, n, &e), e);
    assert_int_equal(der_get_u64(d, "header.generation"), h.generation);
    der_get_bytes(d, "content", back, sizeof(back));
    assert_done(der_got(d, &e), e);
    assert_memory_equal(back, b + n - sizeof(back), sizeof(back));
}

static void the_first_thing_that_goes_wrong_is_kept(void **state)
{
    uint8_t out[64], b[4];
    size_t n = 77;
    struct err e;
    (void)state;
    OWNED(der) d = NULL;
    assert_done(der_new("NVKEEP.StoreLayout", "layout", &d, &e), e);
    der_put_u64(d, "log", 5);
    der_put_u64(d, "nothing of that name", 6);
    der_put_u64(d, "logSectors", 7);
    assert_refused(der_encode(d, out, sizeof(out), &n, &e), e, ERR_STORAGE,
                   "layout: cannot encode");
    assert_int_equal(n, 77);
    OWNED(der) r = NULL;
    assert_done(der_new("NVKEEP.StoreLayout", "layout", &r, &e), e);
    static const uint8_t der[] = {0x30, 15, 2, 1, 8, 2, 1, 9, 2, 1, 10, 2, 1, 11, 2, 1, 12};
    assert_done(der_decode(r, der, sizeof(der), &e), e);
    assert_int_equal(der_get_u64(r, "checkpointB"), 9);
    der_get_bytes(r, "checkpointA", b, sizeof(b)); /* it has one byte */
    assert_int_equal(der_get_u64(r, "log"), 0);
    assert_refused(der_got(r, &e), e, ERR_STATE_CORRUPT, "layout: cannot read");
    assert_refused(der_same(r, der, sizeof(der), der, sizeof(der) - 1, &e), e, ERR_STATE_CORRUPT,
                   "layout: cannot decode");
    assert_refused(der_same(r, der, sizeof(der) - 1, der, sizeof(der), &e), e, ERR_STATE_CORRUPT,
                   "layout: cannot decode");
    uint8_t other[sizeof(der)];
    memcpy(other, der, sizeof(der));
    other[sizeof(der) - 1] ^= 1;
    assert_refused(der_same(r, der, sizeof(der), other, sizeof(der), &e), e, ERR_STATE_CORRUPT,
                   "layout: cannot decode");
    assert_done(der_same(r, der, sizeof(der), der, sizeof(der), &e), e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_written_in_the_shortest_form),
        cmocka_unit_test(what_is_spelled_otherwise_or_cut_off_is_bad),
        cmocka_unit_test(an_envelope_is_the_value_that_the_module_describes),
        cmocka_unit_test(the_first_thing_that_goes_wrong_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
