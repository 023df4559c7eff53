#include "backend/store.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "backend/qcow_key_io.h"
#include "backend/qcow_snapshot.h"
#include "backend/store_priv.h"

enum { LOOK_TRIES = 5 };
/* Beyond it, generations and epochs could run out while somebody counts on. */
#define HIGHEST_NUMBER (UINT64_MAX / 8 * 7)

static const struct store_layout *layout_of(const struct store *s)
{
    return &qcow_disk_facts(qcow_disk_of(s->disk))->layout;
}

static int check_numbers(const struct scan_result *at, struct err *e)
{
    if (at->generation <= HIGHEST_NUMBER && at->epoch <= HIGHEST_NUMBER)
        return 0;
    return err_set(e, ERR_UNSUPPORTED,
                   "the record store is at generation %" PRIu64 ", epoch %" PRIu64
                   ": there is hardly a higher number to go on with",
                   at->generation, at->epoch);
}

int store_open(struct qcow_disk_rw **d, struct store **ret, struct err *e)
{
    OWNED(store) s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "the record store");
    if (store_load(qcow_disk_of(*d), &s->at, &s->now, &s->record, e) < 0 ||
        check_numbers(&s->at, e) < 0)
        return -1;
    if (!qcow_disk_claim_is_enough(*d) && secret_new(SECTOR_BYTES, &s->beside, e) < 0)
        return -1;
    /* The newest record may be one whose writer was killed before it could flush, seen in the page
     * cache. What is served from here on must not be lost again. */
    if (qcow_disk_flush(*d, e) < 0)
        return err_prefix(e, "making generation %" PRIu64 " durable before use", s->at.generation);
    s->own_epoch = s->at.epoch + 1;
    s->disk = MOVE(*d);
    *ret = MOVE(s);
    return 0;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    content_clear(&s->now);
    secret_free(s->record);
    secret_free(s->beside);
    qcow_disk_rw_free(s->disk);
    free(s);
}

void store_disarm(struct store **s, struct blk_rw **ret)
{
    qcow_disarm(&(*s)->disk, ret);
    store_free(*s);
    *s = NULL;
}

void store_release(struct store **s, struct blk **ret)
{
    struct blk_rw *w;
    store_disarm(s, &w);
    blk_unclaim(&w, ret);
}

static const uint8_t *content_get(const struct store_content *c, enum blob_kind kind,
                                  size_t *ret_bytes)
{
    static const uint8_t empty[1];
    size_t i = (size_t)kind - 1;
    if (i >= N_BLOBS || !c->present[i])
        return NULL;
    *ret_bytes = c->n[i];
    return c->n[i] > 0 ? secret_peek(c->blob[i]) : empty;
}

const uint8_t *store_get(const struct store *s, enum blob_kind kind, size_t *ret_bytes)
{
    return content_get(&s->now, kind, ret_bytes);
}

const struct ref_facts *store_facts(const struct store *s)
{
    return qcow_disk_facts(qcow_disk_of(s->disk));
}

const struct qcow_disk *store_disk(const struct store *s)
{
    return qcow_disk_of(s->disk);
}

static void fill_stats(const struct scan_result *at, const struct store_content *now,
                       const struct store_layout *l, struct store_stats *ret)
{
    *ret = (struct store_stats){
        .generation = at->generation,
        .epoch = at->epoch,
        .log_sectors = l->log_sectors,
        .log_used = at->log_used,
        .checkpoint_bytes = l->checkpoint_sectors * RECORD_PART_BYTES - STATE_OVERHEAD_BYTES,
        .n_records = at->n_records,
        .torn_sectors = at->torn_sectors,
    };
    for (size_t i = 0; i < N_BLOBS; i++)
        ret->state_bytes += now->n[i];
}

void store_stats(const struct store *s, struct store_stats *ret)
{
    fill_stats(&s->at, &s->now, layout_of(s), ret);
}

static void fill_mark(const struct scan_result *at, struct store_mark *ret)
{
    *ret = (struct store_mark){.generation = at->generation, .epoch = at->epoch};
    memcpy(ret->mac, at->mac, sizeof(ret->mac));
}

void store_mark(const struct store *s, struct store_mark *ret)
{
    fill_mark(&s->at, ret);
}

