/* The migration hooks of the library, on real images: shared by two handles (the claim is of the
 * open file, not of the process), copied, and in a second process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The library is no part of what the tests link. */
#include "src/nvkeep.c"
#include "src/nvkeep_migrate.c"

enum { BLOB_ROOM = 8192 };

static char dir[200], path[300], other_path[300];
static const struct nvkeep_key right = {.bytes = "right", .n_bytes = 5};
static const struct nvkeep_key wrong = {.bytes = "wrong", .n_bytes = 5};

/* What travelled. */
static struct parcel {
    unsigned char bytes[N_TPM_BLOBS][BLOB_ROOM];
    size_t n[N_TPM_BLOBS];
} parcel;

static int make_image(const char *at, const char *state)
{
    struct nvkeep_error err;
    struct nvkeep_change first[] = {
        {NVKEEP_PERMANENT, NVKEEP_SET, state, strlen(state)},
        {NVKEEP_VOLATILE, NVKEEP_SET, "volatile one", 12},
    };
    struct nvkeep_new how = {.path = at, .device = NVKEEP_TPM_20, .iter_time_ms = 1};
    return nvkeep_create(&how, &right, first, 2, &err);
}

static int begin(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof(dir), "%s/nvkeep-lib-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/image", dir);
    snprintf(other_path, sizeof(other_path), "%s/other", dir);
    memset(&parcel, 0, sizeof(parcel));
    return make_image(path, "permanent one");
}

static int end(void **state)
{
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
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

static void check(int r, const struct nvkeep_error *err)
{
    if (r < 0)
        fail_msg("%s: %s", err->name, err->text);
}

static void assert_refused(int r, const struct nvkeep_error *err, int code, const char *text)
{
    assert_int_equal(r, -1);
    if (err->code != code || !strstr(err->text, text))
        fail_msg("wanted code %d and \"%s\": found %s: %s", code, text, err->name, err->text);
}

static struct nvkeep *opened(void)
{
    struct nvkeep *h = NULL;
    struct nvkeep_error err;
    check(nvkeep_open(path, &right, &h, &err), &err);
    return h;
}

static struct nvkeep_target *target_of(const char *at)
{
    struct nvkeep_target *t = NULL;
    struct nvkeep_error err;
    check(nvkeep_target_open(at, &right, &t, &err), &err);
    return t;
}

static void save(struct nvkeep *h, const char *state)
{
    struct nvkeep_error err;
    struct nvkeep_change change = {NVKEEP_PERMANENT, NVKEEP_SET, state, strlen(state)};
    check(nvkeep_save(h, &change, 1, &err), &err);
}

static void assert_state(const struct nvkeep *h, const char *want)
{
    size_t n;
    const void *p = nvkeep_load(h, NVKEEP_PERMANENT, &n);
    assert_non_null(p);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(p, want, n);
    p = nvkeep_load(h, NVKEEP_VOLATILE, &n);
    assert_int_equal(n, 12);
    assert_memory_equal(p, "volatile one", 12);
}

static void export_one(struct nvkeep *h, enum nvkeep_blob blob)
{
    struct nvkeep_error err;
    const void *p = NULL;
    size_t n = 77;
    check(nvkeep_export(h, blob, &p, &n, &err), &err);
    assert_true(n <= BLOB_ROOM && (p != NULL) == (n > 0));
    if (p)
        memcpy(parcel.bytes[blob - 1], p, n);
    parcel.n[blob - 1] = n;
}

static void export_all(struct nvkeep *h)
{
    for (enum nvkeep_blob blob = NVKEEP_PERMANENT; blob <= NVKEEP_SAVESTATE; blob++)
        export_one(h, blob);
}

static struct nvkeep_released *given_away(struct nvkeep **h)
{
    struct nvkeep_released *r = NULL;
    struct nvkeep_error err;
    export_all(*h);
    check(nvkeep_release(h, &r, &err), &err);
    assert_null(*h);
    return r;
}

static int try_stage(struct nvkeep_target *t, enum nvkeep_blob blob, struct nvkeep_error *err)
{
    return nvkeep_stage(t, blob, parcel.bytes[blob - 1], parcel.n[blob - 1], err);
}

static void stage_all(struct nvkeep_target *t)
{
    struct nvkeep_error err;
    check(try_stage(t, NVKEEP_PERMANENT, &err), &err);
    check(try_stage(t, NVKEEP_VOLATILE, &err), &err);
}

static struct nvkeep *loaded(struct nvkeep_target **t)
{
    struct nvkeep *h = NULL;
    struct nvkeep_error err;
    stage_all(*t);
    check(nvkeep_commit_load(t, &h, &err), &err);
    assert_null(*t);
    return h;
}

/* --- it works --- */

static void a_state_moves_to_another_handle_and_back(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_target *t = target_of(path); /* while the source runs */
    save(h, "permanent two");
    check(nvkeep_prepare_load(t, &err), &err);
    check(nvkeep_prepare_save(h, &err), &err);
    check(nvkeep_prepare_load(t, &err), &err);
    for (unsigned i = 0; i < 3; i++) {
        char name[30];
        struct nvkeep_released *r = given_away(&h);
        h = loaded(&t);
        check(nvkeep_mark_used(h, &err), &err);
        check(nvkeep_mark_used(h, &err), &err);
        snprintf(name, sizeof(name), "state of round %u", i);
        save(h, name);
        assert_state(h, name);
        nvkeep_released_close(r);
        t = target_of(path);
    }
    nvkeep_target_close(t);
    nvkeep_close(h);
    h = opened();
    assert_state(h, "state of round 2");
    nvkeep_close(h);
}

/* [S3.25] */
static void nobody_loads_while_the_source_has_the_claim(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *none = NULL;
    struct nvkeep_target *t = target_of(path);
    struct nvkeep_released *r = NULL;
    export_all(h);
    stage_all(t);
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_LOCKED, "");
    assert_non_null(t);
    assert_null(none);
    check(nvkeep_release(&h, &r, &err), &err);
    check(nvkeep_commit_load(&t, &h, &err), &err); /* tried again */
    assert_state(h, "permanent one");
    nvkeep_released_close(r);
    nvkeep_close(h);
}

