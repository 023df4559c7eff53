/* No branch and no address depends on a secret: memcheck watches, and constant_time.h says what is
 * secret and what may be known. The program runs itself under valgrind. Each case also compares its
 * result, so that it is the product's way that is watched.
 *
 *     crypto_test_constant_time           all cases, and planted mistakes that must be reported
 *     crypto_test_constant_time --plant   one planted mistake and nothing else
 */
#include "tests/crypto/constant_time.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/store_record.h"
#include "crypto/envelope.h"
#include "crypto/luks_key_priv.h"
#include "crypto/migration_key_priv.h"
#include "src/base/bytes.h"
#include "src/key/key_source.h"
#include "src/key/new_key.h"
#include "src/serve/admin_key.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/known_key.h"

enum { REPORTED = 99, PASS_BYTES = 24, CONTENT = 100 };

static const char passphrase[] = "a passphrase of 24 bytes";

static struct secret *hidden(const void *p, size_t n)
{
    struct secret *s = NULL;
    struct err e;
    assert_done(secret_new(n, &s, &e), e);
    memcpy(secret_bytes(s), p, n);
    hide(secret_peek(s), n);
    return s;
}

static const uint8_t content_bytes[CONTENT] = "what travels, and is no secret to this test";

static struct volume_key *hidden_volume_key(void)
{
    struct volume_key *k = known_key();
    hide(volume_key_peek(k), 64);
    return k;
}

static struct migration_key *hidden_migration_key(void)
{
    struct migration_key *k = known_migration_key(256, 0x80);
    hide(migration_key_peek(k), 32);
    return k;
}

/* What was computed from secrets, and is now compared by a test that may know it. */
#define assert_shown(p, wanted, n)                                                                 \
    do {                                                                                           \
        show(p, n);                                                                                \
        assert_memory_equal(p, wanted, n);                                                         \
    } while (0)

/* ---- primitives ---- */

static void comparison(void)
{
    uint8_t a[32] = {1}, b[32] = {1};
    hide(a, sizeof(a));
    hide(b, sizeof(b));
    assert_true(equal_constant_time(a, b, sizeof(a)));
    for (size_t i = 0; i < sizeof(b); i++) {
        b[i] ^= 0x80;
        assert_false(equal_constant_time(a, b, sizeof(a)));
        b[i] ^= 0x80;
    }
}

static const enum hash_alg hashes[] = {HASH_MD5,    HASH_SHA1,   HASH_SHA224,   HASH_SHA256,
                                       HASH_SHA384, HASH_SHA512, HASH_RIPEMD160};

static void hashes_and_key_derivation(void)
{
    /* As long as a block of each hash, and longer. */
    static const size_t sizes[] = {1, 64, 65, 128, 129};
    uint8_t long_pass[129] = {7}, open[64], shut[64];
    for (size_t i = 0; i < ARRAY_LEN(hashes); i++)
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++) {
            show(long_pass, sizeof(long_pass));
            assert_int_equal(
                pbkdf2(hashes[i], long_pass, sizes[j], "salt", 4, 5, open, sizeof(open), NULL), 0);
            hide(long_pass, sizeof(long_pass));
            assert_int_equal(
                pbkdf2(hashes[i], long_pass, sizes[j], "salt", 4, 5, shut, sizeof(shut), NULL), 0);
            assert_shown(shut, open, sizeof(open));
        }
    show(long_pass, sizeof(long_pass));
    hkdf_sha256("salt", 4, long_pass, 64, "label", open, sizeof(open));
    hide(long_pass, sizeof(long_pass));
    hkdf_sha256("salt", 4, long_pass, 64, "label", shut, sizeof(shut));
    assert_shown(shut, open, sizeof(open));
}

static void sector_ciphers(void)
{
    static const struct luks_cipher how[] = {
        {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64},
        {CIPHER_AES128, MODE_XTS, IVGEN_PLAIN, 0, 32},
        {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_SHA256, 32},
        {CIPHER_AES192, MODE_CTR, IVGEN_PLAIN64, 0, 24},
        {CIPHER_SERPENT256, MODE_XTS, IVGEN_PLAIN64, 0, 64},
        {CIPHER_TWOFISH256, MODE_XTS, IVGEN_PLAIN64, 0, 64},
        {CIPHER_CAST5_128, MODE_CBC, IVGEN_PLAIN64, 0, 16},
    };
    static const uint8_t zero[2 * SECTOR_BYTES];
    uint8_t key[64] = {1, 2, 3}, sectors[2 * SECTOR_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        OWNED(sector_cipher) c = NULL;
        struct err e;
        hide(key, sizeof(key));
        memset(sectors, 0, sizeof(sectors));
        hide(sectors, sizeof(sectors));
        assert_done(sector_cipher_with(&how[i], key, &c, &e), e);
        sector_encrypt(c, 7, 2, sectors);
        sector_decrypt(c, 7, 2, sectors);
        assert_shown(sectors, zero, sizeof(sectors));
    }
}

