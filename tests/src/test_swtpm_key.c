/* Where a migration key comes from: swtpm's grammar, defaults and bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/key/swtpm_key.h"

#include "crypto/migration_key_priv.h"

static char dir[200];
static const char hex128[] = "000102030405060708090a0b0c0d0e0f",
                  hex256[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof(dir), "%s/nvkeep-mkey-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? chdir(dir) : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return chdir("/") < 0 ? -1 : system(command);
}

static void put(const char *name, const char *text, size_t n)
{
    OWNED_FD fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
}

static struct swtpm_key_source parsed(const char *arg)
{
    struct swtpm_key_source s;
    struct err e = {0};
    if (swtpm_key_parse("migration-key", arg, &s, &e) < 0)
        fail_msg("%s: %s", arg, e.text);
    return s;
}

static void assert_key(const char *arg, unsigned bits, const char *hex)
{
    struct swtpm_key_source s = parsed(arg);
    OWNED(migration_key) k = NULL;
    struct err e = {0};
    char found[65];
    if (swtpm_key_read_cipher("migration-key", &s, &k, &e) < 0)
        fail_msg("%s: %s", arg, e.text);
    assert_int_equal(migration_key_bits(k), bits);
    for (size_t i = 0; i < bits / 8; i++)
        snprintf(found + 2 * i, 3, "%02x", migration_key_peek(k)[i]);
    assert_string_equal(found, hex);
}

static void assert_not_read(const char *arg, enum err_kind kind, const char *says)
{
    struct swtpm_key_source s = parsed(arg);
    struct migration_key *k = NULL;
    struct err e = {0};
    assert_int_equal(swtpm_key_read_cipher("migration-key", &s, &k, &e), -1);
    assert_null(k);
    assert_string_equal(err_class(e.kind)->name, err_class(kind)->name);
    if (!strstr(e.text, says) || !strstr(e.text, "--migration-key"))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void every_form_is_understood_with_swtpms_defaults(void **state)
{
    static const struct {
        const char *arg;
        struct swtpm_key_source want;
    } v[] = {
        {"file=a b", {KEY_SOURCE_FILE, "a b", -1, false, MIGRATION_KEY_HEX, .bits = 128}},
        {"file=k,format=hex,mode=aes-cbc",
         {KEY_SOURCE_FILE, "k", -1, false, MIGRATION_KEY_HEX, .bits = 128}},
        {"format=binary,mode=aes-256-cbc,file=k=1",
         {KEY_SOURCE_FILE, "k=1", -1, false, MIGRATION_KEY_BINARY, .bits = 256}},
        {"fd=7,mode=aes-128-cbc,remove",
         {KEY_SOURCE_FD, "7", 7, false, MIGRATION_KEY_HEX, .bits = 128, .remove = true}},
        {"pwdfile=p,remove=true",
         {KEY_SOURCE_FILE, "p", -1, true, .kdf = MIGRATION_KDF_PBKDF2, .bits = 128,
          .remove = true}},
        {"pwdfd=2147483639,kdf=sha512,mode=aes-256-cbc,remove=false",
         {KEY_SOURCE_FD, "2147483639", 2147483639, true, .kdf = MIGRATION_KDF_SHA512, .bits = 256}},
        {"pwdfile=p,kdf=pbkdf2,remove=0",
         {KEY_SOURCE_FILE, "p", -1, true, .kdf = MIGRATION_KDF_PBKDF2, .bits = 128}},
        {"credential=c,mode=aes-256-cbc",
         {KEY_SOURCE_CREDENTIAL, "c", -1, false, MIGRATION_KEY_HEX, .bits = 256}},
        {"credential=c,kdf=sha512",
         {KEY_SOURCE_CREDENTIAL, "c", -1, true, .kdf = MIGRATION_KDF_SHA512, .bits = 128}},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct swtpm_key_source s = parsed(v[i].arg);
        assert_int_equal(s.kind, v[i].want.kind);
        assert_string_equal(s.value, v[i].want.value);
        assert_int_equal(s.fd, v[i].want.fd);
        assert_int_equal(s.passphrase, v[i].want.passphrase);
        if (s.passphrase)
            assert_int_equal(s.kdf, v[i].want.kdf);
        else
            assert_int_equal(s.form, v[i].want.form);
        assert_int_equal(s.bits, v[i].want.bits);
        assert_int_equal(s.remove, v[i].want.remove);
    }
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *arg, *says;
    } v[] = {
        {"", "\"\" is unknown"},
        {"mode=aes-cbc", "wanted file=PATH, fd=N"},
        {"file", "\"file\" needs a value"},
        {"file=", "\"file\" needs a value"},
        {"file=a,", "\"\" is unknown"},
        {"file=a,bogus=1", "\"bogus\" is unknown"},
        {"filename=a", "\"filename\" is unknown"},
        {"file=a,pwdfd=3", "file= and pwdfd= are two sources"},
        {"fd=3,credential=c", "fd= and credential= are two"},
        {"file=a,file=b", "file is given twice"},
        {"file=a,mode=aes-cbc,mode=aes-cbc", "mode is given twice"},
        {"file=a,remove,remove", "remove is given twice"},
        {"file=a,mode=aes-192-cbc", "mode=aes-192-cbc: wanted aes-cbc, aes-128-cbc or"},
        {"file=a,mode", "\"mode\" needs a value"},
        {"file=a,format=base64", "format=base64: wanted hex or binary"},
        {"pwdfile=a,kdf=scrypt", "kdf=scrypt: wanted pbkdf2 or sha512"},
        {"file=a,remove=maybe", "remove=maybe: wanted true or false"},
        {"file=a,remove=", "\"remove\" needs a value"},
        {"file=a,kdf=pbkdf2", "kdf= makes a key of a passphrase"},
        {"pwdfd=3,format=hex", "format= says how a key is written"},
        {"credential=c,kdf=pbkdf2,format=hex", "format= says how a key is written"},
        {"fd=x", "fd=x: wanted the number"},
        {"fd=-1", "fd=-1: wanted the number"},
        {"pwdfd=3 ", "pwdfd=3 : wanted the number"},
        {"pwdfd=4294967296", "wanted the number"},
        {"credential=../c", "credential=../c: wanted the name of a credential"},
        {"credential=..", "wanted the name of a credential"},
        {"credential=c,remove", "nothing to remove"},
        {"000102030405060708090a0b0c0d0e0f", "is unknown"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct swtpm_key_source s = {.fd = 4711};
        struct err e = {0};
        assert_int_equal(swtpm_key_parse("migration-key", v[i].arg, &s, &e), -1);
        assert_int_equal(e.kind, ERR_USAGE);
        assert_int_equal(s.fd, 4711);
        if (!strstr(e.text, v[i].says) || !strstr(e.text, "--migration-key: "))
            fail_msg("%s: \"%s\" does not say \"%s\"", v[i].arg, e.text, v[i].says);
    }
    struct swtpm_key_source s;
    struct err e = {0};
    char arg[5000] = "file=";
    memset(arg + 5, 'x', 4096);
    assert_int_equal(swtpm_key_parse("migration-key", arg, &s, &e), -1);
    assert_non_null(strstr(e.text, "longer than 4095 bytes"));
}

/* The derived ones as Python's hashlib has them; a newline at the end counts. */
static void keys_are_read_from_files(void **state)
{
    (void)state;
    put("hex", hex128, 32);
    put("hex256", "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", 67);
    put("binary", "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", 16);
    put("pass", "a passphrase\n", 13);
    assert_key("file=hex", 128, hex128);
    assert_key("file=hex256,mode=aes-256-cbc", 256, hex256);
    assert_key("file=binary,format=binary", 128, hex128);
    assert_key("pwdfile=pass", 128, "e81778cbf35a42adbf863190293801a4");
    assert_key("pwdfile=pass,kdf=sha512", 128, "88dfe3e01f75f7de33c309cf3b2a8af8");
    assert_key("pwdfile=pass,mode=aes-256-cbc", 256,
               "e81778cbf35a42adbf863190293801a4e91c10a4dbb86d4278200a9b9604c912");
}

