#include "backend/store_diff.h"

#include <string.h>

enum {
    OP_COPY = 1,
    OP_LITERAL = 2,
    MIN_COPY = 16,         /* a shorter copy is not worth the ops around it */
    ANCHOR_BYTES = 32,     /* what is searched for in the old blob */
    MIN_SPLIT_BYTES = 128, /* a shorter edit is written out */
    MAX_DEPTH = 5,         /* of splitting: at most 32 edits are told apart */
    COMPARE_STRIDE = 4096,
};

size_t state_encoded_bytes(const struct state_view *s)
{
    size_t n = 1;
    for (size_t i = 0; i < N_BLOBS; i++)
        if (s->blob[i].present)
            n += 1 + 4 + s->blob[i].n;
    return n;
}

void state_encode(const struct state_view *s, struct bytes_out *out)
{
    uint8_t n = 0;
    for (size_t i = 0; i < N_BLOBS; i++)
        n = (uint8_t)(n + s->blob[i].present);
    bytes_put_u8(out, n);
    for (size_t i = 0; i < N_BLOBS; i++) {
        const struct blob_view *b = &s->blob[i];
        if (!b->present)
            continue;
        bytes_put_u8(out, (uint8_t)(i + 1));
        bytes_put_be32(out, (uint32_t)b->n);
        bytes_put(out, b->p, b->n);
    }
}

bool state_decode(struct bytes_in in, struct state_view *ret)
{
    struct state_view s = {0};
    unsigned last = 0;
    for (uint8_t left = bytes_u8(&in); left > 0; left--) {
        unsigned kind = bytes_u8(&in);
        uint32_t n = bytes_be32(&in);
        const uint8_t *p = bytes_take(&in, n);
        if (!p || kind <= last || kind > N_BLOBS || n > BLOB_MAX_BYTES)
            return false;
        s.blob[kind - 1] = (struct blob_view){true, p, n};
        last = kind;
    }
    if (!bytes_done(&in))
        return false;
    *ret = s;
    return true;
}

/* Bytes that are equal at the start of a and b. memcmp() finds the stride, words the place in it.
 */
static size_t common_prefix(const uint8_t *a, const uint8_t *b, size_t n)
{
    size_t at = 0;
    while (n - at >= COMPARE_STRIDE && memcmp(a + at, b + at, COMPARE_STRIDE) == 0)
        at += COMPARE_STRIDE;
    for (uint64_t x, y; n - at >= sizeof(x); at += sizeof(x)) {
        memcpy(&x, a + at, sizeof(x));
        memcpy(&y, b + at, sizeof(y));
        if (x != y)
            break;
    }
    while (at < n && a[at] == b[at])
        at++;
    return at;
}

