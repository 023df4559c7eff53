#include "backend/store_recover.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "backend/store_state.h"

struct recovery {
    struct qcow_disk_rw *disk;
    struct salvage found;
    struct recovery_facts facts;
};

static const struct store_layout *layout_of(const struct recovery *r)
{
    return &qcow_disk_facts(qcow_disk_of(r->disk))->layout;
}

static int fill_facts(struct recovery *r, struct err *e)
{
    const struct salvage *s = &r->found;
    struct recovery_facts *f = &r->facts;
    const struct state_view v = content_view(&s->content);
    *f = (struct recovery_facts){
        .damage = s->damage,
        .generation = s->at.generation,
        .epoch = s->at.epoch,
        .n_records = s->at.n_records,
        .newest = s->claims.newest_after_this,
        .next_generation = s->next_generation,
        .next_epoch = s->next_epoch,
        .n_unreadable = s->n_unreadable,
    };
    for (size_t i = 0; i < N_BLOBS; i++) {
        f->present[i] = v.blob[i].present;
        f->n_bytes[i] = v.blob[i].n;
    }
    const struct blob_view *origin = &v.blob[BLOB_ORIGIN - 1];
    f->has_origin = origin->present;
    return origin->present ? origin_decode(origin->p, origin->n, &f->origin, e) : 0;
}

int recovery_new(struct qcow_disk_rw **d, struct recovery **ret, struct err *e)
{
    OWNED(recovery) r = calloc(1, sizeof(*r));
    if (!r)
        return err_nomem(e, "what can be recovered");
    if (store_salvage(qcow_disk_of(*d), &r->found, e) < 0)
        return e->kind == ERR_STATE_CORRUPT
                   ? err_prefix(e, "there is no state to go back to in this image")
                   : -1;
    if (fill_facts(r, e) < 0)
        return -1;
    r->disk = MOVE(*d);
    *ret = MOVE(r);
    return 0;
}

void recovery_free(struct recovery *r)
{
    if (!r)
        return;
    salvage_clear(&r->found);
    qcow_disk_rw_free(r->disk);
    free(r);
}

void recovery_facts(const struct recovery *r, struct recovery_facts *ret)
{
    *ret = r->facts;
}

const struct ref_facts *recovery_ref_facts(const struct recovery *r)
{
    return qcow_disk_facts(qcow_disk_of(r->disk));
}

int recovery_backup(const struct recovery *r, const char *path, struct err *e)
{
    const struct blk *b = qcow_image_blk(qcow_disk_image(qcow_disk_of(r->disk)));
    return blk_copy(b, path, e);
}

static bool is_unreadable(const struct recovery *r, struct sector s)
{
    for (size_t i = 0; i < r->found.n_unreadable; i++)
        if (r->found.unreadable[i].nr == s.nr)
            return true;
    return false;
}

/* Where locks do not keep every other writer out (W8): did the sector stay what it was, to which a
 * new owner would write first? */
static int look_for_other_owner(struct recovery *r, struct sector to, struct err *e)
{
    OWNED(secret) now = NULL;
    struct record_sector found;
    enum record_area area = area_beside(r->found.at.base);
    if (qcow_disk_claim_is_enough(r->disk))
        return 0;
    if (secret_new(SECTOR_BYTES, &now, e) < 0)
        return -1;
    if (qcow_disk_read_again(r->disk, to, secret_bytes(now), e) < 0)
        return is_unreadable(r, to) ? 0
                                    : err_prefix(e, "looking whether somebody else has taken over");
    if (!record_sector_verify(qcow_disk_record_key(qcow_disk_of(r->disk)), area, 0,
                              secret_peek(now), &found) ||
        memcmp(found.mac, r->found.at.beside, sizeof(found.mac)) == 0)
        return 0;
    return err_set(e, ERR_FENCED,
                   "somebody else writes to this image: generation %" PRIu64 " of owner epoch "
                   "%" PRIu64 " has just appeared; nothing was recovered",
                   found.head.generation, found.head.epoch);
}

static int write_zeroes(struct recovery *r, struct sector at, struct err *e)
{
    OWNED(secret) zeroes = NULL;
    if (secret_new(SECTOR_BYTES, &zeroes, e) < 0)
        return -1;
    return qcow_disk_write(r->disk, at, 1, secret_bytes(zeroes), e);
}

/* W9: they are noise yet, and stay so. */
static int clear_strays(struct recovery *r, struct err *e)
{
    for (size_t i = 0; i < r->found.n_strays; i++)
        if (write_zeroes(r, r->found.strays[i], e) < 0)
            return -1;
    return r->found.n_strays > 0 ? qcow_disk_flush(r->disk, e) : 0;
}

