/* The way back from damage: records of a real encrypted image in memory are damaged, in every
 * place; opening reports it, looking at what can be recovered writes nothing, recovering gives the
 * newest state that verifies, and nothing older or newer ever comes back. [W9] */
#include "tests/backend/store_helpers.h"

#include "backend/store_recover.h"
#include "backend/store_scan.h"

enum {
    STATE_BYTES = 3000, /* a checkpoint of 8 sectors */
    MOST_GENERATIONS = 200,
    FIRST = 8, /* sector of the store; before it the reference sector */
    LOG = 40,
};

/* An image with a history, which is learned from what commits wrote. */
struct history {
    struct store_image im;
    uint8_t state[STATE_BYTES];
    uint64_t generation;
    uint8_t digest[MOST_GENERATIONS][SHA256_BYTES]; /* by generation */
    uint64_t wrote[STORE_IMAGE_SMALL_SECTORS];      /* generation in each sector; 0: none */
    uint64_t host0;
    uint64_t attempts; /* of recovering that may have left something, each a generation more */
};

static void learn(void *ctx)
{
    struct history *h = ctx;
    for (size_t i = 0; i < power_n_volatile(h->im.power); i++)
        h->wrote[power_volatile_sector(h->im.power, i) - h->host0] = h->generation + 1;
}

static void digest_of(const struct store *s, uint8_t ret[SHA256_BYTES])
{
    struct state_change c = store_image_content(s);
    store_image_digest(&c, ret);
}

/* A change of that many bytes: one, and it is a log record of one sector; 700, and it has two. */
static void change(struct history *h, struct store *s, size_t n)
{
    static unsigned seed;
    seed++;
    fill(h->state + 16 * (seed % 100), n, seed);
    commit(s, set(BLOB_PERMANENT, h->state, sizeof(h->state)));
    h->generation++;
    assert_int_equal(stats_of(s).generation, h->generation);
    assert_true(h->generation < MOST_GENERATIONS);
    digest_of(s, h->digest[h->generation]);
}

static void begin(struct history *h)
{
    memset(h, 0, sizeof(*h));
    fill(h->state, sizeof(h->state), 99);
    h->im = image_of(&store_image_small, h->state, sizeof(h->state));
    struct store *s = opened(&h->im);
    h->host0 = store_image_host_sector(store_disk(s), 0);
    h->generation = 1;
    digest_of(s, h->digest[1]);
    for (size_t i = 0; i < 8; i++)
        h->wrote[FIRST + i] = 1;
    store_free(s);
    power_on_flush(h->im.power, learn, h);
}

static void end(struct history *h)
{
    power_on_flush(h->im.power, NULL, NULL);
    store_image_clear(&h->im);
}

static void flip(struct history *h, uint64_t sector)
{
    power_disk_bytes(h->im.power)[(h->host0 + sector) * SECTOR_BYTES + 333] ^= 4;
}

/* Every sector of that generation. */
static void flip_generation(struct history *h, uint64_t generation)
{
    unsigned n = 0;
    for (uint64_t i = FIRST; i < STORE_IMAGE_SMALL_SECTORS; i++)
        if (h->wrote[i] == generation && ++n)
            flip(h, i);
    assert_true(n > 0);
}

static struct recovery *recovery_of(struct store_image *im)
{
    struct qcow_disk_rw *d = NULL;
    struct recovery *r = NULL;
    struct err e;
    if (store_image_arm(im, &d, &e) < 0 || recovery_new(&d, &r, &e) < 0)
        fail_msg("%s", e.text);
    return r;
}

