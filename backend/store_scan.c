#include "backend/store_scan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    /* A mark that claims more than this beyond the generation reached is noise that looks like a
     * mark: no store has so many records. Keeps torn noise from ever passing for damage. */
    MAX_AHEAD = 1 << 20,
};

static const char *area_name(enum record_area area)
{
    static const char *const names[] = {"checkpoint A", "checkpoint B", "the log"};
    return names[area];
}

/* How far a checkpoint area goes to being one record; for the message when none is. */
static void describe_area(const struct scan *s, enum record_area area, char *buf, size_t n)
{
    struct record_sector first, one;
    size_t valid = 0, marked = 0;
    struct record_mark marks[2], newest = {0};
    for (size_t i = 0; i < s->n_sectors[area]; i++) {
        const uint8_t *sector = s->area[area] + i * SECTOR_BYTES;
        unsigned n_marks = record_marks(sector, marks);
        if (n_marks == 0)
            continue;
        marked++;
        if (marks[0].generation > newest.generation)
            newest = marks[0];
        if (record_sector_verify(s->key, area, (uint32_t)i, sector, &one))
            valid++;
    }
    if (marked == 0)
        snprintf(buf, n, "%s holds nothing recognisable", area_name(area));
    else if (record_sector_verify(s->key, area, 0, s->area[area], &first))
        snprintf(buf, n, "%s begins generation %" PRIu64 " (%u sectors), %zu sectors verify",
                 area_name(area), first.head.generation, first.mark.count, valid);
    else
        snprintf(buf, n, "%s mentions generation %" PRIu64 ", %zu of %zu sectors verify",
                 area_name(area), newest.generation, valid, marked);
}

/* R1 */
static int find_base(const struct scan *s, struct scan_result *r, struct err *e)
{
    static const uint8_t none[RECORD_MAC_BYTES];
    struct record_sector found[2];
    bool intact[2];
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_CHECKPOINT_B; a++)
        intact[a] = record_verify(s->key, a, 0, s->area[a], s->n_sectors[a], none, s->spans,
                                  &found[a]) == RECORD_INTACT &&
                    found[a].head.kind == RECORD_FULL;

    if (!intact[0] && !intact[1]) {
        char a[120], b[120];
        describe_area(s, AREA_CHECKPOINT_A, a, sizeof(a));
        describe_area(s, AREA_CHECKPOINT_B, b, sizeof(b));
        return err_set(e, ERR_STATE_CORRUPT,
                       "neither checkpoint of the record store is intact: %s; %s", a, b);
    }
    if (intact[0] && intact[1] && found[0].head.generation == found[1].head.generation)
        return err_set(e, ERR_STATE_CORRUPT,
                       "both checkpoints of the record store claim generation %" PRIu64,
                       found[0].head.generation);

    bool b_is_newer =
        intact[1] && (!intact[0] || found[1].head.generation > found[0].head.generation);
    const struct record_sector *base = &found[b_is_newer];
    r->base = b_is_newer ? AREA_CHECKPOINT_B : AREA_CHECKPOINT_A;
    r->base_head = base->head;
    r->generation = base->head.generation;
    r->epoch = base->head.epoch;
    memcpy(r->mac, base->mac, sizeof(r->mac));
    return 0;
}

enum record_area area_beside(enum record_area base)
{
    return base == AREA_CHECKPOINT_A ? AREA_CHECKPOINT_B : AREA_CHECKPOINT_A;
}

/* W8 */
static void note_beside(const struct scan *s, struct scan_result *r)
{
    enum record_area beside = area_beside(r->base);
    struct record_sector found;
    if (record_sector_verify(s->key, beside, 0, s->area[beside], &found))
        memcpy(r->beside, found.mac, sizeof(r->beside));
}

/* R2, R5 */
static int walk_log(const struct scan *s, struct scan_result *r, struct err *e)
{
    while (r->log_used < s->n_sectors[AREA_LOG]) {
        struct record_sector found;
        enum record_verdict verdict = record_verify(
            s->key, AREA_LOG, r->log_used, s->area[AREA_LOG] + (size_t)r->log_used * SECTOR_BYTES,
            s->n_sectors[AREA_LOG] - r->log_used, r->mac, s->spans, &found);
        if (verdict == RECORD_INCOMPLETE || found.head.generation - r->generation != 1 ||
            found.head.epoch < r->epoch)
            return 0;
        if (verdict == RECORD_UNCHAINED || found.head.kind != RECORD_DELTA)
            return err_set(e, ERR_STATE_CORRUPT,
                           "the record of generation %" PRIu64 " at sector %" PRIu32
                           " of the log does not belong behind the one before it; the newest state "
                           "that verifies is generation %" PRIu64,
                           found.head.generation, r->log_used, r->generation);
        r->generation = found.head.generation;
        r->epoch = found.head.epoch;
        memcpy(r->mac, found.mac, sizeof(r->mac));
        r->log_used += found.mark.count;
        r->n_records++;
    }
    return 0;
}

/* The newest generation a sector claims to be of; 0 where it has no mark. */
static unsigned newest_claim(const uint8_t *sector, struct record_mark *ret)
{
    struct record_mark marks[2];
    unsigned n = record_marks(sector, marks);
    if (n > 0)
        *ret = marks[n == 2 && marks[1].generation > marks[0].generation];
    return n;
}

