/* Sequences of operations from one prepared image, the last of which is cut (trial.h): the steps
 * that operations are made of, and the side that owns the image.
 *
 * What is committed is not always known before (a take-back names itself): what the states of a
 * step held is judged once the step is over. Custody is the product's own; its image lies on the
 * power disk, and its passphrase is stretched once. For programs linked with --wrap=blk_open and
 * --wrap=qcow_recover, besides those of kept_disk.h and kept_secrets.h.
 */
#ifndef NVKEEP_TESTS_WALK_H
#define NVKEEP_TESTS_WALK_H

#include "migration/custody.h"
#include "tests/crash/kept_secrets.h"
#include "tests/crash/outside.h"
#include "tests/crash/trial.h"

enum { MAX_FOUND = 64, OUTSIDE_ONE_IN = 2000, OUTSIDE_MOST = 500 };

/* One host: its custody, and the store while it has the claim. */
struct side {
    struct custody *c;
    struct store *s;
};

struct walk {
    struct trial t; /* first: what trial.h hands around */
    struct side owner;
    bool cutting; /* the operation that runs is the last of its sequence */
    bool damaged; /* until it is recovered, states need not open */

    bool later;
    size_t n_found;
    struct {
        struct digest d;
        unsigned long n;
    } found[MAX_FOUND];
};

static unsigned long n_looked, n_mended;

/* ---- the image below custody ---- */

static struct power_disk *walked_disk;
static struct volume_key *kept_key;

int __real_qcow_recover(const struct qcow_image *img, const struct secret *pass, size_t pass_bytes,
                        const struct watch *watch, struct volume_key **ret, struct err *e);
int __wrap_qcow_recover(const struct qcow_image *img, const struct secret *pass, size_t pass_bytes,
                        const struct watch *watch, struct volume_key **ret, struct err *e);
int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e);

int __wrap_qcow_recover(const struct qcow_image *img, const struct secret *pass, size_t pass_bytes,
                        const struct watch *watch, struct volume_key **ret, struct err *e)
{
    if (!kept_key && __real_qcow_recover(img, pass, pass_bytes, watch, &kept_key, e) < 0)
        return -1;
    return volume_key_copy(kept_key, ret, e);
}

int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e)
{
    (void)path;
    (void)mode;
    return power_disk_blk(walked_disk, ret, e);
}

/* ---- sides ---- */

static inline struct side side_new(struct walk *w, enum seal_policy seal)
{
    const struct custody_rules rules = {.seal = seal};
    struct image_file *f = NULL;
    struct image *i = NULL;
    struct side h = {0};
    struct err e;
    if (image_file_open("the power disk", &f, &e) < 0 ||
        image_unlock(&f, w->t.im.pass, strlen((const char *)secret_peek(w->t.im.pass)), NULL, &i,
                     &e) < 0 ||
        custody_new(&i, &rules, HO_AWAY, &h.c, &e) < 0)
        die("another side", &e);
    return h;
}

/* As a daemon that is killed. */
static inline void side_free(struct side *h)
{
    if (h->s)
        custody_release(h->c, &h->s, false);
    custody_free(h->c);
    *h = (struct side){0};
}

/* ---- what a state is looked at for ---- */

static inline void look_without_claim(struct walk *w, const struct store *s)
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

static inline void find_later(struct walk *w, const struct digest *found)
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
    struct walk *w = (struct walk *)t;
    n_looked++;
    look_without_claim(w, s);
    if (n_looked % OUTSIDE_ONE_IN == 0 && outside.images < OUTSIDE_MOST)
        outside_check(&t->im);
    if (w->later)
        find_later(w, found);
    return w->later;
}

/* Damage is reported until it was recovered, and can be recovered meanwhile. */
static inline struct store *mend(struct trial *t, struct err *e)
{
    struct qcow_disk_rw *d = kept_disk;
    OWNED(recovery) r = NULL;
    if (!((struct walk *)t)->damaged || e->kind != ERR_STATE_CORRUPT)
        return NULL;
    n_mended++;
    if (recovery_new(&d, &r, e) < 0 || recovery_write(r, e) < 0)
        return NULL;
    return kept_disk_open(e);
}

/* An ordinary commit changes nothing but the areas of the store. */
static inline void only_records_are_written(struct walk *w)
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
    struct walk *w = ctx;
    uint64_t bits = random_bits;
    only_records_are_written(w);
    at_flush(&w->t);
    random_bits = bits;
}

static inline void step_begin(struct walk *w)
{
    w->n_found = 0;
    w->later = true;
    w->t.checking = !w->cutting;
}

static inline void judge_later(struct walk *w)
{
    w->later = false;
    for (size_t i = 0; i < w->n_found; i++)
        for (unsigned long n = w->found[i].n; n > 0; n--)
            judge_state(&w->t, &w->found[i].d);
}

/* After the step, whatever is lost now. */
static inline void cut_afterwards(struct walk *w)
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

/* s holds what was acknowledged. */
static inline void step_done(struct walk *w, const struct store *s)
{
    const struct digest now = digest_of_store(s);
    tally.commits++;
    allow(&w->t, &now);
    judge_later(w);
    remember(&w->t, &now);
    allow_only(&w->t, &now);
    cut_afterwards(w);
}

/* And s is as it was. */
static inline void step_failed(struct walk *w, const struct store *s, const struct digest *old,
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

static inline void take_model(struct walk *w, const struct store *s)
{
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t n = 0;
        const uint8_t *p = store_get(s, (enum blob_kind)(i + 1), &n);
        w->t.model.blob[i].present = p != NULL;
        w->t.model.blob[i].n = n;
        if (n > MODEL_BYTES)
            die("a state", &(struct err){.text = "is larger than the model"});
        if (n > 0)
            memcpy(w->t.model.blob[i].bytes, p, n);
    }
}

/* The model becomes the state. On failure the model is the old state again. */
static inline bool commit_model(struct walk *w, struct store *s)
{
    const struct digest old = digest_of_store(s), tried = digest_of_model(&w->t.model);
    struct state_change c = change_to(&w->t.model);
    struct err e = {0};
    step_begin(w);
    bool done = store_commit(s, &c, &e) == 0;
    if (done)
        step_done(w, s);
    else
        step_failed(w, s, &old, &tried);
    take_model(w, s);
    return done;
}

static inline void must_commit(struct walk *w, struct store *s)
{
    if (commit_model(w, s))
        return;
    tally.stuck++;
    report("a commit on a sound disk failed", &w->t, "");
}

/* A new process claims the image. What a failed flush has left may still be lost. */
static inline void claim(struct walk *w, struct side *h)
{
    struct err e;
    step_begin(w);
    if (custody_claim(h->c, &h->s, &e) < 0)
        die("claiming the image", &e);
    step_done(w, h->s);
    take_model(w, h->s);
}

static inline void walk_begin(struct walk *w, bool shared)
{
    memset(w, 0, sizeof(*w));
    trial_begin(&w->t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    power_on_flush(w->t.im.power, cut_here, w);
    if (shared)
        power_share(w->t.im.power);
    w->t.depth = MAX_DEPTH; /* what follows a cut is an operation here */
    w->t.checking = true;
    w->t.look = look;
    w->t.mend = mend;
    walked_disk = w->t.im.power;
}

static inline void walk_end(struct walk *w)
{
    volume_key_free(kept_key);
    kept_key = NULL;
    trial_end(&w->t);
    kept_secrets_end();
}

#endif
