#include "backend/qcow_header.h"

#include <inttypes.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "crypto/prim.h"
#include "src/base/bytes.h"

/* [QCOW2 header, header extensions]; limits beyond the format's are those of QEMU. */
enum {
    V2_HEADER_BYTES = 72,
    V3_HEADER_BYTES = 104, /* the least; 112 with the compression type */
    MIN_CLUSTER_BITS = 9,
    MAX_CLUSTER_BITS = 21,
    MAX_REFCOUNT_ORDER = 6,
    MAX_SNAPSHOTS = 65536,
    MAX_BITMAPS = 65535,
    MAX_EXTENSIONS = 64,
    CRYPT_NONE = 0,
    CRYPT_AES = 1,
    CRYPT_LUKS = 2,
};
#define MAX_L1_BYTES         (UINT64_C(32) << 20)
#define MAX_REFTABLE_BYTES   (UINT64_C(8) << 20)
#define MAX_BITMAP_DIR_BYTES (UINT64_C(64) << 20)
#define MIN_LUKS_BYTES       UINT64_C(4096)
#define MAX_LUKS_BYTES       (UINT64_C(16) << 20)
#define MAX_OFFSET           (UINT64_C(1) << 56)

static const uint8_t magic[4] = {'Q', 'F', 'I', 0xfb};

enum {
    INCOMPAT_DATA_FILE = 1 << 2,
    INCOMPAT_COMPRESSION = 1 << 3,
    INCOMPAT_EXTENDED_L2 = 1 << 4,
    INCOMPAT_KNOWN = 0x1f,
    AUTOCLEAR_BITMAPS = 1 << 0,
};

enum {
    EXT_END = 0,
    EXT_LUKS_BYTES = 16,
    EXT_BITMAPS_BYTES = 24,
    EXT_NVKEEP_BYTES = 24,
    OUR_VERSION = 1,
};
#define EXT_LUKS      UINT32_C(0x0537be77)
#define EXT_BITMAPS   UINT32_C(0x23852875)
#define EXT_DATA_FILE UINT32_C(0x44415441)
#define EXT_NVKEEP    UINT32_C(0x6e766b70) /* "nvkp" */
#define EXT_BRANCH    UINT32_C(0x6e766b62) /* "nvkb" */
#define EXT_FEATURES  UINT32_C(0x6803f857)

/* The fixed fields as they are, none of them checked. */
struct raw {
    uint32_t version, cluster_bits, crypt_method, l1_size, reftable_clusters, n_snapshots;
    uint64_t backing, size, l1, reftable, snapshots;
    uint64_t incompatible, compatible, autoclear;
    uint32_t backing_bytes, refcount_order, header_length;
    uint8_t compression;
};

/* ---- what else it could be, for the message alone ---- */

static bool begins(const uint8_t *bytes, size_t n, const void *with, size_t with_bytes)
{
    return n >= with_bytes && !memcmp(bytes, with, with_bytes);
}

static const char *recognise(const uint8_t *bytes, size_t n)
{
    static const uint8_t luks[] = {'L', 'U', 'K', 'S', 0xba, 0xbe};
    static const struct {
        const char *with, *is;
    } known[] = {
        {"nilmptws", "the linear store of swtpm"}, /* "swtpmlin" as a number, little-endian */
        {"\x7f"
         "ELF",
         "a program"},
        {"KDMV", "a VMDK image"},
        {"conectix", "a VPC image"},
        {"vhdxfile", "a VHDX image"},
    };
    if (n == 0)
        return "an empty file";
    if (begins(bytes, n, luks, sizeof(luks)))
        return "a LUKS volume that is not inside a qcow2 image (nvkeep wants the reverse: qcow2 "
               "outside, LUKS inside, as `qemu-img create -f qcow2 -o encrypt.format=luks` or "
               "`nvkeep create` make it)";
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (begins(bytes, n, known[i].with, strlen(known[i].with)))
            return known[i].is;
    /* The header of swtpm's state files: version 2, least version 1, header of 10 bytes, flags,
     * total length. */
    if (n >= 8 && bytes[0] == 2 && bytes[1] == 1 && get_be16(bytes + 2) == 10)
        return "a state file of swtpm";
    if (bytes_all_zero(bytes, n))
        return "zeroes";
    return "neither qcow2 nor anything else that is known here";
}

