/* What swtpm_cert and swtpm_localca are told, from text to values: tables, and each text changed in
 * many ways, which has to be taken or refused and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "src/compat/cert_args.h"
#include "src/compat/localca_args.h"
#include "src/compat/localca_config.h"

enum { TEXT_BYTES = 1000, CHANGES = 20000 };

static const char *lookup(const char *name)
{
    return strcmp(name, "HERE") == 0 ? "/here" : strcmp(name, "EMPTY") == 0 ? "" : NULL;
}

/* ---- hexadecimal digits ---- */

static void digits_are_two_to_a_byte(void **state)
{
    static const struct {
        const char *text, *says; /* NULL: taken */
        size_t n;
        uint8_t first, last;
    } v[] = {
        {"00", NULL, 1, 0, 0},
        {"fF", NULL, 1, 0xff, 0xff},
        {"0123456789abcdefABCDEF", NULL, 11, 0x01, 0xef},
        {"", "0 hex digits", 0, 0, 0},
        {"1", "odd number of hex digits (1)", 0, 0, 0},
        {"0x12", "Illegal hex character 'x'", 0, 0, 0},
        {"1 ", "Illegal hex character ' '", 0, 0, 0},
        {"1g", "Illegal hex character 'g'", 0, 0, 0},
        {"1@", "Illegal hex character '@'", 0, 0, 0},
        {"1\x80", "Illegal hex character '\\x80'", 0, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct hex_number h = {.n = 77};
        struct err e = {0};
        int r = hex_read(v[i].text, strlen(v[i].text), &h, &e);
        assert_int_equal(r, v[i].says ? -1 : 0);
        if (v[i].says) {
            assert_non_null(strstr(e.text, v[i].says));
            assert_int_equal(h.n, 77); /* untouched */
            continue;
        }
        assert_int_equal(h.n, v[i].n);
        assert_int_equal(h.p[0], v[i].first);
        assert_int_equal(h.p[h.n - 1], v[i].last);
    }
}

static void digits_fill_their_room_and_not_more(void **state)
{
    static char text[2 * HEX_BYTES + 3];
    struct hex_number h;
    struct err e;
    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    assert_int_equal(hex_read(text, 2 * HEX_BYTES, &h, &e), 0);
    assert_int_equal(h.n, HEX_BYTES);
    assert_int_equal(hex_read(text, 2 * HEX_BYTES + 2, &h, &e), -1);
}

/* ---- swtpm-localca.conf ---- */

static void lines_of_a_configuration_have_their_meaning(void **state)
{
    static const struct {
        const char *text, *key; /* key: what signingkey is; NULL: not there */
    } v[] = {
        {"signingkey = /k", "/k"},
        {"signingkey=/k\n", "/k"},
        {"signingkey \t= \t/k \t\r\n", "/k"},
        {"signingkey = /k # a comment", "/k"},
        {"signingkey = /k#a comment\nsigningkey = /other\n", "/k"},
        {"signingkey = /a b/c", "/a b/c"},
        {"signingkey = ${HERE}/k", "/here/k"},
        {"signingkey = ${EMPTY}/k${HERE}", "/k/here"},
        {"signingkey = $HERE$", "$HERE$"},
        {"signingkey = pkcs11:model=SoftHSM%20v2;id=%00", "pkcs11:model=SoftHSM%20v2;id=%00"},
        {"# signingkey = /k", NULL},
        {" signingkey = /k", NULL},
        {"signingkeys = /k", NULL},
        {"signingkey", NULL},
        {"signingkey_password = /k", NULL},
        {"signingkey = ", NULL},
        {"signingkey = # nothing\nsigningkey = /k", "/k"},
        {"other\n\n\nsigningkey = /k", "/k"},
        {"", NULL},
        {"\n", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct localca_config c;
        struct err e;
        assert_int_equal(localca_config_parse(v[i].text, strlen(v[i].text), lookup, &c, &e), 0);
        if (v[i].key)
            assert_string_equal(c.signing_key, v[i].key);
        else
            assert_null(c.signing_key);
        localca_config_clear(&c);
    }
}

static void every_name_of_a_configuration_has_its_place(void **state)
{
    static const char text[] = "statedir = 1\nsigningkey = 2\nsigningkey_password = 3\n"
                               "issuercert = 4\ncertserial = 5\nSWTPM_PKCS11_PIN = 6\n"
                               "env:A_1 = x # y \nenv:1A = z\nenv: = z\nenv:B=\nenv:C\n"
                               "TSS_TCSD_PORT = 3\n";
    struct localca_config c;
    struct err e;
    (void)state;
    assert_int_equal(localca_config_parse(text, strlen(text), lookup, &c, &e), 0);
    assert_string_equal(c.state_dir, "1");
    assert_string_equal(c.signing_key, "2");
    assert_string_equal(c.signing_key_password, "3");
    assert_string_equal(c.issuer_cert, "4");
    assert_string_equal(c.cert_serial, "5");
    assert_string_equal(c.pin, "6");
    assert_int_equal(c.n_env, 2);
    assert_string_equal(c.env[0].name, "A_1");
    assert_string_equal(c.env[0].value, "x # y ");
    assert_string_equal(c.env[1].name, "B");
    assert_string_equal(c.env[1].value, "");
    localca_config_clear(&c);
    localca_config_clear(&c);
}

static void a_configuration_that_means_nothing_is_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } v[] = {
        {"signingkey = ${NOT_THERE}/k", "signingkey: ${NOT_THERE} is not in the environment"},
        {"signingkey = ${HERE/k", "without an end"},
        {"signingkey = ${}", "without a name"},
        {"signingkey = ${", "without an end"},
        {"statedir = /s\nissuercert = ${X}", "issuercert: ${X}"},
    };
    static char large[6000] = "statedir = ";
    struct localca_config c = {.n_env = 77};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        assert_int_equal(localca_config_parse(v[i].text, strlen(v[i].text), lookup, &c, &e), -1);
        assert_int_equal(e.kind, ERR_USAGE);
        assert_non_null(strstr(e.text, v[i].says));
    }
    memset(large + strlen(large), 'x', sizeof(large) - strlen(large) - 1);
    assert_int_equal(localca_config_parse(large, strlen(large), lookup, &c, &e), -1);
    assert_int_equal(localca_config_parse("a\0b", 3, lookup, &c, &e), -1);
    assert_int_equal(c.n_env, 77);
}

