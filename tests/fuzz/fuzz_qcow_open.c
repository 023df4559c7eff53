/* A whole image, opened, counted and inspected. The input holds what is not zero in it, because the
 * key material alone would be megabytes: eight bytes of file length, then pieces of {u32 offset,
 * u16 length, bytes}. tests/fuzz/pack_image.py makes one from an image. */
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_PIECES = 512 };

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
    while (in.left > 6 && s->n < MAX_PIECES) {
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

    int opened = qcow_open(b, &img, &e);
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
