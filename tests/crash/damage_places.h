/* What every byte of an image is for, and what a flipped bit there may lead to. Said from the
 * format, not learned from what opening does.
 */
#ifndef NVKEEP_TESTS_DAMAGE_PLACES_H
#define NVKEEP_TESTS_DAMAGE_PLACES_H

#include "src/base/bytes.h"
#include "tests/crash/damage_image.h"

enum group {
    G_HEADER,
    G_EXTENSIONS,
    G_BEHIND_END,
    G_REFTABLE,
    G_REFBLOCKS,
    G_L1,
    G_L2,
    G_LUKS,
    G_LUKS_KEY,
    G_MATERIAL,
    G_OTHER_SLOTS,
    G_REFERENCE,
    G_LIVE,
    G_DEAD,
    G_NOTHING,
    N_GROUPS,
};
static const char *const group_name[N_GROUPS] = {
    [G_HEADER] = "qcow2 header",
    [G_EXTENSIONS] = "header extensions",
    [G_BEHIND_END] = "behind the extensions",
    [G_REFTABLE] = "refcount table",
    [G_REFBLOCKS] = "refcount blocks",
    [G_L1] = "L1 table",
    [G_L2] = "L2 tables",
    [G_LUKS] = "LUKS header",
    [G_LUKS_KEY] = "LUKS digest, key slot",
    [G_MATERIAL] = "key material in use",
    [G_OTHER_SLOTS] = "other key slots",
    [G_REFERENCE] = "reference sector",
    [G_LIVE] = "store: live records",
    [G_DEAD] = "store: older and empty",
    [G_NOTHING] = "rest",
};

#define MAY(kind) (1u << (kind))
enum {
    DAMAGE = MAY(ERR_STATE_CORRUPT),
    HEADER_DAMAGE = DAMAGE | MAY(ERR_UNSUPPORTED),
    /* LUKS1 has no checksum over what a key is made from: see the manual, KEYS. */
    KEY_DAMAGE = HEADER_DAMAGE | MAY(ERR_KEY_WRONG),
};

/* The bits of `bits` in each of n bytes. */
struct place {
    enum group group;
    uint64_t at, n;
    uint8_t bits;
    unsigned refusals; /* classes that are true of it */
    const char *why;   /* a flip there may be without effect, because; NULL: it must be refused */
};

enum { MAX_PLACES = 1 << 16 };
static struct place places[MAX_PLACES];
static size_t n_places;

static inline void add(enum group group, uint64_t at, uint64_t n, uint8_t bits, unsigned refusals,
                       const char *why)
{
    if (n_places == MAX_PLACES)
        die("places", &(struct err){.text = "too many"});
    if (n > 0)
        places[n_places++] = (struct place){group, at, n, bits, refusals, why};
}

static inline void add_all(enum group group, uint64_t at, uint64_t n, unsigned refusals,
                           const char *why)
{
    add(group, at, n, 0xff, refusals, why);
}

/* ---- in the clear [QCOW2 header] ---- */

static inline void add_header(const struct qcow_header *h)
{
    static const struct {
        uint64_t at, n;
        const char *why;
    } fields[] = {
        {0, 4, NULL}, /* magic */
        {4, 4, NULL}, /* version */
        {8, 8, NULL}, /* backing file */
        {16, 4, "length of a name that is not there"},
        {20, 4, NULL}, /* cluster_bits */
        {24, 8, "the disk is longer than the store, and nothing lies there"},
        {32, 4, NULL},                                            /* crypt_method */
        {36, 4, "entries for a longer disk, and they are empty"}, /* l1_size */
        {40, 8, NULL},                                            /* L1 table */
        {48, 8, NULL},                                            /* refcount table */
        {56, 4, NULL},                                            /* its clusters */
        {60, 4, NULL},                                            /* snapshots */
        {64, 8, "place of a table without entries"},
        {72, 8, NULL}, /* incompatible features */
        {80, 8, "compatible features, which a reader may ignore"},
        {88, 8, NULL},  /* autoclear features */
        {96, 4, NULL},  /* refcount_order */
        {100, 4, NULL}, /* header_length */
        {104, 1, NULL}, /* compression type */
        {105, 7, "padding"},
    };
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (fields[i].at < h->header_length)
            add_all(G_HEADER, fields[i].at, fields[i].n, HEADER_DAMAGE, fields[i].why);
}