static void another_process_takes_over_and_the_old_owner_is_fenced(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_released *r = given_away(&h);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct nvkeep_target *t = target_of(path);
        struct nvkeep *mine = loaded(&t);
        save(mine, "written by the other");
        nvkeep_close(mine);
        _exit(0);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_refused(nvkeep_take_back(&r, &h, &err), &err, NVKEEP_FENCED, "another owner has used");
    assert_refused(nvkeep_take_back(&r, &h, &err), &err, NVKEEP_FENCED, "");
    assert_null(h);
    nvkeep_released_close(r);
    h = opened();
    assert_state(h, "written by the other");
    nvkeep_close(h);
}

/* --- keys --- */

/* [S3.1] [S3.16] [S3.26] */
static void a_target_does_not_open_with_a_wrong_or_missing_key(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep_key missing = {0};
    struct nvkeep *h = opened();
    struct nvkeep_target *t = NULL;
    uint64_t before = digest_of_image();
    assert_refused(nvkeep_target_open(path, &wrong, &t, &err), &err, NVKEEP_KEY_WRONG, "");
    assert_refused(nvkeep_target_open(path, &missing, &t, &err), &err, NVKEEP_KEY_MISSING, "");
    assert_refused(nvkeep_target_open(path, NULL, &t, &err), &err, NVKEEP_KEY_MISSING, "");
    assert_refused(nvkeep_target_open(NULL, &right, &t, &err), &err, NVKEEP_USAGE, "path");
    assert_null(t);
    assert_true(digest_of_image() == before);
    save(h, "the source never noticed");
    nvkeep_close(h);
}

static void a_set_of_an_image_with_another_key_is_foreign(void **state)
{
    (void)state;
    struct nvkeep_error err;
    assert_int_equal(make_image(other_path, "another machine"), 0);
    struct nvkeep *h = opened();
    struct nvkeep_target *t = target_of(other_path);
    export_all(h);
    assert_refused(try_stage(t, NVKEEP_PERMANENT, &err), &err, NVKEEP_STATE_FOREIGN, "");
    nvkeep_target_close(t);
    nvkeep_close(h);
    snprintf(path, sizeof(path), "%s", other_path);
    h = opened();
    assert_state(h, "another machine");
    assert_int_equal(nvkeep_generation(h), 1);
    nvkeep_close(h);
}

/* --- what does not fit --- */

