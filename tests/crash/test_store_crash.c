/* Simulated power loss over the record store, by enumeration (trial.h): long runs of commits, and
 * storage that fails.
 *
 *     test_store_crash            at least 50 000 states, in seconds
 *     test_store_crash --long     a million and more
 *     test_store_crash --long K N the K-th of N parts of that, from 0
 */
#include "tests/crash/trial.h"

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
    return n_reports || tally.lost || tally.mixed || tally.forgotten || tally.stuck;
}
