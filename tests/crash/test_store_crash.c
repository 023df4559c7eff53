/* Simulated power loss over the record store, by enumeration.
 *
 * A workload of commits runs over a real encrypted image on a power disk. At every flush, before it
 * takes effect, the disk is put into every state it may then have (which sectors arrived, and what
 * the others hold); each state is opened, must be the old or the new one, must take a further
 * commit, and must open again as that. From some of these states the next commit is run and cut in
 * the same way, so that attempts are torn over one another. Commits that fail leave sectors in
 * limbo, which may or may not arrive ever after.
 *
 *     test_store_crash            at least 50 000 states, in seconds
 *     test_store_crash --long     a million and more
 *     test_store_crash --long K N the K-th of N parts of that, from 0
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/prim.h"
#include "tests/crash/kept_disk.h"

enum {
    MODEL_BYTES = 6000,
    MAX_ALLOWED = 8,
    ALL_SUBSETS = 7, /* up to so many volatile sectors, every subset is tried */
    RANDOM_SUBSETS = 24,
    MAX_DEPTH = 1, /* cuts upon cuts */
    MAX_SECTORS = 64,
};

struct digest {
    uint8_t bytes[SHA256_BYTES];
};

/* What the TPM would have: the state that the next commit is to make durable. */
struct model {
    struct {
        bool present;
        size_t n;
        uint8_t bytes[MODEL_BYTES];
    } blob[N_BLOBS];
};

static struct {
    unsigned long states, lost, mixed, forgotten, stuck, commits;
} tally;
static bool thorough;
static uint64_t random_bits = 0x853c49e6748fea9b;

static uint32_t random_below(uint32_t n)
{
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (uint32_t)(random_bits >> 20) % n;
}

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "test_store_crash: %s: %s\n", what, e->text);
    exit(1);
}

/* ---- states and their digests ---- */

static struct digest digest_of(const struct state_change *s)
{
    struct digest d;
    store_image_digest(s, d.bytes);
    return d;
}

static struct state_change change_to(const struct model *m)
{
    struct state_change c = {0};
    for (size_t i = 0; i < N_BLOBS; i++)
        c.blob[i] = m->blob[i].present
                        ? (struct blob_change){BLOB_SET, m->blob[i].bytes, m->blob[i].n}
                        : (struct blob_change){BLOB_DELETE, NULL, 0};
    return c;
}

static struct digest digest_of_model(const struct model *m)
{
    struct state_change c = change_to(m);
    return digest_of(&c);
}

static struct digest digest_of_store(const struct store *s)
{
    struct state_change c = store_image_content(s);
    return digest_of(&c);
}

static bool same(const struct digest *a, const struct digest *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* ---- the workload ---- */

enum op {
    OP_SMALL,    /* a few bytes: one sector of log */
    OP_MEDIUM,   /* a delta of several sectors */
    OP_GROW,     /* an index defined: bytes inserted */
    OP_SHRINK,   /* and undefined */
    OP_REPLACE,  /* everything anew: a checkpoint */
    OP_VOLATILE, /* a second blob appears or changes */
    OP_DELETE,   /* and goes */
    OP_NOTHING,  /* no change: nothing may be written */
    N_OPS,
};

static void randomize(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)random_below(256);
}

static void run_op(struct model *m, enum op op)
{
    uint8_t *p = m->blob[0].bytes;
    size_t *n = &m->blob[0].n, at = random_below((uint32_t)*n - 1600);
    switch (op) {
    case OP_SMALL:
        randomize(p + at, 1 + random_below(64));
        break;
    case OP_MEDIUM:
        randomize(p + at, 700 + random_below(800));
        break;
    case OP_GROW:
        if (*n > 4200)
            break;
        memmove(p + at + 200, p + at, *n - at);
        randomize(p + at, 200);
        *n += 200;
        break;
    case OP_SHRINK:
        if (*n < 2500)
            break;
        memmove(p + at, p + at + 300, *n - at - 300);
        *n -= 300;
        break;
    case OP_REPLACE:
        randomize(p, *n);
        break;
    case OP_VOLATILE:
        m->blob[1].present = true;
        m->blob[1].n = random_below(1000);
        randomize(m->blob[1].bytes, m->blob[1].n);
        break;
    case OP_DELETE:
        m->blob[1].present = false;
        break;
    default:
        break;
    }
}

