#include "tests/support/known_image.h"

#include <stdio.h>
#include <string.h>

#include "mem_disk.h"
#include "src/base/bytes.h"
#include "tests/crypto/known_key.h"

enum { SPARE_CLUSTERS = 4, HEADER_V3_BYTES = 112, HEADER_V2_BYTES = 72, EXTENSIONS_BYTES = 56 };

const struct store_layout known_layout = {
    .checkpoint = {8, 24}, .checkpoint_sectors = 16, .log = 40, .log_sectors = 24};

static const struct luks_cipher xts = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, HASH_SHA256, 64};
static const struct luks_cipher cbc = {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_SHA256, 32};
static const struct {
    const char *name;
    unsigned cluster_bits;
    const struct luks_cipher *how;
    const char *mode;
} kinds[KNOWN_KINDS] = {
    [KNOWN_4K] = {"clusters of 4 KiB", 12, &xts, "xts-plain64"},
    [KNOWN_512] = {"clusters of 512 bytes", 9, &xts, "xts-plain64"},
    [KNOWN_64K] = {"clusters of 64 KiB", 16, &xts, "xts-plain64"},
    [KNOWN_SNAPSHOT] = {"a snapshot", 12, &xts, "xts-plain64"},
    [KNOWN_BITMAP] = {"a bitmap", 12, &xts, "xts-plain64"},
    [KNOWN_V2] = {"version 2", 12, &xts, "xts-plain64"},
    [KNOWN_CBC] = {"cbc-essiv", 12, &cbc, "cbc-essiv:sha256"},
};

static struct known_image images[KNOWN_KINDS];

static void must(int r, const struct err *e)
{
    if (r == 0)
        return;
    fprintf(stderr, "a known image cannot be made: %s\n", e->text);
    abort();
}

const char *known_image_name(enum known_kind kind)
{
    return kinds[kind].name;
}

void known_state_digest(const uint8_t *(*get)(const void *of, enum blob_kind kind, size_t *ret_n),
                        const void *of, uint8_t ret[32])
{
    uint8_t heads[N_BLOBS][9] = {0};
    struct span parts[2 * N_BLOBS];
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t n = 0;
        const uint8_t *p = get(of, (enum blob_kind)(i + 1), &n);
        heads[i][0] = p != NULL;
        put_be64(heads[i] + 1, p ? n : 0);
        parts[2 * i] = (struct span){heads[i], sizeof(heads[i])};
        parts[2 * i + 1] = (struct span){p ? p : heads[i], p ? n : 0};
    }
    hash_compute(HASH_SHA256, parts, ARRAY_LEN(parts), ret);
}

/* ---- keys ---- */

const struct volume_key *known_image_key(const struct luks_cipher *how)
{
    static struct {
        struct luks_cipher how;
        struct volume_key *key;
    } kept[128];
    static size_t n;
    for (size_t i = 0; i < n; i++)
        if (kept[i].how.alg == how->alg && kept[i].how.mode == how->mode &&
            kept[i].how.ivgen == how->ivgen && kept[i].how.essiv_hash == how->essiv_hash &&
            kept[i].how.key_bytes == how->key_bytes)
            return kept[i].key;
    if (n == ARRAY_LEN(kept))
        return NULL;
    kept[n].how = *how;
    kept[n].key = known_key_for(how);
    return kept[n++].key;
}

/* ---- the store ---- */

static const uint8_t *get_of_store(const void *of, enum blob_kind kind, size_t *ret_n)
{
    return store_get(of, kind, ret_n);
}

/* The state of generation g: what libtpms' blobs do from one commit to the next. */
static void change_for(unsigned g, uint8_t *room, size_t n, struct state_change *ret)
{
    static const uint8_t insertion[12] = "an insertion";
    memset(room, 0x50, n);
    room[100] = (uint8_t)g;
    if (g == 4)
        memcpy(room + 700, insertion, sizeof(insertion));
    *ret = (struct state_change){0};
    ret->blob[0] = (struct blob_change){BLOB_SET, room, n};
    if (g == 3)
        ret->blob[1] = (struct blob_change){BLOB_SET, (const uint8_t *)"volatile", 8};
    if (g == 5)
        ret->blob[1].what = BLOB_DELETE;
}