/* All of a header but one byte of its magic. */
static bool nearly_qcow(const uint8_t *bytes, size_t n)
{
    size_t right = 0;
    for (size_t i = 0; n >= V2_HEADER_BYTES && i < sizeof(magic); i++)
        right += bytes[i] == magic[i];
    if (right != sizeof(magic) - 1)
        return false;
    uint32_t version = get_be32(bytes + 4), bits = get_be32(bytes + 20);
    return (version == 2 || version == 3) && bits >= MIN_CLUSTER_BITS && bits <= MAX_CLUSTER_BITS;
}

static int not_qcow(const uint8_t *bytes, size_t n, struct err *e)
{
    if (nearly_qcow(bytes, n))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the first four bytes of the qcow2 header are damaged (0x%08" PRIx32
                       ", wanted 0x514649fb); what follows them is a qcow2 header",
                       get_be32(bytes));
    if (n >= 8 && !memcmp(bytes, magic, sizeof(magic)) && get_be32(bytes + 4) == 1)
        return err_set(e, ERR_UNSUPPORTED,
                       "this is a qcow image of version 1, versions 2 and 3 are supported; "
                       "`qemu-img convert -f qcow -O qcow2` converts it");
    return err_set(e, ERR_STATE_FOREIGN,
                   "no qcow2 header was found: this is %s; `nvkeep create` makes a new image",
                   recognise(bytes, n));
}

/* ---- fixed fields ---- */

static bool read_raw(const uint8_t *bytes, size_t n, struct raw *r)
{
    struct bytes_in in = bytes_in(bytes, n);
    bytes_skip(&in, 4);
    r->version = bytes_be32(&in);
    r->backing = bytes_be64(&in);
    r->backing_bytes = bytes_be32(&in);
    r->cluster_bits = bytes_be32(&in);
    r->size = bytes_be64(&in);
    r->crypt_method = bytes_be32(&in);
    r->l1_size = bytes_be32(&in);
    r->l1 = bytes_be64(&in);
    r->reftable = bytes_be64(&in);
    r->reftable_clusters = bytes_be32(&in);
    r->n_snapshots = bytes_be32(&in);
    r->snapshots = bytes_be64(&in);
    r->incompatible = r->compatible = r->autoclear = 0;
    r->refcount_order = 4;
    r->header_length = V2_HEADER_BYTES;
    r->compression = 0;
    if (r->version < 3) /* what follows in version 2 are extensions */
        return !in.bad;
    r->incompatible = bytes_be64(&in);
    r->compatible = bytes_be64(&in);
    r->autoclear = bytes_be64(&in);
    r->refcount_order = bytes_be32(&in);
    r->header_length = bytes_be32(&in);
    if (r->header_length > V3_HEADER_BYTES)
        r->compression = bytes_u8(&in);
    return !in.bad;
}

static void copy_raw(const struct raw *r, struct qcow_header *h)
{
    h->version = r->version;
    h->cluster_bits = r->cluster_bits;
    h->size = r->size;
    h->crypt_method = r->crypt_method;
    h->l1_size = r->l1_size;
    h->l1.byte = r->l1;
    h->reftable.byte = r->reftable;
    h->reftable_clusters = r->reftable_clusters;
    h->n_snapshots = r->n_snapshots;
    h->snapshots.byte = r->snapshots;
    h->incompatible = r->incompatible;
    h->compatible = r->compatible;
    h->autoclear = r->autoclear;
    h->refcount_order = r->refcount_order;
    h->header_length = r->header_length;
}

static void note_oddities(const struct raw *r, struct qcow_oddities *odd)
{
    odd->backing = r->backing != 0;
    odd->data_file = r->incompatible & INCOMPAT_DATA_FILE;
    odd->legacy_aes = r->crypt_method == CRYPT_AES;
    odd->extended_l2 = r->incompatible & INCOMPAT_EXTENDED_L2;
}

