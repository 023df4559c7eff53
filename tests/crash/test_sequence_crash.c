/* Simulated power loss in every sequence of three operations on an image (walk.h): all that writes
 * to it, changes hands, fails, or cuts the power. Each sequence begins with the same image; its
 * last operation is cut at each flush into every state that the disk may then have.
 *
 *     test_sequence_crash             every pair, and a share of the triples; under sanitizers less
 *     test_sequence_crash --long      every triple, on storage that is claimed and on storage where
 *                                     claims do not keep others out
 *     test_sequence_crash --long K N  the K-th of N parts of that, from 0
 *     test_sequence_crash --one I...  one sequence, by the numbers that a report names
 */
#include "tests/crash/walk_custody.h"
#include "tests/support/sanitized.h"

/* ---- commits ---- */

static void run_model(struct walk *w, enum op op)
{
    run_op(&w->s.t.model, op);
    must_commit(w, w->owner.s);
}

static void small(struct walk *w)
{
    run_model(w, OP_SMALL);
}

static void medium(struct walk *w)
{
    run_model(w, OP_MEDIUM);
}

static void insertion(struct walk *w)
{
    run_model(w, OP_GROW);
}

static void deletion(struct walk *w)
{
    run_model(w, OP_SHRINK);
}

static void replacement(struct walk *w)
{
    run_model(w, OP_REPLACE);
}

static void second_blob(struct walk *w)
{
    run_model(w, OP_VOLATILE);
}

static void second_blob_goes(struct walk *w)
{
    run_model(w, OP_DELETE);
}

static void nothing_changed(struct walk *w)
{
    run_model(w, OP_NOTHING);
}

static void two_sectors(struct walk *w)
{
    randomize(w->s.t.model.blob[0].bytes + random_below(1000), 450);
    must_commit(w, w->owner.s);
}

/* The log is filled up; then the checkpoint, and the first record of a log that begins anew. */
static void log_wraps(struct walk *w)
{
    bool cutting = w->s.cutting;
    struct store_stats st;
    w->s.cutting = false;
    do {
        two_sectors(w);
        store_stats(w->owner.s, &st);
    } while (st.log_sectors - st.log_used >= 2);
    w->s.cutting = cutting;
    two_sectors(w);
    run_model(w, OP_SMALL);
}

static void too_large(struct walk *w)
{
    static const uint8_t bytes[9000];
    const struct state_change c = {{{BLOB_SET, bytes, sizeof(bytes)}}};
    const struct digest old = digest_of_store(w->owner.s);
    struct err e = {0};
    step_begin(&w->s);
    if (store_commit(w->owner.s, &c, &e) == 0)
        report("a state that does not fit was acknowledged", &w->s.t, "");
    step_failed(&w->s, w->owner.s, &old, &old);
}

/* ---- storage that fails, once ---- */

static void failing(struct walk *w, enum op op, unsigned nth, size_t partial)
{
    run_op(&w->s.t.model, op);
    power_fail(w->s.t.im.power, nth, false, EIO, partial);
    if (commit_model(w, w->owner.s))
        report("a failed write was acknowledged", &w->s.t, "");
    power_fail(w->s.t.im.power, 0, false, 0, 0);
}

static void write_fails(struct walk *w)
{
    failing(w, OP_MEDIUM, 1, 0);
}

static void write_stops_short(struct walk *w)
{
    failing(w, OP_MEDIUM, 1, 1);
}

static void flush_fails(struct walk *w)
{
    failing(w, OP_MEDIUM, 2, 0);
}

static void flush_of_checkpoint_fails(struct walk *w)
{
    failing(w, OP_REPLACE, 2, 0);
}

/* ---- owners ---- */

static void another_owner(struct walk *w)
{
    side_free(&w->owner);
    w->owner = side_new(w, SEAL_AUTO);
    claim(w, &w->owner);
}

/* A commit of which nobody hears: the disk is as it was before its flush, the owner is gone. What
 * the next one finds and serves must not be lost any more; until then it is whatever could be. */
static void killed_before_its_flush(struct walk *w)
{
    struct digest possible[MAX_ALLOWED];
    size_t n_possible = w->s.t.n_allowed;
    memcpy(possible, w->s.t.allowed, sizeof(possible));
    run_op(&w->s.t.model, random_below(2) ? OP_MEDIUM : OP_REPLACE);
    w->s.killing = true;
    must_commit(w, w->owner.s);
    power_pop(w->s.t.im.power);
    side_free(&w->owner);
    for (size_t i = 0; i < n_possible; i++) /* or the commit, which is allowed already */
        allow(&w->s.t, &possible[i]);
}

static void killed(struct walk *w)
{
    killed_before_its_flush(w);
    w->owner = side_new(w, SEAL_AUTO);
    claim(w, &w->owner);
}

