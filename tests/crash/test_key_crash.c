/* Simulated power loss in every change of an image's keys: at each flush the disk is put into the
 * states that it may then have. In each of them a key that is to stay opens the image, a key that
 * never was there does not, what is not LUKS is byte for byte what it was, and the same change done
 * again does what is left. [S0.7]
 *
 * A disk writes a sector of 512 bytes or keeps the old one; what lies in key material may also be
 * lost to zeroes and noise. (The LUKS header exists once, and has no checksum: that one of its two
 * sectors is lost while it is written can be repaired by nobody.)
 *
 *     test_key_crash           a share of the states
 *     test_key_crash --long    many more
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/image_keys.h"
#include "backend/key_change.h"
#include "crypto/sector_cipher.h"
#include "tests/support/store_image.h"

enum { N_KEYS = 3, ITERATIONS = 1000, MOST_SECTORS = 2048 };

static struct {
    unsigned long changes, flushes, header_writes, states, again, faults, lost, violations;
} tally;
static bool thorough;
static uint64_t random_bits = 0x9e3779b97f4a7c15;

static uint32_t draw(uint32_t below)
{
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (uint32_t)(random_bits >> 20) % below;
}

/* ---- a change, and the keys before and after it ---- */

enum what { ADD, REMOVE, ROTATE };
struct change {
    enum what what;
    unsigned key;           /* which passphrase: added, or the new one */
    unsigned old;           /* REMOVE, ROTATE: the key that goes */
    int slot;               /* for the new one */
    unsigned before, after; /* bit n: key n opens the image */
};

static struct bench {
    struct store_image im;
    struct secret *pass[N_KEYS];
    uint8_t *was; /* the disk before anything was changed */
    uint64_t area, area_bytes;
    const struct change *now; /* NULL: nobody looks */
} bench;

static void violation(const char *what, const char *detail)
{
    const struct change *c = bench.now;
    if (tally.violations++ < 20)
        fprintf(stderr, "change %lu (%s key %u, slot %d): %s: %s\n", tally.changes,
                c && c->what == ADD      ? "add"
                : c && c->what == REMOVE ? "remove"
                                         : "rotate",
                c ? c->key : 0, c ? c->slot : 0, what, detail);
}

static void die(const char *what, const struct err *e)
{
    fprintf(stderr, "test_key_crash: %s: %s\n", what, e->text);
    exit(1);
}

/* ---- the image, claimed ---- */

struct held {
    struct blk_rw *w;
    struct qcow_image *img;
    struct key_area area;
    struct qcow_keys *k;
};

static void let_go(struct held *h)
{
    qcow_keys_free(h->k);
    qcow_image_free(h->img);
    blk_rw_free(h->w);
}

static int hold(struct held *ret, struct err *e)
{
    struct held h = {0};
    OWNED(blk) b = NULL;
    if (power_disk_blk(bench.im.power, &b, e) < 0 || blk_claim(&b, &h.w, e) < 0)
        die("opening the disk", e);
    if (qcow_open(blk_of(h.w), &h.img, e) == 0 && key_area_of(h.img, h.w, &h.area, e) == 0) {
        *ret = h;
        const struct key_io io = key_area_io(&ret->area);
        if (qcow_keys_open(&io, &ret->k, e) == 0)
            return 0;
    }
    let_go(&h);
    return -1;
}

/* Which keys open it, and the volume key. Each slot in use is opened by one of them. */
static int opening_keys(struct held *h, unsigned *ret, struct volume_key **ret_key, struct err *e)
{
    unsigned opened = 0;
    *ret = 0;
    for (unsigned i = 0; i < N_KEYS; i++) {
        OWNED(volume_key) key = NULL;
        unsigned slots = 0;
        if (qcow_keys_try(h->k, bench.pass[i], secret_size(bench.pass[i]), NULL, &slots, &key, e) <
            0)
            return -1;
        *ret |= slots ? 1u << i : 0;
        opened |= slots;
        if (slots && !*ret_key)
            *ret_key = MOVE(key);
    }
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (qcow_keys_header(h->k)->slot[i].active && !(opened & 1u << i))
            return err_set(e, ERR_STATE_CORRUPT, "slot %u is in use, and no key opens it", i);
    return 0;
}

static int apply(struct held *h, const struct change *c, struct err *e)
{
    OWNED(volume_key) volume = NULL;
    unsigned opening, old = 0, stays = 0;
    struct key_changed done;
    const struct key_new n = {bench.pass[c->key], secret_size(bench.pass[c->key]), ITERATIONS,
                              c->slot, false};
    if (opening_keys(h, &opening, &volume, e) < 0)
        return -1;
    if (c->what == ADD)
        return key_change_add(h->k, volume, &n, NULL, &done, e);
    if (qcow_keys_try(h->k, bench.pass[c->old], secret_size(bench.pass[c->old]), NULL, &old, NULL,
                      e) < 0)
        return -1;
    if (c->what == ROTATE)
        return key_change_rotate(h->k, volume, old, &n, NULL, &done, e);
    if (qcow_keys_try(h->k, n.pass, n.bytes, NULL, &stays, NULL, e) < 0)
        return -1;
    return key_change_remove(h->k, old, stays, &done, e);
}