/* How a sector stands to the generation reached. */
enum standing {
    BEHIND,  /* R7 */
    TORN,    /* R6 */
    BEYOND,  /* R3 */
    DAMAGED, /* R4 */
};

/* *ret_claim is filled unless BEHIND. */
static enum standing standing_of(const struct scan *s, const struct scan_result *r,
                                 enum record_area area, size_t i, struct record_mark *ret_claim)
{
    const uint8_t *sector = s->area[area] + i * SECTOR_BYTES;
    struct record_sector found;
    if (newest_claim(sector, ret_claim) == 0 || ret_claim->generation <= r->generation)
        return BEHIND;
    uint64_t ahead = ret_claim->generation - r->generation;
    if (!record_sector_verify(s->key, area, (uint32_t)i, sector, &found))
        return ahead <= MAX_AHEAD ? DAMAGED : BEHIND;
    if (found.head.epoch < r->epoch)
        return BEHIND; /* written by an owner who had lost the image */
    bool first_of_owner = area != AREA_LOG && found.head.epoch > r->epoch;
    return ahead == 1 || (ahead == 2 && first_of_owner) ? TORN : BEYOND;
}

static int judge_damage(const struct scan *s, enum record_area area, size_t i,
                        struct scan_result *r, struct err *e)
{
    struct record_mark claim;
    if (standing_of(s, r, area, i, &claim) != DAMAGED)
        return 0;
    return err_set(e, ERR_STATE_CORRUPT,
                   "sector %zu of %s is damaged: it was sector %u of %u of generation %" PRIu64
                   "; the newest state that verifies is generation %" PRIu64,
                   i, area_name(area), claim.index + 1U, claim.count, claim.generation,
                   r->generation);
}

static int judge_newer(const struct scan *s, enum record_area area, size_t i, struct scan_result *r,
                       struct err *e)
{
    struct record_mark claim;
    enum standing standing = standing_of(s, r, area, i, &claim);
    if (standing == BEYOND)
        return err_set(e, ERR_STATE_CORRUPT,
                       "generation %" PRIu64 " is damaged or missing: %s holds a sector of "
                       "generation %" PRIu64 ", which came after it; the newest state that "
                       "verifies is generation %" PRIu64,
                       r->generation + 1, area_name(area), claim.generation, r->generation);
    r->torn_sectors += standing == TORN;
    return 0;
}

/* R3 to R7, for every sector. */
static int judge_all(const struct scan *s, struct scan_result *r, struct err *e)
{
    /* Damage first: its message names the very sector. */
    static int (*const judges[])(const struct scan *, enum record_area, size_t,
                                 struct scan_result *, struct err *) = {judge_damage, judge_newer};
    for (size_t judge = 0; judge < ARRAY_LEN(judges); judge++)
        for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++)
            for (size_t i = 0; i < s->n_sectors[a]; i++)
                if (judges[judge](s, a, i, r, e) < 0)
                    return -1;
    return 0;
}

int store_scan_best(const struct scan *s, struct scan_result *ret, struct err *ret_damage,
                    struct err *e)
{
    struct scan_result r = {0};
    struct err damage = {0};
    if (find_base(s, &r, e) < 0)
        return -1;
    if (walk_log(s, &r, &damage) == 0 && judge_all(s, &r, &damage) == 0)
        damage = (struct err){0};
    note_beside(s, &r);
    *ret = r;
    *ret_damage = damage;
    return 0;
}

int store_scan(const struct scan *s, struct scan_result *ret, struct err *e)
{
    struct scan_result r;
    struct err damage;
    if (store_scan_best(s, &r, &damage, e) < 0)
        return -1;
    if (damage.kind != ERR_NONE) {
        size_t n = strlen(damage.text);
        *e = damage;
        (void)snprintf(e->text + n, sizeof(e->text) - n, "; nvkeep recover can go back to it");
        return -1;
    }
    *ret = r;
    return 0;
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void add_claim(const struct scan *s, const struct scan_result *at, enum record_area area,
                      size_t i, struct scan_claims *c)
{
    struct record_sector found;
    struct record_mark claim;
    if (record_sector_verify(s->key, area, (uint32_t)i, s->area[area] + i * SECTOR_BYTES, &found)) {
        c->newest = greater(c->newest, found.head.generation);
        c->epoch = greater(c->epoch, found.head.epoch);
    }
    if (standing_of(s, at, area, i, &claim) != BEHIND) {
        c->newest = greater(c->newest, claim.generation);
        c->newest_after_this = greater(c->newest_after_this, claim.generation);
    }
}

void store_scan_claims(const struct scan *s, const struct scan_result *at, struct scan_claims *ret)
{
    struct scan_claims c = {at->generation, at->epoch, at->generation};
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++)
        for (size_t i = 0; i < s->n_sectors[a]; i++)
            add_claim(s, at, a, i, &c);
    *ret = c;
}

bool store_scan_is_stray(const struct scan *s, enum record_area area, size_t i, uint64_t generation)
{
    const uint8_t *sector = s->area[area] + i * SECTOR_BYTES;
    struct record_mark claim;
    struct record_sector found;
    return newest_claim(sector, &claim) > 0 && claim.generation > generation &&
           !record_sector_verify(s->key, area, (uint32_t)i, sector, &found);
}
