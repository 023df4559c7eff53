#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The library is no part of what the tests link. How it is linked by others is
 * test_library_install.sh's.
 */
#include "src/nvkeep.c"
#include "src/nvkeep_migrate.c"

enum { QUICK_MS = 1 };

static char dir[200], path[300];
static const struct nvkeep_key right = {.bytes = "right", .n_bytes = 5};
static const struct nvkeep_key wrong = {.bytes = "wrong", .n_bytes = 5};

static struct nvkeep_change set(enum nvkeep_blob blob, const void *p, size_t n)
{
    return (struct nvkeep_change){blob, NVKEEP_SET, p, n};
}

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof(dir), "%s/nvkeep-lib-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/image", dir);
    return 0;
}

static int make_image(void **state)
{
    struct nvkeep_error err;
    struct nvkeep_change first = set(NVKEEP_PERMANENT, "first state", 11);
    struct nvkeep_new how = {.device = NVKEEP_TPM_20, .iter_time_ms = QUICK_MS};
    if (make_dir(state) < 0)
        return -1;
    how.path = path;
    return nvkeep_create(&how, &right, &first, 1, &err);
}

static int remove_dir(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static struct nvkeep *opened(void)
{
    struct nvkeep *h = NULL;
    struct nvkeep_error err;
    if (nvkeep_open(path, &right, &h, &err) < 0)
        fail_msg("%s: %s", err.name, err.text);
    return h;
}

static void assert_blob(const struct nvkeep *h, enum nvkeep_blob blob, const char *want)
{
    size_t n = 77;
    const void *p = nvkeep_load(h, blob, &n);
    if (!want) {
        assert_null(p);
        assert_int_equal(n, 0);
        return;
    }
    assert_non_null(p);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(p, want, n);
}

static void assert_error(const struct nvkeep_error *err, int code, const char *name,
                         const char *text)
{
    assert_int_equal(err->code, code);
    assert_string_equal(err->name, name);
    if (!strstr(err->text, text))
        fail_msg("%s", err->text);
}

static uint64_t digest_of_image(void)
{
    uint64_t h = 14695981039346656037u;
    unsigned char buf[4096];
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    for (ssize_t r; (r = read(fd, buf, sizeof(buf))) > 0;)
        for (ssize_t i = 0; i < r; i++)
            h = (h ^ buf[i]) * 1099511628211u;
    close(fd);
    return h;
}

static void what_was_saved_is_there_when_opened_again(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    assert_blob(h, NVKEEP_PERMANENT, "first state");
    assert_blob(h, NVKEEP_VOLATILE, NULL);
    assert_int_equal(nvkeep_generation(h), 1);
    assert_int_equal(nvkeep_device_of(h), NVKEEP_TPM_20);
    assert_true(nvkeep_capacity(h) >= 200 * 1024);

    struct nvkeep_change both[] = {set(NVKEEP_PERMANENT, "second", 6),
                                   set(NVKEEP_SAVESTATE, "", 0)};
    assert_int_equal(nvkeep_save(h, both, 2, &err), 0);
    assert_blob(h, NVKEEP_PERMANENT, "second");
    assert_blob(h, NVKEEP_SAVESTATE, "");
    uint8_t before[16], after[16];
    nvkeep_instance(h, before);
    nvkeep_close(h);

    h = opened();
    nvkeep_instance(h, after);
    assert_memory_equal(before, after, 16);
    assert_int_equal(nvkeep_generation(h), 2);
    assert_blob(h, NVKEEP_PERMANENT, "second");
    assert_blob(h, NVKEEP_SAVESTATE, "");
    struct nvkeep_change gone = {NVKEEP_SAVESTATE, NVKEEP_DELETE, NULL, 0};
    assert_int_equal(nvkeep_save(h, &gone, 1, &err), 0);
    assert_blob(h, NVKEEP_SAVESTATE, NULL);
    nvkeep_close(h);
    h = opened();
    assert_blob(h, NVKEEP_SAVESTATE, NULL);
    assert_blob(h, NVKEEP_PERMANENT, "second");
    nvkeep_close(h);
}

static void saving_what_is_there_already_writes_nothing(void **state)
{
    (void)state;
    struct nvkeep *h = opened();
    uint64_t before = digest_of_image();
    struct nvkeep_change same = set(NVKEEP_PERMANENT, "first state", 11);
    assert_int_equal(nvkeep_save(h, &same, 1, NULL), 0);
    assert_int_equal(nvkeep_save(h, NULL, 0, NULL), 0);
    assert_int_equal(nvkeep_generation(h), 1);
    assert_int_equal(digest_of_image(), before);
    nvkeep_close(h);
}

/* S0.6 S3.3 S3.8 */
static void wrong_passphrase_leaves_image_untouched(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = NULL;
    struct stat was, is;
    uint64_t before = digest_of_image();
    assert_int_equal(stat(path, &was), 0);
    assert_int_equal(nvkeep_open(path, &wrong, &h, &err), -1);
    assert_null(h);
    assert_error(&err, NVKEEP_KEY_WRONG, "KEY_WRONG", "none of the image's key slots");
    assert_int_equal(nvkeep_verify_key(path, &wrong, &err), -1);
    assert_error(&err, NVKEEP_KEY_WRONG, "KEY_WRONG", "");
    assert_int_equal(stat(path, &is), 0);
    assert_int_equal(digest_of_image(), before);
    assert_memory_equal(&was.st_mtim, &is.st_mtim, sizeof(was.st_mtim));
}

/* S1.5 S1.7 S2.12 */
static void library_never_asks_for_a_key(void **state)
{
    (void)state;
    static const struct nvkeep_key none[] = {{.bytes = NULL}, {.bytes = "x", .n_bytes = 0}};
    struct nvkeep_error err;
    struct nvkeep *h = NULL;
    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        assert_int_equal(nvkeep_open(path, &none[i], &h, &err), -1);
        assert_error(&err, NVKEEP_KEY_MISSING, "KEY_MISSING", "no key");
    }
    assert_int_equal(nvkeep_open(path, NULL, &h, &err), -1);
    assert_error(&err, NVKEEP_KEY_MISSING, "KEY_MISSING", "no key");
    OWNED_HEAP char *big = calloc(1, 65537);
    struct nvkeep_key long_one = {.bytes = big, .n_bytes = 65537};
    assert_int_equal(nvkeep_open(path, &long_one, &h, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", "at most 65536");
}

/* S0.18 */
static void image_is_opened_once_and_verified_meanwhile(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *second = NULL;
    assert_int_equal(nvkeep_open(path, &right, &second, &err), -1);
    assert_error(&err, NVKEEP_LOCKED, "LOCKED", "");
    assert_null(second);
    assert_int_equal(nvkeep_verify_key(path, &right, &err), 0);
    assert_int_equal(nvkeep_verify_key(path, &wrong, &err), -1);
    nvkeep_close(h);
    nvkeep_close(opened());
}

static void what_is_no_image_is_refused(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = NULL;
    assert_int_equal(nvkeep_open(dir, &right, &h, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", "directory");
    assert_int_equal(nvkeep_open("/nonexistent/image", &right, &h, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", "");
    assert_int_equal(nvkeep_open(NULL, &right, &h, &err), -1);
    assert_int_equal(nvkeep_open("/dev/null", &right, &h, NULL), -1);
    assert_null(h);
}

static void existing_file_is_never_replaced(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep_new how = {.path = path, .device = NVKEEP_TPM_12, .iter_time_ms = QUICK_MS};
    uint64_t before = digest_of_image();
    assert_int_equal(nvkeep_create(&how, &right, NULL, 0, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", "exists");
    assert_int_equal(digest_of_image(), before);
}

static void assert_not_created(struct nvkeep_new how, const struct nvkeep_key *key,
                               const struct nvkeep_change *changes, size_t n, const char *text)
{
    struct nvkeep_error err;
    assert_int_equal(nvkeep_create(&how, key, changes, n, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", text);
    assert_int_equal(access(path, F_OK), -1);
}

static void wrong_arguments_create_nothing(void **state)
{
    (void)state;
    static const struct nvkeep_key nul = {.bytes = "a\0b", .n_bytes = 3};
    static const struct nvkeep_key latin1 = {.bytes = "\xfc", .n_bytes = 1};
    struct nvkeep_new good = {.path = path, .device = NVKEEP_TPM_20, .iter_time_ms = QUICK_MS};
    struct nvkeep_new how = good;
    struct nvkeep_change one = set(NVKEEP_PERMANENT, "x", 1);
    struct nvkeep_change gone = {NVKEEP_PERMANENT, NVKEEP_DELETE, NULL, 0};
    struct nvkeep_change twice[] = {one, one};
    assert_not_created(good, &nul, &one, 1, "NUL");
    assert_not_created(good, &latin1, &one, 1, "UTF-8");
    assert_not_created(good, &right, &gone, 1, "nothing to delete");
    assert_not_created(good, &right, twice, 2, "named twice");
    assert_not_created(good, &right, NULL, 1, "no array");
    how.device = 0;
    assert_not_created(how, &right, &one, 1, "no device of kind 0");
    how = good;
    how.disk_bytes = 4097;
    assert_not_created(how, &right, &one, 1, "multiple of 4096");
    how = good;
    how.disk_bytes = 4096;
    assert_not_created(how, &right, &one, 1, "");
    how = good;
    how.reserved[2] = 1;
    assert_not_created(how, &right, &one, 1, "reserved");
    how = good;
    how.iter_time_ms = 100000000;
    assert_not_created(how, &right, &one, 1, "choose less");
    how = good;
    how.path = NULL;
    assert_not_created(how, &right, &one, 1, "no path");
    struct nvkeep_error err;
    assert_int_equal(nvkeep_create(NULL, &right, &one, 1, &err), -1);
}

static void wrong_changes_are_refused_and_nothing_is_saved(void **state)
{
    (void)state;
    static uint8_t big[NVKEEP_BLOB_MAX_BYTES + 1];
    struct nvkeep_error err;
    const struct {
        struct nvkeep_change change[2];
        size_t n;
        const char *text;
    } bad[] = {
        {{set(NVKEEP_PERMANENT, "x", 1), set(NVKEEP_PERMANENT, "y", 1)}, 2, "named twice"},
        {{set(0, "x", 1)}, 1, "no blob of kind 0"},
        {{set(4, "x", 1)}, 1, "no blob of kind 4"},
        {{set(NVKEEP_VOLATILE, NULL, 1)}, 1, "no bytes were given"},
        {{set(NVKEEP_VOLATILE, big, sizeof(big))}, 1, "at most 524288"},
        {{{NVKEEP_VOLATILE, 0, "x", 1}}, 1, "wanted NVKEEP_SET or NVKEEP_DELETE"},
    };
    struct nvkeep *h = opened();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(nvkeep_save(h, bad[i].change, bad[i].n, &err), -1);
        assert_error(&err, NVKEEP_USAGE, "USAGE", bad[i].text);
    }
    struct nvkeep_change large = set(NVKEEP_PERMANENT, big, NVKEEP_BLOB_MAX_BYTES);
    assert_int_equal(nvkeep_save(h, &large, 1, &err), -1);
    assert_error(&err, NVKEEP_UNSUPPORTED, "UNSUPPORTED", "");
    assert_blob(h, NVKEEP_PERMANENT, "first state");
    assert_int_equal(nvkeep_generation(h), 1);
    nvkeep_close(h);
}

static bool stop(void *ctx, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    ++*(int *)ctx;
    return false;
}

static void caller_can_end_a_slow_key(void **state)
{
    (void)state;
    int asked = 0;
    struct nvkeep_error err;
    struct nvkeep_key slow = {.bytes = "right", .n_bytes = 5, .go_on = stop, .ctx = &asked};
    struct nvkeep_new how = {.path = path, .device = NVKEEP_TPM_20, .iter_time_ms = 500};
    assert_int_equal(nvkeep_create(&how, &slow, NULL, 0, &err), -1);
    assert_error(&err, NVKEEP_USAGE, "USAGE", "interrupted");
    assert_true(asked > 0);
    assert_int_equal(access(path, F_OK), -1);
}

/* What the system refuses is an error and not the end: the old state is served, and saving works
 * again when the system does. */
static void refused_write_keeps_the_old_state(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_change second = set(NVKEEP_PERMANENT, "second", 6);
    const struct rlimit none = {0, RLIM_INFINITY}, any = {RLIM_INFINITY, RLIM_INFINITY};
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    assert_int_equal(sigaction(SIGXFSZ, &ignore, NULL), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    int r = nvkeep_save(h, &second, 1, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &any), 0);
    assert_int_equal(r, -1);
    assert_error(&err, NVKEEP_STORAGE_ERROR, "STORAGE_ERROR", "File too large");
    assert_int_equal(err.os, EFBIG);
    assert_blob(h, NVKEEP_PERMANENT, "first state");
    assert_int_equal(nvkeep_save(h, &second, 1, &err), 0);
    assert_blob(h, NVKEEP_PERMANENT, "second");
    nvkeep_close(h);
    h = opened();
    assert_blob(h, NVKEEP_PERMANENT, "second");
    nvkeep_close(h);
}

static void codes_are_those_of_the_classes(void **state)
{
    (void)state;
    static const int codes[ERR_N_KINDS] = {
        [ERR_NONE] = NVKEEP_OK,
        [ERR_USAGE] = NVKEEP_USAGE,
        [ERR_KEY_MISSING] = NVKEEP_KEY_MISSING,
        [ERR_KEY_WRONG] = NVKEEP_KEY_WRONG,
        [ERR_KEY_UNEXPECTED] = NVKEEP_KEY_UNEXPECTED,
        [ERR_STATE_EMPTY] = NVKEEP_STATE_EMPTY,
        [ERR_STATE_CORRUPT] = NVKEEP_STATE_CORRUPT,
        [ERR_STATE_FOREIGN] = NVKEEP_STATE_FOREIGN,
        [ERR_STATE_ROLLED_BACK] = NVKEEP_STATE_ROLLED_BACK,
        [ERR_FENCED] = NVKEEP_FENCED,
        [ERR_LOCKED] = NVKEEP_LOCKED,
        [ERR_UNSUPPORTED] = NVKEEP_UNSUPPORTED,
        [ERR_STORAGE] = NVKEEP_STORAGE_ERROR,
    };
    for (unsigned k = 0; k < ERR_N_KINDS; k++) {
        const struct err_class *c = err_class((enum err_kind)k);
        assert_int_equal(codes[k], c->exit_code);
        assert_true(strlen(c->name) < sizeof(((struct nvkeep_error *)0)->name));
    }
    assert_string_equal(nvkeep_version(), NVKEEP_VERSION);
    nvkeep_close(NULL);
}

#define WITH_IMAGE(f) cmocka_unit_test_setup_teardown(f, make_image, remove_dir)
#define WITH_DIR(f)   cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_IMAGE(what_was_saved_is_there_when_opened_again),
        WITH_IMAGE(saving_what_is_there_already_writes_nothing),
        WITH_IMAGE(wrong_passphrase_leaves_image_untouched),
        WITH_IMAGE(library_never_asks_for_a_key),
        WITH_IMAGE(image_is_opened_once_and_verified_meanwhile),
        WITH_DIR(what_is_no_image_is_refused),
        WITH_IMAGE(existing_file_is_never_replaced),
        WITH_DIR(wrong_arguments_create_nothing),
        WITH_IMAGE(wrong_changes_are_refused_and_nothing_is_saved),
        WITH_DIR(caller_can_end_a_slow_key),
        WITH_IMAGE(refused_write_keeps_the_old_state),
        cmocka_unit_test(codes_are_those_of_the_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
