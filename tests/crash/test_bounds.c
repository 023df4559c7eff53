/* What it costs to open and to check the worst images that a header can describe: bytes read and
 * memory at the peak, both of which are the same at every run, and, with --long, time. The key is
 * stretched 1000 times; what that costs otherwise is the owner's choice, up to the cap.
 *
 *     test_bounds           counts
 *     test_bounds --long    and at most 50 ms of CPU, the least of five runs; `nvkeep info` and
 *                           `nvkeep check` as programs
 */
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/crash/hostile_image.h"

enum { MOST_MEMORY = 16 << 20, MOST_OPEN = 64 << 20, MOST_CHECK = 128 << 20, MOST_MS = 50 };
static struct secret *pass;
static bool timed;
static unsigned n_bad, n_images;

/* ---- counting ---- */

static struct {
    uint64_t read, reads;
    int64_t memory, peak;
} cost;

static void grew(int64_t n)
{
    cost.memory += n;
    if (cost.memory > cost.peak)
        cost.peak = cost.memory;
}

ssize_t __real_pread(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at)
{
    cost.read += n;
    cost.reads++;
    return __real_pread(fd, p, n, at);
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n)
{
    void *p = __real_malloc(n);
    grew((int64_t)malloc_usable_size(p));
    return p;
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
    void *p = __real_calloc(n, size);
    grew((int64_t)malloc_usable_size(p));
    return p;
}

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
    grew(-(int64_t)malloc_usable_size(p));
    __real_free(p);
}

void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t off)
{
    void *p = __real_mmap(at, n, prot, flags, fd, off);
    if (p != MAP_FAILED)
        grew((int64_t)n);
    return p;
}

int __real_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n);
int __wrap_munmap(void *p, size_t n)
{
    grew(-(int64_t)n);
    return __real_munmap(p, n);
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- readers ---- */

static struct err reader_error; /* kind ERR_NONE: accepted */

static void read_as_info(const char *path)
{
    OWNED(blk) b = NULL;
    OWNED_HEAP struct qcow_facts *f = calloc(1, sizeof(*f));
    if (!f || blk_open(path, BLK_READ_ONLY, &b, &reader_error) < 0 ||
        qcow_inspect(b, f, &reader_error) < 0)
        return;
    reader_error = f->refused;
}

static void read_as_serve(const char *path)
{
    OWNED(store) s = NULL;
    if (image_open_store(path, pass, sizeof(HOSTILE_PASS) - 1, NULL, &s, &reader_error) == 0)
        reader_error.kind = ERR_NONE;
}

static void read_as_check(const char *path)
{
    struct image_report r;
    reader_error.kind = ERR_NONE;
    if (image_verify(path, pass, sizeof(HOSTILE_PASS) - 1, true, NULL, &r, &reader_error) == 0 &&
        r.check.corruptions > 0)
        err_set(&reader_error, ERR_STATE_CORRUPT, "%s", r.check.first);
}

static const struct reader {
    const char *name;
    void (*read)(const char *path);
    uint64_t most, most_reads; /* a read costs about half a microsecond */
} readers[] = {
    {"info", read_as_info, MOST_OPEN, 40000},
    {"serve", read_as_serve, MOST_OPEN, 40000},
    {"check", read_as_check, MOST_CHECK, 80000},
};

static void try_reader(const struct reader *r, const char *what, const char *path)
{
    double ms = 1e9;
    for (unsigned i = 0; i < (timed ? 5 : 1); i++) {
        memset(&cost, 0, sizeof(cost));
        double before = cpu_ms();
        r->read(path);
        double took = cpu_ms() - before;
        ms = took < ms ? took : ms;
    }
    bool bad = cost.read > r->most || cost.reads > r->most_reads || cost.peak > MOST_MEMORY ||
               (timed && ms > MOST_MS);
    n_bad += bad;
    printf("%-40s %-6s %-14s %8.1f MiB read in %6lu, %5.1f MiB memory", what, r->name,
           reader_error.kind == ERR_NONE ? "accepted" : err_class(reader_error.kind)->name,
           (double)cost.read / (1 << 20), (unsigned long)cost.reads, (double)cost.peak / (1 << 20));
    if (timed)
        printf(", %5.1f ms", ms);
    puts(bad ? "  TOO MUCH" : "");
}

/* The program itself: memory above what it takes to refuse a file that is no image. */
static void run_program(const char *command, const char *path, long *ret_kib, double *ret_ms)
{
    char *const argv[] = {getenv("NVKEEP"), strdup(command),    strdup(path),
                          strdup("--key"),  strdup("file=key"), NULL};
    struct rusage use;
    int status;
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, 1);
        dup2(null, 2);
        execv(argv[0], argv);
        _exit(127);
    }
    hostile_must(wait4(child, &status, 0, &use) == child && WIFEXITED(status) &&
                     WEXITSTATUS(status) != 127,
                 "running nvkeep");
    *ret_kib = use.ru_maxrss;
    *ret_ms = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
              (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
    for (size_t i = 1; argv[i]; i++)
        free(argv[i]);
}

