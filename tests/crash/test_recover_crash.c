/* Simulated power loss while a damaged store is recovered, by enumeration: at every flush the disk
 * is put into every state it may then have. Each must open with the state that was to be recovered,
 * or still report STATE_CORRUPT and give that very state when it is recovered anew.
 *
 * As long as sectors are written whole or not at all, what opens is the recovered generation and
 * nothing else: damage is never forgotten half way. Where lost sectors hold zeroes or noise, the
 * damage may be overwritten together with all traces of it; then the same state opens.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/store_record.h"
#include "backend/store_recover.h"
#include "tests/crash/kept_disk.h"

enum { STATE_BYTES = 3000, MOST_VOLATILE = 10, MOST_GENERATIONS = 32 };

static struct {
    unsigned long states, opened, reported, wrong;
} tally;

static struct {
    struct store_image im;
    uint8_t state[STATE_BYTES];
    uint64_t generation;
    uint8_t digest[MOST_GENERATIONS][SHA256_BYTES];
    struct recovery_facts facts; /* of the recovery that is being cut */
    enum power_lost lost;
    unsigned n_flushes;
    bool checking;
} w;

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "test_recover_crash: %s: %s\n", what, e->text);
    exit(1);
}

static void wrong(const char *what, const char *detail)
{
    if (tally.wrong++ < 20)
        fprintf(stderr, "generation %lu, flush %u, lost %d: %s: %s\n",
                (unsigned long)w.facts.generation, w.n_flushes, (int)w.lost, what, detail);
}

static struct store *opened(void)
{
    struct err e;
    struct store *s = kept_disk_open(&e);
    if (!s)
        die("opening", &e);
    return s;
}

static void digest_of(const struct store *s, uint8_t ret[SHA256_BYTES])
{
    struct state_change c = store_image_content(s);
    store_image_digest(&c, ret);
}

static struct recovery *recovery_of(void)
{
    struct qcow_disk_rw *d = kept_disk;
    struct recovery *r = NULL;
    struct err e;
    if (recovery_new(&d, &r, &e) == 0)
        return r;
    wrong("there is no state any more", e.text);
    return NULL;
}

/* Takes it. */
static void judge_opened(struct store *s, bool again)
{
    struct store_stats st;
    struct err e = {0};
    uint8_t got[SHA256_BYTES];
    digest_of(s, got);
    store_stats(s, &st);
    if (memcmp(got, w.digest[w.facts.generation], sizeof(got)) != 0)
        wrong("another state opens", again ? "after another recovery" : "after the cut");
    if (st.generation != w.facts.next_generation && w.lost == LOST_STALE && !again)
        wrong("the damage is forgotten", "and nothing was recovered");
    const struct state_change c = {{[2] = {BLOB_SET, (const uint8_t *)"goes on", 7}}};
    if (store_commit(s, &c, &e) < 0)
        wrong("the next commit failed", e.text);
    store_free(s);
    s = kept_disk_open(&e);
    if (!s) {
        wrong("does not open after the next commit", e.text);
        return;
    }
    size_t n = 0;
    if (!store_get(s, BLOB_SAVESTATE, &n) || n != 7)
        wrong("the next commit is gone", "");
    store_free(s);
}

static void check_state(void)
{
    struct err e = {0};
    struct store *s = kept_disk_open(&e);
    tally.states++;
    if (s) {
        tally.opened++;
        judge_opened(s, false);
        return;
    }
    tally.reported++;
    if (e.kind != ERR_STATE_CORRUPT)
        wrong("not openable, and not for damage", e.text);
    struct recovery *r = recovery_of();
    if (!r)
        return;
    if (recovery_write(r, &e) < 0)
        wrong("recovering again failed", e.text);
    recovery_free(r);
    s = kept_disk_open(&e);
    if (s)
        judge_opened(s, true);
    else
        wrong("does not open after recovering again", e.text);
}

static void at_flush(void *ctx)
{
    bool arrived[MOST_VOLATILE];
    (void)ctx;
    if (w.checking)
        return;
    w.checking = true;
    w.n_flushes++;
    size_t n = power_n_volatile(w.im.power);
    if (n > MOST_VOLATILE)
        die("a flush", &(struct err){.text = "of more sectors than can be enumerated"});
    for (w.lost = LOST_STALE; w.lost < LOST_KINDS; w.lost++)
        for (unsigned bits = 0; bits < 1U << n; bits++) {
            for (size_t i = 0; i < n; i++)
                arrived[i] = bits >> i & 1;
            power_cut(w.im.power, arrived, w.lost, 0);
            check_state();
            power_restore(w.im.power);
        }
    w.lost = LOST_STALE;
    w.checking = false;
}