struct making {
    struct known_image *im;
    const struct volume_key *key;
};

static int fill(void *ctx, struct qcow_new *n, const uint8_t digest[32], struct err *e)
{
    struct making *m = ctx;
    struct state_change first;
    uint8_t sector[512], blob[2000];
    OWNED(mac_key) record = NULL;
    memcpy(m->im->facts.header_digest, digest, 32);
    change_for(1, blob, sizeof(blob), &first);
    must(ref_sector_encode(&m->im->facts, m->key, sector, &record, e), e);
    must(qcow_new_write(n, (struct sector){0}, 1, sector, e), e);
    return store_format(n, &m->im->facts, record, &first, e);
}

static void attach(const struct blk *b, struct qcow_disk **ret)
{
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_volume) v = NULL;
    OWNED(volume_key) key = NULL;
    struct err e;
    must(qcow_open(b, &img, &e), &e);
    must(volume_key_copy(known_image_key(&qcow_image_luks(img)->cipher), &key, &e), &e);
    must(qcow_unlock(&img, &key, &v, &e), &e);
    must(qcow_attach(&v, ret, &e), &e);
}

static void commit_all(struct mem_disk *d, struct known_image *im)
{
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) disk = NULL;
    OWNED(qcow_disk_rw) rw = NULL;
    OWNED(store) s = NULL;
    struct err e;
    must(mem_disk_claimed(d, &w, &e), &e);
    attach(blk_of(w), &disk);
    must(qcow_arm(&disk, &w, &rw, &e), &e);
    must(store_open(&rw, &s, &e), &e);
    for (unsigned g = 1; g <= KNOWN_GENERATIONS; g++) {
        struct state_change c;
        uint8_t blob[2000];
        change_for(g, blob, g == 4 ? 1500 : sizeof(blob), &c);
        if (g > 1)
            must(store_commit(s, &c, &e), &e);
        known_state_digest(get_of_store, s, im->state[g]);
    }
    must(qcow_disk_read(store_disk(s), (struct sector){0}, KNOWN_SECTORS, im->plain[0], &e), &e);
}

/* ---- what qcow_format() does not make ---- */

static uint64_t cluster_of(const struct known_image *im)
{
    return UINT64_C(1) << im->cluster_bits;
}

/* A new cluster at the end of the file, with a refcount of 1. */
static uint64_t append_cluster(struct known_image *im)
{
    uint64_t at = im->size, block = get_be64(im->bytes + get_be64(im->bytes + 48));
    im->size += cluster_of(im);
    put_be16(im->bytes + block + at / cluster_of(im) * 2, 1);
    return at;
}

static void add_snapshot(struct known_image *im)
{
    static const uint8_t id_and_name[5] = "1then";
    uint64_t table = append_cluster(im), l1 = append_cluster(im), l2 = append_cluster(im),
             data = append_cluster(im);
    uint8_t *p = im->bytes + table;
    put_be32(im->bytes + 60, 1);
    put_be64(im->bytes + 64, table);
    put_be64(p, l1);
    put_be32(p + 8, 1);
    put_be16(p + 12, 1);  /* id */
    put_be16(p + 14, 4);  /* name */
    put_be32(p + 36, 16); /* extra data: size of the VM's state, of the disk */
    put_be64(p + 48, get_be64(im->bytes + 24));
    memcpy(p + 56, id_and_name, sizeof(id_and_name));
    put_be64(im->bytes + l1, l2 | UINT64_C(1) << 63);
    put_be64(im->bytes + l2, data | UINT64_C(1) << 63);
}