/* The same from the ends, which a_end and b_end point behind. */
static size_t common_suffix(const uint8_t *a_end, const uint8_t *b_end, size_t n)
{
    size_t at = 0;
    while (n - at >= COMPARE_STRIDE &&
           memcmp(a_end - at - COMPARE_STRIDE, b_end - at - COMPARE_STRIDE, COMPARE_STRIDE) == 0)
        at += COMPARE_STRIDE;
    for (uint64_t x, y; n - at >= sizeof(x); at += sizeof(x)) {
        memcpy(&x, a_end - at - sizeof(x), sizeof(x));
        memcpy(&y, b_end - at - sizeof(y), sizeof(y));
        if (x != y)
            break;
    }
    while (at < n && a_end[-1 - (ptrdiff_t)at] == b_end[-1 - (ptrdiff_t)at])
        at++;
    return at;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static struct blob_edit blob_compare(const struct blob_view *old, const struct blob_view *now)
{
    struct blob_edit edit = {.changed = old->present != now->present};
    if (!old->present || !now->present)
        return edit;
    size_t n = smaller(old->n, now->n);
    if (n > 0 && old->p != now->p)
        edit.prefix = common_prefix(old->p, now->p, n);
    else
        edit.prefix = n;
    edit.changed = old->n != now->n || edit.prefix != n;
    if (edit.changed && n > edit.prefix)
        edit.suffix = common_suffix(old->p + old->n, now->p + now->n, n - edit.prefix);
    return edit;
}

void state_compare(const struct state_view *old, const struct state_view *now,
                   struct state_edit *ret)
{
    struct state_edit edit = {0};
    for (size_t i = 0; i < N_BLOBS; i++) {
        edit.blob[i] = blob_compare(&old->blob[i], &now->blob[i]);
        edit.n_changed += edit.blob[i].changed;
    }
    *ret = edit;
}

/* Ops come in the order of the new blob; one is held back, so that neighbours become one. */
struct differ {
    const uint8_t *old, *now;
    struct bytes_out *out;
    unsigned n_ops;
    unsigned held; /* OP_COPY, OP_LITERAL, or 0 */
    size_t from;   /* of the held op: offset in old, or in now for a literal */
    size_t n;
};

static void put_held(struct differ *d)
{
    if (!d->held)
        return;
    bytes_put_u8(d->out, (uint8_t)d->held);
    if (d->held == OP_COPY)
        bytes_put_be32(d->out, (uint32_t)d->from);
    bytes_put_be32(d->out, (uint32_t)d->n);
    if (d->held == OP_LITERAL)
        bytes_put(d->out, d->now + d->from, d->n);
    d->n_ops++;
    d->held = 0;
}

static void hold(struct differ *d, unsigned op, size_t from, size_t n)
{
    if (n == 0)
        return;
    if (d->held == op && d->from + d->n == from) {
        d->n += n;
        return;
    }
    put_held(d);
    d->held = op;
    d->from = from;
    d->n = n;
}

/* n bytes that are equal: at `a` in the old blob and at `b` in the new one. */
static void hold_equal(struct differ *d, size_t a, size_t b, size_t n)
{
    bool goes_on = d->held == OP_COPY && d->from + d->n == a;
    if (n >= MIN_COPY || goes_on)
        hold(d, OP_COPY, a, n);
    else
        hold(d, OP_LITERAL, b, n);
}

/* A stretch of old and of new that is to be expressed. */
struct stretch {
    size_t a, a_end; /* in the old blob */
    size_t b, b_end; /* in the new blob */
};

/* Looks for a piece of the new stretch in the old one: from the middle, then the quarters. A piece
 * of one repeated byte would be found anywhere, so the next that is not is taken. */
static bool find_anchor(const struct differ *d, const struct stretch *s, size_t *ret_a,
                        size_t *ret_b)
{
    size_t n = s->b_end - s->b;
    if (n < MIN_SPLIT_BYTES || s->a_end - s->a < ANCHOR_BYTES)
        return false;
    for (size_t quarter = 0; quarter < 3; quarter++) {
        static const unsigned char order[3] = {2, 1, 3};
        size_t at = s->b + n / 4 * order[quarter];
        while (s->b_end - at > ANCHOR_BYTES &&
               memcmp(d->now + at, d->now + at + 1, ANCHOR_BYTES - 1) == 0)
            at += ANCHOR_BYTES;
        if (s->b_end - at < ANCHOR_BYTES)
            continue;
        const uint8_t *hit = memmem(d->old + s->a, s->a_end - s->a, d->now + at, ANCHOR_BYTES);
        if (!hit)
            continue;
        *ret_a = (size_t)(hit - d->old);
        *ret_b = at;
        return true;
    }
    return false;
}

/* What is equal at both ends is copied; what remains is split at a piece found in both, or written
 * out. The ends of the two halves find how far that piece reaches. */
static void diff_stretch(struct differ *d, struct stretch s, unsigned depth)
{
    size_t a, b, n = smaller(s.a_end - s.a, s.b_end - s.b);
    size_t prefix = n > 0 ? common_prefix(d->old + s.a, d->now + s.b, n) : 0;
    size_t suffix = n > prefix ? common_suffix(d->old + s.a_end, d->now + s.b_end, n - prefix) : 0;
    const struct stretch mid = {s.a + prefix, s.a_end - suffix, s.b + prefix, s.b_end - suffix};

    hold_equal(d, s.a, s.b, prefix);
    if (d->out->bad)
        return;
    if (depth < MAX_DEPTH && find_anchor(d, &mid, &a, &b)) {
        diff_stretch(d, (struct stretch){mid.a, a, mid.b, b}, depth + 1);
        diff_stretch(d, (struct stretch){a, mid.a_end, b, mid.b_end}, depth + 1);
    } else {
        hold(d, OP_LITERAL, mid.b, mid.b_end - mid.b);
    }
    hold_equal(d, s.a_end - suffix, s.b_end - suffix, suffix);
}

static void encode_blob(const struct blob_view *old, const struct blob_view *now,
                        const struct blob_edit *edit, struct bytes_out *out)
{
    struct differ d = {old->p, now->p, out, 0, 0, 0, 0};
    size_t n_old = old->present ? old->n : 0;
    size_t at_n_ops = out->n + 4;
    bytes_put_be32(out, (uint32_t)now->n);
    bytes_put_be16(out, 0);

    hold_equal(&d, 0, 0, edit->prefix);
    diff_stretch(
        &d,
        (struct stretch){edit->prefix, n_old - edit->suffix, edit->prefix, now->n - edit->suffix},
        0);
    hold_equal(&d, n_old - edit->suffix, now->n - edit->suffix, edit->suffix);
    put_held(&d);
    if (!out->bad)
        put_be16(out->start + at_n_ops, (uint16_t)d.n_ops);
}

void delta_encode(const struct state_view *old, const struct state_view *now,
                  const struct state_edit *edit, struct bytes_out *out)
{
    bytes_put_u8(out, (uint8_t)edit->n_changed);
    for (size_t i = 0; i < N_BLOBS; i++) {
        if (!edit->blob[i].changed)
            continue;
        bytes_put_u8(out, (uint8_t)(i + 1));
        bytes_put_u8(out, now->blob[i].present);
        if (now->blob[i].present)
            encode_blob(&old->blob[i], &now->blob[i], &edit->blob[i], out);
    }
}

/* One op, read from a cursor. A literal's bytes are at p. */
struct op {
    unsigned what;
    size_t from, n;
    const uint8_t *p;
};

static bool op_decode(struct bytes_in *in, struct op *ret)
{
    struct op op = {.what = bytes_u8(in)};
    if (op.what != OP_COPY && op.what != OP_LITERAL)
        return false;
    if (op.what == OP_COPY)
        op.from = bytes_be32(in);
    op.n = bytes_be32(in);
    if (op.what == OP_LITERAL)
        op.p = bytes_take(in, op.n);
    if (in->bad || op.n == 0)
        return false;
    *ret = op;
    return true;
}

/* The ops of a blob whose old length is known; they must give exactly n_new bytes. */
static bool ops_decode(struct bytes_in *in, struct delta_blob *blob)
{
    size_t made = 0;
    blob->ops = *in;
    for (unsigned i = 0; i < blob->n_ops; i++) {
        struct op op;
        if (!op_decode(in, &op) || op.n > blob->n_new - made ||
            (op.what == OP_COPY && !range_within(op.from, op.n, blob->n_old)))
            return false;
        made += op.n;
    }
    return made == blob->n_new;
}

bool delta_decode(struct bytes_in in, const struct state_view *old, struct delta *ret)
{
    struct delta d = {0};
    unsigned last = 0;
    uint8_t n = bytes_u8(&in);
    for (uint8_t left = n; left > 0; left--) {
        unsigned kind = bytes_u8(&in);
        uint8_t present = bytes_u8(&in);
        if (in.bad || kind <= last || kind > N_BLOBS || present > 1)
            return false;
        last = kind;
        struct delta_blob *blob = &d.blob[kind - 1];
        const struct blob_view *was = &old->blob[kind - 1];
        blob->changed = true;
        blob->present = present;
        blob->n_old = was->present ? was->n : 0;
        if (!present)
            continue;
        blob->n_new = bytes_be32(&in);
        blob->n_ops = bytes_be16(&in);
        if (in.bad || blob->n_new > BLOB_MAX_BYTES || !ops_decode(&in, blob))
            return false;
    }
    if (n == 0 || !bytes_done(&in))
        return false;
    *ret = d;
    return true;
}

/* Up to the first copy that moves bytes, a blob can be changed where it lies; from there on the
 * new bytes are put together aside, while the old ones are still whole. */
static size_t bytes_in_place(const struct delta_blob *d, unsigned *ret_n_ops)
{
    struct bytes_in in = d->ops;
    struct op op;
    size_t at = 0;
    unsigned i = 0;
    for (; i < d->n_ops && op_decode(&in, &op); i++) {
        if (op.what == OP_COPY && op.from != at)
            break;
        at += op.n;
    }
    *ret_n_ops = i;
    return at;
}

size_t delta_scratch_bytes(const struct delta_blob *d)
{
    unsigned n_ops;
    return d->n_new - bytes_in_place(d, &n_ops);
}

/* Runs ops [first, last); the output of the first of them goes to `to`. */
static void run_ops(const struct delta_blob *d, unsigned first, unsigned last, const uint8_t *old,
                    uint8_t *to)
{
    struct bytes_in in = d->ops;
    struct op op;
    for (unsigned i = 0; i < last && op_decode(&in, &op); i++) {
        if (i < first)
            continue;
        if (op.what == OP_LITERAL)
            memcpy(to, op.p, op.n);
        else if (to != old + op.from)
            memcpy(to, old + op.from, op.n);
        to += op.n;
    }
}

void delta_apply(const struct delta_blob *d, uint8_t *blob, uint8_t *scratch)
{
    unsigned n_in_place;
    size_t at = bytes_in_place(d, &n_in_place);
    run_ops(d, n_in_place, d->n_ops, blob, scratch);
    run_ops(d, 0, n_in_place, blob, blob);
    if (d->n_new > at)
        memcpy(blob + at, scratch, d->n_new - at);
}