static void try_program(const char *what, const char *path)
{
    static const char *const commands[] = {"info", "check"};
    for (size_t i = 0; timed && getenv("NVKEEP") && i < ARRAY_LEN(commands); i++) {
        long kib, least_kib;
        double ms = 1e9, least_ms = 1e9, one;
        for (unsigned k = 0; k < 5; k++) {
            run_program(commands[i], "/dev/null", &least_kib, &one);
            least_ms = one < least_ms ? one : least_ms;
            run_program(commands[i], path, &kib, &one);
            ms = one < ms ? one : ms;
        }
        bool bad = kib - least_kib > MOST_MEMORY / 1024 || ms - least_ms > MOST_MS;
        n_bad += bad;
        printf("%-40s nvkeep %-5s %5.1f MiB and %5.1f ms above refusing no image%s\n", what,
               commands[i], (double)(kib - least_kib) / 1024, ms - least_ms,
               bad ? "  TOO MUCH" : "");
    }
}

/* ---- the images ---- */

static void as_it_is(struct hostile *x)
{
    (void)x;
}

/* Tables in descending order: none can be read along with the one before. */
static void all_l2_tables(struct hostile *x, uint32_t n, uint32_t n_filled)
{
    uint32_t from = x->h.l1_size;
    hostile_grow_l1(x, n);
    uint64_t tables = hostile_room(x, (n - from) * x->cluster);
    hostile_series(x, x->h.l1.byte + from * UINT64_C(8), n - from,
                   tables + (n - from - 1) * x->cluster, 0 - x->cluster);
    uint64_t data = hostile_room(x, n_filled * x->cluster / 8 * x->cluster);
    if (n_filled > 0)
        hostile_series(x, tables, n_filled * x->cluster / 8, data, x->cluster);
}

static void every_l2_table(struct hostile *x)
{
    all_l2_tables(x, (uint32_t)((1 << 21) / (x->cluster / 8 + 64)), 0);
}
static void too_many_l2_tables(struct hostile *x)
{
    all_l2_tables(x, (uint32_t)((1 << 21) / (x->cluster / 8 + 64)) + 100, 0);
}
static void l2_tables_full_of_data(struct hostile *x)
{
    all_l2_tables(x, 1 << 14, (1 << 14) - 100);
}
static void longest_l1(struct hostile *x)
{
    hostile_grow_l1(x, 1 << 17);
}
static void l1_beyond(struct hostile *x)
{
    hostile_grow_l1(x, 1 << 22);
}

static void longest_reftable(struct hostile *x)
{
    uint64_t bytes = 8 << 20, n = bytes / 8;
    uint64_t at = hostile_room(x, bytes);
    if (n * x->cluster > UINT64_C(1) << 30)
        n = (UINT64_C(1) << 40) / x->cluster;
    hostile_series(x, at, (size_t)n, hostile_room(x, n * x->cluster), x->cluster);
    x->h.reftable.byte = at;
    x->h.reftable_clusters = (uint32_t)(bytes / x->cluster);
}

static void widest_refcounts(struct hostile *x)
{
    uint64_t n = (1 << 21) / (x->cluster / 8), at = hostile_room(x, n * 8);
    hostile_series(x, at, (size_t)n, hostile_room(x, n * x->cluster), x->cluster);
    x->h.reftable.byte = at;
    x->h.reftable_clusters = (uint32_t)((n * 8 + x->cluster - 1) / x->cluster);
    x->h.refcount_order = 6;
    x->end = x->cluster << 21;
}

static void largest_disk_and_file(struct hostile *x)
{
    hostile_grow_l1(x, (uint32_t)((1 << 20) / (x->cluster / 8)));
    x->h.size = x->cluster << 20;
    x->end = x->cluster << 21;
}
static void file_beyond(struct hostile *x)
{
    x->end = (x->cluster << 21) + 1;
}
static void longest_file(struct hostile *x)
{
    x->end = UINT64_C(1) << 43;
}

/* n snapshots of n_l1 L1 entries each; distinct: every entry names a table of its own. */
static void snapshots(struct hostile *x, uint32_t n, uint32_t n_l1, bool distinct)
{
    uint64_t l1 = hostile_room(x, n * x->cluster);
    uint64_t l2 = hostile_room(x, (distinct ? UINT64_C(1) * n * n_l1 : 1) * x->cluster);
    uint64_t table = hostile_room(x, n * UINT64_C(56));
    for (uint32_t i = 0; i < n; i++) {
        uint8_t entry[56] = {0};
        put_be64(entry, l1 + i * x->cluster);
        put_be32(entry + 8, n_l1);
        put_be32(entry + 36, 16);
        hostile_put(x, table + i * UINT64_C(56), entry, sizeof(entry));
        hostile_series(x, l1 + i * x->cluster, n_l1,
                       distinct ? l2 + UINT64_C(1) * i * n_l1 * x->cluster : l2,
                       distinct ? x->cluster : 0);
    }
    x->h.snapshots.byte = table;
    x->h.n_snapshots = n;
}
static void most_snapshots(struct hostile *x)
{
    snapshots(x, 65536, 1, false);
}
static void snapshots_of_one_table(struct hostile *x)
{
    snapshots(x, (1 << 17) / 64 - 8, 64, false);
}
static void snapshots_of_many_tables(struct hostile *x)
{
    snapshots(x, (1 << 17) / 64 - 8, 64, true);
}