static inline void add_extensions(const struct qcow_header *h)
{
    uint64_t at = h->header_length;
    add_all(G_EXTENSIONS, at, 24, HEADER_DAMAGE, NULL); /* LUKS: type, length, place, bytes */
    add_all(G_EXTENSIONS, at + 24, 4, HEADER_DAMAGE,
            "our mark becomes an extension nobody knows; it is for those without the key");
    add_all(G_EXTENSIONS, at + 28, 28, HEADER_DAMAGE, NULL);
    add_all(G_EXTENSIONS, at + 56, 4, HEADER_DAMAGE, "END becomes an empty extension, END follows");
    add_all(G_EXTENSIONS, at + 60, 4, HEADER_DAMAGE, "length of END");
    add_all(G_BEHIND_END, at + 64, (UINT64_C(1) << h->cluster_bits) - at - 64, HEADER_DAMAGE,
            "behind END");
}

/* ---- tables ---- */

static const char beyond_file[] = "says something of clusters that do not exist";

/* The cluster in which there is nothing but the reference sector, which is never written again; 0:
 * there is more in it. */
static inline uint32_t only_reference(const struct qcow_image *img)
{
    return img->cluster_bytes <= 8 * SECTOR_BYTES ? img->map[0] & MAP_HOST : 0;
}

static inline void add_refcounts(const struct qcow_image *img)
{
    uint64_t at = img->header.reftable.byte, cluster = img->cluster_bytes;
    uint64_t per_block = cluster / 2;
    add_all(G_REFTABLE, at, img->header.reftable_clusters * cluster, HEADER_DAMAGE, NULL);
    for (uint64_t first = 0; first < img->n_host; first += per_block, at += 8) {
        uint64_t block = get_be64(sound() + at);
        uint64_t n = img->n_host - first < per_block ? img->n_host - first : per_block;
        for (uint64_t i = 0; i < n; i++) {
            bool data = img->use[first + i] == USE_DATA && first + i != only_reference(img);
            add(G_REFBLOCKS, block + 2 * i, 2, 0xff, HEADER_DAMAGE,
                data ? NULL : "counted too often, what is never written anew stays where it is");
        }
        add_all(G_REFBLOCKS, block + 2 * n, cluster - 2 * n, 0, beyond_file);
    }
}

static inline void add_tables(const struct qcow_image *img)
{
    static const char copied[] = "matters where clusters are allocated, which nvkeep never does";
    uint64_t per_l2 = img->cluster_bytes / 8, guest = 0;
    for (uint32_t i = 0; i < img->header.l1_size; i++) {
        uint64_t entry = img->header.l1.byte + i * 8;
        add(G_L1, entry, 1, 0x80, HEADER_DAMAGE, copied);
        add(G_L1, entry, 1, 0x7f, HEADER_DAMAGE, NULL);
        add_all(G_L1, entry + 1, 7, HEADER_DAMAGE, NULL);
        uint64_t l2 = get_be64(sound() + entry) & QCOW_OFFSET;
        uint64_t n = img->n_guest - guest < per_l2 ? img->n_guest - guest : per_l2;
        bool reference = i == 0 && only_reference(img);
        add(G_L2, l2, 1, 0x80, HEADER_DAMAGE, reference ? copied : NULL);
        add(G_L2, l2, 1, 0x7f, HEADER_DAMAGE, NULL);
        add_all(G_L2, l2 + 1, n * 8 - 1, HEADER_DAMAGE, NULL);
        for (uint64_t k = n; k < per_l2; k++) {
            add(G_L2, l2 + k * 8, 1, 0x80, 0, "flag of a cluster beyond the disk");
            add(G_L2, l2 + k * 8, 1, 0x7f, HEADER_DAMAGE, NULL);
            add_all(G_L2, l2 + k * 8 + 1, 6, HEADER_DAMAGE, NULL);
            add(G_L2, l2 + k * 8 + 7, 1, 0xfe, HEADER_DAMAGE, NULL);
            add(G_L2, l2 + k * 8 + 7, 1, 0x01, 0, "flag of a cluster beyond the disk");
        }
        guest += n;
    }
}

/* ---- LUKS [LUKS1 2.1, 2.2] ---- */

enum { SLOT_BYTES = 48, SLOTS_AT = 208 };

static inline void add_text(uint64_t at, uint64_t n)
{
    uint64_t used = strnlen((const char *)sound() + at, n) + 1;
    add_all(G_LUKS, at, used, HEADER_DAMAGE, NULL);
    add_all(G_LUKS, at + used, n - used, 0, "behind the end of a name");
}

