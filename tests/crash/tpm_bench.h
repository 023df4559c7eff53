/* A real TPM over a power disk: commands are steps (steps.h).
 *
 * What a state of the disk is worth shows when a TPM is started from it. There is one TPM to a
 * process, so states are put aside while it runs and tried when it has gone. For programs linked
 * with --wrap=store_commit, besides what kept_disk.h and kept_secrets.h need.
 */
#ifndef NVKEEP_TESTS_TPM_BENCH_H
#define NVKEEP_TESTS_TPM_BENCH_H

#include "tests/crash/steps.h"
#include "tests/support/tpm_run.h"

enum { BENCH_SECTORS = 160, BENCH_CHECKPOINT = 48 };

struct bench {
    struct steps s; /* first */
    enum device_kind kind;
    struct tpm_run run;
    struct tpm_cmd c;
    uint32_t n_fresh;    /* makes each write another */
    bool allocated;      /* PCRs, since the last start */
    struct digest tried; /* by the last commit: a TPM draws random numbers, so nobody else knows */

    /* What the incoming set is made of. */
    struct secret *set[N_TPM_BLOBS];
    size_t n_set[N_TPM_BLOBS];

    /* One state of the operation that is cut, put aside. */
    unsigned pick;
    bool picked;
    struct digest picked_digest;
    uint8_t picked_sectors[BENCH_SECTORS * SECTOR_BYTES];
};

static inline void bench_fail(struct bench *b, const char *what, const struct err *e)
{
    tally.stuck++;
    report(what, &b->s.t, e->text);
}

/* ---- what a command tries to store ---- */

static struct bench *running;

int __real_store_commit(struct store *s, const struct state_change *change, struct err *e);
int __wrap_store_commit(struct store *s, const struct state_change *change, struct err *e);
int __wrap_store_commit(struct store *s, const struct state_change *change, struct err *e)
{
    if (!running || !running->run.t || s != tpm_store(running->run.t))
        return __real_store_commit(s, change, e); /* what is opened for a look meanwhile */
    struct state_change whole = store_image_content(s);
    for (size_t i = 0; i < N_BLOBS; i++)
        if (change->blob[i].what != BLOB_KEEP)
            whole.blob[i] = change->blob[i];
    running->tried = digest_of(&whole);
    running->s.asked = true;
    return __real_store_commit(s, change, e);
}

/* ---- steps of a TPM ---- */

/* One command: b->c. */
static inline struct tpm_rsp bench_send(struct bench *b)
{
    const struct digest old = digest_of_store(tpm_store(b->run.t));
    step_begin(&b->s);
    b->tried = old;
    struct tpm_rsp r = tpm_run(&b->run, &b->c);
    if (b->run.result < 0)
        step_failed(&b->s, tpm_store(b->run.t), &old, &b->tried);
    else
        step_done(&b->s, tpm_store(b->run.t));
    return r;
}

static inline void bench_power_on(struct bench *b, bool drop_volatile)
{
    struct err e = {0};
    b->allocated = false;
    step_begin(&b->s);
    if (tpm_power_on(b->run.t, drop_volatile, &e) < 0)
        bench_fail(b, "powering on failed", &e);
    step_done(&b->s, tpm_store(b->run.t));
}

static inline void bench_startup(struct bench *b, uint16_t how)
{
    if (b->kind == DEVICE_TPM20)
        cmd2_startup(&b->c, how);
    else
        cmd1_startup(&b->c, how);
}

/* Without one step of its own; NULL in b->run.t where it cannot be. */
static inline void bench_start(struct bench *b)
{
    struct err e = {0};
    struct store *s = kept_disk_open(&e);
    if (!s) {
        bench_fail(b, "not openable", &e);
    } else if (tpm_new(&s, &b->run.t, &e) < 0 || tpm_power_on(b->run.t, false, &e) < 0) {
        bench_fail(b, "no TPM starts from it", &e);
        tpm_free(MOVE(b->run.t));
    }
    store_free(s);
}

static inline void bench_stop(struct bench *b)
{
    tpm_free(MOVE(b->run.t));
}

/* ---- states put aside ---- */

static inline uint8_t *bench_records(struct bench *b)
{
    uint64_t first = store_image_host_sector(qcow_disk_of(kept_disk), 0);
    return power_disk_bytes(b->s.t.im.power) + first * SECTOR_BYTES;
}

static inline void bench_seen(struct steps *w, const struct digest *found)
{
    struct bench *b = (struct bench *)w;
    if (b->picked || b->pick-- > 0)
        return;
    b->picked = true;
    b->picked_digest = *found;
    memcpy(b->picked_sectors, bench_records(b), sizeof(b->picked_sectors));
}

static inline void bench_load_picked(struct bench *b)
{
    memcpy(bench_records(b), b->picked_sectors, sizeof(b->picked_sectors));
    power_settle(b->s.t.im.power);
}

/* What is not durable is gone. */
static inline void bench_lose_power(struct bench *b)
{
    static const bool nothing_arrived[MAX_SECTORS];
    power_cut(b->s.t.im.power, nothing_arrived, LOST_STALE, 0);
    power_settle(b->s.t.im.power);
}

/* ---- making and ending ---- */

/* A TPM that was never started. */
static inline void bench_begin(struct bench *b, enum device_kind kind, uint64_t log_sectors)
{
    const struct store_layout layout = {.checkpoint = {8, 8 + BENCH_CHECKPOINT},
                                        .checkpoint_sectors = BENCH_CHECKPOINT,
                                        .log = 8 + 2 * BENCH_CHECKPOINT,
                                        .log_sectors = log_sectors};
    struct tpm_blobs blobs = {0};
    struct state_change first = {0};
    struct err e;
    memset(b, 0, sizeof(*b));
    b->kind = kind;
    b->s.counts_commits = true;
    running = b;
    if (tpm_manufacture(kind, &blobs, &e) < 0)
        die("a TPM", &e);
    tpm_blobs_change(&blobs, &first);
    if (store_image_new_for(kind, &layout, BENCH_SECTORS, &first, &b->s.t.im, &e) < 0 ||
        kept_disk_begin(&b->s.t.im, &e) < 0)
        die("an image", &e);
    tpm_blobs_clear(&blobs);
    steps_begin(&b->s);
    b->s.seen = bench_seen;
}

/* What is on the disk now is where every sequence begins. */
static inline void bench_prepared(struct bench *b)
{
    struct err e;
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (tpm_export(b->run.t, (enum blob_kind)kind, &b->set[kind - 1], &b->n_set[kind - 1], &e) <
            0)
            die("what is handed in", &e);
    const struct digest d = digest_of_store(tpm_store(b->run.t));
    bench_stop(b);
    b->s.t.n_past = 0;
    remember(&b->s.t, &d);
}

static inline void bench_end(struct bench *b)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(b->set[i]);
    steps_end(&b->s);
}

#endif
