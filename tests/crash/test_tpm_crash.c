/* Simulated power loss under a real TPM, in every sequence of three operations: every kind of
 * command that changes its state, power cycles, hand-over, storage that fails. Each sequence begins
 * with the same image; its last operation is cut at each flush into every state that the disk may
 * then have. What was acknowledged is durable before the response is there.
 *
 * From a state of each sequence, and from what is durable at its end, a TPM is started and asked
 * what the one said that ran (tpm_facts.h).
 *
 *     test_tpm_crash             every pair, and a share of the triples; under sanitizers less
 *     test_tpm_crash --long      every triple, with a long log and with one that is always full
 *     test_tpm_crash --long K N  the K-th of N parts of that, from 0
 */
#include "tests/crash/tpm_operations.h"
#include "tests/support/sanitized.h"

enum { SEQUENCE = 3, LOG_LONG = 40, LOG_SHORT = 8 };

static unsigned long n_sequences, n_started, n_facts_lost, n_wrong_answers;

/* What the operations are, and how a TPM gets there. */
struct family {
    enum device_kind kind;
    const struct operation *operations;
    unsigned n;
    void (*prepare)(struct bench *b);
    unsigned ask_one_in; /* sequences of which states are started as a TPM */
};
static const struct family family2 = {DEVICE_TPM20, operations2, ARRAY_LEN(operations2), prepare2,
                                      1};
/* Its self-test takes a quarter of a second each time. */
static const struct family family1 = {DEVICE_TPM12, operations1, ARRAY_LEN(operations1), prepare1,
                                      4};

static void run_operation(struct bench *b, const struct operation *o)
{
    if (o->run) {
        o->run(b);
        return;
    }
    raw_build(&o->raw, b->n_fresh++, &b->c);
    if (bench_send(b).rc != 0)
        return;
    if (o->raw.code == CC_PCR_ALLOCATE)
        b->allocated = true;
    if (o->raw.code == CC_CLEAR) /* libtpms 0.9 takes back what was not in force yet */
        b->allocated = false;
}

/* ---- what a state is worth ---- */

static void start_and_ask(struct bench *b, const struct facts *was, const char *which)
{
    static struct facts is;
    n_started++;
    bench_start(b);
    if (!b->run.t)
        return;
    bench_startup(b, b->kind == DEVICE_TPM20 ? SU_CLEAR : ST_CLEAR);
    uint32_t rc = tpm_run(&b->run, &b->c).rc;
    /* A volatile state that was stored is resumed, and the TPM started already. */
    if (rc != 0 && rc != RC2_INITIALIZE && rc != RC1_INVALID_POSTINIT) {
        bench_fail(b, "the TPM does not start up", &(struct err){0});
    } else if (was) {
        take_facts(&b->run, was->with_primaries, &is);
        is.resumed = rc != 0;
        size_t lost = lost_fact(was, &is);
        if (lost < N_QUESTIONS) {
            struct err e;
            n_facts_lost++;
            err_set(&e, ERR_STATE_CORRUPT, "%s: question %zu (0x%x 0x%x): 0x%x, then 0x%x", which,
                    lost, questions[lost].what, questions[lost].property, was->fact[lost].rc,
                    is.fact[lost].rc);
            report("what was acknowledged is not there", &b->s.t, e.text);
        }
    }
    bench_stop(b);
}

/* The TPM that ran is gone. */
static void start_from_states(struct bench *b, const struct facts *old, const struct facts *new,
                              const struct digest *old_digest, const struct digest *new_digest)
{
    bool facts = b->kind == DEVICE_TPM20;
    b->s.t.checking = true;
    bench_lose_power(b);
    start_and_ask(b, facts ? new : NULL, "at the end");
    if (!b->picked)
        return;
    bench_load_picked(b);
    const struct facts *was = same(&b->picked_digest, new_digest)   ? new
                              : same(&b->picked_digest, old_digest) ? old
                                                                    : NULL;
    start_and_ask(b, facts ? was : NULL, "in a cut");
}

/* ---- sequences ---- */

/* So that it wraps soon. */
static void fill_log(struct bench *b)
{
    static const struct raw raw = {0x137, {NV_PLAIN, NV_PLAIN}, TEXT("\0\x30"), 48, TEXT("\0\0")};
    struct store_stats st;
    do {
        raw_build(&raw, b->n_fresh++, &b->c);
        (void)bench_send(b);
        store_stats(tpm_store(b->run.t), &st);
    } while (st.log_sectors - st.log_used > 2);
}

static void begin_sequence(struct bench *b)
{
    const struct digest first = b->s.t.past[0];
    power_push(b->s.t.im.power);
    b->s.t.n_past = 1;
    allow_only(&b->s.t, &first);
    b->s.cutting = false;
    b->s.t.checking = true;
    b->allocated = b->picked = false;
    b->pick = UINT32_MAX;
    random_bits = 0x853c49e6748fea9b;
    b->n_fresh = 100;
    bench_start(b);
    if (!b->run.t)
        die("a sequence", &(struct err){.text = "cannot begin"});
    bench_startup(b, b->kind == DEVICE_TPM20 ? SU_CLEAR : ST_CLEAR);
    (void)bench_send(b);
    if (b->kind == DEVICE_TPM20 && b->s.t.im.facts.layout.log_sectors == LOG_SHORT)
        fill_log(b);
}

