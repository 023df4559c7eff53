/* Every allocation and every system call below the crypto layer fails once: whatever calls it must
 * say so, leave its out-parameters alone and give back all it took. */
#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include "crypto/luks_key_priv.h"
#include "crypto/ref_sector.h"
#include "src/base/bytes.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"

/* Counts down to the call that fails; 0: none. Locked mappings are counted to see what leaks. */
static struct {
    bool armed;
    unsigned left;
    bool hit;
    int n_mapped;
} fault;

static bool fails_now(void)
{
    if (!fault.armed || fault.left == 0 || --fault.left > 0)
        return false;
    fault.hit = true;
    return true;
}

#define IN_FRONT __attribute__((visibility("default"))) /* of libc's, for libraries as well */

IN_FRONT void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    if (fails_now()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    fault.n_mapped += fault.armed;
    return (void *)syscall(SYS_mmap, at, n, prot, flags, fd, off);
}

IN_FRONT int munmap(void *p, size_t n)
{
    fault.n_mapped -= fault.armed;
    return (int)syscall(SYS_munmap, p, n);
}

IN_FRONT int madvise(void *p, size_t n, int advice)
{
    if (fails_now()) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_madvise, p, n, advice);
}

IN_FRONT int mlock(const void *p, size_t n)
{
    if (fails_now()) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_mlock, p, n);
}

IN_FRONT ssize_t getrandom(void *p, size_t n, unsigned flags)
{
    if (fails_now()) {
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_getrandom, p, n, flags);
}

#if !SANITIZED
/* libtasn1 crashes where some of its allocations fail; der.c makes sure beforehand that they do
 * not, so the failing one is ours. */
static bool fails_now_for(const void *caller)
{
    Dl_info where;
    if (fault.armed && dladdr(caller, &where) && where.dli_fname &&
        strstr(where.dli_fname, "libtasn1"))
        return false;
    return fails_now();
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);

IN_FRONT void *malloc(size_t n)
{
    if (fails_now_for(__builtin_return_address(0))) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(n);
}

IN_FRONT void *calloc(size_t n, size_t each)
{
    if (fails_now_for(__builtin_return_address(0))) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(n, each);
}
#endif

/* ---- what is tried ---- */

/* Made once, outside of the faults. */
static struct {
    struct luks_header h;
    struct volume_key *key;
    uint8_t *material;
    struct secret *pass, *text;
    uint8_t sector[SECTOR_BYTES];
    struct migration_key *migration;
    uint8_t envelope[64 + ENVELOPE_OVERHEAD_MAX];
    size_t envelope_n;
    uint8_t layer[96], layer_mac[SHA256_BYTES], layer_iv[MIGRATION_IV_MAX];
} made;

static const struct ref_facts facts = {
    .device = DEVICE_TPM20,
    .layout = {{8, 648}, 640, 1288, 512},
};

/* Each returns what the call returned, has dropped what it made, and aborts by itself where an
 * out-parameter was touched by a failure. */
static int try_secret(struct err *e)
{
    struct secret *s = NULL;
    int r = secret_new(100, &s, e);
    assert_int_equal(r < 0, s == NULL);
    secret_free(s);
    return r;
}

static int try_mac_key(struct err *e)
{
    struct mac_key *k = NULL;
    int r = mac_key_new("key", 3, &k, e);
    assert_int_equal(r < 0, k == NULL);
    mac_key_free(k);
    return r;
}

static int try_sector_cipher(struct err *e)
{
    static const struct luks_cipher essiv = {CIPHER_AES128, MODE_XTS, IVGEN_ESSIV, HASH_SHA256, 32};
    static const uint8_t key[32] = {1};
    struct sector_cipher *c = NULL;
    int r = sector_cipher_with(&essiv, key, &c, e);
    assert_int_equal(r < 0, c == NULL);
    sector_cipher_free(c);
    return r;
}