static void every_changed_byte_of_a_blob_is_refused(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_target *t = target_of(path);
    export_all(h);
    for (size_t i = 0; i < parcel.n[0]; i++) {
        parcel.bytes[0][i] ^= 1;
        assert_int_equal(try_stage(t, NVKEEP_PERMANENT, &err), -1);
        parcel.bytes[0][i] ^= 1;
    }
    assert_int_equal(nvkeep_stage(t, NVKEEP_PERMANENT, parcel.bytes[0], parcel.n[0] - 1, &err), -1);
    assert_refused(nvkeep_stage(t, NVKEEP_VOLATILE, parcel.bytes[0], parcel.n[0], &err), &err,
                   NVKEEP_STATE_FOREIGN, "kind");
    assert_refused(nvkeep_stage(t, NVKEEP_PERMANENT, NULL, 0, &err), &err, NVKEEP_USAGE, "bytes");
    assert_refused(nvkeep_stage(t, 4, "x", 1, &err), &err, NVKEEP_USAGE, "kind 4");
    stage_all(t);
    nvkeep_target_close(t);
    nvkeep_close(h);
}

static void a_set_that_is_not_whole_is_not_loaded(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *none = NULL;
    struct nvkeep_released *r = given_away(&h);
    struct nvkeep_target *t = target_of(path);
    uint64_t before = digest_of_image();
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_STATE_EMPTY, "");
    check(try_stage(t, NVKEEP_PERMANENT, &err), &err);
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_STATE_EMPTY, "whole");
    assert_true(digest_of_image() == before);
    nvkeep_target_close(t);
    check(nvkeep_take_back(&r, &h, &err), &err);
    nvkeep_close(h);
}

static void blobs_of_two_exports_are_not_mixed(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_target *t = target_of(path);
    export_one(h, NVKEEP_PERMANENT);
    save(h, "permanent two");
    export_one(h, NVKEEP_VOLATILE);
    check(try_stage(t, NVKEEP_PERMANENT, &err), &err);
    assert_refused(try_stage(t, NVKEEP_VOLATILE, &err), &err, NVKEEP_STATE_FOREIGN, "same");
    nvkeep_target_close(t);
    nvkeep_close(h);
}

static void an_aborted_load_leaves_no_trace(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *none = NULL;
    struct nvkeep_released *r = given_away(&h);
    struct nvkeep_target *t = target_of(path);
    uint64_t before = digest_of_image();
    stage_all(t);
    nvkeep_abort_load(t);
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_STATE_EMPTY, "");
    assert_true(digest_of_image() == before);
    h = loaded(&t); /* and can begin anew */
    nvkeep_close(h);
    nvkeep_released_close(r);
}

static void an_older_set_is_refused(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *none = NULL;
    struct nvkeep_target *t = target_of(path);
    export_all(h);
    save(h, "permanent two");
    nvkeep_close(h);
    stage_all(t);
    uint64_t before = digest_of_image();
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_STATE_ROLLED_BACK, "older");
    assert_true(digest_of_image() == before);
    nvkeep_target_close(t);
    h = opened();
    assert_state(h, "permanent two");
    nvkeep_close(h);
}

static void a_copy_that_is_not_finished_is_refused(void **state)
{
    (void)state;
    struct nvkeep_error err;
    char command[700];
    struct nvkeep *h = opened(), *none = NULL;
    snprintf(command, sizeof(command), "cp '%s' '%s'", path, other_path);
    assert_int_equal(system(command), 0);
    save(h, "permanent two");
    export_all(h);
    struct nvkeep_target *t = target_of(other_path);
    stage_all(t);
    assert_refused(nvkeep_commit_load(&t, &none, &err), &err, NVKEEP_STATE_ROLLED_BACK,
                   "not finished");
    nvkeep_close(h);
    assert_int_equal(system(command), 0);
    check(nvkeep_commit_load(&t, &h, &err), &err); /* it is now */
    assert_state(h, "permanent two");
    nvkeep_close(h);
}

/* --- giving away, taking back --- */

static void what_was_not_exported_whole_is_not_released(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    struct nvkeep_released *r = NULL;
    assert_refused(nvkeep_release(&h, &r, &err), &err, NVKEEP_USAGE, "not exported whole");
    export_one(h, NVKEEP_PERMANENT);
    assert_refused(nvkeep_release(&h, &r, &err), &err, NVKEEP_USAGE, "not exported whole");
    export_one(h, NVKEEP_VOLATILE);
    save(h, "begins anew"); /* the export is over */
    assert_refused(nvkeep_release(&h, &r, &err), &err, NVKEEP_USAGE, "not exported whole");
    assert_non_null(h);
    assert_null(r);
    assert_state(h, "begins anew");
    nvkeep_close(h);
}