/* ---- one state of the disk after the power came back ---- */

struct trial {
    struct store_image im;
    struct model model;                 /* what the running commit is to store */
    struct digest allowed[MAX_ALLOWED]; /* what may be found if power fails now */
    size_t n_allowed;
    struct digest *past; /* everything ever acknowledged */
    size_t n_past;
    unsigned depth; /* of cuts upon cuts */
    bool checking;
};

static void report(const char *what, const struct trial *t, const char *detail)
{
    static unsigned n;
    if (n++ < 20)
        fprintf(stderr, "%s (depth %u, commit %lu): %s\n", what, t->depth, tally.commits, detail);
}

static void judge_state(struct trial *t, const struct digest *found)
{
    for (size_t i = 0; i < t->n_allowed; i++)
        if (same(found, &t->allowed[i]))
            return;
    for (size_t i = 0; i < t->n_past; i++) {
        if (!same(found, &t->past[i]))
            continue;
        tally.forgotten++;
        report("an acknowledged change is gone", t, "an older state was opened");
        return;
    }
    tally.mixed++;
    report("neither old nor new", t, "a state that never was");
}

/* The next commit works, and is what is found afterwards. */
static bool goes_on(struct trial *t, struct store *s, const struct digest *found)
{
    static const uint8_t word[] = "written after the power came back";
    const struct state_change c = {{[2] = {BLOB_SET, word, sizeof(word)}}};
    struct err e = {0};
    struct digest want, got;
    if (store_commit(s, &c, &e) < 0) {
        report("the next commit failed", t, e.text);
        store_free(s);
        return false;
    }
    want = digest_of_store(s);
    store_free(s);
    s = kept_disk_open(&e);
    if (!s) {
        report("not openable after the next commit", t, e.text);
        return false;
    }
    got = digest_of_store(s);
    store_free(s);
    if (same(&want, &got) && !same(&want, found))
        return true;
    report("another state after the next commit", t, "");
    return false;
}

static void check_state(struct trial *t)
{
    struct err e = {0};
    tally.states++;
    struct store *s = kept_disk_open(&e);
    if (!s) {
        tally.lost++;
        report("not openable", t, e.text);
        return;
    }
    struct digest found = digest_of_store(s);
    judge_state(t, &found);
    if (!goes_on(t, s, &found))
        tally.stuck++;
}

static void try_cut(struct trial *t, const bool *arrived, enum power_lost lost, unsigned version)
{
    power_cut(t->im.power, arrived, lost, version);
    check_state(t);
    power_restore(t->im.power);
}

static void try_every_loss(struct trial *t, const bool *arrived)
{
    for (enum power_lost lost = LOST_STALE; lost < LOST_KINDS; lost++)
        try_cut(t, arrived, lost, 0);
}

/* ---- which sectors arrived ---- */

static void try_subsets(struct trial *t, size_t n)
{
    bool arrived[MAX_SECTORS];
    for (unsigned bits = 0; bits < 1U << n; bits++) {
        for (size_t i = 0; i < n; i++)
            arrived[i] = bits >> i & 1;
        try_every_loss(t, arrived);
    }
}

static void try_runs(struct trial *t, size_t n)
{
    bool arrived[MAX_SECTORS];
    for (size_t cut = 0; cut <= n; cut++) {
        for (unsigned from_end = 0; from_end < 2; from_end++) {
            for (size_t i = 0; i < n; i++)
                arrived[i] = from_end ? i >= cut : i < cut;
            try_every_loss(t, arrived);
        }
    }
    for (size_t one = 0; one < n; one++) {
        for (unsigned omitted = 0; omitted < 2; omitted++) {
            for (size_t i = 0; i < n; i++)
                arrived[i] = (i == one) != omitted;
            try_every_loss(t, arrived);
        }
    }
}