/* A disk gives a sector again that was written anew. Once the checkpoint is there, nobody misses
 * what they held; up to then they can be found to be unreadable once more. */
static int clear_unreadable(struct recovery *r, struct err *e)
{
    const struct state_view state = content_view(&r->found.content);
    struct sector written = area_first(layout_of(r), area_beside(r->found.at.base));
    size_t n = record_sectors(state_encoded_bytes(&state));
    for (size_t i = 0; i < r->found.n_unreadable; i++) {
        struct sector at = r->found.unreadable[i];
        if (at.nr - written.nr < n)
            continue; /* part of the checkpoint now */
        if (write_zeroes(r, at, e) < 0)
            return -1;
    }
    return r->found.n_unreadable > 0 ? qcow_disk_flush(r->disk, e) : 0;
}

/* The state as one checkpoint, in the buffer that was read along with it. */
static size_t seal(struct recovery *r, enum record_area area)
{
    static const uint8_t none[RECORD_MAC_BYTES];
    uint8_t mac[RECORD_MAC_BYTES];
    struct salvage *s = &r->found;
    const struct state_view state = content_view(&s->content);
    struct bytes_out out = bytes_out(secret_bytes(s->record), secret_size(s->record));
    state_encode(&state, &out);
    const struct record_head head = {s->next_generation, s->next_epoch, RECORD_FULL,
                                     (uint32_t)out.n};
    record_seal(qcow_disk_record_key(qcow_disk_of(r->disk)), area, 0, &head, none,
                secret_bytes(s->record), mac);
    return record_sectors(out.n);
}

/* As after a failed commit (W7): what the page cache shows may not be on the disk. */
static void retract(struct recovery *r, struct sector first)
{
    struct err ignored;
    memset(secret_bytes(r->found.record), 0, SECTOR_BYTES);
    if (qcow_disk_write(r->disk, first, 1, secret_bytes(r->found.record), &ignored) < 0)
        return;
}

static int write_checkpoint(struct recovery *r, struct err *e)
{
    enum record_area area = area_beside(r->found.at.base);
    struct sector to = area_first(layout_of(r), area);
    size_t n = seal(r, area);
    if (look_for_other_owner(r, to, e) < 0)
        return -1;
    if (qcow_disk_write(r->disk, to, n, secret_bytes(r->found.record), e) == 0 &&
        qcow_disk_flush(r->disk, e) == 0)
        return 0;
    retract(r, to);
    return -1;
}

/* Does it open now, with this very state? */
static int read_back(const struct recovery *r, struct err *e)
{
    __attribute__((cleanup(content_clear))) struct store_content c = {0};
    OWNED(secret) record = NULL;
    struct scan_result at;
    struct state_edit edit;
    if (store_load(qcow_disk_of(r->disk), &at, &c, &record, e) < 0)
        return err_prefix(e, "reading back what was recovered");
    const struct state_view want = content_view(&r->found.content), got = content_view(&c);
    state_compare(&want, &got, &edit);
    if (at.generation == r->found.next_generation && edit.n_changed == 0)
        return 0;
    return err_set(e, ERR_STORAGE,
                   "what was written as generation %" PRIu64
                   " is not what is read now (generation %" PRIu64 "): the storage is not reliable",
                   r->found.next_generation, at.generation);
}

int recovery_write(struct recovery *r, struct err *e)
{
    assert(r->facts.damage.kind != ERR_NONE);
    uint64_t room = layout_of(r)->checkpoint_sectors * RECORD_PART_BYTES;
    const struct state_view state = content_view(&r->found.content);
    if (state_encoded_bytes(&state) > room)
        return err_set(e, ERR_UNSUPPORTED,
                       "the state that verifies has %zu bytes and a checkpoint has room for "
                       "%" PRIu64,
                       state_encoded_bytes(&state), room);
    /* What is recovered may have been seen in the page cache alone. */
    if (qcow_disk_flush(r->disk, e) < 0 || clear_strays(r, e) < 0 || write_checkpoint(r, e) < 0)
        return err_prefix(e,
                          "the state could not be recovered; generation %" PRIu64 " is still there",
                          r->found.at.generation);
    if (clear_unreadable(r, e) < 0)
        return err_prefix(e,
                          "generation %" PRIu64 " was written, but what could not be read before "
                          "cannot be written either; copy the image to other storage",
                          r->found.next_generation);
    return read_back(r, e);
}
