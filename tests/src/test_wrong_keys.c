/* Ten thousand wrong keys on an image whose key stretching is as cheap as it may be: none opens
 * anything, none gets a byte, and the file is as it was.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "backend/image.h"
#include "backend/tpm.h"
#include "src/base/fd.h"

enum { N_RANDOM = 10000, PASS_MAX = 64 };
static const char passphrase[] = "the right one, and no other";
enum { PASS_BYTES = sizeof(passphrase) - 1 };

struct fixture {
    char dir[64], path[80];
    uint8_t *bytes;
    size_t n;
    struct stat st;
    struct secret *pass; /* what is tried; PASS_MAX bytes */
};

static void read_all(const char *path, uint8_t **ret, size_t *ret_n, struct stat *ret_st)
{
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, ret_st), 0);
    *ret_n = (size_t)ret_st->st_size;
    *ret = malloc(*ret_n);
    assert_non_null(*ret);
    assert_int_equal(fd_pread_full(fd, *ret, *ret_n, 0), *ret_n);
}

static int set_up(void **state)
{
    struct err e = {0};
    struct tpm_blobs blobs = {0};
    struct state_change first = {0};
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    snprintf(f->dir, sizeof(f->dir), "%s/nvkeep-wrong.XXXXXX", getenv("TMPDIR") ?: "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/image", f->dir);
    assert_int_equal(secret_new(PASS_MAX, &f->pass, &e), 0);
    memcpy(secret_bytes(f->pass), passphrase, PASS_BYTES);
    if (tpm_manufacture(DEVICE_TPM20, &blobs, &e) < 0)
        fail_msg("%s", e.text);
    tpm_blobs_change(&blobs, &first);
    struct image_create what = {
        .path = f->path,
        .device = DEVICE_TPM20,
        .iterations = LUKS_MIN_ITERATIONS,
        .first = &first,
    };
    if (image_create(&what, f->pass, PASS_BYTES, NULL, NULL, &e) < 0)
        fail_msg("%s", e.text);
    tpm_blobs_clear(&blobs);
    read_all(f->path, &f->bytes, &f->n, &f->st);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    unlink(f->path);
    rmdir(f->dir);
    secret_free(f->pass);
    free(f->bytes);
    free(f);
    return 0;
}

static void assert_untouched(const struct fixture *f)
{
    OWNED_HEAP uint8_t *now = NULL;
    size_t n;
    struct stat st;
    read_all(f->path, &now, &n, &st);
    assert_int_equal(n, f->n);
    assert_memory_equal(now, f->bytes, n);
    assert_int_equal(st.st_mtim.tv_sec, f->st.st_mtim.tv_sec);
    assert_int_equal(st.st_mtim.tv_nsec, f->st.st_mtim.tv_nsec);
    assert_int_equal(st.st_ctim.tv_sec, f->st.st_ctim.tv_sec);
    assert_int_equal(st.st_ctim.tv_nsec, f->st.st_ctim.tv_nsec);
    assert_int_equal(st.st_ino, f->st.st_ino);
}

/* The key is in f->pass. Every second one takes the way that would write. */
static void assert_refused(struct fixture *f, size_t n, unsigned count)
{
    struct err e = {0};
    if (count % 2) {
        OWNED(store) s = NULL;
        if (image_open_store(f->path, f->pass, n, NULL, &s, &e) == 0)
            fail_msg("key %u opened the store", count);
        assert_null(s);
    } else {
        struct image_report report, untouched;
        memset(&report, 0xa5, sizeof(report));
        memset(&untouched, 0xa5, sizeof(untouched));
        if (image_verify(f->path, f->pass, n, count % 4 == 0, NULL, &report, &e) == 0)
            fail_msg("key %u was taken for right", count);
        assert_memory_equal(&report, &untouched, sizeof(report));
    }
    if (e.kind != ERR_KEY_WRONG)
        fail_msg("key %u: %s: %s", count, err_class(e.kind)->name, e.text);
}

static void assert_right_key_opens(struct fixture *f)
{
    struct err e = {0};
    struct image_report report;
    memcpy(secret_bytes(f->pass), passphrase, PASS_BYTES);
    if (image_verify(f->path, f->pass, PASS_BYTES, true, NULL, &report, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(report.store.generation, 1);
    assert_int_equal(report.check.corruptions, 0);
    assert_int_equal(report.check.leaks, 0);
}

/* S0.5 S0.6 S3.3 S3.10 */
static void ten_thousand_wrong_keys_open_nothing_and_change_nothing(void **state)
{
    struct fixture *f = *state;
    struct err e;
    assert_right_key_opens(f);
    for (unsigned i = 0; i < N_RANDOM; i++) {
        uint8_t n;
        assert_int_equal(random_bytes(&n, 1, &e), 0);
        n = (uint8_t)(1 + n % PASS_MAX);
        assert_int_equal(random_bytes(secret_bytes(f->pass), n, &e), 0);
        assert_refused(f, n, i);
    }
    assert_untouched(f);
    assert_right_key_opens(f);
    assert_untouched(f);
}

/* S0.5: what is nearest to the right key is wrong too. */
static void every_near_miss_of_the_key_is_wrong(void **state)
{
    struct fixture *f = *state;
    uint8_t *p = secret_bytes(f->pass);
    unsigned count = 0;
    memcpy(p, passphrase, PASS_BYTES);
    for (size_t bit = 0; bit < (size_t)PASS_BYTES * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_refused(f, PASS_BYTES, count++);
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 1; n < PASS_BYTES; n++)
        assert_refused(f, n, count++);
    static const uint8_t tails[] = {'\n', '\r', ' ', 0, 'x'};
    for (size_t i = 0; i < sizeof(tails); i++) {
        p[PASS_BYTES] = tails[i];
        /* PBKDF2 pads its key with zero bytes [RFC 2104]: a trailing NUL makes no other key, which
         * is why keys with a NUL in them are refused where keys come in. */
        if (tails[i] != 0)
            assert_refused(f, PASS_BYTES + 1, count++);
    }
    assert_untouched(f);
    assert_right_key_opens(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ten_thousand_wrong_keys_open_nothing_and_change_nothing,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_near_miss_of_the_key_is_wrong, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
