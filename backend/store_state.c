#include "backend/store_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    PAGE_BYTES = 4096,
    MAX_STORE_SECTORS = (32 << 20) / SECTOR_BYTES, /* what opening is willing to hold, in all */
};

void content_clear(struct store_content *c)
{
    for (size_t i = 0; i < N_BLOBS; i++)
        secret_free(c->blob[i]);
    *c = (struct store_content){0};
}

struct state_view content_view(const struct store_content *c)
{
    struct state_view v = {0};
    for (size_t i = 0; i < N_BLOBS; i++)
        if (c->present[i])
            v.blob[i] =
                (struct blob_view){true, c->blob[i] ? secret_peek(c->blob[i]) : NULL, c->n[i]};
    return v;
}

int content_reserve(const struct secret *have, size_t n, struct secret **ret, struct err *e)
{
    *ret = NULL;
    if (n == 0 || (have && secret_size(have) >= n))
        return 0;
    size_t room = (n + n / 8 + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    return secret_new(room, ret, e);
}

struct sector area_first(const struct store_layout *l, enum record_area area)
{
    return (struct sector){area == AREA_LOG ? l->log : l->checkpoint[area]};
}

uint64_t area_sectors(const struct store_layout *l, enum record_area area)
{
    return area == AREA_LOG ? l->log_sectors : l->checkpoint_sectors;
}

/* The layout was authenticated and has no overlaps; that it lies on this disk and that we can hold
 * it is checked here. */
static int check_layout(const struct qcow_disk *d, struct err *e)
{
    const struct store_layout *l = &qcow_disk_facts(d)->layout;
    uint64_t disk = qcow_image_header(qcow_disk_image(d))->size / SECTOR_BYTES;
    uint64_t total = 0;
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++) {
        uint64_t first = area_first(l, a).nr, n = area_sectors(l, a);
        if (n == 0 || !range_within(first, n, disk))
            return err_set(e, ERR_STATE_CORRUPT,
                           "the reference sector places part of the record store at sectors "
                           "%" PRIu64 " to %" PRIu64 ", but the disk has %" PRIu64
                           ": the image was shrunk or cut off",
                           first, first + n, disk);
        total += n; /* no overflow: each lies on the disk */
    }
    if (total > MAX_STORE_SECTORS)
        return err_set(e, ERR_UNSUPPORTED,
                       "the record store is %" PRIu64 " sectors long; this version handles %d",
                       total, MAX_STORE_SECTORS);
    return 0;
}

/* What was read, and the search's scratch. */
struct reading {
    struct scan scan;
    struct secret *bytes;
    struct salvage *around; /* lists what cannot be read, which counts as zeroes; NULL: fails */
};

static void reading_clear(struct reading *r)
{
    secret_free(r->bytes);
    free(r->scan.spans);
}

/* One sector after the other, and the storage's refusal is no reason to stop. */
static void read_around(const struct qcow_disk *d, struct sector first, size_t n, uint8_t *to,
                        struct salvage *s)
{
    struct err ignored;
    for (size_t i = 0; i < n; i++) {
        struct sector at = {first.nr + i};
        if (qcow_disk_read(d, at, 1, to + i * SECTOR_BYTES, &ignored) < 0) {
            memset(to + i * SECTOR_BYTES, 0, SECTOR_BYTES);
            s->unreadable[s->n_unreadable++] = at;
        }
    }
}

static int read_area(const struct qcow_disk *d, const struct reading *r, struct sector first,
                     size_t n, uint8_t *to, struct err *e)
{
    if (qcow_disk_read(d, first, n, to, e) == 0)
        return 0;
    if (r->around && e->kind == ERR_STORAGE) {
        read_around(d, first, n, to, r->around);
        return 0;
    }
    return err_prefix(e, "reading the record store%s",
                      e->os == EIO ? " (nvkeep recover reads around what the storage does not give)"
                                   : "");
}

/* The log before the checkpoints: whoever reads while a writer is at work then finds checkpoints at
 * least as new as the log, which is sound. */
