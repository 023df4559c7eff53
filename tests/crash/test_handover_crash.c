/* Simulated power loss while a TPM changes hands, by enumeration (trial.h). What a hand-over
 * writes: the set that arrived, with its origin, as one commit; later one bit that it is in use.
 * What giving away writes: nothing. Whenever the power fails, the image holds the state before or
 * the whole set, never a part of it, and never without its origin.
 *
 *     test_handover_crash [--long]
 */
#include "backend/store_origin.h"
#include "tests/crash/trial.h"

enum { ORIGIN = BLOB_ORIGIN - 1 };

static void put_origin(struct model *m, bool used)
{
    struct store_origin o = {.how = ORIGIN_HANDED_OVER,
                             .used = used,
                             .from = {.generation = 7, .epoch = 2},
                             .clock = 8,
                             .at = 2};
    if (m->blob[ORIGIN].present)
        memcpy(o.set, m->blob[ORIGIN].bytes + 20, sizeof(o.set));
    else
        randomize(o.set, sizeof(o.set));
    memcpy(o.image, "the other image", sizeof(o.image));
    memcpy(o.lineage, o.image, sizeof(o.lineage));
    randomize(o.from.mac, sizeof(o.from.mac));
    origin_encode(&o, m->blob[ORIGIN].bytes);
    m->blob[ORIGIN].present = true;
    m->blob[ORIGIN].n = ORIGIN_BYTES;
}

/* All blobs of another instant. */
static void put_set(struct model *m)
{
    static const size_t bytes[N_TPM_BLOBS] = {3000, 900, 300};
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        m->blob[i].present = i < 2 || random_below(2);
        m->blob[i].n = bytes[i];
        randomize(m->blob[i].bytes, bytes[i]);
    }
    m->blob[ORIGIN].present = false;
    put_origin(m, false);
}

static void must_commit(struct trial *t, struct store *s)
{
    if (!commit(t, s))
        die("a commit on a sound disk failed", &(struct err){0});
}

static void work(struct trial *t, struct store *s, unsigned n)
{
    for (; n > 0; n--) {
        run_op(&t->model, (enum op)random_below(OP_NOTHING));
        must_commit(t, s);
    }
}

/* Arrives in an image that waits for it (prior 0), or holds an older state (so many commits). */
static void migration_in(unsigned prior)
{
    static struct trial t;
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, prior ? 2600 : 0);
    struct store *s = begin_owner(&t);
    work(&t, s, prior ? prior - 1 : 0);
    if (prior) {
        store_free(s);
        s = begin_owner(&t);
    }
    put_set(&t.model);
    must_commit(&t, s); /* take-over */
    put_origin(&t.model, true);
    must_commit(&t, s); /* first command */
    work(&t, s, 3);
    store_free(s);
    s = begin_owner(&t);
    work(&t, s, 2);
    store_free(s);
    trial_end(&t);
}

/* On shared storage: given away, stored by the other side, never used, taken back. */
static void migration_out_and_back(bool stored)
{
    static struct trial t;
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    struct store *s = begin_owner(&t);
    work(&t, s, 3);
    store_free(s); /* released: nothing is written */
    s = begin_owner(&t);
    if (stored) {
        put_origin(&t.model, false); /* the very state, and where it came from */
        must_commit(&t, s);
        store_free(s);
        s = begin_owner(&t);
        put_origin(&t.model, true);
        must_commit(&t, s); /* taken back */
    }
    work(&t, s, 3);
    store_free(s);
    trial_end(&t);
}

/* The take-over fails, in each way, and is tried again by the same or the next owner. */
static void failing_take_over(unsigned nth, bool for_good, size_t partial, bool again)
{
    static struct trial t;
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    struct store *s = begin_owner(&t);
    work(&t, s, 2);
    store_free(s);
    s = begin_owner(&t);
    const struct model before = t.model;
    const struct digest old = digest_of_model(&before);
    put_set(&t.model);
    power_fail(t.im.power, nth, for_good, EIO, partial);
    if (commit(&t, s))
        report("a failed write was acknowledged", &t, "");
    power_fail(t.im.power, 0, false, 0, 0);
    if (!again) {
        t.model = before;
        store_free(s);
        s = begin_owner(&t);
        const struct digest found = digest_of_store(s);
        if (!same(&found, &old))
            report("a failed take-over left its mark", &t, "");
        work(&t, s, 2);
    }
    put_set(&t.model);
    must_commit(&t, s);
    put_origin(&t.model, true);
    must_commit(&t, s);
    store_free(s);
    trial_end(&t);
}

