/* The payload of a record: a whole state, or what changed between two. Pure.
 *
 *     full  = u8 number of blobs present, then of each, in ascending order of kind:
 *             u8 kind, u32 length, bytes
 *     delta = u8 number of blobs changed (1 to 4), then of each, in ascending order of kind:
 *             u8 kind, u8 present; and where present is 1: u32 new length, u16 number of ops, ops
 *     op    = u8 1 (copy), u32 offset in the old blob, u32 length
 *           | u8 2 (literal), u32 length, bytes
 *
 * Big-endian. The lengths of a blob's ops, none of which is 0, add up to its new length. A blob
 * that was not there before counts as one of length 0. A blob that a delta does not name stays as
 * it is.
 *
 * Whatever is decoded here was authenticated before, and is not trusted all the same: every number
 * is checked against the bytes that are there before anything is copied.
 */
#ifndef NVKEEP_BACKEND_STORE_DIFF_H
#define NVKEEP_BACKEND_STORE_DIFF_H

#include "backend/store.h"
#include "src/base/bytes.h"

/* A state where it lies; p may be NULL where n is 0. Index: kind - 1. */
struct blob_view {
    bool present;
    const uint8_t *p;
    size_t n;
};
struct state_view {
    struct blob_view blob[N_BLOBS];
};

enum { STATE_OVERHEAD_BYTES = 1 + N_BLOBS * 5 }; /* most that state_encode() adds to the blobs */
/* Bytes that state_encode() writes. */
size_t state_encoded_bytes(const struct state_view *s);
void state_encode(const struct state_view *s, struct bytes_out *out);
/* The views in *ret point into `in`. False: not a full-state payload, *ret is untouched. */
bool state_decode(struct bytes_in in, struct state_view *ret);

/* Where two blobs differ: [prefix, n - suffix) of the new one; changed is false where they are
 * equal in every byte and both present, or both absent. */
struct blob_edit {
    bool changed;
    size_t prefix, suffix;
};
struct state_edit {
    unsigned n_changed;
    struct blob_edit blob[N_BLOBS];
};
/* Compares; encodes nothing. Costs one pass over both states. */
void state_compare(const struct state_view *old, const struct state_view *now,
                   struct state_edit *ret);
/* What state_compare() found, as a delta. out goes bad where the room does not suffice. */
void delta_encode(const struct state_view *old, const struct state_view *now,
                  const struct state_edit *edit, struct bytes_out *out);

/* A delta that fits the lengths of the state it is to change. Points into the payload. */
struct delta_blob {
    bool changed, present;
    size_t n_old, n_new;
    unsigned n_ops;
    struct bytes_in ops;
};
struct delta {
    struct delta_blob blob[N_BLOBS];
};
/* False: malformed, or not a change to a state of these lengths; *ret is untouched. */
bool delta_decode(struct bytes_in in, const struct state_view *old, struct delta *ret);

/* Bytes of scratch that delta_apply() needs: 0 where every byte that is kept stays in place. */
size_t delta_scratch_bytes(const struct delta_blob *d);
/* Changes a blob in place; blob has room for the longer of n_old and n_new. Cannot fail. */
void delta_apply(const struct delta_blob *d, uint8_t *blob, uint8_t *scratch);

#endif
