#include "tests/support/image_fields.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/bytes.h"

#define OFFSET UINT64_C(0x00fffffffffffe00)

enum { MOST_ENTRIES = 1 << 14, MOST_TABLES = 64 };

struct row {
    const char *name;
    uint16_t at;
    uint8_t bytes;
};

/* [QCOW2 header] */
static const struct row header_rows[] = {
    {"magic", 0, 4},
    {"version", 4, 4},
    {"backing_file_offset", 8, 8},
    {"backing_file_size", 16, 4},
    {"cluster_bits", 20, 4},
    {"size", 24, 8},
    {"crypt_method", 32, 4},
    {"l1_size", 36, 4},
    {"l1_table_offset", 40, 8},
    {"refcount_table_offset", 48, 8},
    {"refcount_table_clusters", 56, 4},
    {"nb_snapshots", 60, 4},
    {"snapshots_offset", 64, 8},
};
static const struct row header_v3_rows[] = {
    {"incompatible_features", 72, 8}, {"compatible_features", 80, 8}, {"autoclear_features", 88, 8},
    {"refcount_order", 96, 4},        {"header_length", 100, 4},      {"compression_type", 104, 1},
};
/* [QCOW2 header extensions] */
static const struct row extension_rows[] = {{"type", 0, 4}, {"length", 4, 4}};
static const struct row crypto_rows[] = {{"offset", 8, 8}, {"length", 16, 8}};
static const struct row bitmaps_rows[] = {{"nb_bitmaps", 8, 4},
                                          {"reserved", 12, 4},
                                          {"directory_size", 16, 8},
                                          {"directory_offset", 24, 8}};
static const struct row nvkeep_rows[] = {{"version", 8, 4}, {"flags", 12, 4}, {"instance", 16, 8}};
/* [QCOW2 snapshots] */
static const struct row snapshot_rows[] = {
    {"l1_table_offset", 0, 8},
    {"l1_size", 8, 4},
    {"id_size", 12, 2},
    {"name_size", 14, 2},
    {"date", 16, 4},
    {"nanoseconds", 20, 4},
    {"clock", 24, 8},
    {"vm_state_size", 32, 4},
    {"extra_data_size", 36, 4},
    {"vm_state_size_large", 40, 8},
    {"disk_size", 48, 8},
};
/* [QCOW2 bitmaps] */
static const struct row bitmap_rows[] = {
    {"table_offset", 0, 8}, {"table_size", 8, 4}, {"flags", 12, 4},           {"type", 16, 1},
    {"granularity", 17, 1}, {"name_size", 18, 2}, {"extra_data_size", 20, 4},
};
/* [LUKS1 2.1, 2.2] */
static const struct row luks_rows[] = {
    {"magic", 0, 4},           {"magic_end", 4, 2},        {"version", 6, 2},
    {"cipher_name", 8, 4},     {"cipher_name_end", 39, 1}, {"cipher_mode", 40, 4},
    {"cipher_mode_iv", 44, 8}, {"cipher_mode_end", 71, 1}, {"hash_spec", 72, 4},
    {"hash_spec_end", 103, 1}, {"payload_offset", 104, 4}, {"key_bytes", 108, 4},
    {"mk_digest", 112, 8},     {"mk_digest_salt", 132, 8}, {"mk_digest_iter", 164, 4},
    {"uuid", 168, 8},          {"uuid_end", 207, 1},
};
static const struct row slot_rows[] = {
    {"active", 0, 4},   {"iterations", 4, 4}, {"salt", 8, 8}, {"key_material_offset", 40, 4},
    {"stripes", 44, 4},
};
/* src/doc/format.md, 2 and 3 */
static const struct row reference_rows[] = {
    {"magic", 0, 8},       {"version", 8, 2}, {"body_bytes", 10, 2}, {"zero", 12, 4},
    {"salt", 16, 8},       {"key_id", 48, 8}, {"padding", 440, 8},   {"checksum", 448, 8},
    {"end_magic", 464, 8}, {"mac", 480, 8},
};
static const struct row record_rows[] = {
    {"head_magic", 0, 4},
    {"generation", 4, 8},
    {"index", 12, 2},
    {"count", 14, 2},
    {"epoch", 16, 8},
    {"payload_bytes", 24, 4},
    {"kind", 28, 1},
    {"zero", 29, 1},
    {"record_mac", 32, 8},
    {"tail_magic", 464, 4},
    {"tail_generation", 468, 8},
    {"tail_index", 476, 2},
    {"tail_count", 478, 2},
    {"sector_mac", 480, 8},
};

