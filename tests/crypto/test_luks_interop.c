/* Our LUKS1 against that of qemu-img and cryptsetup, both ways, and two images frozen in golden/
 * (header, the material of slot 0, and what the image had behind it). */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"
#include "src/base/fd.h"
#include "tests/crypto/helpers.h"

static char folder[] = "/tmp/nvkeep-luks-XXXXXX";

/* Runs in `folder`. Returns the exit code; what it prints goes to the file "out". */
static int PRINTF_LIKE(1, 2) run(const char *fmt, ...)
{
    char line[2048], all[2200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    snprintf(all, sizeof(all), "cd %s && { %s; } >out 2>&1 </dev/null", folder, line);
    int r = system(all);
    return WIFEXITED(r) ? WEXITSTATUS(r) : -1;
}

static void need(const char *tool)
{
    if (run("command -v %s", tool) != 0) {
        print_message("%s is missing\n", tool);
        skip();
    }
}

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static size_t slurp(const char *path, uint8_t **ret)
{
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        fail_msg("%s: %s", path, strerror(errno));
    *ret = malloc((size_t)st.st_size + 1);
    assert_non_null(*ret);
    assert_int_equal(fd_pread_full(fd, *ret, (size_t)st.st_size, 0), st.st_size);
    (*ret)[st.st_size] = 0;
    return (size_t)st.st_size;
}

static void spill(const char *name, const void *bytes, size_t n)
{
    OWNED_FD fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_full(fd, bytes, n), 0);
}

/* "MK dump:" of cryptsetup, read from the file "out". */
static void dumped_key(uint8_t *ret, size_t n)
{
    OWNED_HEAP uint8_t *text = NULL;
    slurp(path_of("out"), &text);
    char *p = strstr((char *)text, "MK dump:");
    assert_non_null(p);
    p += 8;
    for (size_t i = 0; i < n; i++)
        ret[i] = (uint8_t)strtoul(p, &p, 16);
}

static struct volume_key *open_area(const uint8_t *area, size_t n, unsigned slot, const char *pass,
                                    struct luks_header *h)
{
    OWNED(secret) s = secret_of(pass);
    struct volume_key *k = NULL;
    struct err e;
    assert_done(luks_header_decode(area, n, h, &e), e);
    int r = luks_slot_open(h, slot, area + (size_t)h->slot[slot].material_sector * 512, s,
                           strlen(pass), NULL, &k, &e);
    if (r < 0)
        fail_msg("%s", e.text);
    return k;
}

static void is_filled(const uint8_t *p, size_t n, uint8_t with)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(p[i], with);
}

/* ---- frozen ---- */

/* S4.13 */
static void images_of_other_tools_stay_readable(void **state)
{
    static const struct {
        const char *file, *key;
        uint32_t payload_sector;
        bool has_payload;
    } v[] = {
        {"qemu-img-7.2.luks", "d57d1eb6caf2a81b2c9d2e1c041a672d", 1032, true},
        {"cryptsetup-2.6.luks", "4668c0130f3ccc427bde202d0aad921c", 2048, false},
    };
    const char *source = getenv("NVKEEP_SOURCE");
    (void)state;
    if (!source) {
        print_message("NVKEEP_SOURCE is not set\n");
        skip();
    }
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        char path[512];
        OWNED_HEAP uint8_t *bytes = NULL;
        OWNED(volume_key) key = NULL;
        OWNED(secret) pass = secret_of("golden passphrase");
        OWNED(sector_cipher) c = NULL;
        struct luks_header h;
        struct err e;
        snprintf(path, sizeof(path), "%s/tests/crypto/golden/%s", source, v[i].file);
        slurp(path, &bytes);
        /* The files end behind slot 0, the areas did not. */
        assert_done(luks_header_decode(bytes, luks_area_bytes(16), &h, &e), e);
        assert_int_equal(h.payload_sector, v[i].payload_sector);
        assert_int_equal(luks_slot_open(&h, 0, bytes + 4096, pass, 17, NULL, &key, &e), 1);
        assert_hex(volume_key_peek(key), v[i].key);
        if (!v[i].has_payload)
            continue;
        uint8_t *payload = bytes + 4096 + 4000 * 16; /* the padding of the slot was left out */
        assert_done(sector_cipher_new(&h.cipher, key, &c, &e), e);
        sector_decrypt(c, 0, 2, payload);
        is_filled(payload, 512, 0x41);
        is_filled(payload + 512, 512, 0x42);
    }
}