/* Refused by name. Other files it names are not looked at, not even their names. */
static int refuse_unsupported(const struct raw *r, struct err *e)
{
    if (r->backing != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image has a backing file, and state must stand on its own; the backing "
                       "file was not opened; `qemu-img rebase -b \"\"` or `qemu-img convert` make "
                       "an image without one");
    if (r->incompatible & INCOMPAT_DATA_FILE)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image keeps its data in an external data file, which was not opened; "
                       "`qemu-img convert` makes an image without one");
    if (r->crypt_method == CRYPT_AES)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image uses the old AES encryption of qcow2, which is not safe and not "
                       "supported; `qemu-img convert --object secret,id=old,... --object "
                       "secret,id=new,... --image-opts driver=qcow2,file.filename=IMAGE,"
                       "encrypt.key-secret=old -O qcow2 -o encrypt.format=luks,"
                       "encrypt.key-secret=new NEW` converts it");
    if (r->crypt_method > CRYPT_LUKS)
        return err_set(e, ERR_UNSUPPORTED,
                       "unknown encryption method %" PRIu32 "; 2 (LUKS) is supported",
                       r->crypt_method);
    if (r->incompatible & INCOMPAT_COMPRESSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image uses another compression than deflate (type %u); `qemu-img "
                       "convert` makes an image without it",
                       r->compression);
    if (r->incompatible & INCOMPAT_EXTENDED_L2)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image has extended L2 entries (subclusters); `qemu-img convert -O "
                       "qcow2 -o extended_l2=off` makes an image without them");
    if (r->incompatible & ~(uint64_t)INCOMPAT_KNOWN)
        return err_set(e, ERR_UNSUPPORTED,
                       "unknown incompatible feature bits 0x%" PRIx64
                       ": the image was made by something newer",
                       r->incompatible & ~(uint64_t)INCOMPAT_KNOWN);
    return 0;
}

static int check_version(const struct raw *r, struct err *e)
{
    if (r->version != 2 && r->version != 3)
        return err_set(e, ERR_UNSUPPORTED,
                       "qcow2 version %" PRIu32 " is not known; 2 and 3 are supported", r->version);
    if (r->cluster_bits < MIN_CLUSTER_BITS || r->cluster_bits > MAX_CLUSTER_BITS)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: cluster_bits is %" PRIu32 ", must be %d to %d", r->cluster_bits,
                       MIN_CLUSTER_BITS, MAX_CLUSTER_BITS);
    return 0;
}

static int check_v3(const struct raw *r, struct err *e)
{
    if (r->version == 2)
        return 0;
    if (r->header_length < V3_HEADER_BYTES || r->header_length > UINT32_C(1) << r->cluster_bits ||
        r->header_length % 8 != 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: header_length is %" PRIu32
                       ", must be a multiple of 8 from %d to the cluster size",
                       r->header_length, V3_HEADER_BYTES);
    if (r->refcount_order > MAX_REFCOUNT_ORDER)
        return err_set(e, ERR_STATE_CORRUPT, "header: refcount_order is %" PRIu32 ", at most %d",
                       r->refcount_order, MAX_REFCOUNT_ORDER);
    if (r->compression != 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: compression_type is %u, but its feature bit is not set",
                       r->compression);
    return 0;
}

/* A structure of n bytes at `at`: aligned, behind the header, inside the file. */
static int check_place(const struct raw *r, const char *what, uint64_t at, uint64_t n,
                       uint64_t file_bytes, struct err *e)
{
    uint64_t cluster = UINT64_C(1) << r->cluster_bits;
    if (at % cluster != 0 || at < cluster || at >= MAX_OFFSET)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the %s lies at offset 0x%" PRIx64
                       ", which is no cluster behind the header (cluster size %" PRIu64 ")",
                       what, at, cluster);
    if (!range_within(at, n, file_bytes))
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the %s (%" PRIu64 " bytes at offset 0x%" PRIx64
                       ") reaches beyond the end of the file (%" PRIu64
                       " bytes); is the file cut off?",
                       what, n, at, file_bytes);
    return 0;
}

