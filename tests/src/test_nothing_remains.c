/* What is left of a key in the memory of the process: everything it has mapped is searched.
 *
 * What is searched for is kept masked, so that the test does not find itself.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/image.h"
#include "backend/tpm.h"
#include "crypto/luks_key_priv.h"
#include "src/base/fd.h"

enum { MASK = 0x5a, NEEDLE_MAX = 64, PASS_BYTES = 24, CHUNK = 65536 };

struct needle {
    const char *what;
    uint8_t masked[NEEDLE_MAX];
    size_t n;
};

struct fixture {
    char dir[64], path[80], other[80];
    uint8_t pass_masked[PASS_BYTES];
    struct needle pass;
    struct needle key; /* the whole volume key */
    struct needle part[4];
};

static void needle_set(struct needle *n, const char *what, const uint8_t *p, size_t bytes)
{
    n->what = what;
    n->n = bytes;
    for (size_t i = 0; i < bytes; i++)
        n->masked[i] = p[i] ^ MASK;
}

static bool found_at(const struct needle *n, const uint8_t *p)
{
    for (size_t i = 0; i < n->n; i++)
        if ((p[i] ^ MASK) != n->masked[i])
            return false;
    return true;
}

static size_t count_in(const struct needle *n, const uint8_t *p, size_t bytes)
{
    size_t hits = 0;
    const uint8_t first = n->masked[0] ^ MASK;
    for (const uint8_t *at = p; (at = memchr(at, first, bytes - (size_t)(at - p))); at++) {
        if (bytes - (size_t)(at - p) < n->n)
            break;
        hits += found_at(n, at);
    }
    return hits;
}

/* How often the needle lies in writable memory of this process. The buffer that is searched is a
 * mapping of its own, and is left out. */
static size_t count_in_memory(const struct needle *n, uint8_t *buffer)
{
    char line[512];
    size_t hits = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    OWNED_FD mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    assert_non_null(maps);
    assert_true(mem >= 0);
    while (fgets(line, sizeof(line), maps)) {
        char *end;
        uintptr_t from = strtoul(line, &end, 16), to = strtoul(end + 1, &end, 16);
        if (end[2] != 'w' || strstr(line, "[vvar]") ||
            (from <= (uintptr_t)buffer && (uintptr_t)buffer < to))
            continue;
        /* Pieces overlap, so that nothing is missed where two of them meet. */
        for (uintptr_t at = from; at < to; at += CHUNK - NEEDLE_MAX) {
            ssize_t got = pread(mem, buffer, to - at < CHUNK ? to - at : CHUNK, (off_t)at);
            if (got > 0)
                hits += count_in(n, buffer, (size_t)got);
        }
    }
    fclose(maps);
    return hits;
}

static struct secret *pass_of(const struct fixture *f)
{
    struct err e;
    struct secret *s = NULL;
    assert_int_equal(secret_new(PASS_BYTES, &s, &e), 0);
    for (size_t i = 0; i < PASS_BYTES; i++)
        secret_bytes(s)[i] = f->pass_masked[i] ^ MASK;
    return s;
}

static void make_image(const struct fixture *f, const char *path)
{
    struct err e = {0};
    struct tpm_blobs blobs = {0};
    struct state_change first = {0};
    OWNED(secret) pass = pass_of(f);
    assert_int_equal(tpm_manufacture(DEVICE_TPM20, &blobs, &e), 0);
    tpm_blobs_change(&blobs, &first);
    struct image_create what = {
        .path = path,
        .device = DEVICE_TPM20,
        .iterations = LUKS_MIN_ITERATIONS,
        .first = &first,
    };
    if (image_create(&what, pass, PASS_BYTES, NULL, NULL, &e) < 0)
        fail_msg("%s", e.text);
    tpm_blobs_clear(&blobs);
}

/* The volume key, learned the way luks_key.c learns it, and kept masked. */
static void learn_key(struct fixture *f)
{
    static const char *const parts[] = {"bytes 0 to 15 of the volume key", "bytes 16 to 31",
                                        "bytes 32 to 47", "bytes 48 to 63"};
    struct err e = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(secret) pass = pass_of(f);
    if (blk_open(f->path, BLK_READ_ONLY, &b, &e) < 0 || qcow_open(b, &img, &e) < 0 ||
        qcow_recover(img, pass, PASS_BYTES, NULL, &key, &e) < 0)
        fail_msg("%s", e.text);
    const uint8_t *p = volume_key_peek(key);
    needle_set(&f->key, "the volume key", p, 64);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        needle_set(&f->part[i], parts[i], p + 16 * i, 16);
}