/* ---- cryptsetup ---- */

static void what_cryptsetup_formats_opens_here_with_the_same_volume_key(void **state)
{
    static const struct {
        const char *cipher, *hash;
        unsigned key_bytes;
    } v[] = {
        {"aes-xts-plain64", "sha256", 64},    {"aes-xts-plain64", "sha512", 64},
        {"aes-xts-plain64", "sha1", 32},      {"aes-cbc-essiv:sha256", "sha1", 32},
        {"aes-cbc-plain64", "ripemd160", 16}, {"aes-cbc-essiv:sha256", "sha256", 24},
    };
    (void)state;
    need("cryptsetup");
    spill("pass", "correct horse", 13);
    spill("pass2", "battery\n", 8);
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED_HEAP uint8_t *area = NULL;
        uint8_t wanted[64];
        struct luks_header h;
        assert_int_equal(run("rm -f c; truncate -s 4M c && cryptsetup luksFormat --type luks1 "
                             "--batch-mode --pbkdf-force-iterations 1000 --cipher %s --key-size %u "
                             "--hash %s --key-file pass c && cryptsetup luksAddKey --batch-mode "
                             "--pbkdf-force-iterations 1001 --key-file pass --key-slot 5 c pass2",
                             v[i].cipher, v[i].key_bytes * 8, v[i].hash),
                         0);
        assert_int_equal(
            run("cryptsetup luksDump --dump-volume-key --batch-mode --key-file pass c"), 0);
        dumped_key(wanted, v[i].key_bytes);
        size_t n = slurp(path_of("c"), &area);
        OWNED(volume_key) first = open_area(area, n, 0, "correct horse", &h);
        OWNED(volume_key) second = open_area(area, n, 5, "battery\n", &h);
        OWNED(volume_key) none = open_area(area, n, 5, "battery", &h);
        assert_non_null(first);
        assert_non_null(second);
        assert_null(none);
        assert_int_equal(h.cipher.key_bytes, v[i].key_bytes);
        assert_int_equal(h.slot[5].iterations, 1001);
        assert_memory_equal(volume_key_peek(first), wanted, v[i].key_bytes);
        assert_memory_equal(volume_key_peek(second), wanted, v[i].key_bytes);
    }
}

/* A whole LUKS1 volume of ours, with `payload_sectors` of zeroes behind the area. */
static size_t own_volume(const char *pass, unsigned slot, size_t payload_sectors, uint8_t **ret,
                         struct luks_header *h, struct volume_key **ret_key)
{
    size_t n = luks_area_bytes(64) + payload_sectors * 512;
    OWNED(secret) s = secret_of(pass);
    struct err e;
    *ret = calloc(1, n);
    assert_non_null(*ret);
    assert_done(luks_volume_new(1000, h, ret_key, &e), e);
    assert_done(luks_slot_seal(h, slot, *ret_key, s, strlen(pass), 1500, NULL,
                               *ret + (size_t)h->slot[slot].material_sector * 512, &e),
                e);
    luks_header_encode(h, *ret);
    return n;
}

static void what_is_made_here_opens_in_cryptsetup_with_the_same_volume_key(void **state)
{
    OWNED_HEAP uint8_t *area = NULL;
    OWNED_HEAP uint8_t *changed = NULL;
    OWNED(volume_key) key = NULL;
    struct luks_header h, after;
    uint8_t dumped[64];
    (void)state;
    need("cryptsetup");
    size_t n = own_volume("ours", 2, 8, &area, &h, &key);
    spill("o", area, n);
    spill("pass", "ours", 4);
    spill("wrong", "Ours", 4);
    spill("more", "another one", 11);
    assert_int_equal(
        run("cryptsetup isLuks --type luks1 o && cryptsetup luksUUID o | grep -qx %s", h.uuid), 0);
    assert_int_equal(run("cryptsetup open --test-passphrase --key-slot 2 --key-file pass o"), 0);
    assert_int_equal(run("cryptsetup open --test-passphrase --key-file wrong o"), 2);
    assert_int_equal(run("cryptsetup luksDump --dump-volume-key --batch-mode --key-file pass o"),
                     0);
    dumped_key(dumped, sizeof(dumped));
    assert_memory_equal(dumped, volume_key_peek(key), sizeof(dumped));

    /* It changes our header, and we read it again. */
    assert_int_equal(run("cryptsetup luksAddKey --batch-mode --pbkdf-force-iterations 1000 "
                         "--key-file pass o more && cryptsetup luksKillSlot --batch-mode "
                         "--key-file more o 2"),
                     0);
    n = slurp(path_of("o"), &changed);
    OWNED(volume_key) again = open_area(changed, n, 0, "another one", &after);
    assert_non_null(again);
    assert_memory_equal(volume_key_peek(again), volume_key_peek(key), 64);
    assert_false(after.slot[2].active);
}

