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
#include "tests/crash/steps.h"

/* One host: its custody, and the store while it has the claim. */
struct side {
    struct custody *c;
    struct store *s;
};

struct walk {
    struct steps s; /* first */
    struct side owner;
    bool damaged; /* until it is recovered, states need not open */
};

static unsigned long n_mended;

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
        image_unlock(&f, w->s.t.im.pass, strlen((const char *)secret_peek(w->s.t.im.pass)), NULL,
                     &i, &e) < 0 ||
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

static inline void take_model(struct walk *w, const struct store *s)
{
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t n = 0;
        const uint8_t *p = store_get(s, (enum blob_kind)(i + 1), &n);
        w->s.t.model.blob[i].present = p != NULL;
        w->s.t.model.blob[i].n = n;
        if (n > MODEL_BYTES)
            die("a state", &(struct err){.text = "is larger than the model"});
        if (n > 0)
            memcpy(w->s.t.model.blob[i].bytes, p, n);
    }
}

/* The model becomes the state. On failure the model is the old state again. */
static inline bool commit_model(struct walk *w, struct store *s)
{
    const struct digest old = digest_of_store(s), tried = digest_of_model(&w->s.t.model);
    struct state_change c = change_to(&w->s.t.model);
    struct err e = {0};
    step_begin(&w->s);
    bool done = store_commit(s, &c, &e) == 0;
    if (done)
        step_done(&w->s, s);
    else
        step_failed(&w->s, s, &old, &tried);
    take_model(w, s);
    return done;
}

static inline void must_commit(struct walk *w, struct store *s)
{
    if (commit_model(w, s))
        return;
    tally.stuck++;
    report("a commit on a sound disk failed", &w->s.t, "");
}

/* A new process claims the image. What a failed flush has left may still be lost. */
static inline void claim(struct walk *w, struct side *h)
{
    struct err e;
    step_begin(&w->s);
    if (custody_claim(h->c, &h->s, &e) < 0)
        die("claiming the image", &e);
    const struct digest found = digest_of_store(h->s);
    judge_state(&w->s.t, &found);
    step_done(&w->s, h->s);
    take_model(w, h->s);
}

static inline void walk_begin(struct walk *w, bool shared)
{
    memset(w, 0, sizeof(*w));
    trial_begin(&w->s.t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    if (shared)
        power_share(w->s.t.im.power);
    steps_begin(&w->s);
    w->s.t.mend = mend;
    walked_disk = w->s.t.im.power;
}

static inline void walk_end(struct walk *w)
{
    volume_key_free(kept_key);
    kept_key = NULL;
    steps_end(&w->s);
}

#endif