/* ---- collecting ---- */

struct walk {
    struct image_fields *to;
    const uint8_t *bytes; /* of the file, or of the disk */
    uint64_t n;
    bool all, in_disk;
};

static void add(struct walk *w, const char *table, uint32_t row, const char *name, uint64_t at,
                uint8_t bytes)
{
    struct image_fields *to = w->to;
    if (!range_within(at, bytes, w->n) || to->n == IMAGE_FIELDS_MAX)
        return;
    to->field[to->n++] = (struct image_field){table, name, row, at, bytes, w->in_disk};
}

static void add_rows(struct walk *w, const char *table, uint32_t row, uint64_t base,
                     const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add(w, table, row, rows[i].name, base + rows[i].at, rows[i].bytes);
}
#define ADD_ROWS(w, table, row, base, rows) add_rows(w, table, row, base, rows, ARRAY_LEN(rows))

static void add_place(struct walk *w, uint64_t at)
{
    struct image_fields *to = w->to;
    for (size_t i = 0; i < to->n_places; i++)
        if (to->place[i] == at)
            return;
    if (to->n_places < IMAGE_PLACES_MAX)
        to->place[to->n_places++] = at;
}

static uint64_t number(const struct walk *w, uint64_t at, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | (range_within(at + i, 1, w->n) ? w->bytes[at + i] : 0);
    return v;
}

/* The image may have been tampered with already. */
static uint64_t at_most(uint64_t n, uint64_t most)
{
    return n < most ? n : most;
}

/* Entries of a table: all of them, or those that differ from their neighbours in more than by one
 * step, and the ends. */
static void add_entries(struct walk *w, const char *table, uint64_t at, uint64_t n, uint8_t bytes)
{
    uint64_t steps[2] = {0, 0};
    n = at_most(n, MOST_ENTRIES);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = number(w, at + i * bytes, bytes);
        uint64_t step = i > 0 ? v - number(w, at + (i - 1) * bytes, bytes) : 0;
        bool tells = i < 2 || i == n - 1 || (step != steps[0] && step != steps[1]);
        steps[1] = steps[0];
        steps[0] = step;
        if (w->all || tells)
            add(w, table, (uint32_t)i, "entry", at + i * bytes, bytes);
    }
}

/* ---- the file ---- */

static void walk_l1(struct walk *w, const char *l1_name, const char *l2_name, uint64_t at,
                    uint64_t n)
{
    uint64_t last_data = 0;
    add_place(w, at);
    add_entries(w, l1_name, at, n, 8);
    for (uint64_t i = 0; i < at_most(n, MOST_TABLES); i++) {
        uint64_t l2 = number(w, at + i * 8, 8) & OFFSET;
        if (l2 == 0)
            continue;
        add_place(w, l2);
        add_place(w, number(w, l2, 8) & OFFSET);
        for (uint64_t k = 0; k < at_most(w->to->cluster / 8, MOST_ENTRIES); k++)
            if (number(w, l2 + k * 8, 8) & OFFSET)
                last_data = k;
        /* One unused entry is as good as the other. */
        add_entries(w, l2_name, l2, last_data + 2, 8);
        add(w, l2_name, (uint32_t)(w->to->cluster / 8 - 1), "entry", l2 + w->to->cluster - 8, 8);
    }
}

static void walk_refcounts(struct walk *w)
{
    uint64_t table = number(w, 48, 8), cluster = w->to->cluster;
    uint64_t order = number(w, 4, 4) == 3 ? at_most(number(w, 96, 4), 6) : 4;
    uint64_t n_host = (w->n + cluster - 1) / cluster, per_block = cluster * 8 >> order;
    uint8_t width = order > 3 ? (uint8_t)(1 << (order - 3)) : 1;
    add_place(w, table);
    add_entries(w, "refcount table", table, n_host / per_block + 2, 8);
    for (uint64_t i = 0; i * per_block < n_host && i < MOST_TABLES; i++) {
        uint64_t block = number(w, table + i * 8, 8);
        uint64_t n = n_host - i * per_block < per_block ? n_host - i * per_block : per_block;
        if (block == 0)
            continue;
        add_place(w, block);
        add_entries(w, "refcount block", block, n * ((uint64_t)1 << order) / 8 / width, width);
    }
}

