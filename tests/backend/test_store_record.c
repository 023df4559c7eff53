/* The codec of records: what one sector says, and what one flipped bit does to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/store_record.h"
#include "src/base/bytes.h"

enum { MAX_PAYLOAD = 13000, MAX_SECTORS = 40 };

static struct mac_key *key;
static const uint8_t no_mac[RECORD_MAC_BYTES];

static int make_key(void **state)
{
    struct err e;
    uint8_t bytes[32];
    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    return mac_key_new(bytes, sizeof(bytes), &key, &e);
}

static int drop_key(void **state)
{
    (void)state;
    mac_key_free(key);
    return 0;
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)(x >> 24);
    }
}

/* A delta of n payload bytes, generation 7, epoch 3, at `position` of the log. */
static size_t seal(uint8_t *buf, size_t n, unsigned seed, const uint8_t *before, uint32_t position,
                   uint8_t mac[RECORD_MAC_BYTES])
{
    const struct record_head head = {7, 3, RECORD_DELTA, (uint32_t)n};
    fill(buf, n, seed);
    record_seal(key, AREA_LOG, position, &head, before, buf, mac);
    return record_sectors(n);
}

static void record_gives_back_what_was_sealed(void **state)
{
    static const size_t sizes[] = {1, 399, 400, 401, 799, 800, 801, 4000, 12345};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t buf[MAX_SECTORS * SECTOR_BYTES], want[MAX_PAYLOAD], got[MAX_PAYLOAD];
        uint8_t mac[RECORD_MAC_BYTES], before[RECORD_MAC_BYTES] = {9};
        struct span spans[MAX_SECTORS + 1];
        struct record_sector found;
        size_t n = seal(buf, sizes[i], (unsigned)i, before, 5, mac);
        fill(want, sizes[i], (unsigned)i);
        assert_int_equal(n, (sizes[i] + 399) / 400);
        assert_int_equal(record_verify(key, AREA_LOG, 5, buf, n, before, spans, &found),
                         RECORD_INTACT);
        assert_int_equal(found.head.generation, 7);
        assert_int_equal(found.head.epoch, 3);
        assert_int_equal(found.head.kind, RECORD_DELTA);
        assert_int_equal(found.head.bytes, sizes[i]);
        assert_int_equal(found.mark.count, n);
        assert_memory_equal(found.mac, mac, sizeof(mac));
        record_payload(buf, sizes[i], got);
        assert_memory_equal(got, want, sizes[i]);
    }
}

