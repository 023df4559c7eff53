/* The engine of the crash tests: a workload of commits over a real encrypted image on a power disk.
 *
 * At every flush, before it takes effect, the disk is put into every state it may then have (which
 * sectors arrived, and what the others hold); each state is opened, must be the old or the new one,
 * must take a further commit, and must open again as that. From some of these states the next
 * commit is run and cut in the same way, so that attempts are torn over one another. Commits that
 * fail leave sectors in limbo, which may or may not arrive ever after.
 *
 * For programs linked with --wrap=qcow_disk_rw_free (kept_disk.h).
 */
#ifndef NVKEEP_TESTS_TRIAL_H
#define NVKEEP_TESTS_TRIAL_H

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
static unsigned n_reports;
static bool thorough;
static uint64_t random_bits = 0x853c49e6748fea9b;

static inline uint32_t random_below(uint32_t n)
{
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (uint32_t)(random_bits >> 20) % n;
}

static inline void die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, e->text);
    exit(1);
}

/* ---- states and their digests ---- */

static inline struct digest digest_of(const struct state_change *s)
{
    struct digest d;
    store_image_digest(s, d.bytes);
    return d;
}

static inline struct state_change change_to(const struct model *m)
{
    struct state_change c = {0};
    for (size_t i = 0; i < N_BLOBS; i++)
        c.blob[i] = m->blob[i].present
                        ? (struct blob_change){BLOB_SET, m->blob[i].bytes, m->blob[i].n}
                        : (struct blob_change){BLOB_DELETE, NULL, 0};
    return c;
}

static inline struct digest digest_of_model(const struct model *m)
{
    struct state_change c = change_to(m);
    return digest_of(&c);
}

static inline struct digest digest_of_store(const struct store *s)
{
    struct state_change c = store_image_content(s);
    return digest_of(&c);
}

static inline bool same(const struct digest *a, const struct digest *b)
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

static inline void randomize(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)random_below(256);
}

static inline void run_op(struct model *m, enum op op)
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
    /* What is more to be looked at in a state that opens. True: it is judged later. NULL: nothing.
     */
    bool (*look)(struct trial *t, struct store *s, const struct digest *found);
    /* A state that does not open, where it may be damaged. NULL: it is lost. */
    struct store *(*mend)(struct trial *t, struct err *e);
};

static inline void report(const char *what, const struct trial *t, const char *detail)
{
    if (n_reports++ < 20)
        fprintf(stderr, "%s (depth %u, commit %lu): %s\n", what, t->depth, tally.commits, detail);
}

static inline void judge_state(struct trial *t, const struct digest *found)
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
static inline bool goes_on(struct trial *t, struct store *s, const struct digest *found)
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

static inline void check_state(struct trial *t)
{
    struct err e = {0};
    tally.states++;
    struct store *s = kept_disk_open(&e);
    if (!s && t->mend)
        s = t->mend(t, &e);
    if (!s) {
        tally.lost++;
        report("not openable", t, e.text);
        return;
    }
    struct digest found = digest_of_store(s);
    if (!t->look || !t->look(t, s, &found))
        judge_state(t, &found);
    if (!goes_on(t, s, &found))
        tally.stuck++;
}

static inline void try_cut(struct trial *t, const bool *arrived, enum power_lost lost,
                           unsigned version)
{
    power_cut(t->im.power, arrived, lost, version);
    check_state(t);
    power_restore(t->im.power);
}

static inline void try_every_loss(struct trial *t, const bool *arrived)
{
    for (enum power_lost lost = LOST_STALE; lost < LOST_KINDS; lost++)
        try_cut(t, arrived, lost, 0);
}

/* ---- which sectors arrived ---- */

static inline void try_subsets(struct trial *t, size_t n)
{
    bool arrived[MAX_SECTORS], versions = power_has_versions(t->im.power);
    for (unsigned bits = 0; bits < 1U << n; bits++) {
        for (size_t i = 0; i < n; i++)
            arrived[i] = bits >> i & 1;
        try_every_loss(t, arrived);
        for (unsigned version = 1; versions && version < 3; version++)
            try_cut(t, arrived, LOST_STALE, version);
    }
}

static inline void try_runs(struct trial *t, size_t n)
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
static inline void try_pages(struct trial *t, size_t n)
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

static inline void try_random(struct trial *t, size_t n, unsigned tries)
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
static inline void cut_again(struct trial *t, size_t n);

static inline void try_all_cuts(struct trial *t)
{
    size_t n = power_n_volatile(t->im.power);
    if (n > MAX_SECTORS) {
        fprintf(stderr, "%zu volatile sectors\n", n);
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

static inline void at_flush(void *ctx)
{
    struct trial *t = ctx;
    if (t->checking)
        return; /* the flush with which a store is opened */
    t->checking = true;
    try_all_cuts(t);
    t->checking = false;
}

/* ---- commits ---- */

static inline void allow_only(struct trial *t, const struct digest *d)
{
    t->allowed[0] = *d;
    t->n_allowed = 1;
}

static inline void allow(struct trial *t, const struct digest *d)
{
    for (size_t i = 0; i < t->n_allowed; i++)
        if (same(&t->allowed[i], d))
            return;
    if (t->n_allowed < MAX_ALLOWED)
        t->allowed[t->n_allowed++] = *d;
}

static inline void remember(struct trial *t, const struct digest *d)
{
    t->past = realloc(t->past, (t->n_past + 1) * sizeof(*t->past));
    if (!t->past)
        abort();
    t->past[t->n_past++] = *d;
}

/* One commit, cut at its flush. True when it was acknowledged. */
static inline bool commit(struct trial *t, struct store *s)
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

static inline void cut_again(struct trial *t, size_t n)
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

static inline void trial_begin(struct trial *t, const struct store_layout *layout, uint64_t sectors,
                               size_t state_bytes)
{
    struct err e = {0};
    memset(t, 0, sizeof(*t));
    t->model.blob[0].present = state_bytes > 0; /* none: it waits for a migration */
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

static inline void trial_end(struct trial *t)
{
    power_on_flush(t->im.power, NULL, NULL);
    kept_disk_end();
    store_image_clear(&t->im);
    free(t->past);
}

static inline struct store *begin_owner(struct trial *t)
{
    struct err e = {0};
    t->checking = true;
    struct store *s = kept_disk_open(&e);
    t->checking = false;
    if (!s)
        die("opening", &e);
    return s;
}

static inline void print_tally(const char *what)
{
    printf("power loss, %s: commits %lu, states %lu, lost %lu, mixed %lu, acknowledged-but-lost "
           "%lu, next commit failed %lu\n",
           what, tally.commits, tally.states, tally.lost, tally.mixed, tally.forgotten,
           tally.stuck);
    fflush(stdout);
}

#endif