static uint64_t generation(const struct bench *b)
{
    struct store_stats st;
    store_stats(tpm_store(b->run.t), &st);
    return st.generation;
}

/* What an operation does where nothing came before: it is known, so that none is in vain. */
static void check_answer(struct bench *b, const struct operation *o, bool stored)
{
    uint32_t rc = rsp_of(b->run.resp, get_be32(b->run.resp + 2)).rc;
    if (rc == o->rc && stored == o->stores)
        return;
    n_wrong_answers++;
    fprintf(stderr, "%s: answered 0x%x, %s; wanted 0x%x, %s\n", o->name, rc,
            stored ? "stored" : "not stored", o->rc, o->stores ? "stored" : "not stored");
}

static void ask_running(struct bench *b, bool primaries, struct facts *ret)
{
    if (b->kind != DEVICE_TPM20)
        return;
    take_facts(&b->run, primaries, ret);
    ret->allocated = b->allocated;
}

static void run_sequence(struct bench *b, const struct family *f, const unsigned *ops, unsigned n)
{
    static struct facts old, new;
    bool ask = n_sequences % f->ask_one_in == 0;
    bool primaries = n_sequences % 8 == 0;
    unsigned n_before = n_reports;
    begin_sequence(b);
    for (unsigned i = 0; i + 1 < n; i++)
        run_operation(b, &f->operations[ops[i]]);
    if (ask)
        ask_running(b, primaries, &old);
    const struct digest old_digest = digest_of_store(tpm_store(b->run.t));
    uint64_t before = generation(b);
    b->s.cutting = true;
    b->pick = (unsigned)(n_sequences % 7);
    run_operation(b, &f->operations[ops[n - 1]]);
    b->s.cutting = false;
    if (n == 1)
        check_answer(b, &f->operations[ops[0]], generation(b) != before);
    const struct digest new_digest = digest_of_store(tpm_store(b->run.t));
    if (ask)
        ask_running(b, primaries, &new);
    bench_stop(b);
    if (ask)
        start_from_states(b, &old, &new, &old_digest, &new_digest);
    power_pop(b->s.t.im.power);
    for (unsigned i = 0; n_reports != n_before && n_before < 20 && i < n; i++)
        fprintf(stderr, "    %u: %s\n", i + 1, f->operations[ops[i]].name);
    n_sequences++;
}

/* Of the sequences of one length, every n-th from the k-th. */
struct share {
    unsigned n, k, at;
};

static void run_all(struct bench *b, const struct family *f, unsigned *ops, unsigned n,
                    unsigned length, struct share *share)
{
    if (n == length) {
        if (share->at++ % share->n == share->k)
            run_sequence(b, f, ops, n);
        return;
    }
    for (ops[n] = 0; ops[n] < f->n; ops[n]++)
        run_all(b, f, ops, n + 1, length, share);
}

static void walk_all(const struct family *f, unsigned log_sectors,
                     const struct share shares[SEQUENCE])
{
    static struct bench b;
    unsigned ops[SEQUENCE];
    struct err e = {0};
    bench_begin(&b, f->kind, log_sectors);
    bench_start(&b);
    if (!b.run.t)
        die("the first TPM", &e);
    f->prepare(&b);
    bench_prepared(&b);
    for (unsigned i = 0; i < SEQUENCE; i++) {
        struct share share = shares[i];
        if (share.n > 0)
            run_all(&b, f, ops, 0, i + 1, &share);
    }
    bench_end(&b);
}

int main(int argc, char **argv)
{
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    unsigned part = argc == 4 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    unsigned n_parts = argc == 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 1;
    if (n_parts == 0 || part >= n_parts || (argc > 1 && !thorough)) {
        fprintf(stderr, "usage: test_tpm_crash [--long [PART OF]]\n");
        return 2;
    }
    const struct share all[SEQUENCE] = {{n_parts, part}, {n_parts, part}, {n_parts, part}};
    const struct share pairs[SEQUENCE] = {{1}, {SANITIZED ? 11 : 1}};
    const struct share triples[SEQUENCE] = {[2] = {SANITIZED ? 3001 : 503}};
    const struct share singles[SEQUENCE] = {{1}};
    const struct share few[SEQUENCE] = {{n_parts, part}, {n_parts, part}, {5 * n_parts, part}};
    outside_begin();
    walk_all(&family2, LOG_LONG, thorough ? all : pairs);
    walk_all(&family2, LOG_SHORT, thorough ? all : triples);
    walk_all(&family1, LOG_LONG, thorough ? few : singles);
    printf("TPMs started from such states: %lu, facts lost: %lu, unexpected answers: %lu\n",
           n_started, n_facts_lost, n_wrong_answers);
    return steps_summary("sequences of TPM operations", n_sequences) || n_facts_lost ||
           n_wrong_answers;
}