static int try_volume_new(struct err *e)
{
    struct luks_header h, before;
    struct volume_key *k = NULL;
    memset(&h, 0x66, sizeof(h));
    before = h;
    int r = luks_volume_new(1000, &h, &k, e);
    assert_int_equal(r < 0, k == NULL);
    if (r < 0)
        assert_memory_equal(&h, &before, sizeof(h));
    volume_key_free(k);
    return r;
}

static int try_seal(struct err *e)
{
    struct luks_header h = made.h;
    OWNED_HEAP uint8_t *material = NULL;
    bool armed = fault.armed;
    fault.armed = false;
    material = malloc((size_t)luks_slot_sectors(64) * 512);
    fault.armed = armed;
    int r = luks_slot_seal(&h, 3, made.key, made.pass, 1, 1000, NULL, material, e);
    if (r < 0)
        assert_memory_equal(&h, &made.h, sizeof(h));
    return r;
}

static int try_open(struct err *e)
{
    struct volume_key *k = NULL;
    int r = luks_slot_open(&made.h, 0, made.material, made.pass, 1, NULL, &k, e);
    assert_int_not_equal(r, 0); /* a fault is never "the wrong passphrase" */
    assert_int_equal(r < 0, k == NULL);
    volume_key_free(k);
    return r < 0 ? r : 0;
}

static int try_ref_encode(struct err *e)
{
    struct mac_key *m = NULL;
    uint8_t sector[SECTOR_BYTES] = {0}, zero[SECTOR_BYTES] = {0};
    int r = ref_sector_encode(&facts, made.key, sector, &m, e);
    assert_int_equal(r < 0, m == NULL);
    if (r < 0)
        assert_memory_equal(sector, zero, sizeof(zero));
    mac_key_free(m);
    return r;
}

static int try_ref_verify(struct err *e)
{
    struct mac_key *m = NULL;
    struct ref_facts f, before;
    memset(&f, 0x66, sizeof(f));
    before = f;
    int r = ref_sector_verify(made.sector, made.key, &f, &m, e);
    assert_int_equal(r < 0, m == NULL);
    if (r < 0)
        assert_memory_equal(&f, &before, sizeof(f));
    mac_key_free(m);
    return r;
}

static int try_envelope_seal(struct err *e)
{
    static const uint8_t content[64] = {1};
    struct envelope_head h = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    uint8_t b[sizeof(made.envelope)] = {0};
    size_t n = 0;
    int r = envelope_seal(&h, &(struct envelope_keys){made.key, NULL}, content, 64, b, &n, e);
    if (r < 0)
        assert_true(n == 0 && bytes_all_zero(b, sizeof(b)));
    return r;
}

static int try_envelope_open(struct err *e)
{
    struct envelope_head h, before;
    struct secret *s = NULL;
    size_t n = 0;
    memset(&h, 0x66, sizeof(h));
    before = h;
    int r = envelope_open(ENVELOPE_STATE, &(struct envelope_keys){made.key, NULL}, made.envelope,
                          made.envelope_n, &h, &s, &n, e);
    assert_int_equal(r < 0, s == NULL);
    if (r < 0)
        assert_true(n == 0 && !memcmp(&h, &before, sizeof(h)));
    secret_free(s);
    return r;
}

static int try_migration_key(struct err *e)
{
    struct migration_key *k = NULL;
    int r = migration_key_derive(MIGRATION_KDF_SHA512, 256, made.pass, 1, &k, e);
    assert_int_equal(r < 0, k == NULL);
    migration_key_free(k);
    if (r < 0)
        return r;
    r = migration_key_parse(MIGRATION_KEY_BINARY, 128, made.text, 16, &k, e);
    if (r == 0)
        migration_key_free(k);
    return r;
}

static int try_layer_seal(struct err *e)
{
    uint8_t b[96] = {0}, mac[SHA256_BYTES] = {0}, iv[MIGRATION_IV_MAX] = {0};
    int r = migration_layer_seal(made.migration, made.sector, 70, b, mac, iv, e);
    if (r < 0)
        assert_true(bytes_all_zero(b, sizeof(b)) && bytes_all_zero(mac, 32) &&
                    bytes_all_zero(iv, 32));
    return r;
}

