/* Commands of manufacturing, as bytes: what swtpm_setup 0.7.1 sends with the same options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/prim.h"
#include "src/make/manufacture_tpm12.h"
#include "src/make/rsa_public.h"

static void assert_digest(const void *p, size_t n, const char *hex)
{
    uint8_t digest[SHA256_BYTES];
    char text[2 * SHA256_BYTES + 1];
    const struct span all = {p, n};
    hash_compute(HASH_SHA256, &all, 1, digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(text, hex);
}

static void keys_are_asked_for_as_swtpm_setup_does(void **state)
{
    /* SHA-256 of its TPM2_CreatePrimary, taken from a trace of it. */
    static const struct {
        enum made_key key;
        enum ek_use use;
        size_t bytes;
        const char *sha256;
    } golden[] = {
        {KEY_SPK_RSA2048, EK_STANDARD, 323,
         "db09af31b25d6141cdf372c7d5d239f430e0df8261c6c99506443a8cb9ec0843"},
        {KEY_SPK_RSA2048, EK_SIGNS, 323,
         "db09af31b25d6141cdf372c7d5d239f430e0df8261c6c99506443a8cb9ec0843"},
        {KEY_SPK_RSA3072, EK_STANDARD, 451,
         "9c7b7cd537cde9899d832e916c1a4bec0090445981eebd6169db0b7d9834ef53"},
        {KEY_SPK_P384, EK_STANDARD, 163,
         "8cec02f43d9d871b469c2ca435d50f8277416faa544ca3ece7f02f27dad2d6be"},
        {KEY_EK_RSA2048, EK_STANDARD, 355,
         "cd3474b1a9a5a82940a94f3a27a84eade3a6eae6c3b33f95b304b40e59e29ea9"},
        {KEY_EK_RSA2048, EK_SIGNS, 351,
         "251aabc2fd1818877369f079e302e85e2ddfdef3cf865628bddbb4f2619f6d52"},
        {KEY_EK_RSA2048, EK_SIGNS_AND_DECRYPTS, 351,
         "199205aa95329919eea2db6f6a21d8941ca7119a47484e05ef27e2ee807cc286"},
        {KEY_EK_RSA3072, EK_STANDARD, 115,
         "18e3444f01b3ffe82527ffc29e533a3e82836754e7f841f05f2eb4d4043bc2c1"},
        {KEY_EK_RSA3072, EK_SIGNS, 111,
         "b835849d70b266cb18c761f5fc00b9aa2eee49f7f48f78779b770f94930aa3f0"},
        {KEY_EK_RSA3072, EK_SIGNS_AND_DECRYPTS, 111,
         "d862dfa5ee59a0de43b3ae05fc5b71ccea3329cc1350d89c25b137953bb89f6e"},
        {KEY_EK_P384, EK_STANDARD, 115,
         "3bcf140718f6bac39b41056a676e51e1936a10a4ae163bd7a170a36de24dcb3f"},
        {KEY_EK_P384, EK_SIGNS, 111,
         "d529365010465e80774b6aa23fdaa27dcc7b86f52b3bed6760bd670e995770d4"},
        {KEY_EK_P384, EK_SIGNS_AND_DECRYPTS, 111,
         "d3bdead030105daacfee44c7a73a7300ea6ef30480c3b09642262d8c1f938a0e"},
    };
    uint8_t cmd[MADE_COMMAND_BYTES];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
        size_t n = command_create_primary(golden[i].key, golden[i].use, cmd);
        assert_int_equal(n, golden[i].bytes);
        assert_digest(cmd, n, golden[i].sha256);
    }
}

static void assert_bytes(const uint8_t *p, size_t n, const char *hex)
{
    char text[2 * MADE_COMMAND_BYTES + 1] = "";
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", p[i]);
    assert_string_equal(text, hex);
}

static void nv_and_pcr_commands_are_those_of_swtpm_setup(void **state)
{
    const struct pcr_banks all = {{0xb, 0x4, 0xc, 0xd}, 4}, on = {{0xb}, 1};
    uint8_t cmd[MADE_COMMAND_BYTES];
    (void)state;
    assert_bytes(cmd, command_make_persistent(KEY_EK_RSA2048, 0x80000001, cmd),
                 "800200000023000001204000000180000001000000094000000900000000"
                 "0081010001");
    assert_bytes(cmd, command_nv_define(0x01c00002, 0x3f5, cmd),
                 "80020000002d0000012a4000000c00000009400000090000000000"
                 "0000000e01c00002000b42072001000003f5");
    assert_bytes(cmd, command_nv_lock(0x01c00002, cmd),
                 "80020000001f000001384000000c01c0000200000009400000090000000000");
    assert_bytes(cmd, command_nv_write(0x01c0001c, 0x400, "\xab\xcd", 2, cmd),
                 "800200000025000001374000000c01c0001c00000009400000090000000000"
                 "0002abcd0400");
    assert_bytes(cmd, command_pcr_allocate(&all, &on, cmd),
                 "8002000000370000012b4000000c0000000940000009000000000000000004000b03ffffff"
                 "000403000000000c03000000000d03000000");
}