static void walk_snapshots(struct walk *w)
{
    uint64_t at = number(w, 64, 8), n = number(w, 60, 4);
    for (uint32_t i = 0; i < n && i < 8; i++) {
        at = (at + 7) & ~UINT64_C(7);
        add_place(w, at);
        ADD_ROWS(w, "snapshot", i, at, snapshot_rows);
        walk_l1(w, "snapshot L1", "snapshot L2", number(w, at, 8), number(w, at + 8, 4));
        at += 40 + number(w, at + 12, 2) + number(w, at + 14, 2) + number(w, at + 36, 4);
    }
}

static void walk_bitmaps(struct walk *w, uint64_t ext)
{
    uint64_t dir = number(w, ext + 24, 8), table = number(w, dir, 8);
    add_place(w, dir);
    add_place(w, table);
    ADD_ROWS(w, "bitmap", 0, dir, bitmap_rows);
    add_entries(w, "bitmap table", table, number(w, dir + 8, 4), 8);
    add_place(w, number(w, table, 8) & OFFSET);
}

static void walk_luks(struct walk *w, uint64_t at)
{
    add_place(w, at);
    ADD_ROWS(w, "LUKS header", 0, at, luks_rows);
    for (uint32_t i = 0; i < 8; i++)
        if (w->all || i < 2 || i == 7)
            ADD_ROWS(w, "key slot", i, at + 208 + i * 48, slot_rows);
}

static void walk_extensions(struct walk *w, uint64_t at)
{
    for (uint32_t i = 0; i < 16; i++) {
        uint64_t type = number(w, at, 4), length = number(w, at + 4, 4);
        ADD_ROWS(w, "extension", i, at, extension_rows);
        if (type == 0 || length > w->to->cluster)
            return;
        if (type == 0x0537be77) {
            ADD_ROWS(w, "crypto header", i, at, crypto_rows);
            walk_luks(w, number(w, at + 8, 8));
        }
        if (type == 0x23852875) {
            ADD_ROWS(w, "bitmaps", i, at, bitmaps_rows);
            walk_bitmaps(w, at);
        }
        if (type == 0x6e766b70)
            ADD_ROWS(w, "nvkeep", i, at, nvkeep_rows);
        at += 8 + ((length + 7) & ~UINT64_C(7));
    }
}

static void walk_file(struct walk *w)
{
    bool v3 = number(w, 4, 4) == 3;
    add_place(w, 0);
    ADD_ROWS(w, "header", 0, 0, header_rows);
    if (v3)
        ADD_ROWS(w, "header", 0, 0, header_v3_rows);
    walk_extensions(w, v3 ? number(w, 100, 4) : 72);
    walk_l1(w, "L1", "L2", number(w, 40, 8), number(w, 36, 4));
    walk_refcounts(w);
    walk_snapshots(w);
}

/* ---- the decrypted disk ---- */

/* Tags and lengths, and of each value the first bytes and the last. */
static void walk_der(struct walk *w, uint64_t at, uint64_t end)
{
    for (uint32_t i = 0; at + 2 <= end; i++) {
        uint64_t tag = number(w, at, 1), length = number(w, at + 1, 1);
        uint8_t head = length < 8 ? (uint8_t)length : 8;
        add(w, "DER", i, "tag", at, 1);
        add(w, "DER", i, "length", at + 1, 1);
        at += 2;
        if (tag == 0x30) { /* goes on inside */
            at += length > 0x80 ? length - 0x80 : 0;
            continue;
        }
        if (head > 0)
            add(w, "DER", i, "value", at, head);
        if (length > 8)
            add(w, "DER", i, "value_end", at + length - 1, 1);
        at += length;
    }
}

static void walk_state(struct walk *w, uint64_t at)
{
    add(w, "state", 0, "blobs", at, 1);
    add(w, "state", 0, "kind", at + 1, 1);
    add(w, "state", 0, "length", at + 2, 4);
}

static void walk_delta(struct walk *w, uint64_t at)
{
    static const struct row rows[] = {
        {"blobs", 0, 1}, {"kind", 1, 1},         {"present", 2, 1},    {"new_length", 3, 4},
        {"n_ops", 7, 2}, {"op", 9, 1},           {"op_offset", 10, 4}, {"op_length", 14, 4},
        {"op_2", 18, 1}, {"op_2_length", 19, 4},
    };
    ADD_ROWS(w, "delta", (uint32_t)(at / 512), at, rows);
}