/* ---- from a passphrase to keys ---- */

static void a_slot_is_sealed_and_opened(void)
{
    OWNED(volume_key) key = NULL;
    OWNED(volume_key) again = NULL;
    OWNED(volume_key) copy = NULL;
    OWNED(secret) right = hidden(passphrase, PASS_BYTES);
    OWNED(secret) wrong = hidden("another passphrase of 24", PASS_BYTES);
    struct luks_header h;
    struct err e;
    OWNED_HEAP uint8_t *material = calloc(luks_slot_sectors(64), SECTOR_BYTES);
    assert_non_null(material);
    secret_draws = 1; /* the volume key; what is drawn after it is no secret */
    assert_done(luks_volume_new(LUKS_MIN_ITERATIONS, &h, &key, &e), e);
    show(h.digest, sizeof(h.digest)); /* lies in the header */
    assert_done(
        luks_slot_seal(&h, 0, key, right, PASS_BYTES, LUKS_MIN_ITERATIONS, NULL, material, &e), e);
    show(material, luks_slot_sectors(64) * SECTOR_BYTES);
    assert_int_equal(luks_slot_open(&h, 0, material, wrong, PASS_BYTES, NULL, &again, &e), 0);
    assert_int_equal(luks_slot_open(&h, 0, material, right, PASS_BYTES, NULL, &again, &e), 1);
    assert_done(volume_key_copy(again, &copy, &e), e);
    show(volume_key_peek(key), 64);
    assert_shown(volume_key_peek(copy), volume_key_peek(key), 64);
}

static void a_migration_key_is_read(void)
{
    static const char *const hex[] = {
        "0x000102030405060708090A0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"};
    uint8_t bytes[32];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    for (size_t i = 0; i < ARRAY_LEN(hex); i++) {
        OWNED(migration_key) k = NULL;
        size_t n = strlen(hex[i]);
        OWNED(secret) text = hidden(hex[i], n);
        struct err e;
        show(secret_peek(text), 2);
        show(secret_peek(text) + n - 2, 2);
        assert_done(migration_key_parse(MIGRATION_KEY_HEX, 256, text, n, &k, &e), e);
        assert_shown(migration_key_peek(k), bytes, sizeof(bytes));
    }
    OWNED(secret) binary = hidden(bytes, sizeof(bytes));
    for (unsigned i = 0; i < 3; i++) {
        OWNED(migration_key) k = NULL;
        struct err e;
        int r = i == 0 ? migration_key_parse(MIGRATION_KEY_BINARY, 256, binary, 32, &k, &e)
                       : migration_key_derive(i == 1 ? MIGRATION_KDF_PBKDF2 : MIGRATION_KDF_SHA512,
                                              256, binary, 32, &k, &e);
        assert_done(r, e);
    }
}

static int file_with(const char *text)
{
    char name[] = "/tmp/nvkeep-constant-time.XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void a_key_is_read_from_where_it_lies(void)
{
    static const char line[] = "a passphrase of 24 bytes\n";
    OWNED(secret) from_fd = NULL;
    OWNED(secret) from_admin = NULL;
    OWNED(admin_key) k = NULL;
    struct key_source source = {.kind = KEY_SOURCE_PWDFD, .value = "7", .fd = file_with(line)};
    int fd = file_with(line);
    struct err e;
    size_t n = 0;
    reads_are_secret = true;
    assert_done(key_source_read(&source, "image", &from_fd, &n, &e), e);
    assert_int_equal(n, PASS_BYTES);
    assert_done(admin_key_new(&fd, true, &k, &e), e);
    assert_int_equal(admin_key_read(k, &from_admin, &n, &e), 1);
    assert_int_equal(n, PASS_BYTES);
    reads_are_secret = false;
    assert_shown(secret_peek(from_fd), passphrase, n);
    assert_shown(secret_peek(from_admin), passphrase, n);
}

static void a_new_key_is_written_as_text(void)
{
    OWNED(secret) text = NULL;
    char dir[] = "/tmp/nvkeep-constant-time.XXXXXX", path[60], file[NEW_KEY_TEXT_BYTES];
    struct err e;
    size_t n = 0;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/key", dir);
    secret_draws = 1;
    assert_done(new_key_file(path, &text, &n, &e), e);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, file, sizeof(file)), n);
    close(fd);
    unlink(path);
    rmdir(dir);
    assert_shown(secret_peek(text), file, n);
}