static void tpm12_commands_are_those_of_swtpm_setup(void **state)
{
    static const char nv_lock[] =
        "00c100000065000000cc0018ffffffff00030000001f000000000000000000000000000000000000000000"
        "030000001f0000000000000000000000000000000000000000001700000000000000000000000000000000"
        "000000000000000000000000000000";
    static const char nv_define[] =
        "00c100000065000000cc00181000f00000030000001f000000000000000000000000000000000000000000"
        "030000001f0000000000000000000000000000000000000000001700020002000000000003ec0000000000"
        "000000000000000000000000000000";
    uint8_t cmd[MADE_COMMAND_BYTES], header[TPM12_NV_HEADER_BYTES];
    (void)state;
    assert_bytes(cmd, command12_nv_define((uint32_t)TPM12_NV_LOCK_INDEX, 0, cmd), nv_lock);
    assert_bytes(cmd, command12_nv_define(TPM12_EK_CERTIFICATE_INDEX, 0x3ec, cmd), nv_define);
    nv12_certificate_header(0x3e5, header);
    assert_bytes(header, sizeof(header), "10010003e71002");
    /* The digest against replay is ours alone. */
    size_t n = command12_create_ek(cmd);
    assert_int_equal(n, 0x36);
    assert_bytes(cmd + 30, n - 30, "00000001000300020000000c000008000000000200000000");
}

/* Responses that are cut off or of another shape are told. */
static void responses_are_taken_whole_or_not_at_all(void **state)
{
    static const uint8_t banks[] = {0x80, 1, 0, 0, 0, 0x1f, 0, 0, 0, 0, 0,   0, 0, 0, 5, 0,
                                    0,    0, 2, 0, 4, 3,    9, 9, 9, 0, 0xb, 3, 9, 9, 9};
    struct pcr_banks b = {.n = 77};
    (void)state;
    for (size_t n = 0; n < sizeof(banks); n++)
        assert_false(response_banks(banks, n, &b));
    assert_int_equal(b.n, 77);
    assert_true(response_banks(banks, sizeof(banks), &b));
    assert_int_equal(b.n, 2);
    assert_true(pcr_banks_have(&b, 0xb) && pcr_banks_have(&b, 4) && !pcr_banks_have(&b, 0xc));
}

/* Expected values from Python's pow(). */
static void rsa_is_right(void **state)
{
    static const struct {
        uint8_t first;
        const char *sha256;
    } golden[] = {{1, "9b4129c9d85a9da9eb590af739dc7a183fdf53909a9571697d55bfd17274c978"},
                  {0x80, "c7e01d8f26f93b5ead929a4bd4722c8718c395e44458cf9acc5016fffa5526a7"}};
    uint8_t modulus[RSA_PUBLIC_BYTES], x[RSA_PUBLIC_BYTES], y[RSA_PUBLIC_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof(modulus); i++)
        modulus[i] = (uint8_t)(255 - i * 7);
    modulus[sizeof(modulus) - 1] |= 1;
    for (size_t g = 0; g < ARRAY_LEN(golden); g++) {
        for (size_t i = 0; i < sizeof(x); i++)
            x[i] = (uint8_t)(i * 11 + golden[g].first);
        rsa_public(modulus, x, y);
        assert_digest(y, sizeof(y), golden[g].sha256);
    }
}

static void pcr_banks_have_names(void **state)
{
    (void)state;
    assert_int_equal(pcr_bank_of_name("sha256,sha384", 6), 0xb);
    assert_int_equal(pcr_bank_of_name("sha", 3), 0);
    assert_int_equal(pcr_bank_of_name("", 0), 0);
    assert_string_equal(pcr_bank_name(0xd), "sha512");
    assert_string_equal(pcr_bank_name(0x7777), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_asked_for_as_swtpm_setup_does),
        cmocka_unit_test(nv_and_pcr_commands_are_those_of_swtpm_setup),
        cmocka_unit_test(tpm12_commands_are_those_of_swtpm_setup),
        cmocka_unit_test(responses_are_taken_whole_or_not_at_all),
        cmocka_unit_test(rsa_is_right),
        cmocka_unit_test(pcr_banks_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
