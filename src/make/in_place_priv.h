/* One import in place: what it knows, and the steps that change names. */
#ifndef NVKEEP_SRC_IN_PLACE_PRIV_H
#define NVKEEP_SRC_IN_PLACE_PRIV_H

#include <sys/stat.h>

#include "src/make/in_place.h"

struct names {
    /* swtpm's, the permanent state first; of a store there is that one alone, the others are "". */
    char state[N_TPM_BLOBS][IN_PLACE_NAME_BYTES];
    char image[IN_PLACE_NAME_BYTES], made[IN_PLACE_NAME_BYTES], key[IN_PLACE_NAME_BYTES];
};

struct work {
    const struct in_place_state *at;
    const struct in_place_how *how;
    int dir; /* borrowed */
    struct names names;
    struct stat now; /* of the permanent state; where it is gone, of the image */
    uid_t owner;     /* whose rights are enough in the directory */
    struct swtpm_source *source;
    struct swtpm_state tpm;
    struct migration_key *source_key;
    struct secret *key; /* the image's */
    size_t key_bytes;
    bool encrypted, made_key, converted;
    enum in_place_outcome outcome;
    char aside[N_TPM_BLOBS][IN_PLACE_NAME_BYTES]; /* second names; "": none */
    bool linked[N_TPM_BLOBS];                     /* by this one */
    bool committed, named;                        /* the image has the state's name; its own */
};

enum in_place_look {
    IN_PLACE_HAS_STATE, /* swtpm's, whole */
    IN_PLACE_HAS_BOTH,  /* the image has the state's name: somebody was killed on the way */
    IN_PLACE_HAS_IMAGE,
};

/* Fills now. ERR_STATE_EMPTY: it is gone. */
int in_place_stat(struct work *w, struct err *e) MUST_CHECK;
/* ERR_STATE_FOREIGN: a state of swtpm's and an image that is another one. */
int in_place_look(struct work *w, enum in_place_look *ret, struct err *e) MUST_CHECK;
/* ERR_STATE_FOREIGN: a file has a name that is not one of these. */
int in_place_check_links(struct work *w, struct err *e) MUST_CHECK;

/* From the state to the image that was made; undone where it fails. Where even that fails, the
 * image has the state's name, and its key is kept. */
int in_place_switch(struct work *w, struct err *e) MUST_CHECK;
/* The rest of it, after one that was killed. */
int in_place_finish(struct work *w, struct err *e) MUST_CHECK;
int in_place_tidy(struct work *w, struct err *e) MUST_CHECK;

#endif
