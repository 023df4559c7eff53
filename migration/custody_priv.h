/* What the files of custody share; nobody else includes this.
 *
 *     custody.c        the image, the claim, the table
 *     custody_set.c    what is given away, what is handed in
 *     custody_token.c  prepared hand-over
 */
#ifndef NVKEEP_MIGRATION_CUSTODY_PRIV_H
#define NVKEEP_MIGRATION_CUSTODY_PRIV_H

#include "migration/custody.h"

/* The blobs of a set by their digests: names a set that travels without an envelope. */
struct set_digest {
    uint8_t part[N_TPM_BLOBS][SHA256_BYTES];
};

struct custody {
    struct custody_rules rules;
    enum handover_state state;

    /* One of them: an image, or what will be one. */
    struct image *image;
    struct image_file *file;
    struct secret *pass;
    size_t pass_bytes;

    /* What was given away, for taking it back. */
    bool gave, gave_set; /* a whole set, or only the claim */
    uint8_t given_set[16];
    struct store_mark given;
    uint8_t tried_set[16];     /* of the last attempt at taking back */
    uint64_t tried_generation; /* 0: none failed */

    /* What is being given away. */
    bool exporting;
    struct envelope_head out;
    struct set_digest out_digest;

    /* What is being handed in. */
    bool staging, sealed;
    struct envelope_head in; /* sealed: of the blob that began the set */
    unsigned got;            /* bit (kind - 1) */
    struct set_digest in_digest;

    /* Prepared hand-over; times of CLOCK_MONOTONIC in milliseconds. */
    int64_t offered_at; /* 0: nothing is offered */
    uint8_t nonce[16];
    int64_t armed_until; /* 0: not armed */
};

/* Opens the image that is waited for, unless that is done. */
int custody_make_image(struct custody *c, const struct watch *watch, struct err *e) MUST_CHECK;
struct envelope_keys custody_keys(const struct custody *c);
/* The image's header fields: where it comes from, which state it is. */
int custody_head(const struct custody *c, const struct store *s, struct envelope_head *ret,
                 struct err *e) MUST_CHECK;
/* Which TPM a store holds, and how far it has come. */
struct lineage {
    uint8_t id[16];  /* the instance of the image in which that TPM was made */
    uint64_t clock;  /* see store_origin.h */
    uint64_t in_use; /* the clock, but of what was handed over and never used the one before it: the
                        giver may have taken it back, and hand it over anew */
};
/* From its blob of kind BLOB_ORIGIN (NULL: none), and its newest generation. */
int custody_lineage(const uint8_t *origin, size_t n, const struct ref_facts *facts,
                    uint64_t generation, struct lineage *ret, struct err *e) MUST_CHECK;
/* May a TPM that comes from another image replace this one: is it the same one, and later? */
int custody_accepts_other(const struct custody *c, const struct lineage *here,
                          const struct envelope_head *other, bool rewind, struct err *e) MUST_CHECK;
/* Does the store hold this very set, as it was handed over, and never used? */
bool custody_is_unused_set(const struct store *s, const uint8_t set[16]);
/* Is there a living TPM here that could be handed over? */
int custody_owns(const struct custody *c, struct err *e) MUST_CHECK;
/* The error of an export that had to be prepared and was not; returns -1. */
int custody_not_armed(struct err *e);
void custody_set_id(const struct set_digest *d, uint8_t ret[16]);

#endif
