/* Faults: every allocation and every system call of create, open, check and commit fails, once and
 * for good. Whatever fails: the class is right and the message says something, nothing is leaked
 * and nothing changed, and afterwards everything works as if nothing had been.
 *
 *     test_store_faults           the most common error of each call
 *     test_store_faults --long    every error that each call can give
 */
#include "tests/crash/fault_loop.h"

/* ---- create ---- */

static bool try_create(void)
{
    struct err e = {0};
    struct resources before = in_use();
    int r = create(&e);
    fault_disarm();
    if (r < 0) {
        check_class("create", &e);
        if (n_entries(folder) != 2)
            violation("create", "something was left behind", &e);
    } else {
        struct err why;
        OWNED(store) s = NULL;
        if (open_image(&s, &why) < 0)
            violation("create", "what was created does not open", &why);
        unlink(path);
    }
    check_leaks("create", before, &e);
    return r == 0;
}

/* ---- open ---- */

static struct file_facts original;
static uint8_t wanted[SHA256_BYTES];

static void digest_now(uint8_t ret[SHA256_BYTES])
{
    struct state_change c = state_now();
    store_image_digest(&c, ret);
}

static bool store_is(const struct store *s, const uint8_t want[SHA256_BYTES])
{
    uint8_t got[SHA256_BYTES];
    struct state_change c = store_image_content(s);
    store_image_digest(&c, got);
    return memcmp(got, want, sizeof(got)) == 0;
}

/* Closed: what is in the image, and must stay. */
static void note_image(void)
{
    original = facts_of_file();
    digest_now(wanted);
}

static bool try_open(void)
{
    struct err e = {0};
    struct resources before = in_use();
    struct store *s = NULL;
    int r = open_image(&s, &e);
    fault_disarm();
    if (r < 0 && s)
        violation("open", "a failed call gave a result", &e);
    if (r < 0)
        check_class("open", &e);
    else if (!store_is(s, wanted))
        violation("open", "opened with another state", &e);
    store_free(s);
    struct file_facts now = facts_of_file();
    if (!same_file(&now, &original))
        violation("open", "the image changed", &e);
    check_leaks("open", before, &e);

    OWNED(store) again = NULL;
    struct err why;
    if (open_image(&again, &why) < 0)
        violation("open", "does not open afterwards", &why);
    else if (!store_is(again, wanted))
        violation("open", "another state is found afterwards", &why);
    return r == 0;
}

/* ---- check ---- */

static bool try_check(void)
{
    struct err e = {0};
    struct image_report report;
    struct resources before = in_use();
    int r = image_verify(path, pass, sizeof(passphrase) - 1, true, NULL, &report, &e);
    fault_disarm();
    if (r < 0)
        check_class("check", &e);
    if (r == 0 && (report.check.corruptions != 0 || report.check.leaks != 0))
        violation("check", "a sound image is found damaged", &e);
    check_leaks("check", before, &e);
    return r == 0;
}

/* ---- commit ---- */

static struct store *running;
static void (*next_change)(void);

/* What another owner would find, of two states. */
static void check_reopened(const uint8_t *old, const uint8_t *now, const char *what)
{
    struct err e = {0};
    store_free(running);
    running = NULL;
    if (open_image(&running, &e) < 0)
        die("opening after a failed commit", &e);
    if (!store_is(running, old) && !store_is(running, now))
        violation("commit", what, &e);
}

/* An owner's first commit is a checkpoint; the next one appends. */
static void settle(void)
{
    struct err e;
    bytes[0]++;
    struct state_change c = state_now();
    if (store_commit(running, &c, &e) < 0)
        die("a commit without faults", &e);
}

static bool try_commit(void)
{
    static unsigned rounds;
    struct err e = {0}, why = {0};
    uint8_t old[SHA256_BYTES], now[SHA256_BYTES];
    digest_now(old);
    next_change();
    digest_now(now);
    struct state_change c = state_now();
    struct resources before = in_use();
    int r = store_commit(running, &c, &e);
    fault_disarm();
    if (r < 0)
        check_class("commit", &e);
    if (!store_is(running, r < 0 ? old : now))
        violation("commit", "the state in memory is not what was answered", &e);
    check_leaks("commit", before, &e);

    if (r < 0 && rounds++ % 2 == 0)
        check_reopened(old, now, "neither old nor new is found");
    if (store_commit(running, &c, &why) < 0)
        violation("commit", "does not work afterwards", &why);
    check_reopened(now, now, "what was acknowledged is not found");
    return r == 0;
}

static void change_a_byte(void)
{
    bytes[1000]++;
}

/* A small state and memory of its size: what comes next needs more of all. */
static void shrink(void)
{
    uint8_t now[SHA256_BYTES];
    n_bytes = 1500;
    settle();
    digest_now(now);
    check_reopened(now, now, "what was acknowledged is not found");
}

static void grow(void)
{
    n_bytes = 6000;
    bytes[n_bytes - 1]++;
}

/* An ordinary commit asks for little: three system calls (the last: is the file still there?), no
 * memory. */
static void check_ordinary_commit(void)
{
    struct err e = {0};
    settle();
    for (unsigned i = 0; i < 20; i++) {
        bytes[50 * i]++;
        struct state_change c = state_now();
        fault_arm(0, false, 0);
        int r = store_commit(running, &c, &e);
        unsigned n_calls = fault_disarm();
        if (r < 0 || n_calls != 3 || fault_n_allocations() != 0)
            violation("an ordinary commit", "makes other calls than a write, a flush and a look",
                      &e);
    }
}

/* Records that make the state grow and move, each of which needs more of all memory than there is
 * from what was read before it. */
static void append_growing_records(void)
{
    enum { MOVED = 64 };
    static const size_t sizes[] = {5000, 9400, 17700};
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * i >> 7 ^ i * 37 ^ i >> 3);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        n_bytes = sizes[i];
        memmove(bytes + MOVED, bytes, sizeof(bytes) - MOVED);
        settle();
    }
    struct store_stats stats;
    store_stats(running, &stats);
    if (stats.n_records != ARRAY_LEN(sizes) - 1)
        die("records of the log", &(struct err){.text = "are checkpoints"});
    store_free(running);
    running = NULL;
    note_image();
}

static void all_faults(void)
{
    struct err e;
    for_each_fault("create", nothing_to_prepare, try_create);

    if (create(&e) < 0)
        die("creating the image", &e);
    note_image();
    for_each_fault("open", nothing_to_prepare, try_open);

    if (open_image(&running, &e) < 0)
        die("opening the image", &e);
    next_change = change_a_byte;
    for_each_fault("commit (an owner's first)", nothing_to_prepare, try_commit);
    for_each_fault("commit (to the log)", settle, try_commit);
    next_change = grow;
    for_each_fault("commit (growing)", shrink, try_commit);
    check_ordinary_commit();
    append_growing_records();
    for_each_fault("open (with records)", nothing_to_prepare, try_open);
    for_most_faults("check", nothing_to_prepare, try_check, 60, n_variants > 1 ? 1 : 4);

    fault_elsewhere(true);
    for_each_fault("open (shared)", nothing_to_prepare, try_open);
    if (open_image(&running, &e) < 0)
        die("opening the image", &e);
    next_change = change_a_byte;
    for_each_fault("commit (shared)", settle, try_commit);
    fault_elsewhere(false);
    store_free(running);
    running = NULL;
    unlink(path);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all_faults);
}