/* ---- one state of the disk ---- */

static bool outside_is_as_it_was(void)
{
    const uint8_t *now = power_disk_bytes(bench.im.power);
    uint64_t end = bench.area + bench.area_bytes, size = power_disk_size(bench.im.power);
    return memcmp(now, bench.was, bench.area) == 0 &&
           memcmp(now + end, bench.was + end, size - end) == 0;
}

static void judge_keys(unsigned opening)
{
    const struct change *c = bench.now;
    char text[80];
    snprintf(text, sizeof(text), "before 0x%x, after 0x%x, now 0x%x", c->before, c->after, opening);
    if ((opening & c->before & c->after) != (c->before & c->after) || opening == 0) {
        tally.lost++;
        violation("a key that stays does not open the image", text);
    }
    if (opening & ~(c->before | c->after))
        violation("a key that was not there opens the image", text);
}

static void judge_end(struct held *h, const char *when)
{
    OWNED(volume_key) volume = NULL;
    unsigned opening = 0;
    struct err e;
    const struct luks_header *l = qcow_keys_header(h->k);
    if (opening_keys(h, &opening, &volume, &e) < 0)
        violation(when, e.text);
    else if (opening != bench.now->after)
        violation(when, "not the keys that it should have");
    for (unsigned i = 0; bench.now->what != ADD && i < LUKS_N_SLOTS; i++) {
        const uint8_t *m = power_disk_bytes(bench.im.power) + bench.area +
                           (uint64_t)l->slot[i].material_sector * SECTOR_BYTES;
        size_t n = luks_slot_sectors(l->cipher.key_bytes) * SECTOR_BYTES;
        for (size_t at = 0; !l->slot[i].active && at < n; at++)
            if (m[at]) {
                violation(when, "key material of a slot without a key is left");
                return;
            }
    }
}

/* After the power came back. again: the change is done once more. */
static void check_state(bool again)
{
    struct err e = {0};
    struct held h;
    OWNED(volume_key) volume = NULL;
    unsigned opening = 0;
    tally.states++;
    if (!outside_is_as_it_was())
        violation("the TPM's state", "something beside the LUKS area has changed");
    if (hold(&h, &e) < 0) {
        tally.lost++;
        violation("not openable", e.text);
        return;
    }
    if (opening_keys(&h, &opening, &volume, &e) < 0)
        violation("trying the keys", e.text);
    else
        judge_keys(opening);
    if (again && opening) {
        tally.again++;
        if (apply(&h, bench.now, &e) < 0)
            violation("doing it again", e.text);
        else
            judge_end(&h, "after doing it again");
    }
    let_go(&h);
}

static void try_cut(const bool *arrived, enum power_lost lost, bool again)
{
    power_cut(bench.im.power, arrived, lost, 0);
    check_state(again);
    power_restore(bench.im.power);
}

/* ---- at a flush ---- */

static bool in_header(uint64_t sector)
{
    uint64_t at = sector * SECTOR_BYTES;
    return at >= bench.area && at < bench.area + KEY_HEADER_BYTES;
}

static void header_is_written(size_t n)
{
    tally.header_writes++;
    if (n != 1)
        violation("a sector of the header is written", "together with something else");
    try_cut((bool[]){false}, LOST_STALE, true);
    try_cut((bool[]){true}, LOST_STALE, true);
}

static void material_is_written(size_t n)
{
    static bool arrived[MOST_SECTORS];
    unsigned tries = thorough ? 60 : 12;
    for (unsigned i = 0; i < tries; i++) {
        size_t cut = draw((uint32_t)n);
        for (size_t j = 0; j < n; j++)
            arrived[j] = i == 0 ? false : i % 3 == 0 ? j < cut : i % 3 == 1 ? j > cut : draw(2);
        try_cut(arrived, (enum power_lost)((i + tally.flushes) % LOST_KINDS), i == 1 && thorough);
    }
    memset(arrived, true, sizeof(arrived));
    try_cut(arrived, LOST_STALE, true);
}

static void at_flush(void *unused)
{
    size_t n = power_n_volatile(bench.im.power);
    bool header = false;
    (void)unused;
    if (!bench.now || n == 0)
        return;
    tally.flushes++;
    for (size_t i = 0; i < n; i++)
        header |= in_header(power_volatile_sector(bench.im.power, i));
    if (n > MOST_SECTORS)
        violation("so many volatile sectors", "are not foreseen");
    else if (header)
        header_is_written(n);
    else
        material_is_written(n);
}

