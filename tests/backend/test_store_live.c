/* Looking at an image while its owner is at work in another process. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/image.h"

static char folder[200], path[300];
static struct secret *pass;
static const char passphrase[] = "looked at while in use";
enum { PASS_BYTES = sizeof(passphrase) - 1, STATE_BYTES = 60000 };
static uint8_t bytes[STATE_BYTES];

static struct state_change state_now(void)
{
    return (struct state_change){{{BLOB_SET, bytes, STATE_BYTES}}};
}

static int make_pass(struct err *e)
{
    if (secret_new(sizeof(passphrase), &pass, e) < 0)
        return -1;
    memcpy(secret_bytes(pass), passphrase, sizeof(passphrase));
    return 0;
}

static int setup(void **state)
{
    struct err e;
    const char *tmp = getenv("TMPDIR");
    const struct state_change first = state_now();
    const struct image_create what = {.path = path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    (void)state;
    snprintf(folder, sizeof(folder), "%s/nvkeep-live-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || make_pass(&e) < 0)
        return -1;
    snprintf(path, sizeof(path), "%s/image", folder);
    return image_create(&what, pass, PASS_BYTES, NULL, NULL, &e);
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    rmdir(folder);
    secret_free(pass);
    return 0;
}

/* The i-th commit of an owner: mostly small ones, some that are checkpoints. */
static void change(unsigned i)
{
    for (unsigned j = 0; j < (i % 10 == 9 ? 40000U : 50U); j++)
        bytes[(i + j) % STATE_BYTES]++;
}

static int take_content(const struct store *s)
{
    size_t n;
    const uint8_t *p = store_get(s, BLOB_PERMANENT, &n);
    if (!p || n != STATE_BYTES)
        return -1;
    memcpy(bytes, p, n);
    return 0;
}

/* Commits until it is killed, and says after each how many were acknowledged. Secrets do not
 * survive a fork, so the passphrase is put together anew. */
static void be_the_owner(int acknowledged)
{
    OWNED(store) s = NULL;
    struct err e;
    if (make_pass(&e) < 0 || image_open_store(path, pass, PASS_BYTES, NULL, &s, &e) < 0 ||
        take_content(s) < 0)
        _exit(1);
    for (unsigned i = 0;; i++) {
        change(i);
        struct state_change c = state_now();
        unsigned n = i + 1;
        if (store_commit(s, &c, &e) < 0 || write(acknowledged, &n, sizeof(n)) != (ssize_t)sizeof(n))
            _exit(1);
    }
}

/* Returns after its first commit; what it says comes out of *ret_said. */
static pid_t start_owner(int *ret_said)
{
    int ends[2];
    unsigned first = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        be_the_owner(ends[1]);
    }
    close(ends[1]);
    if (read(ends[0], &first, sizeof(first)) != (ssize_t)sizeof(first))
        fail_msg("the owner did not start");
    assert_int_equal(fcntl(ends[0], F_SETPIPE_SZ, 1 << 20) < 0, 0);
    *ret_said = ends[0];
    return pid;
}

static void stop_owner(pid_t pid)
{
    int status;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status)); /* it was still at work */
}

/* S3.9, S3.16: read-only, without a lock, while another process commits as fast as it can. */
static void image_in_use_is_verified_without_disturbing_its_owner(void **state)
{
    uint64_t generation = 0, first = 0;
    (void)state;
    int said;
    pid_t pid = start_owner(&said);
    for (unsigned i = 0; i < 300; i++) {
        struct image_report r;
        struct err e = {0};
        if (image_verify(path, pass, PASS_BYTES, false, NULL, &r, &e) < 0)
            fail_msg("look %u: %s", i, e.text);
        assert_true(r.store.generation >= generation);
        generation = r.store.generation;
        if (i == 0)
            first = generation;
        assert_int_equal(r.store.state_bytes, STATE_BYTES);
    }
    stop_owner(pid);
    close(said);
    assert_true(generation > first);
}

/* kill -9 under load: what was acknowledged is there, and at most one commit more. */
static void killed_owner_loses_nothing_that_was_acknowledged(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 12; round++) {
        struct store *s = NULL;
        struct store_stats before, after;
        struct err e = {0};
        unsigned acknowledged = 1, next;
        int said;
        if (image_open_store(path, pass, PASS_BYTES, NULL, &s, &e) < 0)
            fail_msg("%s", e.text);
        assert_int_equal(take_content(s), 0);
        store_stats(s, &before);
        store_free(s);

        pid_t pid = start_owner(&said);
        usleep(3000 * round);
        stop_owner(pid);
        while (read(said, &next, sizeof(next)) == (ssize_t)sizeof(next))
            acknowledged = next;
        close(said);

        s = NULL;
        if (image_open_store(path, pass, PASS_BYTES, NULL, &s, &e) < 0)
            fail_msg("round %u: %s", round, e.text);
        store_stats(s, &after);
        assert_in_range(after.generation - before.generation, acknowledged, acknowledged + 1);
        for (unsigned i = 0; i < after.generation - before.generation; i++)
            change(i);
        size_t n;
        assert_memory_equal(store_get(s, BLOB_PERMANENT, &n), bytes, STATE_BYTES);
        store_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(image_in_use_is_verified_without_disturbing_its_owner),
        cmocka_unit_test(killed_owner_loses_nothing_that_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