/* And the power goes, and comes back. */
static void power_goes(struct walk *w)
{
    struct power_disk *p = w->s.t.im.power;
    bool arrived[MAX_SECTORS];
    killed_before_its_flush(w);
    for (size_t i = 0; i < MAX_SECTORS; i++)
        arrived[i] = random_below(4) > 0;
    power_cut(p, arrived, (enum power_lost)random_below(LOST_KINDS), 0);
    power_settle(p);
    w->owner = side_new(w, SEAL_AUTO);
    claim(w, &w->owner);
}

/* On storage where claims do not keep others out. */
static void stale_owner_is_fenced(struct walk *w)
{
    struct side stale = w->owner;
    struct err e = {0};
    w->owner = side_new(w, SEAL_AUTO);
    claim(w, &w->owner);
    run_model(w, OP_SMALL);
    const struct digest old = digest_of_store(stale.s), now = digest_of_store(w->owner.s);
    struct state_change c = change_to(&w->s.t.model);
    uint8_t byte = 1;
    c.blob[2] = (struct blob_change){BLOB_SET, &byte, 1};
    step_begin(&w->s);
    if (store_commit(stale.s, &c, &e) == 0 || e.kind != ERR_FENCED)
        report("a stale owner is not fenced", &w->s.t, e.text);
    step_failed(&w->s, stale.s, &old, &now);
    side_free(&stale);
}

/* ---- damage ---- */

static void flip(struct walk *w, uint64_t sector)
{
    uint64_t host = store_image_host_sector(qcow_disk_of(kept_disk), sector);
    power_disk_bytes(w->s.t.im.power)[host * SECTOR_BYTES + 333] ^= 4;
    power_settle(w->s.t.im.power);
}

static struct recovery *recovery_of_damage(void)
{
    struct qcow_disk_rw *d = kept_disk;
    struct recovery *r = NULL;
    struct recovery_facts f;
    struct err e;
    if (recovery_new(&d, &r, &e) < 0)
        return NULL;
    recovery_facts(r, &f);
    if (f.damage.kind == ERR_STATE_CORRUPT)
        return r;
    recovery_free(r);
    return NULL;
}

/* The newest record, where there is a state behind it. */
static struct recovery *damage_newest(struct walk *w, const struct store_stats *st)
{
    const struct store_layout *l = &w->s.t.im.facts.layout;
    const uint64_t at[] = {l->log + (st->log_used ? st->log_used - 1 : 0), l->checkpoint[0],
                           l->checkpoint[1]};
    for (size_t i = st->log_used ? 0 : 1; i < ARRAY_LEN(at); i++) {
        flip(w, at[i]);
        struct recovery *r = recovery_of_damage();
        if (r)
            return r;
        flip(w, at[i]);
    }
    return NULL;
}

/* What the damage took is lost; what comes in its place was a state, if an older one. */
static void allow_recovered(struct trial *t, const struct digest *found)
{
    bool known = false;
    for (size_t i = 0; i < t->n_past; i++)
        known |= same(found, &t->past[i]);
    if (!known) {
        tally.mixed++;
        report("recovery gives a state that was never acknowledged", t, "");
    }
    allow_only(t, found);
}

static void damaged_and_recovered(struct walk *w)
{
    struct store_stats st;
    struct err e;
    store_stats(w->owner.s, &st);
    side_free(&w->owner);
    w->owner = side_new(w, SEAL_AUTO);
    power_settle(w->s.t.im.power);
    struct recovery *r = damage_newest(w, &st);
    if (r) {
        w->damaged = true;
        step_begin(&w->s);
        if (recovery_write(r, &e) < 0)
            die("recovering", &e);
        recovery_free(r);
        w->damaged = false;
        w->owner.s = NULL;
        if (custody_claim(w->owner.c, &w->owner.s, &e) < 0)
            die("claiming what was recovered", &e);
        const struct digest found = digest_of_store(w->owner.s);
        allow_recovered(&w->s.t, &found);
        step_done(&w->s, w->owner.s);
        take_model(w, w->owner.s);
        return;
    }
    claim(w, &w->owner);
}

/* ---- sequences ---- */

