/* Input: four bytes, the lengths of the old blobs in units of 16 (0: absent); the rest is a
 * payload. It is decoded as a delta to those blobs and as a full state; what is accepted is applied
 * and must have the promised lengths. Then the payload's two halves are an old and a new blob:
 * their difference must bring one to the other. */
#include <string.h>

#include "backend/store_diff.h"
#include "tests/fuzz/fuzz.h"

static void *room(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    PROMISE(p);
    return p;
}

static void apply(const struct delta_blob *d, const struct blob_view *old, uint8_t **ret)
{
    uint8_t *blob = room(d->n_old > d->n_new ? d->n_old : d->n_new);
    size_t aside = delta_scratch_bytes(d);
    uint8_t *scratch = room(aside);
    PROMISE(aside <= d->n_new);
    if (d->n_old > 0)
        memcpy(blob, old->p, d->n_old);
    delta_apply(d, blob, scratch);
    free(scratch);
    *ret = blob;
}

static void as_delta(struct bytes_in in, const struct state_view *old)
{
    struct delta d;
    if (!delta_decode(in, old, &d))
        return;
    for (size_t i = 0; i < N_BLOBS; i++) {
        uint8_t *made;
        if (!d.blob[i].changed || !d.blob[i].present)
            continue;
        PROMISE(d.blob[i].n_new <= BLOB_MAX_BYTES);
        PROMISE(d.blob[i].n_old == (old->blob[i].present ? old->blob[i].n : 0));
        apply(&d.blob[i], &old->blob[i], &made);
        free(made);
    }
}

static void as_state(struct bytes_in in)
{
    struct state_view s;
    if (!state_decode(in, &s))
        return;
    uint8_t *again = room(in.left);
    struct bytes_out out = bytes_out(again, in.left);
    PROMISE(state_encoded_bytes(&s) == in.left);
    state_encode(&s, &out);
    PROMISE(!out.bad && out.n == in.left && !memcmp(again, in.at, in.left));
    free(again);
}

static void as_two_blobs(const uint8_t *p, size_t n)
{
    size_t half = n / 2, most = 2 * n + 200;
    const struct state_view old = {{{true, p, half}}}, now = {{{true, p + half, n - half}}};
    struct state_edit edit;
    struct delta d;
    uint8_t *payload = room(most), *made;
    struct bytes_out out = bytes_out(payload, most);
    state_compare(&old, &now, &edit);
    if (edit.n_changed > 0) {
        delta_encode(&old, &now, &edit, &out);
        PROMISE(!out.bad);
        PROMISE(delta_decode(bytes_in(payload, out.n), &old, &d));
        apply(&d.blob[0], &old.blob[0], &made);
        PROMISE(d.blob[0].n_new == n - half && !memcmp(made, p + half, n - half));
        free(made);
    } else {
        PROMISE(half == n - half && !memcmp(p, p + half, half));
    }
    free(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct state_view old = {0};
    if (n < N_BLOBS)
        return 0;
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t len = (size_t)bytes[i] * 16;
        uint8_t *p = room(len);
        for (size_t j = 0; j < len; j++)
            p[j] = (uint8_t)(j * 7 + i);
        old.blob[i] = (struct blob_view){len > 0, p, len};
    }
    as_delta(bytes_in(bytes + N_BLOBS, n - N_BLOBS), &old);
    as_state(bytes_in(bytes + N_BLOBS, n - N_BLOBS));
    if (n > N_BLOBS)
        as_two_blobs(bytes + N_BLOBS, n - N_BLOBS);
    for (size_t i = 0; i < N_BLOBS; i++)
        free((void *)(uintptr_t)old.blob[i].p);
    return 0;
}
