#include "migration/linear.h"

#include <string.h>

#include "migration/blob.h"
#include "src/base/bytes.h"

enum { VERSION = 1, N_ENTRIES = 15 };
static const uint8_t magic[8] = "nilmptws";

struct entry {
    uint32_t off, n, room;
};

static uint32_t le32(struct bytes_in *in)
{
    const uint8_t *p = bytes_take(in, 4);
    return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24
             : 0;
}

static void put_le32(struct bytes_out *o, uint32_t v)
{
    for (unsigned shift = 0; shift < 32; shift += 8)
        bytes_put_u8(o, (uint8_t)(v >> shift));
}

bool linear_has_magic(const uint8_t *p, size_t n)
{
    return n >= sizeof(magic) && memcmp(p, magic, sizeof(magic)) == 0;
}

static int check_head(const uint8_t *p, size_t n, struct bytes_in *in, struct err *e)
{
    if (!linear_has_magic(p, n))
        return err_set(e, ERR_STATE_FOREIGN,
                       "it does not begin as swtpm's linear store does (swtpm itself would begin a "
                       "new one over it)");
    bytes_skip(in, sizeof(magic));
    uint8_t version = bytes_u8(in);
    bytes_skip(in, 1);
    unsigned header = bytes_u8(in);
    header |= (unsigned)bytes_u8(in) << 8;
    if (n < LINEAR_HEADER_BYTES)
        return err_set(e, ERR_STATE_CORRUPT, "the linear store is cut off in its header");
    if (version != VERSION || header != LINEAR_HEADER_BYTES)
        return err_set(e, ERR_UNSUPPORTED,
                       "a linear store of version %u with a header of %u bytes; known are %d and "
                       "%d",
                       version, header, VERSION, LINEAR_HEADER_BYTES);
    return 0;
}

static int check_entry(unsigned i, const struct entry *f, uint64_t file_bytes, struct err *e)
{
    if (f->off == 0 && f->n == 0 && f->room == 0)
        return 0;
    if (i >= N_TPM_BLOBS)
        return err_set(e, ERR_UNSUPPORTED,
                       "the linear store has a file %u; known are %d, those of one TPM", i + 1,
                       N_TPM_BLOBS);
    if (f->n > BLOB_ENVELOPE_MAX)
        return err_set(e, ERR_UNSUPPORTED,
                       "file %u of the linear store has %u bytes; at most %d are read", i + 1, f->n,
                       BLOB_ENVELOPE_MAX);
    if (f->off < LINEAR_HEADER_BYTES || f->n == 0 || f->n > f->room ||
        !range_within(f->off, f->n, file_bytes))
        return err_set(e, ERR_STATE_CORRUPT,
                       "file %u of the linear store is to have %u of %u bytes at %u, and the store "
                       "has %llu",
                       i + 1, f->n, f->room, f->off, (unsigned long long)file_bytes);
    return 0;
}

static bool overlap(const struct entry *a, const struct entry *b)
{
    return a->n > 0 && b->n > 0 && a->off < (uint64_t)b->off + b->room &&
           b->off < (uint64_t)a->off + a->room;
}

int linear_decode(const uint8_t *p, size_t n, uint64_t file_bytes, struct linear *ret,
                  struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    struct entry f[N_ENTRIES] = {0};
    struct linear l = {0};
    if (check_head(p, n, &in, e) < 0)
        return -1;
    for (unsigned i = 0; i < N_ENTRIES; i++) {
        f[i].off = le32(&in);
        f[i].n = le32(&in);
        f[i].room = le32(&in);
        if (check_entry(i, &f[i], file_bytes, e) < 0)
            return -1;
        for (unsigned j = 0; j < i; j++)
            if (overlap(&f[i], &f[j]))
                return err_set(e, ERR_STATE_CORRUPT,
                               "files %u and %u of the linear store lie over each other", j + 1,
                               i + 1);
    }
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        l.part[i].off = f[i].off;
        l.part[i].n = f[i].n;
    }
    *ret = l;
    return 0;
}

/* swtpm gives each file room up to a power of two. */
static uint32_t room_for(uint32_t n)
{
    uint32_t room = 1;
    while (room < n)
        room *= 2;
    return room;
}

size_t linear_plan(const size_t n[N_TPM_BLOBS], struct linear *ret)
{
    uint32_t at = LINEAR_HEADER_BYTES;
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        ret->part[i].off = n[i] ? at : 0;
        ret->part[i].n = (uint32_t)n[i];
        at += n[i] ? room_for((uint32_t)n[i]) : 0;
    }
    return at;
}

void linear_encode(const struct linear *l, uint8_t ret[LINEAR_HEADER_BYTES])
{
    struct bytes_out o = bytes_out(ret, LINEAR_HEADER_BYTES);
    bytes_put(&o, magic, sizeof(magic));
    bytes_put(&o, (const uint8_t[]){VERSION, 0, LINEAR_HEADER_BYTES, 0}, 4);
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        put_le32(&o, l->part[i].off);
        put_le32(&o, l->part[i].n);
        put_le32(&o, l->part[i].n ? room_for(l->part[i].n) : 0);
    }
    bytes_put_zero(&o, LINEAR_HEADER_BYTES - o.n);
}