/* ---- QEMU ---- */

#define QEMU_SECRET "--object secret,id=s,data='correct horse'"
#define QEMU_OPTS   "--image-opts driver=luks,file.filename=q,key-secret=s"

static void what_qemu_creates_and_writes_is_read_here(void **state)
{
    /* Few: qemu-img takes seconds for each because of how it measures. */
    static const struct {
        const char *alg, *mode, *ivgen, *hash;
    } v[] = {
        {"aes-256", "xts", "plain64", "sha256"},
        {"aes-256", "cbc", "essiv,ivgen-hash-alg=sha256", "sha512"},
        {"aes-128", "cbc", "plain64,ivgen-hash-alg=sha256", "sha224"}, /* the useless suffix */
        {"serpent-192", "xts", "essiv,ivgen-hash-alg=sha256", "sha256"},
        {"twofish-256", "ctr", "essiv,ivgen-hash-alg=sha256", "ripemd160"},
        {"cast5-128", "ctr", "plain64", "sha1"},
    };
    (void)state;
    need("qemu-img");
    need("qemu-io");
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        OWNED_HEAP uint8_t *image = NULL;
        OWNED(sector_cipher) c = NULL;
        struct luks_header h;
        struct err e;
        /* It measures CPU time and sometimes gets none: "Unable to get accurate CPU usage". */
        for (unsigned try = 0;
             run("rm -f q; qemu-img create -q -f luks " QEMU_SECRET
                 " -o key-secret=s,cipher-alg=%s,cipher-mode=%s,ivgen-alg=%s,"
                 "hash-alg=%s,iter-time=%u q 64k",
                 v[i].alg, v[i].mode, v[i].ivgen, v[i].hash, 10 + 20 * (try % 10)) != 0;) {
            assert_true(++try < 60);
            usleep(200000);
        }
        assert_int_equal(run("qemu-io " QEMU_SECRET " " QEMU_OPTS " -c 'write -P 0x41 0 512' "
                             "-c 'write -P 0x42 512 65024'"),
                         0);
        size_t n = slurp(path_of("q"), &image);
        OWNED(volume_key) key = open_area(image, n, 0, "correct horse", &h);
        assert_non_null(key);
        assert_done(sector_cipher_new(&h.cipher, key, &c, &e), e);
        uint8_t *payload = image + (size_t)h.payload_sector * 512;
        sector_decrypt(c, 0, 128, payload);
        is_filled(payload, 512, 0x41);
        is_filled(payload + 512, 65024, 0x42);
    }
}

static void what_is_written_here_is_read_by_qemu(void **state)
{
    OWNED_HEAP uint8_t *image = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(sector_cipher) c = NULL;
    struct luks_header h;
    struct err e;
    (void)state;
    need("qemu-io");
    size_t n = own_volume("correct horse", 7, 64, &image, &h, &key);
    uint8_t *payload = image + (size_t)h.payload_sector * 512;
    memset(payload, 0x77, 512);
    memset(payload + 512, 0x78, 63 * 512);
    assert_done(sector_cipher_new(&h.cipher, key, &c, &e), e);
    sector_encrypt(c, 0, 64, payload);
    spill("q", image, n);
    assert_int_equal(run("qemu-io " QEMU_SECRET " " QEMU_OPTS " -c 'read -P 0x77 0 512' "
                         "-c 'read -P 0x78 512 32256' && ! grep -q failed out"),
                     0);
    assert_int_equal(run("qemu-io --object secret,id=s,data=wrong " QEMU_OPTS " -c 'read 0 512'"),
                     1);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    return run("cd / && rm -rf %s; mkdir %s", folder, folder) == 0 ? rmdir(folder) : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_of_other_tools_stay_readable),
        cmocka_unit_test(what_cryptsetup_formats_opens_here_with_the_same_volume_key),
        cmocka_unit_test(what_is_made_here_opens_in_cryptsetup_with_the_same_volume_key),
        cmocka_unit_test(what_qemu_creates_and_writes_is_read_here),
        cmocka_unit_test(what_is_written_here_is_read_by_qemu),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