static int read_areas(const struct qcow_disk *d, struct reading *r, struct err *e)
{
    static const enum record_area order[] = {AREA_LOG, AREA_CHECKPOINT_A, AREA_CHECKPOINT_B};
    const struct store_layout *l = &qcow_disk_facts(d)->layout;
    size_t total = 0, longest = 0, at = 0;
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        size_t n = (size_t)area_sectors(l, order[i]);
        total += n;
        longest = n > longest ? n : longest;
    }
    if (secret_new(total * SECTOR_BYTES, &r->bytes, e) < 0)
        return err_prefix(e, "reading the record store");
    r->scan.key = qcow_disk_record_key(d);
    r->scan.spans = calloc(longest + 1, sizeof(*r->scan.spans));
    if (r->around)
        r->around->unreadable = calloc(total + 1, sizeof(*r->around->unreadable));
    if (!r->scan.spans || (r->around && !r->around->unreadable))
        return err_nomem(e, "the search through the record store");

    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        enum record_area a = order[i];
        uint8_t *to = secret_bytes(r->bytes) + at * SECTOR_BYTES;
        r->scan.area[a] = to;
        r->scan.n_sectors[a] = (size_t)area_sectors(l, a);
        if (read_area(d, r, area_first(l, a), r->scan.n_sectors[a], to, e) < 0)
            return -1;
        at += r->scan.n_sectors[a];
    }
    return 0;
}

/* Memory with room for n bytes in place of *s, keeping the first `keep` bytes of it. */
static int grow(struct secret **s, size_t n, size_t keep, struct err *e)
{
    struct secret *bigger;
    if (content_reserve(*s, n, &bigger, e) < 0)
        return -1;
    if (!bigger)
        return 0;
    if (keep > 0)
        memcpy(secret_bytes(bigger), secret_peek(*s), keep);
    secret_free(*s);
    *s = bigger;
    return 0;
}

static int not_readable(uint64_t generation, struct err *e)
{
    return err_set(e, ERR_STATE_CORRUPT,
                   "the record of generation %" PRIu64
                   " verifies but does not make sense: it was not written by this program",
                   generation);
}

static int load_base(const struct reading *r, const struct scan_result *found,
                     struct store_content *c, struct secret **record, struct err *e)
{
    size_t bytes = found->base_head.bytes;
    struct state_view state;
    if (grow(record, bytes, 0, e) < 0)
        return -1;
    record_payload(r->scan.area[found->base], bytes, secret_bytes(*record));
    if (!state_decode(bytes_in(secret_peek(*record), bytes), &state))
        return not_readable(found->base_head.generation, e);
    for (size_t i = 0; i < N_BLOBS; i++) {
        if (!state.blob[i].present)
            continue;
        if (grow(&c->blob[i], state.blob[i].n, 0, e) < 0)
            return -1;
        if (state.blob[i].n > 0)
            memcpy(secret_bytes(c->blob[i]), state.blob[i].p, state.blob[i].n);
        c->n[i] = state.blob[i].n;
        c->present[i] = true;
    }
    return 0;
}

static int apply(const struct delta *delta, struct store_content *c, struct secret **scratch,
                 struct err *e)
{
    for (size_t i = 0; i < N_BLOBS; i++) {
        const struct delta_blob *b = &delta->blob[i];
        if (!b->changed)
            continue;
        if (grow(&c->blob[i], b->n_new, c->n[i], e) < 0 ||
            grow(scratch, delta_scratch_bytes(b), 0, e) < 0)
            return -1;
        if (b->n_new > 0)
            delta_apply(b, secret_bytes(c->blob[i]), *scratch ? secret_bytes(*scratch) : NULL);
        c->n[i] = b->n_new;
        c->present[i] = b->present;
    }
    return 0;
}

static int load_log(const struct reading *r, const struct scan_result *found,
                    struct store_content *c, struct secret **record, struct err *e)
{
    OWNED(secret) scratch = NULL;
    uint32_t at = 0;
    for (uint32_t i = 0; i < found->n_records; i++) {
        const uint8_t *sectors = r->scan.area[AREA_LOG] + (size_t)at * SECTOR_BYTES;
        struct record_sector first;
        struct delta delta;
        struct state_view now = content_view(c);
        uint64_t generation = found->base_head.generation + i + 1;
        if (!record_sector_decode(sectors, &first)) /* verified by the search */
            return not_readable(generation, e);
        if (grow(record, first.head.bytes, 0, e) < 0)
            return -1;
        record_payload(sectors, first.head.bytes, secret_bytes(*record));
        if (!delta_decode(bytes_in(secret_peek(*record), first.head.bytes), &now, &delta))
            return not_readable(generation, e);
        if (apply(&delta, c, &scratch, e) < 0)
            return -1;
        at += first.mark.count;
    }
    return 0;
}