static void more_environment_than_there_is_room_for_is_refused(void **state)
{
    char text[TEXT_BYTES] = "";
    struct localca_config c;
    struct err e;
    (void)state;
    for (int i = 0; i < LOCALCA_ENV_MAX; i++)
        strncat(text, "env:A = b\n", sizeof(text) - strlen(text) - 1);
    assert_int_equal(localca_config_parse(text, strlen(text), lookup, &c, &e), 0);
    localca_config_clear(&c);
    strncat(text, "env:A = b\n", sizeof(text) - strlen(text) - 1);
    assert_int_equal(localca_config_parse(text, strlen(text), lookup, &c, &e), -1);
}

/* ---- swtpm-localca.options ---- */

static void options_are_words(void **state)
{
    static const char text[] = "\n  --platform-manufacturer\tFedora \r\n--x\n\n\"a b\"";
    static const char *const words[] = {"--platform-manufacturer", "Fedora", "--x", "\"a", "b\""};
    struct localca_words w;
    struct err e;
    (void)state;
    assert_int_equal(localca_words_parse(text, strlen(text), &w, &e), 0);
    assert_int_equal(w.n, ARRAY_LEN(words));
    for (size_t i = 0; i < w.n; i++)
        assert_string_equal(w.word[i], words[i]);
    localca_words_clear(&w);
    assert_int_equal(localca_words_parse("", 0, &w, &e), 0);
    assert_int_equal(w.n, 0);
    localca_words_clear(&w);
}

