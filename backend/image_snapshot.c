#include "backend/image_snapshot.h"

#include <string.h>

#include "backend/image_priv.h"

/* What the state that was lost may have gone on by since its branch began: more than anybody
 * counts. */
#define UNKNOWN_MARGIN (UINT64_C(1) << 32)
#define HIGHEST_NUMBER (UINT64_MAX / 4)

int image_snapshots(const char *path, struct snapshot_list *ret, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    if (blk_open(path, BLK_READ_ONLY, &b, e) < 0 || qcow_open(b, &img, e) < 0)
        return -1;
    return snapshot_list_read(img, ret, e);
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* How far the image has come, whatever is there now. */
struct reached {
    uint64_t generation, epoch, clock;
};

static int clock_of(const struct store_look *l, uint64_t generation, struct store_origin *ret,
                    uint64_t *ret_clock, struct err *e)
{
    size_t n;
    const uint8_t *p = store_look_get(l, BLOB_ORIGIN, &n);
    memcpy(ret->lineage, store_look_facts(l)->instance, sizeof(ret->lineage));
    if (p && origin_decode(p, n, ret, e) < 0)
        return -1;
    *ret_clock = origin_clock(p ? ret : NULL, generation);
    return 0;
}

/* live: what is in the image; it may be damaged, or not be the newest. */
static void find_reached(const struct qcow_disk *live, bool rolled_back, struct reached *ret)
{
    const struct qcow_header *h = qcow_image_header(qcow_disk_image(live));
    OWNED(store_look) l = NULL;
    struct store_origin unused = {0};
    struct store_mark mark;
    struct err ignored;
    if (!rolled_back && store_look(live, &l, &ignored) == 0) {
        store_look_mark(l, &mark);
        *ret = (struct reached){mark.generation, mark.epoch, 0};
        if (clock_of(l, mark.generation, &unused, &ret->clock, &ignored) == 0)
            return;
    }
    uint64_t generation = h->has_branch ? h->branch.generation : 0;
    uint64_t epoch = h->has_branch ? h->branch.epoch : 0;
    *ret = (struct reached){generation + UNKNOWN_MARGIN, epoch + UNKNOWN_MARGIN,
                            generation + UNKNOWN_MARGIN};
}

/* The state of `from`, in the place of what is in `live`. */
struct restoring {
    struct qcow_disk *live;
    const struct store_look *from;
    bool rolled_back;
};

static int restore(const struct restoring *r, struct blk_rw *w, bool write,
                   struct image_restored *ret, struct err *e)
{
    const struct ref_facts *facts = store_look_facts(r->from);
    struct store_origin o = {0};
    uint8_t origin[ORIGIN_BYTES];
    struct store_mark mark;
    struct reached now;
    uint64_t clock;
    store_look_mark(r->from, &mark);
    find_reached(r->live, r->rolled_back, &now);
    if (clock_of(r->from, mark.generation, &o, &clock, e) < 0)
        return -1;
    if (greater(mark.generation, now.generation) > HIGHEST_NUMBER ||
        greater(mark.epoch, now.epoch) > HIGHEST_NUMBER ||
        greater(clock, now.clock) > HIGHEST_NUMBER)
        return err_set(e, ERR_UNSUPPORTED, "there is hardly a higher generation to go on with");
    ret->facts = *facts;
    ret->generation = mark.generation;
    ret->epoch = mark.epoch;
    ret->next_generation = greater(mark.generation, now.generation) + 1;
    ret->next_epoch = greater(mark.epoch, now.epoch) + 1;
    o.how = ORIGIN_RESTORED;
    o.used = true;
    o.from = mark;
    o.clock = greater(clock, now.clock) + 1;
    o.at = ret->next_generation;
    memcpy(o.image, facts->instance, sizeof(o.image));
    if (!write)
        return 0;
    if (random_bytes(o.set, sizeof(o.set), e) < 0)
        return -1;
    origin_encode(&o, origin);
    const struct store_rebirth b = {r->from, origin, ret->next_generation, ret->next_epoch};
    return store_replace(r->live, w, &b, e);
}

/* The state in a snapshot. */
static int look_into(const struct image *i, const struct qcow_disk *live, const char *id_or_name,
                     struct store_look **ret, struct err *e)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    const struct blk *b = qcow_image_blk(qcow_disk_image(live));
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_disk) disk = NULL;
    size_t which;
    if (snapshot_list_read(qcow_disk_image(live), &l, e) < 0 ||
        snapshot_find(&l, id_or_name, &which, e) < 0 ||
        qcow_open_snapshot(b, &l.at[which], &img, e) < 0 ||
        image_attach(&img, i->key, &disk, e) < 0 || store_look(disk, ret, e) < 0)
        return -1;
    return 0;
}

static int restore_claimed(const struct image *i, struct blk_rw *w, const char *id_or_name,
                           bool write, struct image_restored *ret, struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_disk) live = NULL;
    OWNED(store_look) from = NULL;
    if (qcow_open(blk_of(w), &img, e) < 0 || image_attach(&img, i->key, &live, e) < 0)
        return -1;
    bool rolled_back = qcow_disk_check_branch(live, &ret->rolled_back) < 0;
    if (!rolled_back)
        ret->rolled_back = (struct err){0};
    int r = id_or_name ? look_into(i, live, id_or_name, &from, e) : store_look(live, &from, e);
    if (r < 0)
        return -1;
    const struct restoring what = {live, from, rolled_back};
    return restore(&what, w, write && (id_or_name || rolled_back), ret, e);
}

static int restore_image(struct image *i, const char *id_or_name, bool write,
                         struct image_restored *ret, struct err *e)
{
    struct image_restored done = {0};
    struct blk_rw *w = NULL;
    if (blk_claim(&i->blk, &w, e) < 0)
        return -1;
    int r = restore_claimed(i, w, id_or_name, write, &done, e);
    blk_unclaim(&w, &i->blk);
    if (r == 0)
        *ret = done;
    return r;
}

int image_apply(struct image *i, const char *id_or_name, struct image_restored *ret, struct err *e)
{
    return restore_image(i, id_or_name, true, ret, e);
}

int image_apply_open(struct image *i, const char *id_or_name, struct store **s,
                     struct image_restored *ret, struct err *e)
{
    struct image_restored done = {0};
    struct err again;
    struct blk_rw *w = NULL;
    store_disarm(s, &w);
    int r = restore_claimed(i, w, id_or_name, true, &done, e);
    if (image_open_again(&w, i->key, s, &again) < 0) {
        blk_unclaim(&w, &i->blk);
        if (r == 0)
            *e = again;
        return -1;
    }
    if (r == 0)
        *ret = done;
    return r;
}

int image_adopt(struct image *i, bool write, struct image_restored *ret, struct err *e)
{
    return restore_image(i, NULL, write, ret, e);
}