bool store_mark_equal(const struct store_mark *a, const struct store_mark *b)
{
    return a->generation == b->generation && a->epoch == b->epoch &&
           memcmp(a->mac, b->mac, sizeof(a->mac)) == 0;
}

/* --- without a claim --- */

struct store_look {
    struct ref_facts facts;
    struct scan_result at;
    struct store_content content;
};

void store_look_free(struct store_look *l)
{
    if (!l)
        return;
    content_clear(&l->content);
    free(l);
}

int store_look(const struct qcow_disk *d, struct store_look **ret, struct err *e)
{
    OWNED(store_look) l = calloc(1, sizeof(*l));
    if (!l)
        return err_nomem(e, "the state of a TPM");
    l->facts = *qcow_disk_facts(d);
    for (unsigned try = 1;; try++) {
        OWNED(secret) record = NULL;
        if (store_load(d, &l->at, &l->content, &record, e) == 0)
            break;
        if (e->kind != ERR_STATE_CORRUPT || try == LOOK_TRIES)
            return -1;
        /* What looks like damage may be a commit that we saw half of. */
        nanosleep(&(struct timespec){.tv_nsec = (long)try * 1000000}, NULL);
    }
    if (check_numbers(&l->at, e) < 0)
        return -1;
    *ret = MOVE(l);
    return 0;
}

struct state_view store_look_view(const struct store_look *l)
{
    return content_view(&l->content);
}

const uint8_t *store_look_get(const struct store_look *l, enum blob_kind kind, size_t *ret_bytes)
{
    return content_get(&l->content, kind, ret_bytes);
}

const struct ref_facts *store_look_facts(const struct store_look *l)
{
    return &l->facts;
}

void store_look_stats(const struct store_look *l, struct store_stats *ret)
{
    fill_stats(&l->at, &l->content, &l->facts.layout, ret);
}

void store_look_mark(const struct store_look *l, struct store_mark *ret)
{
    fill_mark(&l->at, ret);
}

/* --- commits --- */

/* The state as it would be after the change. */
static int view_after(const struct store *s, const struct state_change *change,
                      struct state_view *ret, struct err *e)
{
    struct state_view now = content_view(&s->now);
    for (size_t i = 0; i < N_BLOBS; i++) {
        const struct blob_change *c = &change->blob[i];
        if (c->what == BLOB_SET)
            now.blob[i] = (struct blob_view){true, c->p, c->n};
        if (c->what == BLOB_DELETE)
            now.blob[i] = (struct blob_view){0};
        if (now.blob[i].n > BLOB_MAX_BYTES)
            return err_set(e, ERR_UNSUPPORTED,
                           "a TPM state of %zu bytes is larger than the %d bytes that a store "
                           "takes",
                           now.blob[i].n, BLOB_MAX_BYTES);
    }
    size_t room = (size_t)layout_of(s)->checkpoint_sectors * RECORD_PART_BYTES;
    if (state_encoded_bytes(&now) > room)
        return err_set(e, ERR_UNSUPPORTED,
                       "the TPM's state has grown to %zu bytes and this image has room for %zu: "
                       "make a larger image and move the TPM there",
                       state_encoded_bytes(&now), room);
    *ret = now;
    return 0;
}

/* One commit under way. Memory that the new state needs is had before anything is written. */
struct commit {
    struct state_view old, now;
    struct state_edit edit;
    struct secret *grown[N_BLOBS];
};

static void commit_clear(struct commit *c)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        secret_free(c->grown[i]);
}

static int reserve(struct store *s, struct commit *c, struct err *e)
{
    struct secret *record;
    size_t full = record_sectors(state_encoded_bytes(&c->now)) * SECTOR_BYTES;
    for (size_t i = 0; i < N_BLOBS; i++)
        if (c->now.blob[i].present &&
            content_reserve(s->now.blob[i], c->now.blob[i].n, &c->grown[i], e) < 0)
            return -1;
    if (content_reserve(s->record, full, &record, e) < 0)
        return -1;
    if (record) {
        secret_free(s->record);
        s->record = record;
    }
    return 0;
}

/* W7: so that nobody builds on what an attempt may have left there. One sector less, and it is a
 * record that was cut off. Uses s->record. */
static int clear_sector(struct store *s, struct sector at, struct err *e)
{
    memset(secret_bytes(s->record), 0, SECTOR_BYTES); /* writing has encrypted what was there */
    return qcow_disk_write(s->disk, at, 1, secret_bytes(s->record), e);
}