static int try_layer_open(struct err *e)
{
    struct secret *s = NULL;
    size_t n = 0;
    int r = migration_layer_open(made.migration, made.layer, sizeof(made.layer), made.layer_mac,
                                 made.layer_iv, &s, &n, e);
    assert_int_equal(r < 0, s == NULL);
    if (r < 0)
        assert_int_equal(n, 0);
    secret_free(s);
    return r;
}

/* Fails the first, the second, .. call until one run gets through. */
static unsigned each_fault(int (*what)(struct err *e))
{
    for (unsigned n = 1;; n++) {
        struct err e = {0};
        fault.left = n;
        fault.hit = false;
        fault.n_mapped = 0;
        fault.armed = true;
        int r = what(&e);
        fault.armed = false;
        assert_int_equal(fault.n_mapped, 0);
        if (!fault.hit) {
            assert_int_equal(r, 0);
            return n - 1;
        }
        if (r == 0)
            fail_msg("fault %u was swallowed", n);
        assert_int_equal(r, -1);
        if (e.kind != ERR_STORAGE || !e.text[0])
            fail_msg("fault %u became %s: %s", n, err_class(e.kind)->name, e.text);
    }
}

static int make(void **state)
{
    struct err e;
    struct mac_key *m = NULL;
    (void)state;
    made.pass = secret_of("p");
    made.material = malloc((size_t)luks_slot_sectors(64) * 512);
    assert_non_null(made.material);
    assert_done(luks_volume_new(1000, &made.h, &made.key, &e), e);
    assert_done(luks_slot_seal(&made.h, 0, made.key, made.pass, 1, 1000, NULL, made.material, &e),
                e);
    assert_done(ref_sector_encode(&facts, made.key, made.sector, &m, &e), e);
    mac_key_free(m);
    struct envelope_head head = known_head(ENVELOPE_STATE, ENVELOPE_IMAGE_KEY);
    made.text = secret_of("0123456789abcdef");
    made.migration = known_migration_key(256, 1);
    assert_done(envelope_seal(&head, &(struct envelope_keys){made.key, NULL}, made.sector, 64,
                              made.envelope, &made.envelope_n, &e),
                e);
    assert_done(migration_layer_seal(made.migration, made.sector, 70, made.layer, made.layer_mac,
                                     made.layer_iv, &e),
                e);
    return 0;
}

static int drop(void **state)
{
    (void)state;
    volume_key_free(made.key);
    secret_free(made.pass);
    secret_free(made.text);
    migration_key_free(made.migration);
    free(made.material);
    return 0;
}

/* S1.12 S1.17 */
static void no_fault_is_swallowed_and_nothing_is_left_behind(void **state)
{
    static const struct {
        const char *name;
        int (*what)(struct err *e);
        unsigned at_least;
    } all[] = {
        {"secret", try_secret, 4},
        {"MAC key", try_mac_key, 4},
        {"sector cipher", try_sector_cipher, 12},
        {"new volume", try_volume_new, 7},
        {"sealing", try_seal, 20},
        {"opening", try_open, 16},
        {"encoding", try_ref_encode, 8},
        {"verifying", try_ref_verify, 8},
        {"sealing an envelope", try_envelope_seal, 6},
        {"opening an envelope", try_envelope_open, 10},
        {"migration key", try_migration_key, 8},
        {"sealing a layer", try_layer_seal, 9},
        {"opening a layer", try_layer_open, 12},
    };
    unsigned sum = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        unsigned n = each_fault(all[i].what);
        print_message("%s: %u faults\n", all[i].name, n);
        assert_true(n >= all[i].at_least - (SANITIZED ? 3 : 0));
        sum += n;
    }
    print_message("%u faults, none swallowed\n", sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_fault_is_swallowed_and_nothing_is_left_behind),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