/* ---- changes ---- */

/* The change, cut at each of its flushes. */
static void make(const struct change *c)
{
    struct err e = {0};
    struct held h;
    tally.changes++;
    if (hold(&h, &e) < 0)
        die("opening", &e);
    bench.now = c;
    if (apply(&h, c, &e) < 0)
        violation("failed", e.text);
    judge_end(&h, "at the end");
    if (!outside_is_as_it_was())
        violation("the TPM's state", "something beside the LUKS area has changed");
    bench.now = NULL;
    let_go(&h);
}

/* One write or flush fails, or all from there on; then the power goes. False: there are not so
 * many.
 */
static bool fails_at(const struct change *c, unsigned nth, bool for_good, size_t partial)
{
    static bool arrived[MOST_SECTORS];
    struct err e = {0};
    struct held h;
    if (hold(&h, &e) < 0)
        die("opening", &e);
    power_fail(bench.im.power, nth, for_good, EIO, partial);
    bool failed = apply(&h, c, &e) < 0;
    power_fail(bench.im.power, 0, false, 0, 0);
    let_go(&h);
    if (!failed)
        return false;
    tally.faults++;
    bench.now = c;
    for (unsigned i = 0; i < 2; i++) {
        for (size_t j = 0; j < MOST_SECTORS; j++)
            arrived[j] = i == 0 || draw(2);
        if (power_n_volatile(bench.im.power) > 0)
            try_cut(arrived, LOST_STALE, i == 0);
        else
            check_state(false);
    }
    bench.now = NULL;
    return true;
}

static void make_fail_everywhere(const struct change *c)
{
    for (unsigned nth = 1; nth < 100; nth++) {
        bool failed = true;
        for (unsigned way = 0; failed && way < (thorough ? 4 : 2); way++) {
            power_push(bench.im.power);
            failed = fails_at(c, nth, way & 1, way & 2 ? 1 : 0);
            power_pop(bench.im.power);
        }
        if (!failed)
            return;
    }
    violation("a change", "does not come to an end");
}

static struct secret *passphrase(const char *text)
{
    struct secret *s;
    struct err e;
    if (secret_new(strlen(text), &s, &e) < 0)
        die("a passphrase", &e);
    memcpy(secret_bytes(s), text, strlen(text));
    return s;
}

static void begin(void)
{
    static uint8_t bytes[5000];
    const struct state_change first = {{{BLOB_SET, bytes, sizeof(bytes)}}};
    struct err e;
    struct held h;
    if (store_image_new(NULL, 2048, &first, &bench.im, &e) < 0 || hold(&h, &e) < 0)
        die("making an image", &e);
    bench.area = qcow_image_header(h.img)->luks.byte;
    bench.area_bytes = qcow_image_header(h.img)->luks_bytes;
    let_go(&h);
    uint64_t size = power_disk_size(bench.im.power);
    bench.was = malloc(size);
    if (!bench.was)
        abort();
    memcpy(bench.was, power_disk_bytes(bench.im.power), size);
}

int main(int argc, char **argv)
{
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    begin();
    bench.pass[0] = bench.im.pass;
    bench.pass[1] = passphrase("the second of the keys");
    bench.pass[2] = passphrase("the third of the keys");
    power_on_flush(bench.im.power, at_flush, NULL);

    /* Every slot has its turn; that of slot 6 lies across two sectors. */
    static const struct change some[] = {
        {ADD, 1, 0, 6, 1, 3},    {ROTATE, 2, 0, KEY_SLOT_ANY, 3, 6},
        {REMOVE, 2, 1, 0, 6, 4}, {ROTATE, 0, 2, 7, 4, 1},
        {ROTATE, 1, 0, 6, 1, 2}, {ROTATE, 0, 1, 0, 2, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(some); i++) {
        if (i == 0 || i == 4)
            make_fail_everywhere(&some[i]);
        make(&some[i]);
    }
    for (int slot = 1; thorough && slot < LUKS_N_SLOTS; slot++) {
        const struct change away = {ROTATE, 1, 0, slot, 1, 2}, back = {ROTATE, 0, 1, 0, 2, 1};
        make_fail_everywhere(&away);
        make(&away);
        make(&back);
    }
    power_on_flush(bench.im.power, NULL, NULL);
    store_image_clear(&bench.im);
    secret_free(bench.pass[1]);
    secret_free(bench.pass[2]);
    free(bench.was);
    printf("power loss while keys are changed: changes %lu, flushes %lu (%lu of a header sector), "
           "states %lu, done again %lu, failed calls %lu, without a working key %lu, violations "
           "%lu\n",
           tally.changes, tally.flushes, tally.header_writes, tally.states, tally.again,
           tally.faults, tally.lost, tally.violations);
    return tally.violations != 0;
}
