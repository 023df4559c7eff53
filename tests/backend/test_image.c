/* From a file to a store and back: looked at, claimed, let go, claimed again; and what a file is
 * that is not there yet. */
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "backend/image.h"
#include "tests/backend/blk_helpers.h"

static const char passphrase[] = "a passphrase of the tests";
static struct secret *pass;

static int make_all(void **state)
{
    struct err e;
    if (make_dir(state) != 0 || secret_new(sizeof(passphrase), &pass, &e) < 0)
        return -1;
    memcpy(secret_bytes(pass), passphrase, sizeof(passphrase));
    return 0;
}

static int remove_all(void **state)
{
    secret_free(pass);
    return remove_dir(state);
}

/* A new image under `name`, with a state of these bytes, or waiting for one (NULL). */
static void make_image(const char *name, const char *text)
{
    struct state_change first = {0};
    struct err e;
    if (text)
        first.blob[0] = (struct blob_change){BLOB_SET, (const uint8_t *)text, strlen(text)};
    const struct image_create what = {.path = name,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = text ? &first : NULL};
    (void)unlink(name);
    if (image_create(&what, pass, sizeof(passphrase) - 1, NULL, NULL, &e) < 0)
        fail_msg("%s", e.text);
}

static int unlock(const char *name, struct image **ret, struct err *e)
{
    OWNED(image_file) f = NULL;
    assert_int_equal(image_file_open(name, &f, e), 0);
    int r = image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, ret, e);
    assert_true((r == 0) == (f == NULL)); /* taken on success */
    return r;
}

static struct image *unlocked(const char *name)
{
    struct image *i = NULL;
    struct err e;
    if (unlock(name, &i, &e) < 0)
        fail_msg("%s", e.text);
    return i;
}

