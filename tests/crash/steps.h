/* Steps: what is done to an image between two acknowledgements, cut at every flush (trial.h).
 *
 * What a step commits is not always known before it is over (a take-back names itself, a TPM draws
 * random numbers): what its states held is judged then. Every state is also looked at without a
 * claim, as `nvkeep check` does, and some from outside (outside.h).
 */
#ifndef NVKEEP_TESTS_STEPS_H
#define NVKEEP_TESTS_STEPS_H

#include "tests/crash/kept_secrets.h"
#include "tests/crash/outside.h"
#include "tests/crash/trial.h"

enum { MAX_FOUND = 64, OUTSIDE_ONE_IN = 2000, OUTSIDE_MOST = 500 };

struct steps {
    struct trial t; /* first: what trial.h hands around */
    bool cutting;   /* otherwise steps are only taken */
    bool killing;   /* at the next flush the disk is put aside (power_push) as it is before that */
    void (*seen)(struct steps *w, const struct digest *found); /* each state; NULL: nobody */

    bool counts_commits; /* whoever runs steps says in `asked` that the step asked for a commit */
    bool asked;

    bool later;
    size_t n_found;
    struct {
        struct digest d;
        unsigned long n;
    } found[MAX_FOUND];
};

static unsigned long n_looked;

/* ---- what a state is looked at for ---- */

static inline void look_without_claim(struct steps *w, const struct store *s)
{
    struct err e;
    struct store_look *l = NULL;
    struct store_mark opened, looked;
    if (store_look(qcow_disk_of(kept_disk), &l, &e) < 0) {
        tally.mixed++;
        report("`check` refuses it", &w->t, e.text);
        return;
    }
    store_mark(s, &opened);
    store_look_mark(l, &looked);
    if (!store_mark_equal(&opened, &looked)) {
        tally.mixed++;
        report("`check` sees another state", &w->t, "");
    }
    store_look_free(l);
}

static inline void find_later(struct steps *w, const struct digest *found)
{
    for (size_t i = 0; i < w->n_found; i++)
        if (same(&w->found[i].d, found)) {
            w->found[i].n++;
            return;
        }
    if (w->n_found == MAX_FOUND)
        die("a commit", &(struct err){.text = "so many different states"});
    w->found[w->n_found].d = *found;
    w->found[w->n_found++].n = 1;
}

static inline bool look(struct trial *t, struct store *s, const struct digest *found)
{
    struct steps *w = (struct steps *)t;
    n_looked++;
    look_without_claim(w, s);
    if (n_looked % OUTSIDE_ONE_IN == 0 && outside.images < OUTSIDE_MOST)
        outside_check(&t->im);
    if (w->seen)
        w->seen(w, found);
    if (w->later)
        find_later(w, found);
    return w->later;
}

/* An ordinary commit changes nothing but the areas of the store. */
static inline void only_records_are_written(struct steps *w)
{
    const struct store_layout *l = &w->t.im.facts.layout;
    uint64_t first = store_image_host_sector(qcow_disk_of(kept_disk), l->checkpoint[0]);
    uint64_t n = l->log + l->log_sectors - l->checkpoint[0];
    for (size_t i = 0; i < power_n_volatile(w->t.im.power); i++)
        if (power_volatile_sector(w->t.im.power, i) - first >= n) {
            tally.mixed++;
            report("something else than records was written", &w->t, "");
        }
}

/* ---- steps ---- */

/* Cuts draw numbers, too; what is committed does not depend on them. */
static inline void cut_here(void *ctx)
{
    struct steps *w = ctx;
    uint64_t bits = random_bits;
    only_records_are_written(w);
    at_flush(&w->t);
    random_bits = bits;
    if (w->killing)
        power_push(w->t.im.power);
    w->killing = false;
}

static inline void step_begin(struct steps *w)
{
    w->n_found = 0;
    w->asked = !w->counts_commits;
    w->later = true;
    w->t.checking = !w->cutting;
}

static inline void judge_later(struct steps *w)
{
    w->later = false;
    for (size_t i = 0; i < w->n_found; i++)
        for (unsigned long n = w->found[i].n; n > 0; n--)
            judge_state(&w->t, &w->found[i].d);
}

/* After the step, whatever is lost now. */
static inline void cut_afterwards(struct steps *w)
{
    uint64_t bits = random_bits;
    w->t.checking = true;
    if (!w->cutting)
        return;
    if (power_n_volatile(w->t.im.power) > 0)
        try_all_cuts(&w->t);
    else
        try_cut(&w->t, (bool[1]){true}, LOST_STALE, 0);
    random_bits = bits;
}

/* Where no commit was asked for, what an attempt has left may still arrive. An acknowledged commit
 * ends that, even one that changes nothing (W5). */
static inline bool attempts_remain(const struct steps *w, const struct digest *now)
{
    return !w->asked && w->t.n_past > 0 && same(now, &w->t.past[w->t.n_past - 1]) &&
           power_n_volatile(w->t.im.power) > 0;
}

/* s holds what was acknowledged. */
static inline void step_done(struct steps *w, const struct store *s)
{
    const struct digest now = digest_of_store(s);
    tally.commits++;
    allow(&w->t, &now);
    judge_later(w);
    if (!attempts_remain(w, &now))
        allow_only(&w->t, &now);
    remember(&w->t, &now);
    cut_afterwards(w);
}

/* And s is as it was. tried: what it would have become. */
static inline void step_failed(struct steps *w, const struct store *s, const struct digest *old,
                               const struct digest *tried)
{
    const struct digest now = digest_of_store(s);
    tally.commits++;
    if (!same(&now, old)) {
        tally.mixed++;
        report("a failed commit left its mark", &w->t, "in memory");
    }
    allow(&w->t, tried);
    judge_later(w);
    cut_afterwards(w);
}

/* After trial_begin(). */
static inline void steps_begin(struct steps *w)
{
    power_on_flush(w->t.im.power, cut_here, w);
    w->t.depth = MAX_DEPTH; /* what follows a cut is a step here */
    w->t.checking = true;
    w->t.look = look;
}

static inline void steps_end(struct steps *w)
{
    trial_end(&w->t);
    kept_secrets_end();
}

static inline int steps_summary(const char *what, unsigned long n_sequences)
{
    printf("power loss, %s: sequences %lu, states %lu, lost %lu, mixed %lu, acknowledged-but-lost "
           "%lu, next commit failed %lu, checked by qemu-img and nvkeep %lu, refused by them %lu\n",
           what, n_sequences, tally.states, tally.lost, tally.mixed, tally.forgotten, tally.stuck,
           outside.images, outside.bad);
    return n_reports || tally.lost || tally.mixed || tally.forgotten || tally.stuck ||
           outside.bad || outside.images == 0;
}

#endif