static int check_tables(const struct raw *r, uint64_t file_bytes, struct err *e)
{
    uint64_t cluster = UINT64_C(1) << r->cluster_bits;
    uint64_t per_l2 = cluster * (cluster / 8);
    uint64_t l1_bytes = (uint64_t)r->l1_size * 8;
    uint64_t reftable_bytes = r->reftable_clusters * cluster;
    uint64_t l1_needed = r->size / per_l2 + (r->size % per_l2 != 0);
    if (l1_bytes > MAX_L1_BYTES)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the L1 table has %" PRIu32 " entries, more "
                       "than 32 MiB",
                       r->l1_size);
    if (l1_needed > r->l1_size)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the L1 table has %" PRIu32 " entries, a disk of %" PRIu64
                       " bytes needs %" PRIu64,
                       r->l1_size, r->size, l1_needed);
    if (r->reftable_clusters == 0 || reftable_bytes > MAX_REFTABLE_BYTES)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the refcount table has %" PRIu32 " clusters, must be 1 to 8 MiB",
                       r->reftable_clusters);
    if (r->n_snapshots > MAX_SNAPSHOTS)
        return err_set(e, ERR_STATE_CORRUPT, "header: %" PRIu32 " snapshots, at most %d",
                       r->n_snapshots, MAX_SNAPSHOTS);
    if (r->snapshots % cluster != 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the snapshot table lies at offset 0x%" PRIx64
                       ", not at the begin of a cluster",
                       r->snapshots);
    if (r->l1_size > 0 && check_place(r, "L1 table", r->l1, l1_bytes, file_bytes, e) < 0)
        return -1;
    if (check_place(r, "refcount table", r->reftable, reftable_bytes, file_bytes, e) < 0)
        return -1;
    if (r->n_snapshots > 0)
        return check_place(r, "snapshot table", r->snapshots, 40, file_bytes, e);
    return 0;
}

/* ---- extensions ---- */

struct scan {
    const struct raw *raw;
    uint64_t file_bytes;
    struct qcow_header *h;
    bool luks;
    uint32_t seen[MAX_EXTENSIONS];
    size_t n_seen;
};

static int length_is(uint32_t type, uint32_t length, uint32_t wanted, struct err *e)
{
    if (length == wanted)
        return 0;
    return err_set(e, ERR_STATE_CORRUPT,
                   "header extension 0x%08" PRIx32 " has %" PRIu32 " bytes, must have %" PRIu32,
                   type, length, wanted);
}

static int take_luks(struct scan *s, struct bytes_in in, uint32_t length, struct err *e)
{
    struct qcow_header *h = s->h;
    if (length_is(EXT_LUKS, length, EXT_LUKS_BYTES, e) < 0)
        return -1;
    if (s->raw->crypt_method != CRYPT_LUKS)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: names a LUKS area, but the encryption method is %" PRIu32
                       " and not 2",
                       s->raw->crypt_method);
    h->luks.byte = bytes_be64(&in);
    h->luks_bytes = bytes_be64(&in);
    s->luks = true;
    if (h->luks_bytes < MIN_LUKS_BYTES || h->luks_bytes > MAX_LUKS_BYTES)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the LUKS area has %" PRIu64 " bytes, must have %" PRIu64
                       " to %" PRIu64,
                       h->luks_bytes, MIN_LUKS_BYTES, MAX_LUKS_BYTES);
    return check_place(s->raw, "LUKS area", h->luks.byte, h->luks_bytes, s->file_bytes, e);
}