static struct store *claimed(struct image *i)
{
    struct store *s = NULL;
    struct err e;
    if (image_claim(i, &s, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static void commit_text(struct store *s, const char *text)
{
    struct state_change c = {0};
    struct err e;
    c.blob[0] = (struct blob_change){BLOB_SET, (const uint8_t *)text, strlen(text)};
    if (store_commit(s, &c, &e) < 0)
        fail_msg("%s", e.text);
}

static void assert_text(const uint8_t *p, size_t n, const char *text)
{
    assert_non_null(p);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(p, text, n);
}

static void assert_holds(const struct store *s, const char *text)
{
    size_t n = 0;
    const uint8_t *p = store_get(s, BLOB_PERMANENT, &n);
    assert_text(p, n, text);
}

static void assert_saw(const struct store_look *l, const char *text)
{
    size_t n = 0;
    const uint8_t *p = store_look_get(l, BLOB_PERMANENT, &n);
    assert_text(p, n, text);
}

static void assert_looks(const struct image *i, const char *text)
{
    OWNED(store_look) l = NULL;
    struct err e;
    if (image_look(i, &l, &e) < 0)
        fail_msg("%s", e.text);
    assert_saw(l, text);
}

static void refused(const struct err *e, enum err_kind kind, const char *says)
{
    if (e->kind != kind || !strstr(e->text, says))
        fail_msg("%s \"%s\", wanted %s \"%s\"", err_class(e->kind)->name, e->text,
                 err_class(kind)->name, says);
}

static off_t size_of(const char *name)
{
    struct stat st;
    assert_int_equal(stat(name, &st), 0);
    return st.st_size;
}

/* Zeroes in [at, at + n). */
static void punch(const char *name, off_t at, size_t n)
{
    static const uint8_t zero[4096];
    OWNED_FD fd = open(name, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (size_t done = 0; done < n; done += sizeof(zero)) {
        size_t part = n - done < sizeof(zero) ? n - done : sizeof(zero);
        assert_int_equal(fd_pwrite_full(fd, zero, part, (uint64_t)at + done), 0);
    }
}

static void copy_file(const char *from, const char *to)
{
    char command[200];
    snprintf(command, sizeof(command), "cp %s %s", from, to);
    assert_int_equal(system(command), 0);
}

/* ---- claim and release ---- */

/* S3.16 S3.17 */
static void a_look_needs_no_claim_and_changes_nothing(void **state)
{
    struct stat before, after;
    struct err e;
    (void)state;
    make_image("i", "first");
    OWNED(image) owner = unlocked("i");
    OWNED(store) s = claimed(owner);
    assert_int_equal(stat("i", &before), 0);
    OWNED(image) i = unlocked("i");
    for (int k = 0; k < 3; k++)
        assert_looks(i, "first");
    assert_int_equal(stat("i", &after), 0);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);

    struct store *second = NULL;
    assert_int_equal(image_claim(i, &second, &e), -1);
    refused(&e, ERR_LOCKED, "another process is using the image");
    assert_null(second);
    commit_text(s, "second"); /* the owner's claim is as it was */
    assert_looks(i, "second");
    image_release(owner, &s);
    assert_null(s);
}

/* S3.20 S3.25 */
static void what_one_owner_released_the_next_claims_and_reads_afresh(void **state)
{
    char text[20] = "first";
    (void)state;
    make_image("i", text);
    OWNED(image) a = unlocked("i");
    OWNED(image) b = unlocked("i");
    struct store_mark last = {0};
    for (int k = 0; k < 6; k++) {
        struct image *owner = k % 2 ? b : a;
        OWNED(store) s = claimed(owner);
        struct store_mark found, now;
        store_mark(s, &found);
        assert_holds(s, text);
        if (k > 0)
            assert_true(store_mark_equal(&last, &found));
        snprintf(text, sizeof(text), "after round %d", k);
        commit_text(s, text);
        store_mark(s, &now);
        assert_int_equal(now.generation, found.generation + 1);
        assert_int_equal(now.epoch, found.epoch + 1);
        assert_false(store_mark_equal(&found, &now));
        last = now;
        image_release(owner, &s);
        assert_looks(k % 2 ? a : b, text);
    }
}

/* The same owner, with nobody in between. */
static void who_claims_again_finds_the_mark_that_he_left(void **state)
{
    struct store_mark left, found;
    (void)state;
    make_image("i", "first");
    OWNED(image) i = unlocked("i");
    OWNED(store) s = claimed(i);
    commit_text(s, "second");
    store_mark(s, &left);
    image_release(i, &s);
    s = claimed(i);
    store_mark(s, &found);
    assert_true(store_mark_equal(&left, &found));
    image_release(i, &s);
}

/* A store that is freed lets the claim go as well; its image keeps nothing open then. */
static void a_store_that_is_freed_lets_go(void **state)
{
    (void)state;
    make_image("i", "first");
    OWNED(image) a = unlocked("i");
    OWNED(image) b = unlocked("i");
    store_free(claimed(a));
    OWNED(store) s = claimed(b);
    image_release(b, &s);
}

/* S3.20 */
static void an_image_that_was_replaced_is_not_claimed(void **state)
{
    struct err e;
    struct store *s = NULL;
    (void)state;
    make_image("i", "first");
    make_image("other", "other");
    OWNED(image) i = unlocked("i");
    assert_int_equal(rename("other", "i"), 0);
    assert_int_equal(image_claim(i, &s, &e), -1);
    refused(&e, ERR_STORAGE, "was deleted or replaced");
    make_image("i", "once more");
    copy_file("i", "kept");
    OWNED(image) again = unlocked("i");
    assert_int_equal(rename("i", "away"), 0);
    assert_int_equal(rename("kept", "i"), 0);
    assert_int_equal(image_claim(again, &s, &e), -1);
    refused(&e, ERR_STORAGE, "its name leads to another file now");
    assert_null(s);
}

/* S3.26: the volume key is proven once more by what was read after the claim. */
static void a_file_whose_content_was_replaced_is_not_claimed(void **state)
{
    struct err e;
    struct store *s = NULL;
    (void)state;
    make_image("i", "first");
    make_image("other", "other");
    OWNED(image) i = unlocked("i");
    copy_file("other", "i"); /* the same inode */
    assert_int_equal(image_claim(i, &s, &e), -1);
    refused(&e, ERR_STATE_CORRUPT, "i: ");
    assert_null(s);
    OWNED(image) fresh = unlocked("i"); /* no lock is left */
    OWNED(store) t = claimed(fresh);
    image_release(fresh, &t);
}

/* ---- what is not there yet ---- */

/* S3.18: a file that somebody is copying grows under our eyes. */
static void a_file_without_an_image_yet_is_empty(void **state)
{
    OWNED(image_file) f = NULL;
    OWNED(image) i = NULL;
    struct err e;
    (void)state;
    make_image("source", "first");
    put_file("i", "");
    assert_int_equal(image_file_open("i", &f, &e), 0);
    assert_int_equal(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e), -1);
    refused(&e, ERR_STATE_EMPTY, "i: is empty (0 bytes)");
    assert_non_null(f);

    assert_int_equal(truncate("i", size_of("source")), 0);
    assert_int_equal(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e), -1);
    refused(&e, ERR_STATE_EMPTY, "i: has zeroes where the header");
    assert_int_equal(truncate("i", 1), 0);
    assert_int_equal(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e), -1);
    refused(&e, ERR_STATE_EMPTY, "i: has zeroes where the header");

    copy_file("source", "i"); /* into the same file */
    assert_int_equal(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e), 0);
    assert_null(f);
    assert_looks(i, "first");
}

/* S3.18 S3.19 S3.20: whatever part is not there yet, the answer is never that the key is wrong, or
 * the image another's, and never a state. */