/* [S3.23] */
static void what_nobody_took_is_taken_back(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    for (unsigned i = 0; i < 3; i++) {
        struct nvkeep_released *r = given_away(&h);
        check(nvkeep_take_back(&r, &h, &err), &err);
        assert_null(r);
        assert_state(h, "permanent one");
    }
    save(h, "permanent two");
    nvkeep_close(h);
    h = opened();
    assert_state(h, "permanent two");
    nvkeep_close(h);
}

static void what_was_loaded_and_never_used_is_taken_back(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *back = NULL;
    struct nvkeep_released *r = given_away(&h);
    struct nvkeep_target *t = target_of(path);
    h = loaded(&t);
    assert_refused(nvkeep_take_back(&r, &back, &err), &err, NVKEEP_LOCKED, "");
    nvkeep_close(h); /* the destination gave up */
    check(nvkeep_take_back(&r, &back, &err), &err);
    assert_state(back, "permanent one");
    t = target_of(path);
    stage_all(t);
    assert_refused(nvkeep_commit_load(&t, &h, &err), &err, NVKEEP_LOCKED, "");
    nvkeep_close(back);
    h = NULL; /* the set is of the past now */
    assert_refused(nvkeep_commit_load(&t, &h, &err), &err, NVKEEP_STATE_ROLLED_BACK, "older");
    nvkeep_target_close(t);
}

/* [S3.24] */
static void what_was_used_is_not_taken_back(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened(), *back = NULL;
    struct nvkeep_released *r = given_away(&h);
    struct nvkeep_target *t = target_of(path);
    h = loaded(&t);
    check(nvkeep_mark_used(h, &err), &err);
    nvkeep_close(h);
    uint64_t before = digest_of_image();
    assert_refused(nvkeep_take_back(&r, &back, &err), &err, NVKEEP_FENCED, "another owner");
    assert_true(digest_of_image() == before);
    assert_null(back);
    nvkeep_released_close(r);
}

static void a_load_that_failed_later_can_be_repeated_until_it_is_used(void **state)
{
    (void)state;
    struct nvkeep_error err;
    struct nvkeep *h = opened();
    nvkeep_released_close(given_away(&h));
    for (unsigned i = 0; i < 3; i++) {
        struct nvkeep_target *t = target_of(path);
        h = loaded(&t);
        assert_state(h, "permanent one");
        if (i == 2)
            check(nvkeep_mark_used(h, &err), &err);
        nvkeep_close(h);
    }
    struct nvkeep_target *t = target_of(path);
    stage_all(t);
    h = NULL;
    assert_refused(nvkeep_commit_load(&t, &h, &err), &err, NVKEEP_STATE_ROLLED_BACK, "older");
    nvkeep_target_close(t);
}

static void the_sealed_blobs_show_nothing_of_the_state(void **state)
{
    (void)state;
    struct nvkeep *h = opened();
    export_all(h);
    assert_true(parcel.n[0] > 13 && parcel.n[1] > 12);
    assert_int_equal(parcel.n[2], 0);
    assert_null(memmem(parcel.bytes[0], parcel.n[0], "permanent", 9));
    assert_null(memmem(parcel.bytes[1], parcel.n[1], "volatile", 8));
    nvkeep_close(h);
}

#define WITH_IMAGE(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_IMAGE(a_state_moves_to_another_handle_and_back),
        WITH_IMAGE(nobody_loads_while_the_source_has_the_claim),
        WITH_IMAGE(another_process_takes_over_and_the_old_owner_is_fenced),
        WITH_IMAGE(a_target_does_not_open_with_a_wrong_or_missing_key),
        WITH_IMAGE(a_set_of_an_image_with_another_key_is_foreign),
        WITH_IMAGE(every_changed_byte_of_a_blob_is_refused),
        WITH_IMAGE(a_set_that_is_not_whole_is_not_loaded),
        WITH_IMAGE(blobs_of_two_exports_are_not_mixed),
        WITH_IMAGE(an_aborted_load_leaves_no_trace),
        WITH_IMAGE(an_older_set_is_refused),
        WITH_IMAGE(a_copy_that_is_not_finished_is_refused),
        WITH_IMAGE(what_was_not_exported_whole_is_not_released),
        WITH_IMAGE(what_nobody_took_is_taken_back),
        WITH_IMAGE(what_was_loaded_and_never_used_is_taken_back),
        WITH_IMAGE(what_was_used_is_not_taken_back),
        WITH_IMAGE(a_load_that_failed_later_can_be_repeated_until_it_is_used),
        WITH_IMAGE(the_sealed_blobs_show_nothing_of_the_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