static inline void add_luks(const struct qcow_image *img)
{
    const struct luks_header *l = &img->luks;
    uint64_t at = img->header.luks.byte, slot_bytes = luks_slot_sectors(64) * SECTOR_BYTES;
    add_all(G_LUKS, at, 8, HEADER_DAMAGE, NULL); /* magic, version */
    add_text(at + 8, 32);
    add_text(at + 40, 32);
    add_text(at + 72, 32);
    add_all(G_LUKS, at + 104, 4, HEADER_DAMAGE, "payload offset: qcow2 says where data is");
    add_all(G_LUKS, at + 108, 4, HEADER_DAMAGE, NULL);            /* key bytes */
    add_all(G_LUKS_KEY, at + 112, 20 + 32 + 4, KEY_DAMAGE, NULL); /* digest, salt, iterations */
    add_text(at + 168, 40);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        uint64_t slot = at + SLOTS_AT + i * SLOT_BYTES;
        uint64_t material = at + l->slot[i].material_sector * SECTOR_BYTES;
        add_all(G_LUKS, slot, 4, HEADER_DAMAGE, NULL); /* in use or not */
        if (l->slot[i].active)
            add_all(G_LUKS_KEY, slot + 4, 36, KEY_DAMAGE, NULL);
        else
            add_all(G_LUKS, slot + 4, 36, 0, "a key slot that is not in use");
        add_all(G_LUKS, slot + 40, 8, HEADER_DAMAGE, NULL); /* place, stripes */
        if (!l->slot[i].active) {
            add_all(G_OTHER_SLOTS, material, slot_bytes, 0, "a key slot that is not in use");
            continue;
        }
        add_all(G_MATERIAL, material, 64 * LUKS_STRIPES, MAY(ERR_KEY_WRONG), NULL);
        add_all(G_MATERIAL, material + 64 * LUKS_STRIPES, slot_bytes - 64 * LUKS_STRIPES, 0,
                "padding of the key material");
    }
}

/* ---- the disk ---- */

static size_t
    *written_by; /* each sector of the file: by which version, if it is part of the state */

/* From what the commits wrote, not from the search: a checkpoint makes all before it dead. */
static inline void learn_writers(uint64_t log_at)
{
    size_t n = image.n / SECTOR_BYTES;
    written_by = calloc(n, sizeof(*written_by));
    if (!written_by)
        die("sectors", &(struct err){.text = "no memory"});
    for (size_t v = 1; v < image.n_versions; v++) {
        const uint8_t *now = image.version[v], *before = image.version[v - 1];
        bool checkpoint = memcmp(now, before, log_at) != 0;
        for (size_t s = 0; s < n; s++) {
            size_t at = s * SECTOR_BYTES;
            if (memcmp(now + at, before + at, SECTOR_BYTES) != 0)
                written_by[s] = v;
            else if (checkpoint)
                written_by[s] = 0;
        }
    }
}

static inline void add_disk(const struct qcow_disk *d)
{
    const struct store_layout *l = &qcow_disk_facts(d)->layout;
    uint64_t sectors = qcow_image_header(qcow_disk_image(d))->size / SECTOR_BYTES;
    learn_writers(store_image_host_sector(d, l->log) * SECTOR_BYTES);
    for (uint64_t s = 0; s < sectors; s++) {
        uint64_t at = store_image_host_sector(d, s) * SECTOR_BYTES;
        if (s == 0)
            add_all(G_REFERENCE, at, SECTOR_BYTES, DAMAGE, NULL);
        else if (written_by[at / SECTOR_BYTES] != 0)
            add_all(G_LIVE, at, SECTOR_BYTES, DAMAGE, NULL);
        else
            add_all(G_DEAD, at, SECTOR_BYTES, 0, "an older state, or nothing at all");
    }
}

static inline int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* What no place was said of: never read, or wrong. */
static inline void add_rest(void)
{
    size_t n = n_places;
    uint64_t end = 0;
    qsort(places, n, sizeof(*places), by_place);
    for (size_t i = 0; i < n; i++) {
        if (places[i].at > end)
            add_all(G_NOTHING, end, places[i].at - end, 0, NULL);
        if (places[i].at + places[i].n > end)
            end = places[i].at + places[i].n;
    }
    if (image.n > end)
        add_all(G_NOTHING, end, image.n - end, 0, NULL);
}

static inline void find_places(const struct qcow_disk *d)
{
    const struct qcow_image *img = qcow_disk_image(d);
    n_places = 0;
    add_header(&img->header);
    add_extensions(&img->header);
    add_refcounts(img);
    add_tables(img);
    add_luks(img);
    add_disk(d);
    add_rest();
    qsort(places, n_places, sizeof(*places), by_place);
}

#endif