static void keys_are_read_from_descriptors_to_their_end(void **state)
{
    char arg[40];
    int p[2];
    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(write(p[1], "a passphrase\n", 13), 13);
    close(p[1]);
    snprintf(arg, sizeof(arg), "pwdfd=%d", p[0]);
    assert_key(arg, 128, "e81778cbf35a42adbf863190293801a4");
    assert_int_equal(fcntl(p[0], F_GETFD), -1);
    snprintf(arg, sizeof(arg), "fd=%d", p[0]);
    assert_not_read(arg, ERR_USAGE, "not open for reading; was it passed on");
}

static void keys_are_read_from_credentials(void **state)
{
    (void)state;
    put("cred", hex128, 32);
    assert_int_equal(setenv("CREDENTIALS_DIRECTORY", dir, 1), 0);
    assert_key("credential=cred", 128, hex128);
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_not_read("credential=cred", ERR_USAGE, "CREDENTIALS_DIRECTORY is not set");
}

/* Reading takes nothing away; who has got everything going removes it. */
static void the_file_to_remove_is_named_where_that_was_asked_for(void **state)
{
    static const struct {
        const char *arg, *file;
    } v[] = {
        {"file=once,remove=false", NULL},     {"file=once", NULL},   {"file=once,remove", "once"},
        {"pwdfile=once,remove=true", "once"}, {"fd=7,remove", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        struct swtpm_key_source s;
        struct err e;
        assert_int_equal(swtpm_key_parse("migration-key", v[i].arg, &s, &e), 0);
        const char *file = swtpm_key_to_remove(&s);
        assert_int_equal(file == NULL, v[i].file == NULL);
        if (file)
            assert_string_equal(file, v[i].file);
    }
    put("once", hex128, 32);
    assert_key("file=once,remove", 128, hex128);
    assert_int_equal(access("once", F_OK), 0);
}

static void sources_without_a_key_are_refused(void **state)
{
    (void)state;
    put("nothing", "", 0);
    put("hex", hex128, 32);
    assert_not_read("file=nothing", ERR_KEY_MISSING, "is empty");
    assert_not_read("pwdfile=nothing", ERR_KEY_MISSING, "is empty");
    assert_not_read("file=nowhere", ERR_USAGE, "nowhere");
    assert_not_read("file=.", ERR_USAGE, "directory");
    assert_not_read("file=hex,mode=aes-256-cbc", ERR_KEY_WRONG, "a key of 256 bits has 64");
    assert_not_read("file=hex,format=binary", ERR_KEY_WRONG, "32 bytes where");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_understood_with_swtpms_defaults),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(keys_are_read_from_files),
        cmocka_unit_test(keys_are_read_from_descriptors_to_their_end),
        cmocka_unit_test(keys_are_read_from_credentials),
        cmocka_unit_test(the_file_to_remove_is_named_where_that_was_asked_for),
        cmocka_unit_test(sources_without_a_key_are_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