static int take_bitmaps(struct scan *s, struct bytes_in in, uint32_t length, struct err *e)
{
    struct qcow_header *h = s->h;
    if (!(s->raw->autoclear & AUTOCLEAR_BITMAPS)) /* nobody vouches for them: as if not there */
        return 0;
    if (length_is(EXT_BITMAPS, length, EXT_BITMAPS_BYTES, e) < 0)
        return -1;
    h->n_bitmaps = bytes_be32(&in);
    uint32_t reserved = bytes_be32(&in);
    h->bitmap_dir_bytes = bytes_be64(&in);
    h->bitmap_dir.byte = bytes_be64(&in);
    h->has_bitmaps = true;
    if (h->n_bitmaps == 0 || h->n_bitmaps > MAX_BITMAPS || reserved != 0 ||
        h->bitmap_dir_bytes == 0 || h->bitmap_dir_bytes > MAX_BITMAP_DIR_BYTES)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: a bitmap directory of %" PRIu32 " bitmaps in %" PRIu64
                       " bytes cannot be",
                       h->n_bitmaps, h->bitmap_dir_bytes);
    return check_place(s->raw, "bitmap directory", h->bitmap_dir.byte, h->bitmap_dir_bytes,
                       s->file_bytes, e);
}

static int take_nvkeep(struct scan *s, struct bytes_in in, uint32_t length, struct err *e)
{
    uint32_t version = bytes_be32(&in), flags = bytes_be32(&in);
    if (version != OUR_VERSION || flags != 0 || length != EXT_NVKEEP_BYTES)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image is nvkeep's, of format %" PRIu32 " (flags 0x%" PRIx32 ", %" PRIu32
                       " bytes); this nvkeep knows format %d",
                       version, flags, length, OUR_VERSION);
    bytes_copy_out(&in, s->h->instance, sizeof(s->h->instance));
    s->h->ours = true;
    s->h->our_version = version;
    return 0;
}

static int take_branch(struct scan *s, struct bytes_in in, uint32_t length, struct err *e)
{
    struct qcow_branch *b = &s->h->branch;
    uint32_t version = bytes_be32(&in), flags = bytes_be32(&in);
    if (version != OUR_VERSION || flags != 0 || length != QCOW_BRANCH_EXT_BYTES)
        return err_set(e, ERR_UNSUPPORTED,
                       "the image's branch is of format %" PRIu32 " (flags 0x%" PRIx32 ", %" PRIu32
                       " bytes); this nvkeep knows format %d",
                       version, flags, length, OUR_VERSION);
    bytes_copy_out(&in, b->name, sizeof(b->name));
    b->generation = bytes_be64(&in);
    b->epoch = bytes_be64(&in);
    bytes_copy_out(&in, b->mac, sizeof(b->mac));
    s->h->has_branch = true;
    return 0;
}

static int take_extension(struct scan *s, uint32_t type, const uint8_t *p, uint32_t n,
                          struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    for (size_t i = 0; i < s->n_seen; i++)
        if (s->seen[i] == type)
            return err_set(e, ERR_STATE_CORRUPT, "header extension 0x%08" PRIx32 " is there twice",
                           type);
    if (s->n_seen == MAX_EXTENSIONS)
        return err_set(e, ERR_UNSUPPORTED, "more than %d header extensions", MAX_EXTENSIONS);
    s->seen[s->n_seen++] = type;
    switch (type) {
    case EXT_LUKS:
        return take_luks(s, in, n, e);
    case EXT_BITMAPS:
        return take_bitmaps(s, in, n, e);
    case EXT_NVKEEP:
        return take_nvkeep(s, in, n, e);
    case EXT_BRANCH:
        return take_branch(s, in, n, e);
    case EXT_DATA_FILE:
        return err_set(e, ERR_UNSUPPORTED,
                       "the header names an external data file, which was not opened; `qemu-img "
                       "convert` makes an image without one");
    default:
        return 0;
    }
}