static void more_words_than_there_is_room_for_are_refused(void **state)
{
    char text[2 * LOCALCA_WORDS_MAX + 2];
    struct localca_words w;
    struct err e;
    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 2 ? ' ' : 'x';
    assert_int_equal(localca_words_parse(text, 2 * LOCALCA_WORDS_MAX, &w, &e), 0);
    assert_int_equal(w.n, LOCALCA_WORDS_MAX);
    localca_words_clear(&w);
    assert_int_equal(localca_words_parse(text, sizeof(text), &w, &e), -1);
}

/* ---- --ek ---- */

static void an_ek_is_a_modulus_or_a_point(void **state)
{
    static const struct {
        const char *text, *x, *y, *curve;
    } v[] = {
        {"x=12,y=34,id=secp384r1", "12", "34", "secp384r1"},
        {"x=12,y=34", "12", "34", NULL},
        {"x=,y=", "", "", NULL},
        {"x=1,y=2,id=", "1", "2", ""},
        {"1234", NULL, NULL, NULL},
        {"x=12", NULL, NULL, NULL},
        {"y=1,x=2", NULL, NULL, NULL},
        {"", NULL, NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        char text[TEXT_BYTES];
        struct localca_point p;
        snprintf(text, sizeof(text), "%s", v[i].text);
        assert_int_equal(localca_point(text, &p), v[i].x != NULL);
        if (!v[i].x)
            continue;
        assert_string_equal(p.x, v[i].x);
        assert_string_equal(p.y, v[i].y);
        assert_int_equal(p.curve != NULL, v[i].curve != NULL);
        if (p.curve)
            assert_string_equal(p.curve, v[i].curve);
    }
}

/* ---- everything, changed ---- */

/* Xorshift: the same changes each time. */
static uint32_t next(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static size_t change(const char *text, uint32_t *seed, char ret[TEXT_BYTES])
{
    static const char signs[] = "=#${}\n \t,:x\0\\-\xff"
                                "09aF";
    size_t n = strlen(text);
    memcpy(ret, text, n);
    for (uint32_t i = next(seed) % 6 + 1; i > 0; i--) {
        size_t at = next(seed) % (n + 1);
        switch (next(seed) % 3) {
        case 0: /* another sign */
            if (at < n)
                ret[at] = signs[next(seed) % (sizeof(signs) - 1)];
            break;
        case 1: /* one more */
            if (n < TEXT_BYTES - 1) {
                memmove(ret + at + 1, ret + at, n - at);
                ret[at] = signs[next(seed) % (sizeof(signs) - 1)];
                n++;
            }
            break;
        default: /* cut off */
            if (next(seed) % 8 == 0)
                n = at;
        }
    }
    return n;
}

/* In memory of exactly that size, so that a sanitizer sees the first byte too far. */
static unsigned try_all(const char *text, size_t n)
{
    unsigned taken = 0;
    char *copy = malloc(n ? n : 1), *line = calloc(1, n + 1);
    static struct hex_number h;
    struct localca_config c;
    struct localca_words w;
    struct localca_point p;
    struct err e = {0};
    assert_true(copy && line);
    memcpy(copy, text, n);
    memcpy(line, text, n);
    if (localca_config_parse(copy, n, lookup, &c, &e) == 0) {
        localca_config_clear(&c);
        taken++;
    } else {
        assert_int_equal(e.kind, ERR_USAGE);
    }
    if (localca_words_parse(copy, n, &w, &e) == 0) {
        localca_words_clear(&w);
        taken++;
    }
    taken += hex_read(copy, n, &h, &e) == 0;
    taken += localca_point(line, &p);
    free(line);
    free(copy);
    return taken;
}

static void whatever_is_written_is_taken_or_refused(void **state)
{
    static const char *const texts[] = {
        "statedir = ${HERE}/s\nsigningkey = pkcs11:a;b # c\nenv:A = b\nissuercert=${EMPTY}x\n",
        "--platform-manufacturer Us --platform-version 1\n--platform-model M\n",
        "x=0123456789abcdef,y=fedcba9876543210,id=secp384r1",
        "0123456789abcdefABCDEF",
    };
    uint32_t seed = 1;
    unsigned taken = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (int k = 0; k < CHANGES / (int)ARRAY_LEN(texts); k++) {
            char text[TEXT_BYTES];
            size_t n = change(texts[i], &seed, text);
            taken += try_all(text, n);
        }
    printf("%d texts, each to four readers: taken %u times\n", CHANGES, taken);
    assert_in_range(taken, CHANGES, 4 * CHANGES - CHANGES / 2);
}

/* ---- swtpm_cert's options ---- */

static int parse(struct cert_args *ret, struct err *e, const char *line)
{
    static char text[TEXT_BYTES], program[] = "swtpm_cert";
    char *argv[40] = {program}, *rest = NULL;
    int argc = 1;
    bool usage;
    snprintf(text, sizeof(text), "%s", line);
    for (char *at = strtok_r(text, " ", &rest); at; at = strtok_r(NULL, " ", &rest))
        argv[argc++] = at;
    return cert_args_parse(argc, argv, ret, &usage, e);
}

static void numbers_of_options_have_their_bounds(void **state)
{
    static const struct {
        const char *line, *says;
    } v[] = {
        {"--serial 1", NULL},
        {"--serial 9223372036854775807", NULL},
        {"--serial 9223372036854775808", "Serial number is invalid"},
        {"--serial 0", "Serial number is invalid"},
        {"--serial 0x10", "Serial number is invalid"},
        {"--serial +-1", "Serial number is invalid"},
        {"--days -1", NULL},
        {"--days 3650000", NULL},
        {"--days 3650001", "--days"},
        {"--days --1", "--days"},
        {"--exponent 0xffffffff", NULL},
        {"--exponent 0x100000000", "must fit into 32bits"},
        {"--exponent 99999999999999999999", "Exponent is wrong"},
        {"--tpm-spec-level 2147483647", NULL},
        {"--tpm-spec-level 2147483648", "--tpm-spec-level must pass"},
        {"--tpm-spec-revision -1", "--tpm-spec-revision must pass"},
        {"--type pLaTfOrM", NULL},
        {"--type e\xff", "Unknown certificate type 'e\\xff'"},
        {"--modulus 1", "odd number"},
    };
    static struct cert_args a;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct err e = {0};
        assert_int_equal(parse(&a, &e, v[i].line), v[i].says ? -1 : 0);
        if (v[i].says)
            assert_non_null(strstr(e.text, v[i].says));
    }
}

static void what_is_not_said_has_its_usual_value(void **state)
{
    static struct cert_args a;
    struct err e;
    (void)state;
    assert_int_equal(parse(&a, &e, ""), 0);
    assert_int_equal(a.type, CERT_EK);
    assert_int_equal(a.days, 365);
    assert_int_equal(a.serial, 1);
    assert_int_equal(a.exponent, 65537);
    assert_string_equal(a.curve, "secp256r1");
    assert_false(a.pem || a.header || a.tpm2 || a.assertions || a.allow_signing || a.decryption);
    assert_int_equal(parse(&a, &e, "--days -7 --tpm2 --allow-signing --add-header --pem"), 0);
    assert_int_equal(a.days, -1);
    assert_true(a.tpm2 && a.allow_signing && a.header && a.pem && !a.decryption);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digits_are_two_to_a_byte),
        cmocka_unit_test(digits_fill_their_room_and_not_more),
        cmocka_unit_test(lines_of_a_configuration_have_their_meaning),
        cmocka_unit_test(every_name_of_a_configuration_has_its_place),
        cmocka_unit_test(a_configuration_that_means_nothing_is_refused),
        cmocka_unit_test(more_environment_than_there_is_room_for_is_refused),
        cmocka_unit_test(options_are_words),
        cmocka_unit_test(more_words_than_there_is_room_for_are_refused),
        cmocka_unit_test(an_ek_is_a_modulus_or_a_point),
        cmocka_unit_test(whatever_is_written_is_taken_or_refused),
        cmocka_unit_test(numbers_of_options_have_their_bounds),
        cmocka_unit_test(what_is_not_said_has_its_usual_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
