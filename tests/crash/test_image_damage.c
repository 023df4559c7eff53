/* Every bit of a live image flipped, and every sector of it lost: with a real TPM in it, through
 * the way on which the daemon opens. Each flip must be refused, by a class that is true of what was
 * hit, or be harmless: no byte of it is ever read, or the very same state opens, there is a reason,
 * and the next commit goes where it belongs and is found again.
 *
 *     test_image_damage                              a sample, the same at every run; under
 *                                                    sanitizers a smaller one
 *     test_image_damage --long [PART OF [REGION]]    every bit; the PARTth of OF parts; of that
 *                                                    region of the table alone
 */
#include "tests/crash/damage_table.h"
#include "tests/support/sanitized.h"

static unsigned long n_left, n_commits;
static uint64_t part = 1, parts = 1;
static const char *region;
static bool every_bit;

/* What the sound image is. */
static struct {
    uint8_t digest[SHA256_BYTES];
    struct store_mark mark;
    struct store_mark older[MAX_VERSIONS];
    struct ref_facts facts;
    uint32_t *map;
    uint32_t n_map;
} want;

static void digest_of(const struct store *s, uint8_t ret[SHA256_BYTES])
{
    const struct state_change c = store_image_content(s);
    store_image_digest(&c, ret);
}

/* ---- is it the same? ---- */

static bool same_facts(const struct ref_facts *f)
{
    return f->device == want.facts.device &&
           memcmp(f->instance, want.facts.instance, sizeof(f->instance)) == 0 &&
           memcmp(&f->layout, &want.facts.layout, sizeof(f->layout)) == 0;
}

/* The same place for everything; what is marked as shared is not written, and told by arming. */
static bool same_map(const struct qcow_image *img)
{
    const uint32_t place = MAP_HOST | MAP_ZERO;
    for (uint32_t i = 0; i < img->n_guest; i++)
        if ((img->map[i] & place) != (i < want.n_map ? want.map[i] & place : 0))
            return false;
    return img->n_guest >= want.n_map;
}

static bool same_state(const struct store *s)
{
    uint8_t digest[SHA256_BYTES];
    struct store_mark mark;
    digest_of(s, digest);
    store_mark(s, &mark);
    return memcmp(digest, want.digest, sizeof(digest)) == 0 &&
           store_mark_equal(&mark, &want.mark) && same_facts(store_facts(s)) &&
           same_map(qcow_disk_image(store_disk(s)));
}

/* ---- does it go on? ---- */

/* Nothing but sectors of the store changes, and what was committed is what opens. */
static const char *goes_on(struct store *s)
{
    static const uint8_t word[] = "written after the damage";
    const struct state_change c = {{[2] = {BLOB_SET, word, sizeof(word)}}};
    static uint8_t *was;
    uint8_t committed[SHA256_BYTES], found[SHA256_BYTES];
    struct err e;
    OWNED(image) i = NULL;
    OWNED(store) again = NULL;
    if (!was && !(was = malloc(image.n)))
        return "no memory";
    memcpy(was, image.now, image.n);
    n_commits++;
    if (store_commit(s, &c, &e) < 0)
        return "the next commit fails";
    digest_of(s, committed);
    for (size_t k = 0; k < n_places; k++) {
        const struct place *p = &places[k];
        if (p->group != G_LIVE && p->group != G_DEAD &&
            memcmp(was + p->at, image.now + p->at, p->n) != 0)
            return "the next commit writes elsewhere";
    }
    if (open_image(&i, &again, &e) < 0)
        return "what was committed next does not open";
    digest_of(again, found);
    return memcmp(committed, found, sizeof(found)) ? "what was committed next is not found" : NULL;
}

/* ---- verdicts ---- */

static void judge_refusal(const struct place *p, uint64_t at, const struct err *e)
{
    char text[sizeof(e->text) + 40];
    snprintf(text, sizeof(text), "refused as %s: %s", err_class(e->kind)->name, e->text);
    if (!(p->refusals & MAY(e->kind)))
        wrong(p, at, text);
    else
        count(p->group, (enum verdict)e->kind, 1);
}

/* The image as it is now, with something wrong at `at`. */
static void judge(const struct place *p, uint64_t at, bool in_the_clear)
{
    struct err e = {0};
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    image.n_writes = 0;
    if (open_image(&i, &s, &e) < 0) {
        if (costly)
            n_left++;
        else if (image.n_writes > 0)
            wrong(p, at, "opening has written");
        else
            judge_refusal(p, at, &e);
        return;
    }
    if (image.n_writes > 0)
        wrong(p, at, "opening has written");
    else if (!same_state(s))
        wrong(p, at, "another state is opened");
    else if (!p->why)
        wrong(p, at, "is not noticed");
    else
        count(p->group, SAME, 1);
    const char *trouble = in_the_clear ? goes_on(s) : NULL;
    if (trouble)
        wrong(p, at, trouble);
    if (image.n_writes > 0)
        memcpy(image.now, sound(), image.n);
}

static bool in_the_clear(enum group g)
{
    return g != G_LIVE && g != G_DEAD && g != G_REFERENCE && g != G_MATERIAL;
}