static void bitmaps(struct hostile *x, uint32_t n, uint32_t n_entries, bool full)
{
    uint64_t table = hostile_room(x, n_entries * UINT64_C(8));
    if (full)
        hostile_series(x, table, n_entries, table, 0);
    x->n_bitmaps = n;
    x->bitmap_dir_bytes = n * UINT64_C(32);
    x->bitmap_dir = hostile_room(x, x->bitmap_dir_bytes);
    uint8_t *dir = calloc(n, 32);
    hostile_must(dir != NULL, "memory");
    for (uint32_t i = 0; i < n; i++) {
        put_be64(dir + i * 32, table);
        put_be32(dir + i * 32 + 8, n_entries);
        put_be16(dir + i * 32 + 18, 8);
    }
    hostile_put(x, x->bitmap_dir, dir, n * (size_t)32);
    free(dir);
}
static void bitmaps_over_each_other(struct hostile *x)
{
    bitmaps(x, 65535, 1, true);
}
static void bitmaps_with_huge_tables(struct hostile *x)
{
    bitmaps(x, 65535, 1 << 20, false);
}
static void bitmaps_of_a_large_disk(struct hostile *x)
{
    largest_disk_and_file(x);
    x->end = x->cluster << 20;
    bitmaps(x, 65535, 257, true);
}

static const struct {
    const char *name;
    void (*make)(struct hostile *x);
    unsigned bits; /* of a cluster */
} images[] = {
    {"sound, smallest clusters", as_it_is, 9},
    {"sound, largest clusters", as_it_is, 21},
    {"every L2 table there may be, 512 B", every_l2_table, 9},
    {"every L2 table there may be, 2 MiB", every_l2_table, 21},
    {"too many L2 tables", too_many_l2_tables, 9},
    {"L2 tables full of data", l2_tables_full_of_data, 9},
    {"longest L1 table", longest_l1, 9},
    {"L1 table of 32 MiB", l1_beyond, 16},
    {"longest refcount table, 512 B", longest_reftable, 9},
    {"longest refcount table, 2 MiB", longest_reftable, 21},
    {"widest refcounts", widest_refcounts, 9},
    {"largest disk and file, 512 B", largest_disk_and_file, 9},
    {"largest disk and file, 2 MiB", largest_disk_and_file, 21},
    {"a cluster too many in the file", file_beyond, 9},
    {"file of 8 TiB", longest_file, 16},
    {"most snapshots", most_snapshots, 9},
    {"snapshots that share one table", snapshots_of_one_table, 9},
    {"snapshots with tables of their own", snapshots_of_many_tables, 9},
    {"bitmaps over each other", bitmaps_over_each_other, 9},
    {"bitmaps with huge tables", bitmaps_with_huge_tables, 9},
    {"bitmaps of a large disk", bitmaps_of_a_large_disk, 9},
};

static void begin_folder(char *folder, size_t n)
{
    const char *tmp = getenv("TMPDIR");
    struct err e;
    snprintf(folder, n, "%.100s/nvkeep-bounds-XXXXXX", tmp ? tmp : "/tmp");
    hostile_must(mkdtemp(folder) && chdir(folder) == 0, folder);
    if (secret_new(sizeof(HOSTILE_PASS), &pass, &e) < 0)
        hostile_must(false, e.text);
    memcpy(secret_bytes(pass), HOSTILE_PASS, sizeof(HOSTILE_PASS));
    OWNED_FD key = open("key", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    hostile_must(key >= 0 && write(key, HOSTILE_PASS, sizeof(HOSTILE_PASS) - 1) > 0, "key");
}

int main(int argc, char **argv)
{
    char folder[200];
    timed = argc > 1 && strcmp(argv[1], "--long") == 0;
    begin_folder(folder, sizeof(folder));
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        struct hostile x = {.path = "image"};
        hostile_begin(&x, images[i].bits, pass);
        images[i].make(&x);
        if (!hostile_end(&x)) {
            printf("%-40s no file of that size is possible here\n", images[i].name);
            continue;
        }
        try_program(images[i].name, x.path);
        for (size_t k = 0; k < ARRAY_LEN(readers); k++)
            try_reader(&readers[k], images[i].name, x.path);
        n_images++;
    }
    secret_free(pass);
    (void)unlink("image");
    (void)unlink("key");
    (void)rmdir(folder);
    printf("bounds: images %u, beyond the bounds %u\n", n_images, n_bad);
    return n_bad != 0;
}