/* Where the next record of the log would begin. */
static struct sector log_end(const struct store *s)
{
    return (struct sector){area_first(layout_of(s), AREA_LOG).nr + s->at.log_used};
}

/* After a failed write or flush: takes back what may be visible in the page cache although the disk
 * never had it. An earlier attempt is taken back anew: after another failed flush no later one
 * vouches for the zeroes over it. There are two places: the attempts after one in the log are
 * checkpoints (W2). No flush; where it fails, the commit that succeeds makes up for it. */
static void retract(struct store *s, enum record_area area, struct sector first)
{
    struct err ignored;
    (void)!clear_sector(s, first, &ignored);
    if (s->log_tried && area != AREA_LOG)
        (void)!clear_sector(s, log_end(s), &ignored);
    s->log_tried |= area == AREA_LOG;
}

/* What was tried in the log before is not left beside an acknowledged checkpoint: it would be taken
 * for the state if that were damaged one day. The same flush vouches for both. */
static int write_and_flush(struct store *s, enum record_area area, struct sector to, uint32_t n,
                           struct err *e)
{
    if (qcow_disk_write(s->disk, to, n, secret_bytes(s->record), e) < 0 ||
        (s->log_tried && area != AREA_LOG && clear_sector(s, log_end(s), e) < 0))
        return -1;
    return qcow_disk_flush(s->disk, e);
}

/* W8 */
static void note_attempt(struct store *s, enum record_area area)
{
    struct record_sector first;
    if (area != AREA_LOG && s->beside && record_sector_decode(secret_peek(s->record), &first))
        memcpy(s->tried[s->n_tried++ % TRIED_MOST], first.mac, sizeof(first.mac));
}

static bool is_own_attempt(const struct store *s, const struct record_sector *found)
{
    for (unsigned i = 0; i < s->n_tried && i < TRIED_MOST; i++)
        if (memcmp(found->mac, s->tried[i], sizeof(found->mac)) == 0)
            return true;
    return false;
}

/* Seals the payload that lies at the start of s->record, writes and flushes. */
static int write_record(struct store *s, enum record_area area, enum record_kind kind,
                        size_t payload_bytes, struct scan_result *ret, struct err *e)
{
    struct scan_result next = s->at;
    const struct record_head head = {s->at.generation + 1, s->own_epoch, kind,
                                     (uint32_t)payload_bytes};
    uint32_t position = area == AREA_LOG ? s->at.log_used : 0;
    uint32_t n = (uint32_t)record_sectors(payload_bytes);
    record_seal(qcow_disk_record_key(qcow_disk_of(s->disk)), area, position, &head, s->at.mac,
                secret_bytes(s->record), next.mac);
    note_attempt(s, area);

    struct sector to = {area_first(layout_of(s), area).nr + position};
    if (write_and_flush(s, area, to, n, e) < 0) {
        retract(s, area, to);
        return err_prefix(e, "generation %" PRIu64 " could not be made durable", head.generation);
    }

    next.generation = head.generation;
    next.epoch = head.epoch;
    next.torn_sectors = 0;
    if (area == AREA_LOG) {
        next.n_records++;
        next.log_used += n;
    } else {
        next.base = area;
        next.base_head = head;
        next.n_records = 0;
        next.log_used = 0;
    }
    *ret = next;
    return 0;
}

/* Bytes of a delta in s->record, or 0 where a checkpoint is due: the tail of the log is not ours
 * (W2), the log is full, or the delta is half as long as the whole state. */
static size_t make_delta(struct store *s, const struct commit *c)
{
    size_t left = (size_t)(layout_of(s)->log_sectors - s->at.log_used);
    size_t most = record_sectors(state_encoded_bytes(&c->now)) / 2;
    most = most < left ? most : left;
    if (!s->may_append || s->unsettled || most == 0)
        return 0;
    struct bytes_out out = bytes_out(secret_bytes(s->record), most * RECORD_PART_BYTES);
    delta_encode(&c->old, &c->now, &c->edit, &out);
    return out.bad ? 0 : out.n;
}

/* W8. Of equal epoch is what another wrote who opened the same state as we, before we had written
 * anything; or what a failed commit of ours has left. */