/* A disk of 4096-byte blocks writes or keeps each whole. */
static void try_pages(struct trial *t, size_t n)
{
    bool arrived[MAX_SECTORS];
    uint64_t pages[MAX_SECTORS];
    size_t n_pages = 0, page_of[MAX_SECTORS];
    for (size_t i = 0; i < n; i++) {
        uint64_t page = power_volatile_sector(t->im.power, i) / POWER_PAGE_SECTORS;
        size_t j = 0;
        while (j < n_pages && pages[j] != page)
            j++;
        pages[j] = page;
        n_pages = j == n_pages ? n_pages + 1 : n_pages;
        page_of[i] = j;
    }
    for (unsigned bits = 0; n_pages <= 8 && bits < 1U << n_pages; bits++) {
        for (size_t i = 0; i < n; i++)
            arrived[i] = bits >> page_of[i] & 1;
        try_cut(t, arrived, LOST_STALE, 0);
    }
}

static void try_random(struct trial *t, size_t n, unsigned tries)
{
    bool arrived[MAX_SECTORS];
    while (tries-- > 0) {
        for (size_t i = 0; i < n; i++)
            arrived[i] = random_below(2);
        /* Sectors written by several attempts may hold any of them. */
        try_cut(t, arrived, LOST_STALE, random_below(3));
        try_cut(t, arrived, LOST_NOISE, 0);
    }
}

/* From states of this cut, the next commits are run and cut in turn. */
static void cut_again(struct trial *t, size_t n);

static void try_all_cuts(struct trial *t)
{
    size_t n = power_n_volatile(t->im.power);
    if (n > MAX_SECTORS) {
        fprintf(stderr, "test_store_crash: %zu volatile sectors\n", n);
        exit(1);
    }
    if (n <= ALL_SUBSETS) {
        try_subsets(t, n);
    } else {
        try_runs(t, n);
        try_random(t, n, RANDOM_SUBSETS);
    }
    try_pages(t, n);
    if (t->depth < MAX_DEPTH)
        cut_again(t, n);
}

static void at_flush(void *ctx)
{
    struct trial *t = ctx;
    if (t->checking)
        return; /* the flush with which a store is opened */
    t->checking = true;
    try_all_cuts(t);
    t->checking = false;
}

/* ---- commits ---- */

static void allow_only(struct trial *t, const struct digest *d)
{
    t->allowed[0] = *d;
    t->n_allowed = 1;
}

static void allow(struct trial *t, const struct digest *d)
{
    if (t->n_allowed < MAX_ALLOWED)
        t->allowed[t->n_allowed++] = *d;
}

static void remember(struct trial *t, const struct digest *d)
{
    t->past = realloc(t->past, (t->n_past + 1) * sizeof(*t->past));
    if (!t->past)
        abort();
    t->past[t->n_past++] = *d;
}

/* One commit, cut at its flush. True when it was acknowledged. */
static bool commit(struct trial *t, struct store *s)
{
    struct err e = {0};
    struct digest d = digest_of_model(&t->model);
    struct state_change c = change_to(&t->model);
    tally.commits++;
    allow(t, &d);
    if (store_commit(s, &c, &e) < 0)
        return false;
    remember(t, &d);
    allow_only(t, &d);
    t->checking = true;
    if (power_n_volatile(t->im.power) > 0)
        try_all_cuts(t); /* what a failed commit left in limbo */
    else
        try_cut(t, (bool[1]){true}, LOST_STALE, 0);
    t->checking = false;
    return true;
}

static void cut_again(struct trial *t, size_t n)
{
    unsigned starts = thorough ? 4 : 2;
    struct trial keep = *t;
    for (; starts > 0; starts--) {
        bool arrived[MAX_SECTORS];
        struct err e = {0};
        for (size_t i = 0; i < n; i++)
            arrived[i] = random_below(4) > 0;
        power_push(t->im.power);
        power_cut(t->im.power, arrived, (enum power_lost)random_below(LOST_KINDS), 0);
        power_settle(t->im.power);
        struct store *s = kept_disk_open(&e);
        if (!s)
            die("a cut that was tried before does not open", &e);
        struct digest found = digest_of_store(s);
        t->depth++;
        allow_only(t, &found);
        run_op(&t->model, (enum op)random_below(OP_NOTHING));
        t->checking = false;
        commit(t, s);
        t->checking = true;
        store_free(s);
        power_pop(t->im.power);
        keep.past = t->past; /* may have moved; what it gained stays known */
        keep.n_past = t->n_past;
        *t = keep;
    }
}