/* As if the writer had been killed when the first n sectors that he changed had been written. */
static void keep_first_sectors(struct power_disk *p, const uint8_t *before, uint64_t bytes,
                               size_t n)
{
    uint8_t *now = power_disk_bytes(p);
    for (uint64_t at = 0; at < bytes; at += POWER_SECTOR) {
        if (memcmp(now + at, before + at, POWER_SECTOR) == 0)
            continue;
        if (n > 0)
            n--;
        else
            memcpy(now + at, before + at, POWER_SECTOR);
    }
}

/* Without locks: the new owner dies while he writes, the stale one still lives. He commits, or is
 * fenced; what is found afterwards is what was acknowledged last, or the whole set. */
static void torn_take_over_beside_a_stale_owner(size_t partial)
{
    static struct trial t;
    struct err e = {0};
    trial_begin(&t, &store_image_small, STORE_IMAGE_SMALL_SECTORS, 2600);
    t.checking = true; /* no cuts here */
    power_share(t.im.power);
    struct store *stale = begin_owner(&t);
    t.checking = true;
    struct state_change c;
    run_op(&t.model, OP_SMALL);
    c = change_to(&t.model);
    if (store_commit(stale, &c, &e) < 0)
        die("a commit on a sound disk failed", &e);
    const struct model before = t.model;
    struct store *owner = kept_disk_open(&e);
    if (!owner)
        die("opening", &e);
    put_set(&t.model);
    c = change_to(&t.model);
    const struct digest set = digest_of_model(&t.model);
    uint64_t bytes = power_disk_size(t.im.power);
    uint8_t *disk = malloc(bytes);
    if (!disk)
        abort();
    memcpy(disk, power_disk_bytes(t.im.power), bytes);
    if (store_commit(owner, &c, &e) < 0)
        die("taking over", &e);
    store_free(owner);
    keep_first_sectors(t.im.power, disk, bytes, partial);
    free(disk);

    t.model = before;
    run_op(&t.model, OP_SMALL);
    c = change_to(&t.model);
    const struct digest old = digest_of_model(&before), now = digest_of_model(&t.model);
    bool done = store_commit(stale, &c, &e) == 0;
    if (!done && e.kind != ERR_FENCED)
        report("the stale owner fails", &t, e.text);
    if (done != (partial == 0))
        report("the stale owner", &t, done ? "did not notice" : "is fenced by nobody");
    store_free(stale);
    struct store *s = kept_disk_open(&e);
    if (!s) {
        tally.lost++;
        report("not openable", &t, e.text);
    } else {
        const struct digest found = digest_of_store(s);
        bool right = done ? same(&found, &now) : same(&found, &old) || same(&found, &set);
        tally.states++;
        tally.mixed += !right;
        store_free(s);
    }
    trial_end(&t);
}

int main(int argc, char **argv)
{
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    if (argc > 1 && !thorough) {
        fprintf(stderr, "usage: test_handover_crash [--long]\n");
        return 2;
    }
    for (unsigned prior = 0; prior < (thorough ? 6 : 2); prior++)
        migration_in(prior);
    print_tally("migration in");
    for (unsigned n = 0; n < (thorough ? 3 : 1); n++)
        for (unsigned stored = 0; stored < 2; stored++)
            migration_out_and_back(stored);
    print_tally("and out and back");
    for (unsigned nth = 1; nth <= 2; nth++)
        for (size_t partial = 0; partial < (nth == 1 ? 12 : 1); partial += thorough ? 2 : 5)
            for (unsigned again = 0; again < 2; again++)
                failing_take_over(nth, false, partial, again);
    print_tally("and failing storage");
    for (size_t partial = 0; partial <= 12; partial++)
        torn_take_over_beside_a_stale_owner(partial);
    print_tally("in all");
    return n_reports || tally.lost || tally.mixed || tally.forgotten || tally.stuck;
}
