/* Damage told from loss: bits of a sound image's record store are flipped, in its ciphertext, one
 * at a time. Each flip must be reported as STATE_CORRUPT, or lie in a sector that holds nothing any
 * more, and then the state that opens is the right one.
 *
 *     test_store_damage           one bit of every byte; of every cipher block where nothing is
 *     test_store_damage --long    every bit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/kept_disk.h"

static struct {
    unsigned long flips, reported, harmless, wrong;
} tally;
static bool thorough;

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "test_store_damage: %s: %s\n", what, e->text);
    exit(1);
}

static struct store *opened(void)
{
    struct err e;
    struct store *s = kept_disk_open(&e);
    if (!s)
        die("opening", &e);
    return s;
}

/* What a sector of the store is to the state: part of it; nothing; or a trace of a write that was
 * cut off, of which nobody can tell whether it once was acknowledged. */
enum role { DEAD, LIVE, TORN };
static const char *const role_name[] = {"dead", "live", "torn"};

/* Learned from the sectors that commits wrote, not from the search. */
struct sound {
    struct store_image im;
    uint8_t digest[SHA256_BYTES];
    enum role role[STORE_IMAGE_SMALL_SECTORS];
};

static void wrong(const struct sound *w, uint64_t sector, unsigned bit, const char *what)
{
    if (tally.wrong++ < 20)
        fprintf(stderr, "sector %lu (%s), bit %u: %s\n", (unsigned long)sector,
                role_name[w->role[sector]], bit, what);
}

static void judge(const struct sound *w, uint64_t sector, unsigned bit)
{
    struct err e = {0};
    struct store *s = kept_disk_open(&e);
    tally.flips++;
    if (!s) {
        tally.reported++;
        if (e.kind != ERR_STATE_CORRUPT)
            wrong(w, sector, bit, e.text);
        else if (w->role[sector] == DEAD)
            wrong(w, sector, bit, "said to be damage");
        return;
    }
    uint8_t digest[SHA256_BYTES];
    struct state_change c = store_image_content(s);
    store_image_digest(&c, digest);
    store_free(s);
    tally.harmless++;
    if (w->role[sector] == LIVE)
        wrong(w, sector, bit, "not noticed");
    if (memcmp(digest, w->digest, sizeof(digest)) != 0)
        wrong(w, sector, bit, "another state was opened");
}

static uint64_t host0(void)
{
    return store_image_host_sector(qcow_disk_of(kept_disk), 0);
}

/* One bit of every byte of what is live, one of every cipher block of what is not. */
static bool is_sampled(enum role role, unsigned bit)
{
    return role == DEAD ? bit % 128 == 5 : bit % 8 == bit / 8 % 8;
}