static void trial_begin(struct trial *t, const struct store_layout *layout, uint64_t sectors,
                        size_t state_bytes)
{
    struct err e = {0};
    memset(t, 0, sizeof(*t));
    t->model.blob[0].present = true;
    t->model.blob[0].n = state_bytes;
    randomize(t->model.blob[0].bytes, state_bytes);
    struct state_change first = change_to(&t->model);
    if (store_image_new(layout, sectors, &first, &t->im, &e) < 0)
        die("making an image", &e);
    if (kept_disk_begin(&t->im, &e) < 0)
        die("opening the image", &e);
    struct digest d = digest_of_model(&t->model);
    remember(t, &d);
    allow_only(t, &d);
    power_on_flush(t->im.power, at_flush, t);
}

static void trial_end(struct trial *t)
{
    power_on_flush(t->im.power, NULL, NULL);
    kept_disk_end();
    store_image_clear(&t->im);
    free(t->past);
}

static struct store *begin_owner(struct trial *t)
{
    struct err e = {0};
    t->checking = true;
    struct store *s = kept_disk_open(&e);
    t->checking = false;
    if (!s)
        die("opening", &e);
    return s;
}

/* ---- the workloads ---- */

/* Long runs of commits: deltas of all kinds, the log wraps, checkpoints alternate, owners change.
 */
static void steady_work(unsigned n_commits)
{
    static struct trial t;
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 3000);
    struct store *s = begin_owner(&t);
    for (unsigned i = 0; i < n_commits; i++) {
        run_op(&t.model, (enum op)(i < N_OPS ? i : random_below(N_OPS)));
        if (!commit(&t, s))
            die("a commit on a sound disk failed", &(struct err){0});
        if (random_below(12) == 0) {
            store_free(s);
            s = begin_owner(&t);
        }
    }
    store_free(s);
    trial_end(&t);
}

/* How a commit fails. */
static const struct fault {
    unsigned nth; /* of its write and its flush */
    bool for_good;
    size_t partial;
} faults[] = {
    {1, false, 0}, /* nothing arrives */
    {1, false, 1}, /* one sector */
    {1, false, 2}, /* two */
    {2, false, 0}, /* everything, but the flush fails */
    {1, true, 1},  /* and what failed cannot be taken back either */
    {2, true, 0},
};

static bool wrote_a_checkpoint(struct trial *t)
{
    uint64_t host0 = store_image_host_sector(qcow_disk_of(kept_disk), 0);
    for (size_t i = 0; i < power_n_volatile(t->im.power); i++)
        if (power_volatile_sector(t->im.power, i) - host0 < t->im.facts.layout.log)
            return true;
    return false;
}

static void check_in_memory(struct trial *t, const struct store *s, const struct digest *old)
{
    struct digest d = digest_of_store(s);
    if (same(&d, old))
        return;
    tally.mixed++;
    report("a failed commit left its mark", t, "in memory, or on the disk for the next owner");
}

/* Another owner after a failed commit. What could be taken back is gone for it. What could not is
 * there to see, in the page cache alone: it may be served, and be lost again, as it was never
 * acknowledged; what is committed on top of it may not. One case is beyond any opener: a checkpoint
 * that only the page cache has (see "limits" in the format's description). */
static struct store *next_owner(struct trial *t, struct store *s, const struct fault *f,
                                const struct digest *old)
{
    if (f->for_good && wrote_a_checkpoint(t))
        return s;
    store_free(s);
    s = begin_owner(t);
    if (f->for_good)
        return s;
    check_in_memory(t, s, old);
    allow_only(t, old);
    return s;
}

/* A commit that fails in one of these ways, then another, then a third; by the same owner or by the
 * next one. */