/* ---- what is authenticated ---- */

static void the_reference_sector(void)
{
    static const struct ref_facts facts = {.device = DEVICE_TPM20,
                                           .layout = {{8, 648}, 640, 2048, 512}};
    OWNED(volume_key) key = hidden_volume_key();
    OWNED(mac_key) made = NULL;
    OWNED(mac_key) verified = NULL;
    struct ref_facts found;
    struct err e;
    uint8_t sector[SECTOR_BYTES];
    assert_done(ref_sector_encode(&facts, key, sector, &made, &e), e);
    show(sector, sizeof(sector)); /* it lies on the disk */
    assert_done(ref_sector_verify(sector, key, &found, &verified, &e), e);
    assert_int_equal(found.layout.log, 2048);
    static const size_t places[] = {0, 20, 50, 70, 450, 470, 490};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        sector[places[i]] ^= 1;
        assert_int_equal(ref_sector_verify(sector, key, &found, &verified, &e), -1);
        sector[places[i]] ^= 1;
    }
}

static void a_record(void)
{
    static const struct record_head head = {3, 1, RECORD_FULL, 900};
    OWNED(mac_key) key = NULL;
    OWNED(secret) from = hidden(passphrase, PASS_BYTES);
    struct err e;
    struct record_sector found;
    struct span spans[4];
    uint8_t sectors[3 * SECTOR_BYTES] = {0}, mac[RECORD_MAC_BYTES];
    assert_done(mac_key_new(secret_peek(from), PASS_BYTES, &key, &e), e);
    record_seal(key, AREA_LOG, 5, &head, mac, sectors, mac);
    show(sectors, sizeof(sectors)); /* they lie on the disk */
    assert_int_equal(record_verify(key, AREA_LOG, 5, sectors, 3, mac, spans, &found),
                     RECORD_INTACT);
    for (size_t at = 0; at < sizeof(sectors); at += 37) {
        sectors[at] ^= 4;
        assert_int_not_equal(record_verify(key, AREA_LOG, 5, sectors, 3, mac, spans, &found),
                             RECORD_INTACT);
        sectors[at] ^= 4;
    }
}

static void an_envelope(void)
{
    OWNED(volume_key) image = hidden_volume_key();
    OWNED(migration_key) migration = hidden_migration_key();
    const struct envelope_keys keys = {image, migration};
    for (enum envelope_key k = ENVELOPE_IMAGE_KEY; k <= ENVELOPE_MIGRATION_KEY; k++) {
        struct envelope_head head = known_head(ENVELOPE_STATE, k), found;
        OWNED(secret) content = hidden(content_bytes, CONTENT);
        OWNED(secret) opened = NULL;
        uint8_t b[CONTENT + ENVELOPE_OVERHEAD_MAX];
        struct err e;
        size_t n = 0, got = 0;
        assert_done(envelope_seal(&head, &keys, secret_peek(content), CONTENT, b, &n, &e), e);
        show(b, n); /* it travels */
        assert_done(envelope_open(ENVELOPE_STATE, &keys, b, n, &found, &opened, &got, &e), e);
        assert_int_equal(got, CONTENT);
        assert_shown(secret_peek(opened), content_bytes, CONTENT);
        b[n - 1] ^= 1;
        assert_refused(envelope_open(ENVELOPE_STATE, &keys, b, n, &found, &opened, &got, &e), e,
                       ERR_STATE_CORRUPT, "authentic");
    }
}

static void a_layer_of_swtpm(void)
{
    OWNED(migration_key) key = hidden_migration_key();
    OWNED(secret) content = hidden(content_bytes, CONTENT);
    OWNED(secret) opened = NULL;
    uint8_t b[CONTENT + 32], mac[SHA256_BYTES], iv[MIGRATION_IV_MAX];
    size_t total = migration_layer_bytes(key, CONTENT), n = 0;
    struct err e;
    assert_done(migration_layer_seal(key, secret_peek(content), CONTENT, b, mac, iv, &e), e);
    assert_done(migration_layer_open(key, b, total, mac, iv, &opened, &n, &e), e);
    assert_int_equal(n, CONTENT);
    assert_shown(secret_peek(opened), content_bytes, CONTENT);
    mac[31] ^= 1;
    assert_refused(migration_layer_open(key, b, total, mac, iv, &opened, &n, &e), e, ERR_KEY_WRONG,
                   "migration key");
}

