/* Faults: every allocation and every system call of create, open and commit fails, once and for
 * good. Whatever fails: the class is right and the message says something, nothing is leaked and
 * nothing changed, and afterwards everything works as if nothing had been.
 *
 *     test_store_faults           the most common error of each call
 *     test_store_faults --long    every error that each call can give
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/image.h"
#include "tests/support/fault.h"
#include "tests/support/store_image.h"

static struct {
    unsigned long faults, refused, withstood, violations;
} tally;
static char folder[200], path[300];
static struct secret *pass;
static const char passphrase[] = "fault loop";
static unsigned variant; /* of errors */

static void violation(const char *where, const char *what, const struct err *e)
{
    int os = 0;
    const char *call = fault_hit(&os);
    if (tally.violations++ < 30)
        fprintf(stderr, "%s, %s fails with %s: %s (%s)\n", where, call ? call : "nothing",
                strerrorname_np(os), what, e->text);
}

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "test_store_faults: %s: %s\n", what, e->text);
    exit(1);
}

/* ---- what must not change or grow ---- */

static int n_entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

struct resources {
    int descriptors, mappings;
};

static struct resources in_use(void)
{
    return (struct resources){n_entries("/proc/self/fd"), fault_n_mapped()};
}

static void check_leaks(const char *where, struct resources before, const struct err *e)
{
    struct resources now = in_use();
    if (now.descriptors != before.descriptors)
        violation(where, "a descriptor is leaked", e);
    if (now.mappings != before.mappings)
        violation(where, "secret memory is leaked", e);
}

struct file_facts {
    struct stat st;
    uint8_t digest[SHA256_BYTES];
};

static struct file_facts facts_of_file(void)
{
    struct file_facts f = {0};
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &f.st) < 0)
        die("the image", &(struct err){.text = "is gone"});
    size_t n = (size_t)f.st.st_size;
    OWNED_HEAP uint8_t *bytes = malloc(n);
    if (!bytes || pread(fd, bytes, n, 0) != (ssize_t)n)
        die("the image", &(struct err){.text = "cannot be read"});
    hash_compute(HASH_SHA256, &(struct span){bytes, n}, 1, f.digest);
    return f;
}

static bool same_file(const struct file_facts *a, const struct file_facts *b)
{
    return memcmp(a->digest, b->digest, sizeof(a->digest)) == 0 && a->st.st_size == b->st.st_size &&
           a->st.st_mtim.tv_sec == b->st.st_mtim.tv_sec &&
           a->st.st_mtim.tv_nsec == b->st.st_mtim.tv_nsec;
}

/* The class of a failed call below: what the system refused. */
static void check_class(const char *where, const struct err *e)
{
    int os = 0;
    const char *call = fault_hit(&os);
    bool named_by_user = call && (!strcmp(call, "open") || !strcmp(call, "stat"));
    if (e->kind != ERR_STORAGE && !(named_by_user && e->kind == ERR_USAGE))
        violation(where, err_class(e->kind)->name, e);
    if (strlen(e->text) < 10)
        violation(where, "no message", e);
}

static void nothing_to_prepare(void)
{
}

/* Runs try() with every call failing in turn; it disarms when what is tried is over, and returns
 * whether it succeeded all the same. */
static void for_each_fault(const char *where, void (*prepare)(void), bool (*try)(void))
{
    prepare();
    fault_arm(0, false, 0);
    if (!try())
        die(where, &(struct err){.text = "does not even work without faults"});
    unsigned n = fault_disarm();
    for (unsigned nth = 1; nth <= n; nth++) {
        for (unsigned for_good = 0; for_good < 2; for_good++) {
            int os;
            prepare();
            fault_arm(nth, for_good, variant);
            bool done = try();
            fault_disarm();
            if (!fault_hit(&os))
                continue; /* fewer calls than before */
            tally.faults++;
            tally.refused += !done;
            tally.withstood += done;
        }
    }
    printf("faults: %-28s %4u calls\n", where, n);
}

/* ---- create ---- */

static uint8_t bytes[6000];
static size_t n_bytes = 3000;

static struct state_change state_now(void)
{
    return (struct state_change){{{BLOB_SET, bytes, n_bytes}, {BLOB_SET, bytes, 100}}};
}

static int create(struct err *e)
{
    const struct state_change first = state_now();
    const struct image_create what = {.path = path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    return image_create(&what, pass, sizeof(passphrase) - 1, NULL, NULL, e);
}

static int open_image(struct store **ret, struct err *e)
{
    return image_open_store(path, pass, sizeof(passphrase) - 1, NULL, ret, e);
}

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
    store_free(s);
    struct file_facts now = facts_of_file();
    if (!same_file(&now, &original))
        violation("open", "the image changed", &e);
    check_leaks("open", before, &e);

    OWNED(store) again = NULL;
    struct err why;
    if (open_image(&again, &why) < 0)
        violation("open", "does not open afterwards", &why);
    return r == 0;
}

/* ---- commit ---- */

static struct store *running;
static void (*next_change)(void);

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
    n_bytes = sizeof(bytes);
    bytes[n_bytes - 1]++;
}

/* An ordinary commit asks for nothing: two system calls, no memory. */
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
        if (r < 0 || n_calls != 2 || fault_n_allocations() != 0)
            violation("an ordinary commit", "makes other calls than one write and one flush", &e);
    }
}

static void all_faults(void)
{
    struct err e;
    for_each_fault("create", nothing_to_prepare, try_create);

    if (create(&e) < 0)
        die("creating the image", &e);
    original = facts_of_file();
    for_each_fault("open", nothing_to_prepare, try_open);

    if (open_image(&running, &e) < 0)
        die("opening the image", &e);
    next_change = change_a_byte;
    for_each_fault("commit (an owner's first)", nothing_to_prepare, try_commit);
    for_each_fault("commit (to the log)", settle, try_commit);
    next_change = grow;
    for_each_fault("commit (growing)", shrink, try_commit);
    check_ordinary_commit();
    store_free(running);
    running = NULL;
    unlink(path);
}

int main(int argc, char **argv)
{
    struct err e;
    const char *tmp = getenv("TMPDIR");
    unsigned n_variants = argc > 1 && strcmp(argv[1], "--long") == 0 ? 6 : 1;
    snprintf(folder, sizeof(folder), "%s/nvkeep-faults-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || secret_new(sizeof(passphrase), &pass, &e) < 0)
        die(folder, &(struct err){.text = "cannot be made"});
    snprintf(path, sizeof(path), "%s/image", folder);
    memcpy(secret_bytes(pass), passphrase, sizeof(passphrase));

    for (variant = 0; variant < n_variants; variant++)
        all_faults();
    secret_free(pass);
    rmdir(folder);
    printf("faults: %lu in all, refused %lu, withstood %lu, violations %lu\n", tally.faults,
           tally.refused, tally.withstood, tally.violations);
    return tally.violations != 0;
}