static void failing_work(enum op first, enum op second, const struct fault *f, bool owner_dies)
{
    static struct trial t;
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    struct store *s = begin_owner(&t);
    for (unsigned i = 0; i < 3; i++) {
        run_op(&t.model, i == 1 ? OP_MEDIUM : OP_SMALL);
        commit(&t, s);
    }
    const struct model before = t.model;
    run_op(&t.model, first);
    struct digest old = digest_of_model(&before), tried = digest_of_model(&t.model);
    power_fail(t.im.power, f->nth, f->for_good, EIO, f->partial);
    bool done = commit(&t, s);
    power_fail(t.im.power, 0, false, 0, 0);
    if (done != same(&old, &tried))
        report("a failed write was acknowledged", &t, "");
    if (!done)
        t.model = before;
    check_in_memory(&t, s, &old);
    t.checking = true;
    try_all_cuts(&t);
    t.checking = false;

    if (owner_dies)
        s = next_owner(&t, s, f, &old);
    run_op(&t.model, second);
    if (!commit(&t, s))
        die("the commit after a failed one failed", &(struct err){0});
    run_op(&t.model, OP_SMALL);
    if (!commit(&t, s))
        die("the second commit after a failed one failed", &(struct err){0});
    store_free(s);
    trial_end(&t);
}

/* The short form: each fault, each kind of first and second commit, and those pairs where a rule of
 * the store is what keeps the state. */
static void some_failing_work(void)
{
    static const struct {
        enum op first, second;
        unsigned fault;
        bool owner_dies;
    } some[] = {
        {OP_SMALL, OP_NOTHING, 3, false}, /* W5 */
        {OP_MEDIUM, OP_NOTHING, 5, false}, {OP_REPLACE, OP_NOTHING, 5, false},
        {OP_SMALL, OP_SMALL, 5, true},                                      /* W2 */
        {OP_MEDIUM, OP_SMALL, 5, true},    {OP_REPLACE, OP_SMALL, 3, true}, /* W7 */
        {OP_MEDIUM, OP_REPLACE, 3, true},  {OP_MEDIUM, OP_MEDIUM, 1, false},
        {OP_GROW, OP_SHRINK, 0, false},    {OP_REPLACE, OP_SMALL, 2, false},
        {OP_VOLATILE, OP_DELETE, 4, true}, {OP_MEDIUM, OP_VOLATILE, 2, true},
        {OP_SHRINK, OP_GROW, 3, false},
    };
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++)
        failing_work(some[i].first, some[i].second, &faults[some[i].fault], some[i].owner_dies);
}

static void all_failing_work(unsigned part, unsigned n_parts)
{
    unsigned i = 0;
    for (size_t how = 0; how < sizeof(faults) / sizeof(faults[0]); how++)
        for (enum op first = OP_SMALL; first <= OP_NOTHING; first++)
            for (enum op second = OP_SMALL; second <= OP_NOTHING; second++)
                for (unsigned dies = 0; dies < 2; dies++)
                    if (i++ % n_parts == part)
                        failing_work(first, second, &faults[how], dies);
}

/* The layout and sizes of a real TPM, sampled. */
static void real_sizes(unsigned n_commits)
{
    static struct trial t;
    trial_begin(&t, NULL, 2048, 5000);
    t.depth = 99; /* no cuts upon cuts here */
    struct store *s = begin_owner(&t);
    for (unsigned i = 0; i < n_commits; i++) {
        run_op(&t.model, (enum op)random_below(N_OPS));
        if (!commit(&t, s))
            die("a commit on a sound disk failed", &(struct err){0});
    }
    store_free(s);
    trial_end(&t);
}

static void print_tally(const char *what)
{
    printf("power loss, %s: commits %lu, states %lu, lost %lu, mixed %lu, acknowledged-but-lost "
           "%lu, next commit failed %lu\n",
           what, tally.commits, tally.states, tally.lost, tally.mixed, tally.forgotten,
           tally.stuck);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    unsigned part = argc == 4 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    unsigned n_parts = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 1;
    if (n_parts == 0 || part >= n_parts || (argc > 1 && !thorough)) {
        fprintf(stderr, "usage: test_store_crash [--long [PART OF]]\n");
        return 2;
    }
    random_bits += (uint64_t)part << 32; /* other commits in each part */
    steady_work(thorough ? 300 / n_parts : 24);
    print_tally("steady work");
    if (thorough)
        all_failing_work(part, n_parts);
    else
        some_failing_work();
    print_tally("and failing storage");
    real_sizes(thorough ? 40 / n_parts : 2);
    print_tally("in all");
    return tally.lost || tally.mixed || tally.forgotten || tally.stuck;
}