static void begin(void)
{
    struct err e;
    memset(&w, 0, sizeof(w));
    for (size_t i = 0; i < STATE_BYTES; i++)
        w.state[i] = (uint8_t)(i * 7);
    const struct state_change first = {{{BLOB_SET, w.state, STATE_BYTES}}};
    if (store_image_new(&store_image_small, STORE_IMAGE_SMALL_SECTORS, &first, &w.im, &e) < 0 ||
        kept_disk_begin(&w.im, &e) < 0)
        die("an image", &e);
    w.generation = 1;
    store_image_digest(&first, w.digest[1]);
}

/* One owner who commits so often. */
static void work(unsigned n_commits)
{
    struct store *s = opened();
    for (unsigned i = 0; i < n_commits; i++) {
        struct err e;
        w.generation++;
        w.state[w.generation * 41 % STATE_BYTES] ^= (uint8_t)(w.generation | 1);
        const struct state_change c = {{{BLOB_SET, w.state, STATE_BYTES}}};
        if (store_commit(s, &c, &e) < 0)
            die("commit", &e);
        store_image_digest(&c, w.digest[w.generation]);
    }
    store_free(s);
}

static void flip(uint64_t sector)
{
    uint64_t host0 = store_image_host_sector(qcow_disk_of(kept_disk), 0);
    power_disk_bytes(w.im.power)[(host0 + sector) * SECTOR_BYTES + 333] ^= 4;
    power_settle(w.im.power);
}

/* A mark of a generation so far ahead that it is noise to the old state, and not to the new one. */
static void noise_at(uint64_t sector)
{
    uint8_t mac[RECORD_MAC_BYTES], before[RECORD_MAC_BYTES] = {7};
    struct secret *buf = NULL;
    struct err e;
    const struct record_head head = {w.generation - 1 + (1 << 20) + 2, 1, RECORD_DELTA, 300};
    if (secret_new(SECTOR_BYTES, &buf, &e) < 0)
        die("memory", &e);
    record_seal(qcow_disk_record_key(qcow_disk_of(kept_disk)), AREA_LOG, (uint32_t)sector - 40,
                &head, before, secret_bytes(buf), mac);
    secret_bytes(buf)[100] ^= 1;
    if (qcow_disk_write(kept_disk, (struct sector){sector}, 1, secret_bytes(buf), &e) < 0)
        die("noise", &e);
    secret_free(buf);
    power_settle(w.im.power);
}

static void recover_and_end(uint64_t wanted)
{
    struct err e = {0};
    struct recovery *r = recovery_of();
    if (!r)
        exit(1);
    recovery_facts(r, &w.facts);
    if (w.facts.damage.kind != ERR_STATE_CORRUPT || w.facts.generation != wanted)
        wrong("another state was to be recovered", w.facts.damage.text);
    power_on_flush(w.im.power, at_flush, NULL);
    if (recovery_write(r, &e) < 0)
        wrong("recovering failed", e.text);
    power_on_flush(w.im.power, NULL, NULL);
    recovery_free(r);
    judge_opened(opened(), false);
    kept_disk_end();
    store_image_clear(&w.im);
}

int main(void)
{
    begin(); /* a record in the log: checkpoint 2 is in B, the recovered state goes to A */
    work(6);
    flip(41);
    recover_and_end(3);

    begin(); /* the newest checkpoint, behind a log: all traces lie where the recovery writes */
    work(5);
    work(1);
    flip(10);
    recover_and_end(6);

    begin(); /* the newest checkpoint, and the log has begun anew */
    work(5);
    flip(27);
    recover_and_end(1);

    begin(); /* the checkpoint and the log */
    work(6);
    flip(24);
    flip(40);
    flip(43);
    recover_and_end(1);

    begin(); /* the last record, and noise further on */
    work(5);
    flip(43);
    noise_at(60);
    noise_at(61);
    recover_and_end(5);

    printf("power loss while recovering: states %lu, opened %lu, still reported %lu, wrong %lu\n",
           tally.states, tally.opened, tally.reported, tally.wrong);
    return tally.wrong != 0 || tally.opened == 0 || tally.reported == 0;
}