static bool is_of_other_owner(const struct store *s, const struct record_sector *found)
{
    if (memcmp(found->mac, s->at.beside, sizeof(found->mac)) == 0)
        return false;
    if (found->head.epoch == s->own_epoch)
        return s->at.epoch < s->own_epoch && !is_own_attempt(s, found);
    return found->head.epoch > s->own_epoch;
}

/* W8 */
int store_look_for_other_owner(struct store *s, struct err *e)
{
    enum record_area beside = area_beside(s->at.base);
    struct record_sector found;
    if (!s->beside)
        return 0;
    if (qcow_disk_still_lives(s->disk, e) < 0) {
        if (e->kind == ERR_FENCED)
            s->fenced = *e;
        return -1;
    }
    if (qcow_disk_read_again(s->disk, area_first(layout_of(s), beside), secret_bytes(s->beside),
                             e) < 0)
        return err_prefix(e, "looking whether somebody else has taken over");
    if (!record_sector_verify(qcow_disk_record_key(qcow_disk_of(s->disk)), beside, 0,
                              secret_peek(s->beside), &found) ||
        !is_of_other_owner(s, &found))
        return 0;
    err_set(&s->fenced, ERR_FENCED,
            "somebody else has taken this TPM over: the image holds generation %" PRIu64
            " of owner epoch %" PRIu64 ", and this one is epoch %" PRIu64 " at generation %" PRIu64
            "; nothing more is written here, and what runs here is of the past",
            found.head.generation, found.head.epoch, s->own_epoch, s->at.generation);
    *e = s->fenced;
    return -1;
}

int store_key_area(struct store *s, struct key_area *ret, struct err *e)
{
    if (s->fenced.kind != ERR_NONE) {
        *e = s->fenced;
        return -1;
    }
    if (store_look_for_other_owner(s, e) < 0)
        return -1;
    return qcow_disk_key_area(s->disk, ret, e);
}

static int write_commit(struct store *s, const struct commit *c, struct scan_result *ret,
                        struct err *e)
{
    size_t n = make_delta(s, c);
    if (n > 0)
        return write_record(s, AREA_LOG, RECORD_DELTA, n, ret, e);
    struct bytes_out out = bytes_out(secret_bytes(s->record), secret_size(s->record));
    state_encode(&c->now, &out);
    return write_record(s, area_beside(s->at.base), RECORD_FULL, out.n, ret, e);
}

/* The change in memory, which cannot fail. Bytes that are equal are left where they are. */
static void adopt_blob(struct store_content *s, struct commit *c, size_t i)
{
    const struct blob_view *now = &c->now.blob[i];
    const struct blob_edit *edit = &c->edit.blob[i];
    size_t old_bytes = s->n[i];
    s->present[i] = now->present;
    s->n[i] = now->n;
    if (c->grown[i]) {
        memcpy(secret_bytes(c->grown[i]), now->p, now->n);
        secret_free(s->blob[i]);
        s->blob[i] = MOVE(c->grown[i]);
        return;
    }
    if (now->n > edit->prefix) {
        size_t same = now->n == old_bytes ? edit->suffix : 0;
        memmove(secret_bytes(s->blob[i]) + edit->prefix, now->p + edit->prefix,
                now->n - edit->prefix - same);
    }
    if (now->n < old_bytes)
        wipe(secret_bytes(s->blob[i]) + now->n, old_bytes - now->n);
}

int store_commit(struct store *s, const struct state_change *change, struct err *e)
{
    __attribute__((cleanup(commit_clear))) struct commit c = {.old = content_view(&s->now)};
    struct scan_result next;
    if (s->fenced.kind != ERR_NONE) {
        *e = s->fenced;
        return -1;
    }
    if (view_after(s, change, &c.now, e) < 0)
        return -1;
    state_compare(&c.old, &c.now, &c.edit);
    if (c.edit.n_changed == 0 && !s->unsettled)
        return 0;
    if (reserve(s, &c, e) < 0 || store_look_for_other_owner(s, e) < 0)
        return -1;
    if (write_commit(s, &c, &next, e) < 0) {
        s->unsettled = true;
        return -1;
    }
    s->at = next;
    s->may_append = true;
    s->unsettled = false;
    s->log_tried = false;
    s->n_tried = 0;
    for (size_t i = 0; i < N_BLOBS; i++)
        if (c.edit.blob[i].changed)
            adopt_blob(&s->now, &c, i);
    return 0;
}