/* From the end of the fixed fields to END, or to the end of the first cluster. */
static int scan_extensions(struct scan *s, const uint8_t *bytes, size_t n, struct err *e)
{
    uint64_t cluster = UINT64_C(1) << s->raw->cluster_bits;
    size_t end = cluster < n ? (size_t)cluster : n, at = s->raw->header_length;
    while (at <= end && end - at >= 8) {
        uint32_t type = get_be32(bytes + at), length = get_be32(bytes + at + 4);
        if (type == EXT_END)
            return 0;
        at += 8;
        if (length > end - at) {
            if (length <= cluster - at)
                break;
            return err_set(e, ERR_STATE_CORRUPT,
                           "header extension 0x%08" PRIx32 " has %" PRIu32
                           " bytes and reaches beyond the first cluster",
                           type, length);
        }
        if (take_extension(s, type, bytes + at, length, e) < 0)
            return -1;
        at += ((size_t)length + 7) & ~(size_t)7;
    }
    if (end == cluster)
        return 0; /* QEMU accepts an area that is filled to the end, without END */
    return err_set(e, ERR_UNSUPPORTED,
                   "the header extensions reach beyond the first %d bytes of the file",
                   QCOW_HEADER_MAX);
}

/* ---- decoding ---- */

bool qcow_header_peek(const uint8_t *bytes, size_t n, struct qcow_header *ret)
{
    struct raw r;
    if (!begins(bytes, n, magic, sizeof(magic)) || !read_raw(bytes, n, &r))
        return false;
    *ret = (struct qcow_header){0};
    copy_raw(&r, ret);
    return true;
}

int qcow_header_decode(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct qcow_header *ret,
                       struct qcow_oddities *ret_oddities, struct err *e)
{
    struct qcow_oddities unused;
    struct qcow_header h = {0};
    struct raw r;
    struct scan s = {.raw = &r, .file_bytes = file_bytes, .h = &h};
    struct qcow_oddities *odd = ret_oddities ? ret_oddities : &unused;
    *odd = (struct qcow_oddities){0};

    if (n < 8 || memcmp(bytes, magic, sizeof(magic)) != 0 || get_be32(bytes + 4) < 2)
        return not_qcow(bytes, n, e);
    if (!read_raw(bytes, n, &r))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the file ends after %zu bytes, within the qcow2 header", n);
    if (check_version(&r, e) < 0)
        return -1;
    note_oddities(&r, odd);
    if (refuse_unsupported(&r, e) < 0 || check_v3(&r, e) < 0)
        return -1;
    if (file_bytes < UINT64_C(1) << r.cluster_bits)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the file is cut off: it has %" PRIu64 " bytes, less than one cluster",
                       file_bytes);
    copy_raw(&r, &h);
    if (scan_extensions(&s, bytes, n, e) < 0 || check_tables(&r, file_bytes, e) < 0)
        return -1;
    if (r.crypt_method == CRYPT_LUKS && !s.luks)
        return err_set(e, ERR_STATE_CORRUPT,
                       "header: the encryption method is LUKS, but no LUKS area is named");
    *ret = h;
    return 0;
}

/* ---- encoding ---- */

void qcow_header_encode(const struct qcow_header *h, uint8_t ret[QCOW_HEADER_MAX])
{
    struct bytes_out out = bytes_out(ret, QCOW_HEADER_MAX);
    bytes_put(&out, magic, sizeof(magic));
    bytes_put_be32(&out, h->version);
    bytes_put_zero(&out, 12); /* no backing file */
    bytes_put_be32(&out, h->cluster_bits);
    bytes_put_be64(&out, h->size);
    bytes_put_be32(&out, h->crypt_method);
    bytes_put_be32(&out, h->l1_size);
    bytes_put_be64(&out, h->l1.byte);
    bytes_put_be64(&out, h->reftable.byte);
    bytes_put_be32(&out, h->reftable_clusters);
    bytes_put_be32(&out, h->n_snapshots);
    bytes_put_be64(&out, h->snapshots.byte);
    bytes_put_be64(&out, h->incompatible);
    bytes_put_be64(&out, h->compatible);
    bytes_put_be64(&out, h->autoclear);
    bytes_put_be32(&out, h->refcount_order);
    bytes_put_be32(&out, h->header_length);
    bytes_put_zero(&out, h->header_length - V3_HEADER_BYTES); /* deflate */

    bytes_put_be32(&out, EXT_LUKS);
    bytes_put_be32(&out, EXT_LUKS_BYTES);
    bytes_put_be64(&out, h->luks.byte);
    bytes_put_be64(&out, h->luks_bytes);
    bytes_put_be32(&out, EXT_NVKEEP);
    bytes_put_be32(&out, EXT_NVKEEP_BYTES);
    bytes_put_be32(&out, OUR_VERSION);
    bytes_put_be32(&out, 0);
    bytes_put(&out, h->instance, sizeof(h->instance));
    bytes_put_zero(&out, QCOW_HEADER_MAX - out.n); /* END is zero */
}

