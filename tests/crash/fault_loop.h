/* What the fault loops share: an image in a directory of its own, every call failing in turn, and
 * what must not change or grow. For programs linked with the options of tests/support/fault.h.
 */
#ifndef NVKEEP_TESTS_FAULT_LOOP_H
#define NVKEEP_TESTS_FAULT_LOOP_H

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
static unsigned variant, n_variants; /* of errors; more than one: --long */

static inline void violation(const char *where, const char *what, const struct err *e)
{
    int os = 0;
    const char *call = fault_hit(&os);
    if (tally.violations++ < 30)
        fprintf(stderr, "%s, %s fails with %s: %s (%s)\n", where, call ? call : "nothing",
                strerrorname_np(os), what, e->text);
}

static inline void die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, e->text);
    exit(1);
}

/* ---- what must not change or grow ---- */

static inline int n_entries(const char *dir)
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

static inline struct resources in_use(void)
{
    return (struct resources){n_entries("/proc/self/fd"), fault_n_mapped()};
}

static inline void check_leaks(const char *where, struct resources before, const struct err *e)
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

static inline struct file_facts facts_of_file(void)
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

static inline bool same_file(const struct file_facts *a, const struct file_facts *b)
{
    return memcmp(a->digest, b->digest, sizeof(a->digest)) == 0 && a->st.st_size == b->st.st_size &&
           a->st.st_mtim.tv_sec == b->st.st_mtim.tv_sec &&
           a->st.st_mtim.tv_nsec == b->st.st_mtim.tv_nsec;
}

/* The class of a failed call below: what the system refused. */
static inline void check_class(const char *where, const struct err *e)
{
    int os = 0;
    const char *call = fault_hit(&os);
    bool named_by_user = call && (!strcmp(call, "open") || !strcmp(call, "stat"));
    if (e->kind != ERR_STORAGE && !(named_by_user && e->kind == ERR_USAGE))
        violation(where, err_class(e->kind)->name, e);
    if (strlen(e->text) < 10)
        violation(where, "no message", e);
}

static inline void nothing_to_prepare(void)
{
}

/* Runs try() with calls failing in turn; it disarms when what is tried is over, and returns whether
 * it succeeded all the same. Of the calls before the last n_last, one in `step` fails. */
static inline void for_most_faults(const char *where, void (*prepare)(void), bool (*try)(void),
                                   unsigned n_last, unsigned step)
{
    prepare();
    fault_arm(0, false, 0);
    if (!try())
        die(where, &(struct err){.text = "does not even work without faults"});
    unsigned n = fault_disarm();
    for (unsigned nth = 1; nth <= n; nth += nth + n_last < n ? step : 1) {
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

static inline void for_each_fault(const char *where, void (*prepare)(void), bool (*try)(void))
{
    for_most_faults(where, prepare, try, 0, 1);
}

/* ---- the image ---- */

static uint8_t bytes[18000];
static size_t n_bytes = 3000;

static inline struct state_change state_now(void)
{
    return (struct state_change){{{BLOB_SET, bytes, n_bytes}, {BLOB_SET, bytes, 100}}};
}

static inline int create(struct err *e)
{
    const struct state_change first = state_now();
    const struct image_create what = {.path = path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    return image_create(&what, pass, sizeof(passphrase) - 1, NULL, NULL, e);
}

static inline int open_image(struct store **ret, struct err *e)
{
    return image_open_store(path, pass, sizeof(passphrase) - 1, NULL, ret, e);
}

/* Runs all() once for each error that calls can give (--long), in a directory of its own. */
static inline int fault_loop(int argc, char **argv, void (*all)(void))
{
    struct err e;
    const char *tmp = getenv("TMPDIR");
    n_variants = argc > 1 && strcmp(argv[1], "--long") == 0 ? 6 : 1;
    snprintf(folder, sizeof(folder), "%s/nvkeep-faults-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder) || secret_new(sizeof(passphrase), &pass, &e) < 0)
        die(folder, &(struct err){.text = "cannot be made"});
    snprintf(path, sizeof(path), "%s/image", folder);
    memcpy(secret_bytes(pass), passphrase, sizeof(passphrase));

    for (variant = 0; variant < n_variants; variant++)
        all();
    secret_free(pass);
    rmdir(folder);
    printf("faults: %lu in all, refused %lu, withstood %lu, violations %lu\n", tally.faults,
           tally.refused, tally.withstood, tally.violations);
    return tally.violations != 0;
}

#endif