static void add_bitmap(struct known_image *im)
{
    uint64_t dir = append_cluster(im), table = append_cluster(im), bits = append_cluster(im);
    uint8_t *ext = im->bytes + HEADER_V3_BYTES + EXTENSIONS_BYTES, *p = im->bytes + dir;
    put_be64(im->bytes + 88, 1); /* autoclear: bitmaps are right */
    put_be32(ext, 0x23852875);
    put_be32(ext + 4, 24);
    put_be32(ext + 8, 1);
    put_be64(ext + 16, 32);
    put_be64(ext + 24, dir);
    put_be64(p, table);
    put_be32(p + 8, 1);
    p[16] = 1;  /* dirty tracking */
    p[17] = 16; /* granularity */
    put_be16(p + 18, 1);
    p[24] = 'b';
    put_be64(im->bytes + table, bits);
}

static void make_v2(struct known_image *im)
{
    put_be32(im->bytes + 4, 2);
    memmove(im->bytes + HEADER_V2_BYTES, im->bytes + HEADER_V3_BYTES, EXTENSIONS_BYTES);
    memset(im->bytes + HEADER_V2_BYTES + EXTENSIONS_BYTES, 0, HEADER_V3_BYTES - HEADER_V2_BYTES);
}

/* ---- making ---- */

static void format(enum known_kind kind, struct known_image *im, struct mem_disk **ret)
{
    const struct luks_cipher *how = kinds[kind].how;
    struct qcow_create c = {.size = KNOWN_SECTORS * 512, .cluster_bits = im->cluster_bits};
    struct making m = {im, known_image_key(how)};
    OWNED(blk_rw) w = NULL;
    struct err e;
    OWNED_HEAP uint8_t *material = known_key_slot(how, &c.luks);
    snprintf(c.luks.cipher_name, sizeof(c.luks.cipher_name), "%s", "aes");
    snprintf(c.luks.cipher_mode, sizeof(c.luks.cipher_mode), "%s", kinds[kind].mode);
    snprintf(c.luks.hash_spec, sizeof(c.luks.hash_spec), "%s", "sha1");
    snprintf(c.luks.uuid, sizeof(c.luks.uuid), "%s", "00010203-0405-4607-8809-0a0b0c0d0e0f");
    c.luks.payload_sector = (uint32_t)(luks_area_bytes(how->key_bytes) / 512);
    for (uint32_t i = 0; i < LUKS_N_SLOTS; i++)
        c.luks.slot[i].material_sector = 8 + i * luks_slot_sectors(how->key_bytes);
    memcpy(c.instance, im->facts.instance, sizeof(c.instance));
    c.material[0] = material;
    *ret = mem_disk_new(qcow_create_bytes(&c));
    must(mem_disk_claimed(*ret, &w, &e), &e);
    must(qcow_format(w, &c, m.key, fill, &m, &e), &e);
}

static void make(enum known_kind kind, struct known_image *im)
{
    OWNED(mem_disk) d = NULL;
    im->cluster_bits = kinds[kind].cluster_bits;
    im->facts.device = DEVICE_TPM20;
    im->facts.layout = known_layout;
    memcpy(im->facts.instance, "a known instance", 16);
    format(kind, im, &d);
    commit_all(d, im);
    im->size = mem_disk_size(d);
    im->bytes = calloc(1, im->size + SPARE_CLUSTERS * cluster_of(im));
    if (!im->bytes)
        abort();
    memcpy(im->bytes, mem_disk_bytes(d), im->size);
    if (kind == KNOWN_SNAPSHOT)
        add_snapshot(im);
    if (kind == KNOWN_BITMAP)
        add_bitmap(im);
    if (kind == KNOWN_V2)
        make_v2(im);
}

const struct known_image *known_image(enum known_kind kind)
{
    struct known_image *im = &images[kind];
    if (!im->bytes)
        make(kind, im);
    return im;
}