static void a_copy_that_is_not_finished_is_said_to_be_so(void **state)
{
    enum { CLUSTER = 65536 };
    unsigned empty = 0, corrupt = 0, whole = 0;
    (void)state;
    make_image("source", "first");
    off_t size = size_of("source");
    for (off_t at = 0; at < size; at += CLUSTER / 4) {
        OWNED(image) i = NULL;
        OWNED(store_look) l = NULL;
        struct err e = {0};
        copy_file("source", "i");
        punch("i", at, CLUSTER / 4);
        if (unlock("i", &i, &e) == 0 && image_look(i, &l, &e) == 0) {
            assert_saw(l, "first");
            whole++;
        } else if (e.kind == ERR_STATE_EMPTY) {
            empty++;
        } else {
            corrupt++;
            refused(&e, ERR_STATE_CORRUPT, "if it is being copied here, the copy is not finished");
        }
    }
    print_message("%u pieces: %u empty, %u corrupt, %u not needed\n", empty + corrupt + whole,
                  empty, corrupt, whole);
    assert_in_range(empty, 1, 4);
    assert_in_range(corrupt, 10, 30);
}

/* S3.18 */
static void a_file_that_is_cut_off_is_said_to_be_so(void **state)
{
    (void)state;
    make_image("source", "first");
    off_t size = size_of("source");
    for (off_t at = 512; at < size; at += 40000) {
        OWNED(image) i = NULL;
        OWNED(store_look) l = NULL;
        struct err e = {0};
        copy_file("source", "i");
        assert_int_equal(truncate("i", at), 0);
        if (unlock("i", &i, &e) == 0)
            assert_int_equal(image_look(i, &l, &e), -1);
        refused(&e, ERR_STATE_CORRUPT, "if it is being copied here, the copy is not finished");
    }
}

/* A slot whose material was wiped is no reason to refuse the key of another, but without another it
 * cannot be told whether the key is right. */
static void a_wrong_key_is_still_wrong_where_the_material_is_whole(void **state)
{
    OWNED(image_file) f = NULL;
    OWNED(image) i = NULL;
    OWNED(secret) wrong = NULL;
    struct err e;
    (void)state;
    make_image("i", "first");
    assert_int_equal(secret_new(5, &wrong, &e), 0);
    memcpy(secret_bytes(wrong), "wrong", 5);
    assert_int_equal(image_file_open("i", &f, &e), 0);
    assert_int_equal(image_unlock(&f, wrong, 5, NULL, &i, &e), -1);
    refused(&e, ERR_KEY_WRONG, "the key opens none");
    assert_non_null(f);
}

/* ---- an image that waits for a TPM ---- */

static void an_image_without_a_tpm_opens_and_takes_one(void **state)
{
    struct image_report r;
    struct err e;
    size_t n = 0;
    (void)state;
    make_image("i", NULL);
    if (image_verify("i", pass, sizeof(passphrase) - 1, true, NULL, &r, &e) < 0)
        fail_msg("%s", e.text);
    assert_false(r.holds_tpm);
    assert_int_equal(r.store.generation, 1);
    assert_int_equal(r.check.corruptions, 0);
    {
        OWNED(image) i = unlocked("i");
        OWNED(store_look) l = NULL;
        assert_int_equal(image_look(i, &l, &e), 0);
        for (int kind = 1; kind <= N_BLOBS; kind++)
            assert_null(store_look_get(l, (enum blob_kind)kind, &n));
        OWNED(store) s = claimed(i);
        assert_null(store_get(s, BLOB_PERMANENT, &n));
        commit_text(s, "arrived");
        image_release(i, &s);
        assert_looks(i, "arrived");
    }
    if (image_verify("i", pass, sizeof(passphrase) - 1, true, NULL, &r, &e) < 0)
        fail_msg("%s", e.text);
    assert_true(r.holds_tpm);
    assert_int_equal(r.store.generation, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_look_needs_no_claim_and_changes_nothing),
        cmocka_unit_test(what_one_owner_released_the_next_claims_and_reads_afresh),
        cmocka_unit_test(who_claims_again_finds_the_mark_that_he_left),
        cmocka_unit_test(a_store_that_is_freed_lets_go),
        cmocka_unit_test(an_image_that_was_replaced_is_not_claimed),
        cmocka_unit_test(a_file_whose_content_was_replaced_is_not_claimed),
        cmocka_unit_test(a_file_without_an_image_yet_is_empty),
        cmocka_unit_test(a_copy_that_is_not_finished_is_said_to_be_so),
        cmocka_unit_test(a_file_that_is_cut_off_is_said_to_be_so),
        cmocka_unit_test(a_wrong_key_is_still_wrong_where_the_material_is_whole),
        cmocka_unit_test(an_image_without_a_tpm_opens_and_takes_one),
    };
    return cmocka_run_group_tests(tests, make_all, remove_all);
}