static void flip_all(const struct sound *w)
{
    for (uint64_t sector = 8; sector < STORE_IMAGE_SMALL_SECTORS; sector++) {
        uint8_t *at = power_disk_bytes(w->im.power) + (host0() + sector) * SECTOR_BYTES;
        for (unsigned bit = 0; bit < SECTOR_BYTES * 8; bit++) {
            if (!thorough && !is_sampled(w->role[sector], bit))
                continue;
            at[bit / 8] ^= (uint8_t)(1 << bit % 8);
            judge(w, sector, bit);
            at[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

/* At a flush: what is about to become durable holds the state from now on. */
static void at_flush(void *ctx)
{
    struct sound *w = ctx;
    size_t n = power_n_volatile(w->im.power);
    const struct store_layout *l = &w->im.facts.layout;
    for (size_t i = 0; i < n; i++)
        if (power_volatile_sector(w->im.power, i) - host0() < l->log)
            memset(w->role, 0, sizeof(w->role)); /* a checkpoint: all before it is dead */
    for (size_t i = 0; i < n; i++)
        w->role[power_volatile_sector(w->im.power, i) - host0()] = LIVE;
}

enum { STATE_BYTES = 3000 };
static uint8_t bytes[STATE_BYTES];

static struct state_change state_now(void)
{
    return (struct state_change){{{BLOB_SET, bytes, STATE_BYTES}}};
}

static struct store *begin(struct sound *w)
{
    struct err e;
    struct state_change first = state_now();
    memset(w, 0, sizeof(*w));
    if (store_image_new(&store_image_small, STORE_IMAGE_SMALL_SECTORS, &first, &w->im, &e) < 0 ||
        kept_disk_begin(&w->im, &e) < 0)
        die("an image", &e);
    size_t n = (STATE_BYTES + 6 + 399) / 400;
    for (size_t i = 0; i < n; i++)
        w->role[8 + i] = LIVE;
    struct store *s = opened();
    power_on_flush(w->im.power, at_flush, w);
    return s;
}

static void commit(struct store *s, size_t n_changed)
{
    static uint8_t next;
    struct err e;
    for (size_t i = 0; i < n_changed; i++) {
        next++;
        bytes[(i * 7 + next) % STATE_BYTES] ^= (uint8_t)(next | 1);
    }
    struct state_change c = state_now();
    if (store_commit(s, &c, &e) < 0)
        die("commit", &e);
}

static void end(struct sound *w, struct store *s)
{
    struct state_change c = state_now();
    store_image_digest(&c, w->digest);
    store_free(s);
    power_on_flush(w->im.power, NULL, NULL);
    flip_all(w);
    kept_disk_end();
    store_image_clear(&w->im);
}

/* Checkpoint and some records of one and of several sectors; also: nothing but what create wrote,
 * and a log that has just begun anew over leftovers. */
static void after_commits(unsigned n)
{
    struct sound w;
    struct store *s = begin(&w);
    for (unsigned i = 0; i < n; i++)
        commit(s, i % 3 == 2 ? 90 : 1);
    end(&w, s);
}

/* An append of four sectors of which two arrived. */
static void after_a_torn_append(void)
{
    struct sound w;
    struct store *s = begin(&w);
    uint8_t before[STATE_BYTES];
    commit(s, 1);
    commit(s, 1);
    memcpy(before, bytes, sizeof(before));
    const struct sound was = w;
    power_fail(w.im.power, 2, false, 5, 0);
    for (size_t i = 0; i < 1200; i++)
        bytes[800 + i] ^= 0x35;
    struct state_change c = state_now();
    struct err e;
    if (store_commit(s, &c, &e) == 0)
        die("a flush that should have failed", &(struct err){.text = "it did not"});
    memcpy(bytes, before, sizeof(bytes));
    memcpy(w.role, was.role, sizeof(w.role));
    size_t n = power_n_volatile(w.im.power);
    bool arrived[16] = {0};
    if (n < 4 || n > ARRAY_LEN(arrived))
        die("a torn append", &(struct err){.text = "not of several sectors"});
    arrived[0] = arrived[2] = true;
    for (size_t i = 0; i < n; i++)
        w.role[power_volatile_sector(w.im.power, i) - host0()] = arrived[i] ? TORN : DEAD;
    power_cut(w.im.power, arrived, LOST_STALE, 0);
    power_settle(w.im.power);
    end(&w, s);
}

/* An append that nobody acknowledged and that could not be taken back, then one that was
 * acknowledged: damage to the second does not bring back the first. */
static void after_an_append_that_stayed(void)
{
    struct sound w;
    struct store *s = begin(&w);
    struct err e;
    commit(s, 1);
    power_fail(w.im.power, 2, true, 5, 0);
    bytes[40] ^= 0x35;
    struct state_change c = state_now();
    if (store_commit(s, &c, &e) == 0)
        die("a flush that should have failed", &(struct err){.text = "it did not"});
    power_fail(w.im.power, 0, false, 0, 0);
    bytes[40] ^= 0x35;
    commit(s, 1);
    for (uint64_t at = w.im.facts.layout.log; at < STORE_IMAGE_SMALL_SECTORS; at++)
        w.role[at] = DEAD; /* the log begins anew behind a checkpoint */
    end(&w, s);
}

int main(int argc, char **argv)
{
    static const unsigned commits[] = {0, 1, 8, 14, 20};
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    for (size_t i = 0; i < ARRAY_LEN(commits); i++)
        after_commits(commits[i]);
    after_a_torn_append();
    after_an_append_that_stayed();
    printf("damage: bits flipped %lu, reported %lu, harmless (in sectors that hold nothing) %lu, "
           "wrong %lu\n",
           tally.flips, tally.reported, tally.harmless, tally.wrong);
    return tally.wrong != 0;
}