/* Whatever looks like a sector of a record. */
static void walk_records(struct walk *w)
{
    uint64_t generation = 0;
    for (uint64_t at = 512; at < w->n; at += 512) {
        uint32_t sector = (uint32_t)(at / 512);
        if (number(w, at, 4) != 0x6e766b48)
            continue;
        bool first = number(w, at + 12, 2) == 0;
        if (w->all || first || number(w, at + 4, 8) != generation)
            ADD_ROWS(w, "record", sector, at, record_rows);
        generation = number(w, at + 4, 8);
        if (first && number(w, at + 28, 1) == 1)
            walk_state(w, at + 64);
        if (first && number(w, at + 28, 1) == 2)
            walk_delta(w, at + 64);
    }
}

static void walk_disk(struct walk *w)
{
    ADD_ROWS(w, "reference sector", 0, 0, reference_rows);
    walk_der(w, 64, 64 + number(w, 10, 2));
    walk_records(w);
}

void image_fields_of(const uint8_t *bytes, uint64_t n, const uint8_t *plain, size_t plain_bytes,
                     bool all, struct image_fields *ret)
{
    struct walk file = {ret, bytes, n, all, false}, disk = {ret, plain, plain_bytes, all, true};
    *ret = (struct image_fields){.file_bytes = n};
    ret->field = calloc(IMAGE_FIELDS_MAX, sizeof(*ret->field));
    if (!ret->field)
        abort();
    uint64_t bits = number(&file, 20, 4);
    ret->cluster = UINT64_C(1) << (bits < 9 || bits > 21 ? 16 : bits);
    walk_file(&file);
    if (plain)
        walk_disk(&disk);
}

void image_fields_clear(struct image_fields *f)
{
    free(f->field);
    *f = (struct image_fields){0};
}

/* ---- values ---- */

uint64_t field_get(const struct image_field *f, const uint8_t *bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < f->bytes; i++)
        v = v << 8 | bytes[i];
    return v;
}

void field_put(const struct image_field *f, uint64_t value, uint8_t *ret)
{
    for (unsigned i = 0; i < f->bytes; i++)
        ret[i] = (uint8_t)(value >> 8 * (f->bytes - 1 - i));
}

struct values {
    uint64_t now, mask, *ret;
    size_t n;
};

static void offer(struct values *v, uint64_t value)
{
    value &= v->mask;
    for (size_t i = 0; i < v->n; i++)
        if (v->ret[i] == value)
            return;
    if (value != v->now && v->n < FIELD_VALUES_MAX)
        v->ret[v->n++] = value;
}

size_t field_values(const struct image_fields *all, const struct image_field *f, uint64_t now,
                    uint64_t ret[FIELD_VALUES_MAX])
{
    uint64_t top = UINT64_C(1) << (8 * f->bytes - 1), mask = top | (top - 1);
    struct values v = {now & mask, mask, ret, 0};
    const uint64_t alone[] = {0, 1, 2, mask, mask - 1, top, top - 1, top + 1, top | now};
    const uint64_t steps[] = {1, 8, 512, all->cluster, all->cluster / 8};
    for (size_t i = 0; i < ARRAY_LEN(alone); i++)
        offer(&v, alone[i]);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        offer(&v, now + steps[i]);
        offer(&v, now - steps[i]);
        offer(&v, steps[i]);
    }
    for (unsigned i = 0; i < 8; i++) { /* flags and reserved bits */
        offer(&v, now ^ (top >> i));
        offer(&v, now ^ UINT64_C(1) << i);
    }
    if (f->in_disk || f->bytes < 4)
        return v.n;
    offer(&v, all->file_bytes);
    offer(&v, all->file_bytes - 1);
    offer(&v, all->file_bytes + 1);
    offer(&v, all->file_bytes - all->cluster);
    offer(&v, (all->file_bytes + all->cluster) & ~(all->cluster - 1));
    for (size_t i = 0; i < all->n_places; i++) {
        offer(&v, all->place[i]);
        if (f->bytes == 8) /* as an entry of a table, with its flag */
            offer(&v, all->place[i] | top);
    }
    return v.n;
}
