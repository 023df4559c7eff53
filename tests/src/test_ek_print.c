/* The fingerprint of an endorsement key: what others say of the same key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/make/ek_print.h"

static size_t read_hex(const char *text, uint8_t *ret)
{
    size_t n = 0;
    for (; text[0] && text[1]; text += 2) {
        const char two[] = {text[0], text[1], 0};
        ret[n++] = (uint8_t)strtoul(two, NULL, 16);
    }
    return n;
}

static void assert_info(const struct ek_key *k, const char *hex)
{
    uint8_t info[KEY_INFO_BYTES], wanted[KEY_INFO_BYTES];
    size_t n = 0, n_wanted = read_hex(hex, wanted);
    assert_true(ek_key_info(k, info, &n));
    assert_int_equal(n, n_wanted);
    assert_memory_equal(info, wanted, n);
}

/* The base point of P-256 [SEC 2, 2.4.2] as a public key; the DER is OpenSSL's. */
static const char p256_x[] = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
static const char p256_y[] = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

static struct ek_key point(const char *x, const char *y, uint16_t curve)
{
    struct ek_key k = {.curve = curve, .public = {.is_ecc = true}};
    k.public.n_or_x_bytes = read_hex(x, k.public.n_or_x);
    k.public.y_bytes = read_hex(y, k.public.y);
    return k;
}

static void a_point_is_written_as_openssl_does(void **state)
{
    char text[400];
    const struct ek_key k = point(p256_x, p256_y, 3);
    (void)state;
    snprintf(text, sizeof(text), "3059301306072a8648ce3d020106082a8648ce3d03010703420004%s%s",
             p256_x, p256_y);
    assert_info(&k, text);
}

/* A TPM may leave zeroes out in front of a number; the key is the same. */
static void a_short_coordinate_is_filled_up(void **state)
{
    const struct ek_key k = point("01", "0203", 3);
    (void)state;
    assert_info(&k, "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
                    "0000000000000000000000000000000000000000000000000000000000000001"
                    "0000000000000000000000000000000000000000000000000000000000000203");
}

static void a_modulus_keeps_its_sign(void **state)
{
    struct ek_key k = {.exponent = 65537};
    (void)state;
    k.public.n_or_x_bytes = read_hex("8001", k.public.n_or_x);
    assert_info(&k, "301e300d06092a864886f70d010101050003"
                    "0d00300a0203008001"
                    "0203010001");
    k.exponent = 3;
    k.public.n_or_x_bytes = read_hex("007f", k.public.n_or_x);
    assert_info(&k, "301a300d06092a864886f70d010101050003"
                    "09003006"
                    "02017f"
                    "020103");
}

static void names_are_told(void **state)
{
    static const struct {
        uint16_t curve;
        const char *name;
    } v[] = {{3, "ECC P-256"}, {4, "ECC P-384"}, {5, "ECC P-521"}, {1, NULL}, {0x20, NULL}};
    char name[EK_ALGORITHM_BYTES];
    uint8_t digest[SHA256_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        const struct ek_key k = point("01", "02", v[i].curve);
        assert_int_equal(ek_algorithm(&k, name), v[i].name != NULL);
        assert_int_equal(ek_fingerprint(&k, digest), v[i].name != NULL);
        if (v[i].name)
            assert_string_equal(name, v[i].name);
    }
    const struct ek_key rsa = {.public = {.n_or_x_bytes = 384}};
    assert_true(ek_algorithm(&rsa, name));
    assert_string_equal(name, "RSA 3072");
    const struct ek_key wide = point("01", "", 3);
    struct ek_key k = wide;
    k.public.y_bytes = 33;
    assert_false(ek_fingerprint(&k, digest));
}

/* A public area of the EK templates, cut off at each byte, and with each byte changed. */
static void what_is_no_public_area_is_refused(void **state)
{
    static const char area[] =
        "0023000b000300b200200102030405060708090a0b0c0d0e0f10111213141516171819"
        "1a1b1c1d1e1f20000600800043001000030010000201020001ff";
    uint8_t p[200];
    struct ek_key k = {.curve = 77};
    const size_t n = read_hex(area, p);
    (void)state;
    for (size_t cut = 0; cut < n; cut++) {
        struct bytes_in in = bytes_in(p, cut);
        assert_false(ek_key_decode(&in, &k));
        assert_int_equal(k.curve, 77);
    }
    struct bytes_in whole = bytes_in(p, n);
    assert_true(ek_key_decode(&whole, &k));
    assert_int_equal(k.curve, 3);
    assert_int_equal(k.public.n_or_x_bytes, 2);
    assert_int_equal(k.public.y_bytes, 1);
    assert_true(bytes_done(&whole));
    for (size_t at = 0; at < n; at++)
        for (int v = 0; v < 256; v++) {
            uint8_t *copy = malloc(n);
            uint8_t digest[SHA256_BYTES];
            assert_non_null(copy);
            memcpy(copy, p, n);
            copy[at] = (uint8_t)v;
            struct bytes_in in = bytes_in(copy, n);
            if (ek_key_decode(&in, &k))
                (void)!ek_fingerprint(&k, digest);
            free(copy);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_point_is_written_as_openssl_does),
        cmocka_unit_test(a_short_coordinate_is_filled_up),
        cmocka_unit_test(a_modulus_keeps_its_sign),
        cmocka_unit_test(names_are_told),
        cmocka_unit_test(what_is_no_public_area_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