static void assert_reported(struct store_image *im)
{
    struct store *s = NULL;
    struct err e = {0};
    assert_int_equal(store_image_open(im, &s, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
}

/* Without being asked to: what there is, and not one byte changes. */
static struct recovery_facts look(struct history *h)
{
    struct recovery_facts f;
    uint64_t size = power_disk_size(h->im.power);
    uint8_t *before = malloc(size);
    assert_non_null(before);
    memcpy(before, power_disk_bytes(h->im.power), size);
    struct power_counts counts = power_counts(h->im.power);
    struct recovery *r = recovery_of(&h->im);
    recovery_facts(r, &f);
    recovery_free(r);
    assert_memory_equal(before, power_disk_bytes(h->im.power), size);
    assert_int_equal(since(&h->im, counts).writes, 0);
    assert_int_equal(since(&h->im, counts).flushes, 0);
    free(before);
    return f;
}

static struct recovery_facts recovered(struct history *h)
{
    struct recovery_facts f;
    struct err e;
    struct recovery *r = recovery_of(&h->im);
    recovery_facts(r, &f);
    if (recovery_write(r, &e) < 0)
        fail_msg("%s", e.text);
    recovery_free(r);
    return f;
}

/* From the recovered state on: each commit is what is found afterwards, over several rounds of the
 * log and several owners, whatever lies about. */
static void goes_on(struct history *h, uint64_t generation)
{
    uint8_t want[SHA256_BYTES], got[SHA256_BYTES], state[STATE_BYTES];
    size_t n;
    struct store *s = opened(&h->im);
    memcpy(state, store_get(s, BLOB_PERMANENT, &n), sizeof(state));
    for (unsigned i = 0; i < 45; i++) {
        state[i * 31 % STATE_BYTES] ^= (uint8_t)(i + 1);
        commit(s, set(BLOB_PERMANENT, state, sizeof(state)));
        digest_of(s, want);
        if (i < 6 || i % 9 == 0) { /* another owner */
            store_free(s);
            s = opened(&h->im);
        }
        digest_of(s, got);
        assert_memory_equal(want, got, sizeof(want));
        assert_int_equal(stats_of(s).generation, generation + i + 1);
    }
    store_free(s);
}

/* Damage has been done: it is reported, and `wanted` is what comes back. */
static void assert_comes_back(struct history *h, uint64_t wanted)
{
    uint8_t got[SHA256_BYTES];
    assert_reported(&h->im);
    struct recovery_facts f = look(h);
    assert_int_equal(f.damage.kind, ERR_STATE_CORRUPT);
    assert_int_equal(f.generation, wanted);
    assert_true(f.newest > wanted && f.newest <= h->generation + h->attempts);
    assert_true(f.next_generation > h->generation);
    assert_true(f.next_generation >= wanted + 3);
    assert_true(f.present[0] && f.n_bytes[0] == STATE_BYTES && !f.has_origin);
    struct recovery_facts g = recovered(h);
    assert_int_equal(g.generation, wanted);
    struct store *s = opened(&h->im);
    struct store_stats st = stats_of(s);
    digest_of(s, got);
    store_free(s);
    assert_memory_equal(got, h->digest[wanted], sizeof(got));
    assert_int_equal(st.generation, f.next_generation);
    assert_int_equal(st.epoch, f.next_epoch);
    assert_int_equal(look(h).damage.kind, ERR_NONE);
    goes_on(h, f.next_generation);
}

/* Each sector alone; what came before is put back each time. */
static void each_sector_alone(struct history *h, uint64_t base, uint64_t without_base)
{
    unsigned n_log = 0, n_base = 0;
    for (uint64_t i = FIRST; i < STORE_IMAGE_SMALL_SECTORS; i++) {
        bool in_log = i >= LOG && h->wrote[i] > base, in_base = i < LOG && h->wrote[i] == base;
        if (!in_log && !in_base)
            continue;
        power_push(h->im.power);
        struct history *copy = malloc(sizeof(*copy));
        assert_non_null(copy);
        *copy = *h;
        power_on_flush(h->im.power, NULL, NULL);
        flip(h, i);
        assert_comes_back(h, in_log ? h->wrote[i] - 1 : without_base);
        *h = *copy;
        free(copy);
        power_pop(h->im.power);
        power_on_flush(h->im.power, learn, h);
        n_log += in_log;
        n_base += in_base;
    }
    assert_int_equal(n_base, 8);
    assert_true(h->generation == base || n_log >= h->generation - base);
}

static void damage_in_any_record_gives_the_state_before_it(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    change(&h, s, 1); /* 2: a checkpoint, the first of an owner */
    for (unsigned i = 0; i < 8; i++)
        change(&h, s, i % 3 == 1 ? 700 : 1);
    store_free(s);
    each_sector_alone(&h, 2, 1);
    end(&h);
}

static void a_damaged_checkpoint_costs_one_change_while_the_log_before_it_is_there(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 7; i++)
        change(&h, s, 1);
    store_free(s);
    s = opened(&h.im);
    change(&h, s, 1); /* a checkpoint again, and nothing behind it */
    store_free(s);
    each_sector_alone(&h, h.generation, h.generation - 1);
    end(&h);
}

static void several_damaged_records_give_the_state_before_the_first(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 12; i++)
        change(&h, s, 1);
    store_free(s);
    for (uint64_t k = 6; k <= h.generation; k++)
        flip_generation(&h, k);
    assert_comes_back(&h, 5);
    end(&h);
}