static const struct {
    const char *name;
    void (*run)(struct walk *w);
    bool needs_sharing;
    bool hard; /* storage fails, power goes, owners change: the short form runs all triples of these
                */
} operations[] = {
    {"small change", small, false},
    {"change of several sectors", medium, false},
    {"insertion", insertion, false},
    {"deletion", deletion, false},
    {"everything new", replacement, false},
    {"second blob", second_blob, false},
    {"second blob goes", second_blob_goes, false},
    {"nothing changed", nothing_changed, false},
    {"log wraps", log_wraps, false},
    {"too large", too_large, false},
    {"write fails", write_fails, false},
    {"write stops short", write_stops_short, false, true},
    {"flush fails", flush_fails, false, true},
    {"flush of a checkpoint fails", flush_of_checkpoint_fails, false, true},
    {"another owner", another_owner, false, true},
    {"killed before its flush", killed, false, true},
    {"power goes, comes back", power_goes, false, true},
    {"handed over", handed_over, false},
    {"handed over, taken back", handed_over_and_taken_back, false},
    {"released, taken back", released_and_taken_back, false},
    {"incoming state", incoming_state, false},
    {"damaged, recovered", damaged_and_recovered, false},
    {"stale owner is fenced", stale_owner_is_fenced, true},
};
enum { N_OPERATIONS = ARRAY_LEN(operations), SEQUENCE = 3 };

static unsigned long n_sequences;

/* The last of n operations is cut. */
static void run_sequence(struct walk *w, const unsigned *ops, unsigned n)
{
    const struct digest first = w->s.t.past[0];
    unsigned n_before = n_reports;
    n_sequences++;
    power_push(w->s.t.im.power);
    w->s.t.n_past = 1;
    allow_only(&w->s.t, &first);
    w->s.cutting = false;
    random_bits = 0x853c49e6748fea9b;
    w->owner = side_new(w, SEAL_AUTO);
    claim(w, &w->owner);
    run_model(w, OP_SMALL);
    run_model(w, OP_MEDIUM);
    for (unsigned i = 0; i < n; i++) {
        random_bits ^= ops[i] + 1;
        (void)random_below(1);
        w->s.cutting = i == n - 1;
        operations[ops[i]].run(w);
    }
    side_free(&w->owner);
    power_pop(w->s.t.im.power);
    for (unsigned i = 0; n_reports != n_before && n_before < 20 && i < n; i++)
        fprintf(stderr, "    %u: %s\n", ops[i], operations[ops[i]].name);
}

/* Of the sequences of one length, every n-th from the k-th; and those of hard operations alone. */
struct share {
    unsigned n, k;
    bool hard;
    unsigned at;
};

static bool all_hard(const unsigned *ops, unsigned n)
{
    while (n > 0 && operations[ops[n - 1]].hard)
        n--;
    return n == 0;
}

static void run_all(struct walk *w, unsigned *ops, unsigned n, unsigned length, bool shared,
                    struct share *share)
{
    if (n == length) {
        if (share->at++ % share->n == share->k || (share->hard && all_hard(ops, n)))
            run_sequence(w, ops, n);
        return;
    }
    for (ops[n] = 0; ops[n] < N_OPERATIONS; ops[n]++)
        if (shared || !operations[ops[n]].needs_sharing)
            run_all(w, ops, n + 1, length, shared, share);
}

/* shares[i]: of the sequences of i + 1 operations. */
static void walk_all(bool shared, const struct share shares[SEQUENCE])
{
    static struct walk w;
    unsigned ops[SEQUENCE];
    walk_begin(&w, shared);
    for (unsigned i = 0; i < SEQUENCE; i++) {
        struct share share = shares[i];
        if (share.n > 0)
            run_all(&w, ops, 0, i + 1, shared, &share);
    }
    walk_end(&w);
}

static int run_one(int argc, char **argv)
{
    static struct walk w;
    unsigned ops[SEQUENCE], n = 0;
    for (int i = 2; i < argc && n < SEQUENCE; i++)
        ops[n++] = (unsigned)strtoul(argv[i], NULL, 10) % N_OPERATIONS;
    walk_begin(&w, true);
    run_sequence(&w, ops, n);
    walk_end(&w);
    return n_reports ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "--one") == 0)
        return run_one(argc, argv);
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    unsigned part = argc == 4 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    unsigned n_parts = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 1;
    if (n_parts == 0 || part >= n_parts || (argc > 1 && !thorough)) {
        fprintf(stderr, "usage: test_sequence_crash [--long [PART OF] | --one I...]\n");
        return 2;
    }
    const struct share all[SEQUENCE] = {{n_parts, part}, {n_parts, part}, {n_parts, part}};
    const struct share pairs[SEQUENCE] = {
        {1}, {SANITIZED ? 5 : 1}, {SANITIZED ? 499 : 9999, 1, !SANITIZED}};
    const struct share triples[SEQUENCE] = {[2] = {SANITIZED ? 997 : 151}};
    outside_begin();
    walk_all(false, thorough ? all : pairs);
    walk_all(true, thorough ? all : triples);
    printf("recovered anew from damage: %lu states\n", n_mended);
    return steps_summary("sequences of operations", n_sequences);
}