/* The state that was found, put together; and room for its full record. */
static int load_found(const struct reading *r, const struct scan_result *found,
                      struct store_content *ret_content, struct secret **ret_record, struct err *e)
{
    __attribute__((cleanup(content_clear))) struct store_content c = {0};
    OWNED(secret) record = NULL;
    if (load_base(r, found, &c, &record, e) < 0 || load_log(r, found, &c, &record, e) < 0)
        return -1;
    const struct state_view now = content_view(&c);
    size_t full = record_sectors(state_encoded_bytes(&now)) * SECTOR_BYTES;
    if (grow(&record, full, 0, e) < 0)
        return -1;
    *ret_content = c;
    *ret_record = MOVE(record);
    c = (struct store_content){0};
    return 0;
}

int store_load(const struct qcow_disk *d, struct scan_result *ret_found,
               struct store_content *ret_content, struct secret **ret_record, struct err *e)
{
    __attribute__((cleanup(reading_clear))) struct reading r = {0};
    struct scan_result found;
    if (check_layout(d, e) < 0 || read_areas(d, &r, e) < 0 || store_scan(&r.scan, &found, e) < 0 ||
        load_found(&r, &found, ret_content, ret_record, e) < 0)
        return -1;
    *ret_found = found;
    return 0;
}

void salvage_clear(struct salvage *s)
{
    content_clear(&s->content);
    secret_free(s->record);
    free(s->strays);
    free(s->unreadable);
    *s = (struct salvage){0};
}

/* W9 */
static int choose_next(struct salvage *s, struct err *e)
{
    uint64_t reached = s->at.generation, beyond = s->claims.newest + 1;
    if (s->claims.newest > UINT64_MAX / 2 || s->claims.epoch > UINT64_MAX / 4)
        return err_set(e, ERR_UNSUPPORTED,
                       "the record store speaks of generation %" PRIu64 ", epoch %" PRIu64
                       ": there is hardly a higher number to go on with",
                       s->claims.newest, s->claims.epoch);
    s->next_generation = beyond - reached < 3 ? reached + 3 : beyond;
    s->next_epoch = s->claims.epoch + (s->next_generation - reached);
    return 0;
}

static int list_strays(const struct reading *r, const struct store_layout *l, struct salvage *s,
                       struct err *e)
{
    size_t total = 0;
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++)
        total += r->scan.n_sectors[a];
    s->strays = calloc(total, sizeof(*s->strays));
    if (!s->strays)
        return err_nomem(e, "the search through the record store");
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++)
        for (size_t i = 0; i < r->scan.n_sectors[a]; i++)
            if (store_scan_is_stray(&r->scan, a, i, s->next_generation))
                s->strays[s->n_strays++] = (struct sector){area_first(l, a).nr + i};
    return 0;
}

/* Where nothing else is wrong, this is. */
static void note_unreadable(struct salvage *s)
{
    if (s->n_unreadable > 0 && s->damage.kind == ERR_NONE)
        (void)err_set(&s->damage, ERR_STORAGE,
                      "%zu sectors of the record store cannot be read, the first is sector %" PRIu64
                      " of the disk; the newest state that verifies without them is generation "
                      "%" PRIu64,
                      s->n_unreadable, s->unreadable[0].nr, s->at.generation);
}

int store_salvage(const struct qcow_disk *d, struct salvage *ret, struct err *e)
{
    __attribute__((cleanup(salvage_clear))) struct salvage s = {0};
    __attribute__((cleanup(reading_clear))) struct reading r = {.around = &s};
    if (check_layout(d, e) < 0 || read_areas(d, &r, e) < 0)
        return -1;
    if (store_scan_best(&r.scan, &s.at, &s.damage, e) < 0) {
        if (s.n_unreadable == 0)
            return -1;
        e->kind = ERR_STORAGE; /* the storage may give them another time */
        return err_prefix(e, "%zu sectors of the record store cannot be read, and without them",
                          s.n_unreadable);
    }
    if (load_found(&r, &s.at, &s.content, &s.record, e) < 0)
        return -1;
    note_unreadable(&s);
    store_scan_claims(&r.scan, &s.at, &s.claims);
    if (choose_next(&s, e) < 0 || list_strays(&r, &qcow_disk_facts(d)->layout, &s, e) < 0)
        return -1;
    *ret = s;
    s = (struct salvage){0};
    return 0;
}