static void last_sector_is_padded_with_zeroes(void **state)
{
    uint8_t buf[2 * SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    (void)state;
    memset(buf, 0xee, sizeof(buf));
    assert_int_equal(seal(buf, 401, 1, no_mac, 0, mac), 2);
    assert_true(bytes_all_zero(buf + SECTOR_BYTES + 64 + 1, 399));
}

static void any_flipped_bit_breaks_the_sector(void **state)
{
    uint8_t buf[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct record_sector found;
    (void)state;
    seal(buf, 300, 2, no_mac, 0, mac);
    assert_true(record_sector_verify(key, AREA_LOG, 0, buf, &found));
    for (size_t bit = 0; bit < sizeof(buf) * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(record_sector_verify(key, AREA_LOG, 0, buf, &found));
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(record_sector_verify(key, AREA_LOG, 0, buf, &found));
}

/* A flipped bit of ciphertext makes noise of one cipher block (XTS), or of one and a bit of the
 * next (CBC). Whichever it is, the sector says which sector of which record it was. */
static void any_garbled_cipher_block_leaves_a_mark(void **state)
{
    uint8_t good[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    (void)state;
    seal(good, 300, 3, no_mac, 0, mac);
    for (size_t block = 0; block < SECTOR_BYTES / 16; block++) {
        for (unsigned next_bit = 0; next_bit < 128; next_bit++) {
            uint8_t bad[SECTOR_BYTES];
            struct record_mark marks[2];
            struct record_sector found;
            memcpy(bad, good, sizeof(bad));
            fill(bad + block * 16, 16, (unsigned)block + 100);
            if (block + 1 < SECTOR_BYTES / 16)
                bad[block * 16 + 16 + next_bit / 8] ^= (uint8_t)(1 << next_bit % 8);
            assert_false(record_sector_verify(key, AREA_LOG, 0, bad, &found));
            unsigned n = record_marks(bad, marks), right = 0;
            for (unsigned i = 0; i < n; i++)
                right += marks[i].generation == 7 && marks[i].index == 0 && marks[i].count == 1;
            assert_true(right >= 1);
        }
    }
}

static void zeroes_and_noise_have_no_mark(void **state)
{
    uint8_t sector[SECTOR_BYTES] = {0};
    struct record_mark marks[2];
    (void)state;
    assert_int_equal(record_marks(sector, marks), 0);
    for (unsigned i = 0; i < 10000; i++) {
        fill(sector, sizeof(sector), i);
        assert_int_equal(record_marks(sector, marks), 0);
    }
}

static void sector_moved_elsewhere_does_not_verify(void **state)
{
    uint8_t buf[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct record_sector found;
    (void)state;
    seal(buf, 300, 4, no_mac, 17, mac);
    assert_true(record_sector_verify(key, AREA_LOG, 17, buf, &found));
    assert_false(record_sector_verify(key, AREA_LOG, 16, buf, &found));
    assert_false(record_sector_verify(key, AREA_LOG, 17 + 256, buf, &found));
    assert_false(record_sector_verify(key, AREA_CHECKPOINT_A, 17, buf, &found));
    assert_false(record_sector_verify(key, AREA_CHECKPOINT_B, 17, buf, &found));
}

static void sector_of_another_instance_does_not_verify(void **state)
{
    uint8_t buf[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct record_sector found;
    OWNED(mac_key) other = NULL;
    struct err e;
    (void)state;
    seal(buf, 300, 4, no_mac, 0, mac);
    assert_int_equal(mac_key_new("another record key, of 32 bytes.", 32, &other, &e), 0);
    assert_false(record_sector_verify(other, AREA_LOG, 0, buf, &found));
}

/* The heart of generation reuse: the same generation, length and place, another payload. */
static void sectors_of_two_attempts_never_pass_for_one_record(void **state)
{
    enum { N = 5 };
    uint8_t one[N * SECTOR_BYTES], two[N * SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct span spans[N + 1];
    struct record_sector found;
    (void)state;
    seal(one, N * 400, 5, no_mac, 0, mac);
    seal(two, N * 400, 6, no_mac, 0, mac);
    for (unsigned which = 0; which < 1U << N; which++) {
        uint8_t mix[N * SECTOR_BYTES];
        for (size_t i = 0; i < N; i++)
            memcpy(mix + i * SECTOR_BYTES, (which >> i & 1 ? two : one) + i * SECTOR_BYTES,
                   SECTOR_BYTES);
        bool pure = which == 0 || which == (1U << N) - 1;
        assert_int_equal(record_verify(key, AREA_LOG, 0, mix, N, no_mac, spans, &found),
                         pure ? RECORD_INTACT : RECORD_INCOMPLETE);
    }
}

static void record_behind_another_predecessor_is_unchained(void **state)
{
    uint8_t buf[3 * SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    uint8_t before[RECORD_MAC_BYTES] = {1}, other[RECORD_MAC_BYTES] = {2};
    struct span spans[4];
    struct record_sector found;
    (void)state;
    seal(buf, 900, 7, before, 0, mac);
    assert_int_equal(record_verify(key, AREA_LOG, 0, buf, 3, before, spans, &found), RECORD_INTACT);
    assert_int_equal(record_verify(key, AREA_LOG, 0, buf, 3, other, spans, &found),
                     RECORD_UNCHAINED);
}

static void full_record_starts_a_chain(void **state)
{
    uint8_t buf[SECTOR_BYTES], mac[RECORD_MAC_BYTES], other[RECORD_MAC_BYTES] = {2};
    const struct record_head head = {7, 3, RECORD_FULL, 100};
    struct span spans[2];
    struct record_sector found;
    (void)state;
    fill(buf, 100, 8);
    record_seal(key, AREA_CHECKPOINT_B, 0, &head, other, buf, mac);
    assert_int_equal(record_verify(key, AREA_CHECKPOINT_B, 0, buf, 1, no_mac, spans, &found),
                     RECORD_INTACT);
    assert_int_equal(found.head.kind, RECORD_FULL);
}

static void record_that_reaches_beyond_the_area_is_incomplete(void **state)
{
    uint8_t buf[3 * SECTOR_BYTES], mac[RECORD_MAC_BYTES];
    struct span spans[4];
    struct record_sector found;
    (void)state;
    size_t n = seal(buf, 900, 9, no_mac, 0, mac);
    for (size_t less = 0; less < n; less++)
        assert_int_equal(record_verify(key, AREA_LOG, 0, buf, less, no_mac, spans, &found),
                         RECORD_INCOMPLETE);
    assert_int_equal(
        record_verify(key, AREA_LOG, 1, buf + SECTOR_BYTES, n - 1, no_mac, spans, &found),
        RECORD_INCOMPLETE);
}

/* The sector MAC, computed here from the format's text. */
static void authenticate(uint8_t sector[SECTOR_BYTES], uint8_t area, uint32_t position)
{
    uint8_t place[13] = "nvkeep-S";
    place[8] = area;
    put_be32(place + 9, position);
    const struct span parts[] = {{place, sizeof(place)}, {sector, 480}};
    mac_compute(key, parts, 2, sector + 480);
}

static void contradicting_fields_do_not_verify_even_under_the_right_key(void **state)
{
    static const struct {
        const char *what;
        size_t at;
        uint8_t value;
    } cases[] = {
        {"head magic", 3, 'X'},
        {"generation in the head alone", 11, 9},
        {"index in the head", 13, 1},
        {"count in the head", 15, 2},
        {"payload of 0 bytes", 27, 0},
        {"payload of two sectors", 26, 2},
        {"kind 0", 28, 0},
        {"kind 3", 28, 3},
        {"padding of the facts", 31, 1},
        {"tail magic", 464 + 3, 'X'},
        {"generation in the tail alone", 464 + 11, 9},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t buf[SECTOR_BYTES], mac[RECORD_MAC_BYTES];
        struct record_sector found;
        seal(buf, 200, 10, no_mac, 4, mac);
        authenticate(buf, AREA_LOG, 4);
        assert_true(record_sector_verify(key, AREA_LOG, 4, buf, &found));
        buf[cases[i].at] = cases[i].value;
        authenticate(buf, AREA_LOG, 4);
        if (record_sector_verify(key, AREA_LOG, 4, buf, &found))
            fail_msg("accepted: %s", cases[i].what);
    }
}

/* S2.14: the vector in src/doc/format.md. */
static void written_record_is_the_documented_vector(void **state)
{
    static const char want_record_mac[] =
        "f292e74003295c891ec6fa307f15726ef7f5469b37cf13eb35e7d22e842610eb";
    static const char want_sha256[] =
        "71908fc645faa874b3cee0907b69d0ea8438894f7338fa6e76372725ac6605b5";
    uint8_t buf[2 * SECTOR_BYTES], mac[RECORD_MAC_BYTES], sum[SHA256_BYTES];
    const struct record_head head = {2, 1, RECORD_DELTA, 500};
    uint8_t before[RECORD_MAC_BYTES];
    char text[65];
    (void)state;
    memset(before, 0xa5, sizeof(before));
    for (size_t i = 0; i < 500; i++)
        buf[i] = (uint8_t)(i % 251);
    record_seal(key, AREA_LOG, 3, &head, before, buf, mac);
    for (size_t i = 0; i < sizeof(mac); i++)
        snprintf(text + 2 * i, 3, "%02x", mac[i]);
    assert_string_equal(text, want_record_mac);
    hash_compute(HASH_SHA256, &(struct span){buf, sizeof(buf)}, 1, sum);
    for (size_t i = 0; i < sizeof(sum); i++)
        snprintf(text + 2 * i, 3, "%02x", sum[i]);
    assert_string_equal(text, want_sha256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record_gives_back_what_was_sealed),
        cmocka_unit_test(last_sector_is_padded_with_zeroes),
        cmocka_unit_test(any_flipped_bit_breaks_the_sector),
        cmocka_unit_test(any_garbled_cipher_block_leaves_a_mark),
        cmocka_unit_test(zeroes_and_noise_have_no_mark),
        cmocka_unit_test(sector_moved_elsewhere_does_not_verify),
        cmocka_unit_test(sector_of_another_instance_does_not_verify),
        cmocka_unit_test(sectors_of_two_attempts_never_pass_for_one_record),
        cmocka_unit_test(record_behind_another_predecessor_is_unchained),
        cmocka_unit_test(full_record_starts_a_chain),
        cmocka_unit_test(record_that_reaches_beyond_the_area_is_incomplete),
        cmocka_unit_test(contradicting_fields_do_not_verify_even_under_the_right_key),
        cmocka_unit_test(written_record_is_the_documented_vector),
    };
    return cmocka_run_group_tests(tests, make_key, drop_key);
}