/* ---- every bit ---- */

/* Under sanitizers the short form tries a part of what it tries otherwise. */
static bool in_sample(void)
{
    static unsigned long n;
    return !SANITIZED || every_bit || n++ % 7 == 0;
}

static bool is_wanted(enum group g)
{
    return !region || strcmp(region, group_name[g]) == 0;
}

/* Which byte of how many a place of that group is tried in, in the short form: enough that every
 * field is hit, and that it ends in time. */
static uint64_t step_of(enum group g)
{
    static const uint16_t steps[N_GROUPS] = {
        [G_BEHIND_END] = 61, [G_REFTABLE] = 3,   [G_REFBLOCKS] = 3, [G_L1] = 1,   [G_L2] = 1,
        [G_LUKS] = 1,        [G_MATERIAL] = 251, [G_DEAD] = 97,     [G_LIVE] = 7, [G_NOTHING] = 1,
    };
    return steps[g] ? steps[g] : 1;
}

static bool is_tried(enum group g, uint64_t at, unsigned bit)
{
    if (every_bit)
        return at % parts == part - 1;
    if (g == G_HEADER || g == G_EXTENSIONS || g == G_L1)
        return true;
    return at % step_of(g) == 0 && (at / step_of(g) * 5 + at) % 8 == bit;
}

static void flip_byte(const struct place *p, uint64_t at)
{
    for (unsigned bit = 0; bit < 8; bit++) {
        if (!(p->bits >> bit & 1) || !is_tried(p->group, at, bit) || !in_sample())
            continue;
        image.now[at] ^= (uint8_t)(1u << bit);
        judge(p, at, in_the_clear(p->group));
        image.now[at] = sound()[at];
    }
}

/* What is never read cannot matter; a few are tried all the same, on the reader's word. */
static void skip_byte(const struct place *p, uint64_t at)
{
    struct place harmless = *p;
    if (at % parts == part - 1)
        count(p->group, UNREAD, (uint64_t)__builtin_popcount(p->bits));
    if (at % 16411 != 0 || part != 1)
        return;
    harmless.why = "it is never read";
    image.now[at] ^= 0x10;
    judge(&harmless, at, true);
    image.now[at] = sound()[at];
    tally[p->group][SAME]--;
}

static void flip_all(void)
{
    for (size_t k = 0; k < n_places; k++) {
        const struct place *p = &places[k];
        for (uint64_t at = p->at; is_wanted(p->group) && at < p->at + p->n; at++)
            if (image.read[at])
                flip_byte(p, at);
            else
                skip_byte(p, at);
    }
}

/* ---- whole sectors ---- */

static uint64_t sequence = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t draw(void)
{
    sequence ^= sequence >> 12; /* [xorshift64*] */
    sequence ^= sequence << 25;
    sequence ^= sequence >> 27;
    return sequence * UINT64_C(2685821657736338717) >> 8;
}

/* The most telling place of a sector, with what is true of any of them. */
static struct place place_of_sector(uint64_t s)
{
    static const char anything[] = "the next commit works";
    uint64_t from = s * SECTOR_BYTES, to = from + SECTOR_BYTES;
    struct place all = {.group = G_NOTHING, .at = from, .n = SECTOR_BYTES, .why = anything};
    for (size_t k = 0; k < n_places && places[k].at < to; k++) {
        const struct place *p = &places[k];
        if (p->at + p->n <= from)
            continue;
        all.group = p->group < all.group ? p->group : all.group;
        all.refusals |= p->refusals;
        if (p->group == G_LIVE || p->group == G_REFERENCE || p->group == G_MATERIAL)
            all.why = NULL;
    }
    if (all.group == G_MATERIAL)
        all.refusals |= DAMAGE; /* zeroes are no key material */
    if (s == 0)
        all.refusals |= MAY(ERR_STATE_FOREIGN); /* nothing of a header is left */
    return all;
}

/* A write of which a whole sector is gone looks like one that never arrived, if it is the last or
 * those behind it are gone as well. That is a limit that the format has. */
static bool explains(const struct store *s, uint64_t lost, uint64_t also)
{
    struct store_mark mark;
    store_mark(s, &mark);
    for (size_t v = image.n_versions - 1; v > 0; v--) {
        if (written_by[lost] != v && written_by[also] != v)
            return false;
        if (store_mark_equal(&mark, &want.older[v - 1]))
            return same_facts(store_facts(s));
    }
    return false;
}

static void judge_sectors(const struct place *p, uint64_t lost, uint64_t also)
{
    struct err e = {0};
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    if (open_image(&i, &s, &e) == 0 && explains(s, lost, also)) {
        count(p->group, OLDER, 1);
        return;
    }
    store_free(MOVE(s));
    image_free(MOVE(i));
    judge(p, p->at, in_the_clear(p->group));
}

static bool is_read(uint64_t s)
{
    bool any = false;
    for (size_t i = 0; i < SECTOR_BYTES; i++)
        any |= image.read[s * SECTOR_BYTES + i];
    return any;
}