static void a_damaged_checkpoint_and_log_give_the_older_checkpoint(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    flip_generation(&h, 2);
    flip_generation(&h, 3);
    flip_generation(&h, 6);
    assert_comes_back(&h, 1);
    end(&h);
}

static void both_checkpoints_damaged_is_refused_and_nothing_is_written(void **state)
{
    static struct history h;
    struct err e = {0};
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    flip(&h, FIRST + 3);
    flip_generation(&h, 2);
    assert_reported(&h.im);
    struct power_counts counts = power_counts(h.im.power);
    struct qcow_disk_rw *d = NULL;
    struct recovery *r = NULL;
    assert_int_equal(store_image_arm(&h.im, &d, &e), 0);
    assert_int_equal(recovery_new(&d, &r, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    assert_non_null(strstr(e.text, "no state to go back to"));
    assert_non_null(strstr(e.text, "neither checkpoint"));
    assert_null(r);
    assert_non_null(d);
    qcow_disk_rw_free(d);
    assert_int_equal(since(&h.im, counts).writes, 0);
    end(&h);
}

static void a_sound_store_has_nothing_to_recover(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    assert_int_equal(look(&h).damage.kind, ERR_NONE);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    struct recovery_facts f = look(&h);
    assert_int_equal(f.damage.kind, ERR_NONE);
    assert_int_equal(f.generation, h.generation);
    assert_int_equal(f.newest, h.generation);
    end(&h);
}

static void what_was_recovered_and_is_damaged_again_is_recovered_again(void **state)
{
    static struct history h;
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    flip_generation(&h, 5);
    struct recovery_facts f = recovered(&h);
    assert_int_equal(f.generation, 4);
    /* 4 was a checkpoint in B and two records; now it is a checkpoint in A too. */
    flip(&h, FIRST + 2);
    struct recovery_facts g = recovered(&h);
    assert_int_equal(g.generation, 4);
    assert_true(g.next_generation > f.next_generation);
    assert_true(g.next_epoch > f.epoch);
    s = opened(&h.im);
    uint8_t got[SHA256_BYTES];
    digest_of(s, got);
    assert_memory_equal(got, h.digest[4], sizeof(got));
    store_free(s);
    goes_on(&h, g.next_generation);
    end(&h);
}

/* Plain bytes, put at a sector of the store as if a writer had. */
static void put_plain(struct history *h, uint64_t sector, const uint8_t plain[SECTOR_BYTES])
{
    struct qcow_disk_rw *d = NULL;
    struct secret *buf = NULL;
    struct err e;
    assert_int_equal(store_image_arm(&h->im, &d, &e), 0);
    assert_int_equal(secret_new(SECTOR_BYTES, &buf, &e), 0);
    memcpy(secret_bytes(buf), plain, SECTOR_BYTES);
    assert_int_equal(qcow_disk_write(d, (struct sector){sector}, 1, secret_bytes(buf), &e), 0);
    secret_free(buf);
    qcow_disk_rw_free(d);
    power_settle(h->im.power);
}

static void seal_plain(struct history *h, uint32_t position, uint64_t generation, uint64_t epoch,
                       uint8_t ret[SECTOR_BYTES])
{
    struct qcow_disk_rw *d = NULL;
    struct err e;
    uint8_t mac[RECORD_MAC_BYTES], before[RECORD_MAC_BYTES] = {7};
    const struct record_head head = {generation, epoch, RECORD_DELTA, 300};
    memset(ret, 0x5a, SECTOR_BYTES);
    assert_int_equal(store_image_arm(&h->im, &d, &e), 0);
    record_seal(qcow_disk_record_key(qcow_disk_of(d)), AREA_LOG, position, &head, before, ret, mac);
    qcow_disk_rw_free(d);
}

/* Noise that looks like a mark of a far generation is harmless because it is so far away; the
 * recovered state is nearer to it. */
static void noise_ahead_of_the_state_is_not_taken_for_damage_of_the_recovered_one(void **state)
{
    static struct history h;
    uint8_t plain[SECTOR_BYTES];
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    seal_plain(&h, 20, 5 + (1 << 20) + 2, 1, plain);
    plain[100] ^= 1;
    put_plain(&h, LOG + 20, plain);
    assert_int_equal(look(&h).damage.kind, ERR_NONE);
    flip_generation(&h, 6);
    assert_comes_back(&h, 5);
    end(&h);
}

static void what_verifies_and_claims_a_far_generation_is_left_behind(void **state)
{
    static struct history h;
    uint8_t plain[SECTOR_BYTES];
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    seal_plain(&h, 20, 5000000, 77, plain);
    put_plain(&h, LOG + 20, plain);
    assert_reported(&h.im);
    struct recovery_facts f = recovered(&h);
    assert_int_equal(f.generation, h.generation);
    assert_int_equal(f.newest, 5000000);
    assert_int_equal(f.next_generation, 5000001);
    /* An epoch is used up together with a generation at most: whoever wrote those has fewer. */
    assert_int_equal(f.next_epoch, 77 + (5000001 - f.generation));
    goes_on(&h, f.next_generation);
    end(&h);
}

/* What an owner wrote who had lost the image is no damage, whatever generation it claims; the
 * recovered state goes on behind it all the same. */
static void what_a_stale_owner_left_is_left_behind(void **state)
{
    static struct history h;
    uint8_t plain[SECTOR_BYTES];
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    seal_plain(&h, 20, 500, 1, plain);
    put_plain(&h, LOG + 20, plain);
    assert_int_equal(look(&h).damage.kind, ERR_NONE);
    flip_generation(&h, 6);
    struct recovery_facts f = look(&h);
    assert_int_equal(f.newest, 6);
    assert_int_equal(f.next_generation, 501);
    assert_comes_back(&h, 5);
    end(&h);
}

static void without_a_next_one(uint64_t generation, uint64_t epoch)
{
    static struct history h;
    uint8_t plain[SECTOR_BYTES];
    struct err e = {0};
    begin(&h);
    seal_plain(&h, 20, generation, epoch, plain);
    put_plain(&h, LOG + 20, plain);
    assert_reported(&h.im);
    struct qcow_disk_rw *d = NULL;
    struct recovery *r = NULL;
    assert_int_equal(store_image_arm(&h.im, &d, &e), 0);
    assert_int_equal(recovery_new(&d, &r, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    qcow_disk_rw_free(d);
    end(&h);
}

static void a_number_without_a_next_one_is_refused(void **state)
{
    (void)state;
    without_a_next_one(UINT64_MAX - 1, 77);
    without_a_next_one(5000000, UINT64_MAX - 1);
}

/* Its flushes and its write fail, one after the other: what was there is there. */
static void a_recovery_that_fails_can_be_begun_anew(void **state)
{
    static struct history h;
    static const struct {
        unsigned nth;
        size_t partial;
        bool for_good;
    } faults[] = {{1, 0, false}, {2, 0, false}, {2, 3, false}, {3, 0, false}, {2, 1, true}};
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    power_on_flush(h.im.power, NULL, NULL);
    h.attempts = 1;
    flip_generation(&h, 2); /* all traces of the damage are where the recovery writes */
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct err e = {0};
        power_push(h.im.power);
        struct recovery *r = recovery_of(&h.im);
        power_fail(h.im.power, faults[i].nth, faults[i].for_good, EIO, faults[i].partial);
        assert_int_equal(recovery_write(r, &e), -1);
        assert_int_equal(e.kind, ERR_STORAGE);
        assert_non_null(strstr(e.text, "is still there"));
        recovery_free(r);
        power_fail(h.im.power, 0, false, 0, 0);
        assert_comes_back(&h, 1);
        power_pop(h.im.power);
    }
    end(&h);
}

/* The same where noise lies about that has to go first. */
static void clearing_that_fails_can_be_begun_anew(void **state)
{
    static struct history h;
    uint8_t plain[SECTOR_BYTES];
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    power_on_flush(h.im.power, NULL, NULL);
    seal_plain(&h, 20, 5 + (1 << 20) + 2, 1, plain);
    plain[100] ^= 1;
    put_plain(&h, LOG + 20, plain);
    flip_generation(&h, 6);
    h.attempts = 1;
    for (unsigned nth = 1; nth <= 4; nth++) { /* the sector, its flush; the checkpoint, its flush */
        struct err e = {0};
        power_push(h.im.power);
        struct recovery *r = recovery_of(&h.im);
        power_fail(h.im.power, nth, false, EIO, 0);
        assert_int_equal(recovery_write(r, &e), -1);
        assert_int_equal(e.kind, ERR_STORAGE);
        recovery_free(r);
        power_fail(h.im.power, 0, false, 0, 0);
        assert_comes_back(&h, 5);
        power_pop(h.im.power);
    }
    end(&h);
}

static void somebody_who_writes_meanwhile_is_left_alone(void **state)
{
    static struct history h;
    struct err e = {0};
    (void)state;
    begin(&h);
    struct store *s = opened(&h.im);
    for (unsigned i = 0; i < 5; i++)
        change(&h, s, 1);
    store_free(s);
    flip_generation(&h, 5);
    power_share(h.im.power);
    struct recovery *r = recovery_of(&h.im);
    /* As another machine would, under the claim that it has there. */
    struct recovery *other = recovery_of(&h.im);
    assert_int_equal(recovery_write(other, &e), 0);
    recovery_free(other);
    struct power_counts counts = power_counts(h.im.power);
    assert_int_equal(recovery_write(r, &e), -1);
    assert_int_equal(e.kind, ERR_FENCED);
    assert_int_equal(since(&h.im, counts).writes, 0);
    recovery_free(r);
    end(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_in_any_record_gives_the_state_before_it),
        cmocka_unit_test(a_damaged_checkpoint_costs_one_change_while_the_log_before_it_is_there),
        cmocka_unit_test(several_damaged_records_give_the_state_before_the_first),
        cmocka_unit_test(a_damaged_checkpoint_and_log_give_the_older_checkpoint),
        cmocka_unit_test(both_checkpoints_damaged_is_refused_and_nothing_is_written),
        cmocka_unit_test(a_sound_store_has_nothing_to_recover),
        cmocka_unit_test(what_was_recovered_and_is_damaged_again_is_recovered_again),
        cmocka_unit_test(noise_ahead_of_the_state_is_not_taken_for_damage_of_the_recovered_one),
        cmocka_unit_test(what_verifies_and_claims_a_far_generation_is_left_behind),
        cmocka_unit_test(what_a_stale_owner_left_is_left_behind),
        cmocka_unit_test(a_number_without_a_next_one_is_refused),
        cmocka_unit_test(a_recovery_that_fails_can_be_begun_anew),
        cmocka_unit_test(clearing_that_fails_can_be_begun_anew),
        cmocka_unit_test(somebody_who_writes_meanwhile_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
