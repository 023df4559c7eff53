/* The operations of test_sequence_crash.c in which the state changes hands: by the product's own
 * custody, over the power disk (walk.h).
 */
#ifndef NVKEEP_TESTS_WALK_CUSTODY_H
#define NVKEEP_TESTS_WALK_CUSTODY_H

#include "migration/blob.h"
#include "tests/crash/walk.h"

enum { LIBRARY = 0x000902 }; /* whose states these would be */

struct parcel {
    struct secret *blob[N_TPM_BLOBS];
    size_t n[N_TPM_BLOBS];
};

static inline void parcel_clear(struct parcel *p)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(p->blob[i]);
}

static inline void give_away(struct walk *w, struct parcel *ret)
{
    unsigned kinds = 0;
    struct err e;
    *ret = (struct parcel){0};
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        if (w->s.t.model.blob[i].present && w->s.t.model.blob[i].n > 0)
            kinds |= 1U << i;
    if (custody_export_begin(w->owner.c, w->owner.s, kinds, LIBRARY, &e) < 0)
        die("export", &e);
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        bool encrypted;
        if (kinds & 1U << i &&
            custody_export(w->owner.c, (enum blob_kind)(i + 1), w->s.t.model.blob[i].bytes,
                           w->s.t.model.blob[i].n, &ret->blob[i], &ret->n[i], &encrypted, &e) < 0)
            die("export", &e);
    }
    custody_release(w->owner.c, &w->owner.s, true);
}

static inline void stage(struct side *h, const struct parcel *p)
{
    struct err e;
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        OWNED(secret) content = NULL;
        size_t n;
        if (p->blob[i] && custody_stage(h->c, (enum blob_kind)(i + 1), secret_peek(p->blob[i]),
                                        p->n[i], &content, &n, &e) < 0)
            die("what was handed over", &e);
    }
}

static inline void put_origin(struct walk *w, const uint8_t origin[ORIGIN_BYTES])
{
    w->s.t.model.blob[BLOB_ORIGIN - 1].present = true;
    w->s.t.model.blob[BLOB_ORIGIN - 1].n = ORIGIN_BYTES;
    memcpy(w->s.t.model.blob[BLOB_ORIGIN - 1].bytes, origin, ORIGIN_BYTES);
    must_commit(w, w->owner.s);
}

/* By the owner that is, of what the model holds. */
static inline void take_over(struct walk *w, const struct parcel *p)
{
    uint8_t origin[ORIGIN_BYTES];
    struct err e;
    stage(&w->owner, p);
    step_begin(&w->s);
    if (custody_take_over(w->owner.c, &w->owner.s, &e) < 0)
        die("taking over", &e);
    step_done(&w->s, w->owner.s);
    custody_set_origin(w->owner.c, w->owner.s, false, origin);
    put_origin(w, origin);
}

static inline void first_command(struct walk *w)
{
    uint8_t origin[ORIGIN_BYTES];
    if (!custody_unused(w->owner.s, origin))
        report("what was taken over", &w->s.t, "is not marked as unused");
    else
        put_origin(w, origin);
}

static inline void take_back(struct walk *w, struct side *source)
{
    struct err e;
    w->owner = *source;
    step_begin(&w->s);
    if (custody_take_back(w->owner.c, &w->owner.s, &e) < 0)
        die("taking back", &e);
    step_done(&w->s, w->owner.s);
    take_model(w, w->owner.s);
}

static inline void handed_over(struct walk *w)
{
    struct parcel p;
    give_away(w, &p);
    struct side source = w->owner;
    w->owner = side_new(w, SEAL_AUTO);
    take_over(w, &p);
    first_command(w);
    side_free(&source);
    parcel_clear(&p);
}

/* Stored by the other side, never used. */
static inline void handed_over_and_taken_back(struct walk *w)
{
    struct parcel p;
    give_away(w, &p);
    struct side source = w->owner;
    w->owner = side_new(w, SEAL_AUTO);
    take_over(w, &p);
    side_free(&w->owner);
    take_back(w, &source);
    parcel_clear(&p);
}

static inline void released_and_taken_back(struct walk *w)
{
    struct parcel p;
    give_away(w, &p);
    struct side source = w->owner;
    take_back(w, &source);
    parcel_clear(&p);
}

/* Another TPM's state, in swtpm's envelopes, in place of this one. */
static inline void incoming_state(struct walk *w)
{
    static const size_t bytes[N_TPM_BLOBS] = {2900, 900, 300};
    struct parcel p = {0};
    struct err e;
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        w->s.t.model.blob[i].present = true;
        w->s.t.model.blob[i].n = bytes[i];
        randomize(w->s.t.model.blob[i].bytes, bytes[i]);
        p.n[i] = blob_encoded_bytes(BLOB_WIRE, bytes[i]);
        if (secret_new(p.n[i], &p.blob[i], &e) < 0)
            die("a blob", &e);
        blob_encode(BLOB_WIRE, w->s.t.model.blob[i].bytes, bytes[i], secret_bytes(p.blob[i]));
    }
    side_free(&w->owner);
    w->owner = side_new(w, SEAL_OFF);
    take_over(w, &p);
    first_command(w);
    parcel_clear(&p);
}

#endif