static void lose(uint64_t s, const uint8_t *with)
{
    const struct place p = place_of_sector(s);
    uint8_t *at = image.now + s * SECTOR_BYTES;
    if (memcmp(at, with, SECTOR_BYTES) == 0)
        return;
    memcpy(at, with, SECTOR_BYTES);
    judge_sectors(&p, s, s);
    memcpy(image.now, sound(), image.n);
}

static void swap(uint64_t s, uint64_t t)
{
    const struct place a = place_of_sector(s), b = place_of_sector(t);
    struct place p = a.group < b.group ? a : b;
    p.refusals = a.refusals | b.refusals;
    p.why = a.why && b.why ? a.why : NULL;
    const uint8_t *x = sound() + s * SECTOR_BYTES, *y = sound() + t * SECTOR_BYTES;
    if (memcmp(x, y, SECTOR_BYTES) == 0)
        return;
    memcpy(image.now + s * SECTOR_BYTES, y, SECTOR_BYTES);
    memcpy(image.now + t * SECTOR_BYTES, x, SECTOR_BYTES);
    judge_sectors(&p, s, t);
    memcpy(image.now, sound(), image.n);
}

/* One sector: zeroes, noise, each older version, and in the place of others. */
static void lose_sector(uint64_t s)
{
    uint8_t other[SECTOR_BYTES] = {0};
    uint64_t n = image.n / SECTOR_BYTES;
    lose(s, other);
    for (size_t i = 0; i < SECTOR_BYTES; i += 8)
        put_be64(other + i, draw() * draw());
    lose(s, other);
    for (size_t v = 0; v + 1 < image.n_versions; v++)
        lose(s, image.version[v] + s * SECTOR_BYTES);
    swap(s, (s + 1) % n);
    swap(s, (s + 8) % n);
    swap(s, draw() % n);
}

static void lose_all(void)
{
    for (uint64_t s = 0; s < image.n / SECTOR_BYTES; s++) {
        const struct place p = place_of_sector(s);
        bool tried = every_bit               ? s % parts == part - 1
                     : p.group == G_MATERIAL ? s % 64 == 0
                                             : p.group != G_DEAD || s % 8 == 3;
        if (!is_wanted(p.group))
            continue;
        if (is_read(s) && tried && in_sample())
            lose_sector(s);
        else if (!is_read(s))
            count(p.group, UNREAD, 1);
    }
}

/* ---- the sound image ---- */

static void open_sound(struct image **i, struct store **s)
{
    struct err e;
    if (open_image(i, s, &e) < 0)
        die("the sound image", &e);
}

static void learn(void)
{
    OWNED(image) i = NULL;
    OWNED(store) s = NULL;
    struct store_stats stats;
    for (size_t v = 0; v < image.n_versions; v++) {
        memcpy(image.now, image.version[v], image.n);
        open_sound(&i, &s);
        store_mark(s, &want.older[v]);
        store_free(MOVE(s));
        image_free(MOVE(i));
    }

    memcpy(image.now, sound(), image.n);
    open_sound(&i, &s);
    digest_of(s, want.digest);
    store_mark(s, &want.mark);
    want.facts = *store_facts(s);
    const struct qcow_image *img = qcow_disk_image(store_disk(s));
    want.n_map = img->n_guest;
    want.map = malloc(want.n_map * sizeof(*want.map));
    if (!want.map)
        die("the map", &(struct err){.text = "no memory"});
    memcpy(want.map, img->map, want.n_map * sizeof(*want.map));
    store_stats(s, &stats);
    if (stats.n_records < 3)
        die("the image", &(struct err){.text = "has too few records in its log"});
    find_places(store_disk(s));
}

static void begin(unsigned cluster_bits, uint64_t size)
{
    struct err e;
    OWNED(blk) b = NULL;
    make_image(cluster_bits, size);
    if (blk_open(IN_MEMORY, BLK_READ_ONLY, &b, &e) < 0)
        die("the image", &e);
    most_iterations = UINT64_MAX;
    learn();
    note_what_opening_reads();
    remember_slot(b);
    most_iterations = every_bit ? UINT64_MAX : 1 << 16;
}

static void end(void)
{
    free(want.map);
    free(written_by);
    clear_image();
}

int main(int argc, char **argv)
{
    every_bit = argc > 1 && strcmp(argv[1], "--long") == 0;
    if (every_bit && argc >= 4) {
        part = strtoull(argv[2], NULL, 10);
        parts = strtoull(argv[3], NULL, 10);
        region = argv[4];
    }
    if ((argc > 1 && !every_bit) || argc == 3 || argc > 5 || part < 1 || part > parts) {
        fprintf(stderr, "usage: %s [--long [PART OF [REGION]]]\n", argv[0]);
        return 2;
    }
    begin(12, 968 * SECTOR_BYTES);
    flip_all();
    print_table("bits");
    lose_all();
    print_table("sectors, lost");
    end();
    printf(
        "image damage: wrong %lu, next commits tried %lu, left to the long form (iterations of a "
        "key) %lu\n",
        n_wrong, n_commits, n_left);
    return n_wrong != 0;
}
