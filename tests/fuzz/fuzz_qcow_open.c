/* A whole image, opened, counted and inspected. The input holds what is not zero in it, because the
 * key material alone would be megabytes: eight bytes of file length, then pieces of {u32 offset,
 * u16 length, bytes}, of which later ones lie over earlier ones. tests/fuzz/pack_image.py makes one
 * from an image; the mutator of libFuzzer sets fields (image_fields.h) to the numbers at which
 * readers break. */
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory.h"
#include "tests/support/image_fields.h"

enum { MAX_PIECES = 512, PIECE_HEAD = 6 };

struct piece {
    uint64_t at;
    size_t n;
    const uint8_t *p;
};
struct sparse {
    struct piece piece[MAX_PIECES];
    size_t n;
    uint64_t size, n_read;
};

static int sparse_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    struct sparse *s = ctx;
    (void)e;
    PROMISE(range_within(off, n, s->size));
    s->n_read += n;
    memset(buf, 0, n);
    for (size_t i = 0; i < s->n; i++) {
        const struct piece *p = &s->piece[i];
        uint64_t from = p->at > off ? p->at : off;
        uint64_t to = p->at + p->n < off + n ? p->at + p->n : off + n;
        if (from < to)
            memcpy((uint8_t *)buf + (from - off), p->p + (from - p->at), to - from);
    }
    return 0;
}

static void sparse_close(void *ctx)
{
    (void)ctx;
}

/* Opening never writes: there is nothing here that could. */
static const struct blk_ops sparse_ops = {.pread = sparse_pread, .close = sparse_close};

static void unpack(struct sparse *s, const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    s->size = bytes_be64(&in);
    while (in.left > PIECE_HEAD && s->n < MAX_PIECES) {
        struct piece *p = &s->piece[s->n++];
        p->at = bytes_be32(&in);
        p->n = bytes_be16(&in);
        if (p->n > in.left)
            p->n = in.left;
        p->p = bytes_take(&in, p->n);
    }
}

/* What a read or a write through the map relies on. */
static void check_promises(const struct qcow_image *img)
{
    PROMISE(img->n_guest <= QCOW_MAX_GUEST && img->n_host <= QCOW_MAX_HOST);
    PROMISE(img->header.size <= img->n_guest * img->cluster_bytes);
    PROMISE(img->use[0] == USE_HEADER);
    for (uint32_t i = 0; i < img->n_guest; i++) {
        uint32_t host = img->map[i] & MAP_HOST;
        PROMISE(host < img->n_host);
        PROMISE(host == 0 || img->use[host] == USE_DATA);
    }
    uint64_t luks = img->header.luks.byte / img->cluster_bytes;
    for (uint64_t at = 0; at < img->header.luks_bytes; at += img->cluster_bytes)
        PROMISE(img->use[luks + at / img->cluster_bytes] == USE_LUKS);
}

static void check_refusal(const struct err *e)
{
    PROMISE(e->kind == ERR_STATE_FOREIGN || e->kind == ERR_STATE_CORRUPT ||
            e->kind == ERR_UNSUPPORTED || e->kind == ERR_KEY_UNEXPECTED);
    PROMISE(!strncmp(e->text, "fuzz: ", 6) && strlen(e->text) < sizeof(e->text) - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct sparse s = {.n = 0};
    struct qcow_facts facts;
    struct qcow_check check;
    struct err e = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    unpack(&s, bytes, n);
    PROMISE(blk_from_ops(&sparse_ops, &s, s.size, "fuzz", &b, &e) == 0);

    memory_begin();
    int opened = qcow_open(b, &img, &e);
    PROMISE(memory_peak() <= MEMORY_MOST);
    PROMISE(s.n_read <= UINT64_C(64) << 20); /* the work for a verdict is bounded */
    if (opened == 0)
        check_promises(img);
    else
        check_refusal(&e);
    if (qcow_inspect(b, &facts, &e) == 0)
        PROMISE((facts.refused.kind == ERR_NONE) == (opened == 0));
    else
        PROMISE(opened < 0);
    s.n_read = 0;
    if (opened == 0 && qcow_check_image(img, &check, &e) < 0)
        PROMISE(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_UNSUPPORTED);
    PROMISE(s.n_read <= UINT64_C(112) << 20);
    return 0;
}

/* ---- libFuzzer's mutator ---- */

enum { MOST_FLAT = 4 << 20 };

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t n, size_t max) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed);

static uint32_t draw(uint32_t *state, size_t below)
{
    *state = *state * 1664525 + 1013904223;
    return (uint32_t)((*state >> 8) % below);
}

/* One field, set by a piece at the end. */
static size_t set_field(uint8_t *bytes, size_t n, size_t max, uint32_t *seed)
{
    struct sparse s = {.n = 0};
    struct image_fields all;
    struct err e;
    uint64_t values[FIELD_VALUES_MAX];
    unpack(&s, bytes, n);
    uint64_t size = s.size < MOST_FLAT ? s.size : MOST_FLAT;
    uint8_t *flat = calloc(1, size + 1);
    PROMISE(flat && sparse_pread(&s, flat, size, 0, &e) == 0);
    image_fields_of(flat, size, NULL, 0, true, &all);
    const struct image_field *f = &all.field[all.n ? draw(seed, all.n) : 0];
    for (int i = 0; i < 4 && all.n > 0 && !strcmp(f->name, "entry"); i++)
        f = &all.field[draw(seed, all.n)];
    size_t n_values = all.n ? field_values(&all, f, field_get(f, flat + f->at), values) : 0;
    if (n_values > 0 && max - n >= (size_t)PIECE_HEAD + f->bytes) {
        put_be32(bytes + n, (uint32_t)f->at);
        put_be16(bytes + n + 4, f->bytes);
        field_put(f, values[draw(seed, n_values)], bytes + n + PIECE_HEAD);
        n += PIECE_HEAD + f->bytes;
    }
    image_fields_clear(&all);
    free(flat);
    return n;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t n, size_t max, unsigned seed)
{
    uint32_t state = seed;
    if (n > 8 && draw(&state, 2))
        return set_field(bytes, n, max, &state);
    return LLVMFuzzerMutate ? LLVMFuzzerMutate(bytes, n, max) : n;
}