/* ---- planted ---- */

static volatile int sink;

static void plant_memcmp(void)
{
    uint8_t a[SHA256_BYTES] = {1}, b[SHA256_BYTES] = {1};
    hide(a, sizeof(a));
    if (memcmp(a, b, sizeof(a)) == 0)
        sink++;
}

static void plant_early_exit(void)
{
    uint8_t a[SHA256_BYTES] = {1}, b[SHA256_BYTES] = {1};
    OWNED(mac_key) key = NULL;
    OWNED(secret) from = hidden(passphrase, PASS_BYTES);
    struct err e;
    assert_done(mac_key_new(secret_peek(from), PASS_BYTES, &key, &e), e);
    mac_compute(key, &(struct span){"message", 7}, 1, a);
    for (size_t i = 0; i < sizeof(a) && a[i] == b[i]; i++)
        sink++;
}

static void plant_table(void)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t secret = 5;
    hide(&secret, 1);
    sink += digits[secret & 15];
}

static void plant_branch_in_a_key(void)
{
    OWNED(volume_key) key = hidden_volume_key();
    if (volume_key_peek(key)[63] & 1)
        sink++;
}

/* ---- running ---- */

static void clean(void **state)
{
    void (*const body)(void) = (void (*)(void)) * state;
    unsigned before = n_reports();
    body();
    if (n_reports() != before)
        fail_msg("memcheck reported %u times: see above", n_reports() - before);
}

static void reported(void **state)
{
    void (*const body)(void) = (void (*)(void)) * state;
    unsigned before = n_reports();
    body();
    if (n_reports() == before)
        fail_msg("memcheck did not see the planted mistake");
}

#define CLEAN(f)                                                                                   \
    {                                                                                              \
#f " depends on no secret", clean, NULL, NULL, (void *)(f)                                 \
    }
#define PLANTED(f)                                                                                 \
    {                                                                                              \
#f " is reported", reported, NULL, NULL, (void *)(f)                                       \
    }

static int cases(void)
{
    const struct CMUnitTest tests[] = {
        CLEAN(comparison),
        CLEAN(hashes_and_key_derivation),
        CLEAN(sector_ciphers),
        CLEAN(a_slot_is_sealed_and_opened),
        CLEAN(a_migration_key_is_read),
        CLEAN(a_key_is_read_from_where_it_lies),
        CLEAN(a_new_key_is_written_as_text),
        CLEAN(the_reference_sector),
        CLEAN(a_record),
        CLEAN(an_envelope),
        CLEAN(a_layer_of_swtpm),
        PLANTED(plant_memcmp),
        PLANTED(plant_early_exit),
        PLANTED(plant_table),
        PLANTED(plant_branch_in_a_key),
    };
    fputs("What memcheck reports in the cases named plant_ is planted.\n", stderr);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

static void under_valgrind(const char *self, const char *argument)
{
    char known[4200];
    snprintf(known, sizeof(known), "--suppressions=%s/tests/crypto/constant_time.supp",
             getenv("NVKEEP_SOURCE") ?: ".");
    char code[32];
    snprintf(code, sizeof(code), "--error-exitcode=%d", argument ? REPORTED : 0);
    /* nettle says what it has chosen for this processor. */
    setenv("NETTLE_FAT_VERBOSE", "1", 1);
    execlp("valgrind", "valgrind", "-q", code, known, self, argument, (char *)NULL);
    perror("valgrind");
    _exit(77);
}

/* The verdict that a script would see. */
static int exit_code_of_a_plant(const char *self)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        under_valgrind(self, "--plant");
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)
               ? WEXITSTATUS(status)
               : -1;
}

int main(int argc, char **argv)
{
    if (SANITIZED) {
        puts("a program with sanitizers does not run under valgrind: this needs a plain build");
        return 77;
    }
    if (RUNNING_ON_VALGRIND) {
        if (argc == 1)
            return cases();
        plant_memcmp();
        return 0;
    }
    int code = exit_code_of_a_plant(argv[0]);
    if (code == 77)
        puts("valgrind is missing");
    if (code == REPORTED)
        under_valgrind(argv[0], NULL);
    printf("a planted mistake ends valgrind with %d and not with %d\n", code, REPORTED);
    return code == 77 ? 77 : 1;
}
