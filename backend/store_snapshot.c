#include "backend/store_snapshot.h"

#include <inttypes.h>

#include "backend/store_priv.h"

/* One full record in clear, ready for position 0 of the first checkpoint area. */
static int make_record(const struct qcow_disk *d, const struct state_view *state,
                       uint64_t generation, uint64_t epoch, struct secret **ret,
                       struct qcow_piece *ret_piece, struct err *e)
{
    static const uint8_t none[RECORD_MAC_BYTES];
    const struct store_layout *l = &qcow_disk_facts(d)->layout;
    uint8_t mac[RECORD_MAC_BYTES];
    size_t bytes = state_encoded_bytes(state), n = record_sectors(bytes);
    OWNED(secret) record = NULL;
    if (n > l->checkpoint_sectors)
        return err_set(e, ERR_UNSUPPORTED,
                       "the state has %zu bytes and a checkpoint has room for %" PRIu64, bytes,
                       l->checkpoint_sectors * RECORD_PART_BYTES);
    if (secret_new(n * SECTOR_BYTES, &record, e) < 0)
        return -1;
    struct bytes_out out = bytes_out(secret_bytes(record), secret_size(record));
    state_encode(state, &out);
    const struct record_head head = {generation, epoch, RECORD_FULL, (uint32_t)out.n};
    record_seal(qcow_disk_record_key(d), AREA_CHECKPOINT_A, 0, &head, none, secret_bytes(record),
                mac);
    *ret_piece = (struct qcow_piece){
        .first = area_first(l, AREA_CHECKPOINT_A), .n_sectors = n, .plain = secret_peek(record)};
    *ret = MOVE(record);
    return 0;
}

/* Nothing is written by one who has lost the image. */
static int may_change(struct store *s, struct err *e)
{
    if (s->fenced.kind == ERR_NONE)
        return store_look_for_other_owner(s, e);
    *e = s->fenced;
    return -1;
}

int store_snapshot_create(struct store *s, const char *name, struct err *e)
{
    const struct state_view now = content_view(&s->now);
    OWNED(secret) record = NULL;
    struct qcow_piece piece;
    if (may_change(s, e) < 0 || make_record(qcow_disk_of(s->disk), &now, s->at.generation,
                                            s->at.epoch, &record, &piece, e) < 0)
        return -1;
    return qcow_snapshot_create(s->disk, name, &piece, e);
}

int store_snapshot_delete(struct store *s, const char *id_or_name, struct err *e)
{
    return may_change(s, e) < 0 ? -1 : qcow_snapshot_delete(s->disk, id_or_name, e);
}

int store_snapshot_list(const struct store *s, struct snapshot_list *ret, struct err *e)
{
    return snapshot_list_read(qcow_disk_image(store_disk(s)), ret, e);
}

int store_replace(struct qcow_disk *d, struct blk_rw *w, const struct store_rebirth *b,
                  struct err *e)
{
    struct state_view state = store_look_view(b->from);
    OWNED(secret) record = NULL;
    struct qcow_life life = {.generation = b->generation, .epoch = b->epoch};
    if (b->origin)
        state.blob[BLOB_ORIGIN - 1] = (struct blob_view){true, b->origin, ORIGIN_BYTES};
    if (make_record(d, &state, b->generation, b->epoch, &record, &life.record, e) < 0)
        return -1;
    return qcow_replace_living(d, w, &life, e);
}