static int set_up(void **state)
{
    struct err e;
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    snprintf(f->dir, sizeof(f->dir), "%s/nvkeep-remains.XXXXXX", getenv("TMPDIR") ?: "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/image", f->dir);
    snprintf(f->other, sizeof(f->other), "%s/other", f->dir);
    assert_int_equal(random_bytes(f->pass_masked, PASS_BYTES, &e), 0);
    f->pass = (struct needle){.what = "the passphrase", .n = PASS_BYTES};
    memcpy(f->pass.masked, f->pass_masked, PASS_BYTES);
    make_image(f, f->path);
    learn_key(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    unlink(f->other);
    rmdir(f->dir);
    free(f);
    return 0;
}

static uint8_t *buffer_new(void)
{
    /* Aligned and large enough to be a mapping that nothing else lies in. */
    uint8_t *b = aligned_alloc(4096, (size_t)CHUNK * 16);
    assert_non_null(b);
    return b;
}

static void assert_gone(const struct needle *n, uint8_t *buffer)
{
    size_t hits = count_in_memory(n, buffer);
    if (hits > 0)
        fail_msg("%s lies in memory %zu times", n->what, hits);
}

/* The search itself: what is there is found. */
static void what_lies_in_memory_is_found(void **state)
{
    struct fixture *f = *state;
    OWNED_HEAP uint8_t *buffer = buffer_new();
    OWNED(secret) pass = pass_of(f);
    assert_true(count_in_memory(&f->pass, buffer) >= 1);
    char on_stack[64];
    memset(on_stack, 0, sizeof(on_stack));
    memcpy(on_stack + 7, secret_peek(pass), PASS_BYTES);
    assert_true(count_in_memory(&f->pass, buffer) >= 2);
    wipe(on_stack, sizeof(on_stack));
}

/* While a store is open only what decrypts sectors exists: neither passphrase nor volume key. */
static void an_open_store_needs_neither_passphrase_nor_volume_key(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    OWNED_HEAP uint8_t *buffer = buffer_new();
    OWNED(store) s = NULL;
    struct secret *pass = pass_of(f);
    int r = image_open_store(f->path, pass, PASS_BYTES, NULL, &s, &e);
    secret_free(pass);
    if (r < 0)
        fail_msg("%s", e.text);
    assert_gone(&f->pass, buffer);
    assert_gone(&f->key, buffer);
}

/* S1.15 */
static void nothing_of_a_key_remains_after_close(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    OWNED_HEAP uint8_t *buffer = buffer_new();
    struct store *s = NULL;
    struct secret *pass = pass_of(f);
    if (image_open_store(f->path, pass, PASS_BYTES, NULL, &s, &e) < 0)
        fail_msg("%s", e.text);
    secret_free(pass);
    store_free(s);
    assert_gone(&f->pass, buffer);
    assert_gone(&f->key, buffer);
    for (size_t i = 0; i < ARRAY_LEN(f->part); i++)
        assert_gone(&f->part[i], buffer);
}

static void nothing_of_a_key_remains_after_creating_or_verifying(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct image_report report;
    OWNED_HEAP uint8_t *buffer = buffer_new();
    make_image(f, f->other);
    assert_gone(&f->pass, buffer);
    struct secret *pass = pass_of(f);
    int r = image_verify(f->path, pass, PASS_BYTES, true, NULL, &report, &e);
    secret_free(pass);
    if (r < 0)
        fail_msg("%s", e.text);
    assert_gone(&f->pass, buffer);
    for (size_t i = 0; i < ARRAY_LEN(f->part); i++)
        assert_gone(&f->part[i], buffer);
}

/* S1.15: two images with one key are opened with two keys. */
static void the_key_of_one_image_is_not_kept_for_the_next(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    OWNED(store) first = NULL;
    OWNED(store) second = NULL;
    OWNED(secret) pass = pass_of(f);
    OWNED(secret) wrong = NULL;
    unlink(f->other);
    make_image(f, f->other);
    assert_int_equal(secret_new(PASS_BYTES, &wrong, &e), 0);
    memset(secret_bytes(wrong), 'w', PASS_BYTES);
    if (image_open_store(f->path, pass, PASS_BYTES, NULL, &first, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(image_open_store(f->other, wrong, PASS_BYTES, NULL, &second, &e), -1);
    assert_int_equal(e.kind, ERR_KEY_WRONG);
    store_free(MOVE(first));
    assert_int_equal(image_open_store(f->other, wrong, PASS_BYTES, NULL, &second, &e), -1);
    assert_int_equal(e.kind, ERR_KEY_WRONG);
    assert_null(second);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    puts("sanitizers map more memory than can be searched: this needs a plain build");
    return 77;
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
    puts("sanitizers map more memory than can be searched: this needs a plain build");
    return 77;
#endif
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_in_memory_is_found),
        cmocka_unit_test(an_open_store_needs_neither_passphrase_nor_volume_key),
        cmocka_unit_test(nothing_of_a_key_remains_after_close),
        cmocka_unit_test(nothing_of_a_key_remains_after_creating_or_verifying),
        cmocka_unit_test(the_key_of_one_image_is_not_kept_for_the_next),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