/* ---- one sector that changes everything ---- */

enum { L1_AT = 36, SNAPSHOTS_AT = 60 };

static void put_branch(struct bytes_out *out, const struct qcow_branch *b)
{
    bytes_put_be32(out, EXT_BRANCH);
    bytes_put_be32(out, QCOW_BRANCH_EXT_BYTES);
    bytes_put_be32(out, OUR_VERSION);
    bytes_put_be32(out, 0);
    bytes_put(out, b->name, sizeof(b->name));
    bytes_put_be64(out, b->generation);
    bytes_put_be64(out, b->epoch);
    bytes_put(out, b->mac, sizeof(b->mac));
}

/* What was there, without the names of features (which are for people) and the old branch. False:
 * it does not end inside of the n bytes. */
static bool keep_extensions(const uint8_t *bytes, size_t n, size_t at, struct bytes_out *out)
{
    while (at <= n && n - at >= 8) {
        uint32_t type = get_be32(bytes + at), length = get_be32(bytes + at + 4);
        size_t padded = ((size_t)length + 7) & ~(size_t)7;
        if (type == EXT_END)
            return true;
        if (length > n - at - 8)
            return false;
        if (type != EXT_FEATURES && type != EXT_BRANCH) {
            bytes_put(out, bytes + at, 8 + length);
            bytes_put_zero(out, padded - length);
        }
        at += 8 + padded;
    }
    return true;
}

int qcow_header_switch(const uint8_t *bytes, size_t n, const struct qcow_header *to,
                       uint8_t ret[SECTOR_BYTES], struct err *e)
{
    size_t cluster = (size_t)1 << to->cluster_bits;
    uint8_t sector[SECTOR_BYTES];
    struct bytes_out out = bytes_out(sector, sizeof(sector));
    bytes_put(&out, bytes, to->header_length);
    if (!keep_extensions(bytes, n < cluster ? n : cluster, to->header_length, &out))
        out.bad = true;
    if (to->has_branch)
        put_branch(&out, &to->branch);
    if (!out.bad && out.n < sizeof(sector))
        bytes_put_zero(&out, sizeof(sector) - out.n); /* END is zero */
    if (out.bad)
        return err_set(
            e, ERR_UNSUPPORTED,
            "the header extensions do not fit into the first %d bytes of the file, which "
            "are written at once; `qemu-img convert` or `nvkeep create` make an image "
            "with fewer",
            SECTOR_BYTES);
    put_be32(sector + L1_AT, to->l1_size);
    put_be64(sector + L1_AT + 4, to->l1.byte);
    put_be32(sector + SNAPSHOTS_AT, to->n_snapshots);
    put_be64(sector + SNAPSHOTS_AT + 4, to->snapshots.byte);
    memcpy(ret, sector, sizeof(sector));
    return 0;
}

void qcow_header_digest(const struct qcow_header *h, const struct luks_header *luks,
                        uint8_t ret[32])
{
    uint8_t numbers[12];
    put_be32(numbers, h->cluster_bits);
    put_be32(numbers + 4, h->crypt_method);
    put_be32(numbers + 8, (uint32_t)luks->cipher.key_bytes);
    /* The strings count with their terminators: no two sets of them run together the same way. */
    hash_compute(HASH_SHA256,
                 (struct span[]){
                     {"nvkeep header 1", 16},
                     {numbers, sizeof(numbers)},
                     {luks->uuid, strlen(luks->uuid) + 1},
                     {luks->cipher_name, strlen(luks->cipher_name) + 1},
                     {luks->cipher_mode, strlen(luks->cipher_mode) + 1},
                     {luks->hash_spec, strlen(luks->hash_spec) + 1},
                 },
                 6, ret);
}
