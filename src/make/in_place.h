/* A TPM of swtpm's becomes an image where swtpm's place is taken by ours: the image gets the name
 * that src/compat looks for, and what was there before stays beside it under another name.
 *
 *     DIR/tpm2-00.permall, ...  ->  DIR/tpm2-00.qcow2, DIR/tpm2-00.permall.before-nvkeep, ...
 *     PATH, a linear store      ->  PATH, PATH.before-nvkeep
 *
 * Killed at any time, the permanent state's name leads to swtpm's state, whole, or to the image,
 * whole; it is never missing before the image has its own:
 *
 *     the image under a name that nobody looks for         tpm2-00.qcow2.nvkeep-new
 *     a second name for each of swtpm's files              tpm2-00.permall.before-nvkeep
 *     the image takes the first name: here it happens      tpm2-00.permall
 *     the image gets its own name                          tpm2-00.qcow2
 *     the first names go
 *
 * What is left behind by one that was killed is finished, or begun anew, by the next one. swtpm's
 * lock is held all the time. In the directory nothing is done but with the rights of its owner, and
 * no link is followed.
 */
#ifndef NVKEEP_SRC_IN_PLACE_H
#define NVKEEP_SRC_IN_PLACE_H

#include "src/key/swtpm_key.h"
#include "src/make/new_image.h"
#include "src/make/swtpm_state.h"

struct in_place_state {
    struct in_place_state *next;
    char *path;     /* of the directory, or of the store */
    size_t trusted; /* so much of it was named by the user; behind that no link is followed */
    char *machine;  /* the name of whose TPM it is, as the directory says */
    bool is_store;
    enum device_kind device; /* a store says itself */
};

/* All that is in this directory, up to a few levels down; or this one store. In front of *list.
 * kind: NULL: both. ERR_USAGE: cannot be opened; ERR_STORAGE. */
int in_place_find(const char *path, const enum device_kind *kind, struct in_place_state **list,
                  struct err *e) MUST_CHECK;
void in_place_states_free(struct in_place_state *list);

struct in_place_how {
    /* What opens the encrypted ones, and then their images; KEY_SOURCE_NONE: there are none. `%` in
     * its path is the machine's name, `%%` is `%`. */
    const struct swtpm_key_source *key;
    struct image_create image;    /* size and cluster size */
    unsigned ms;                  /* of the key; 0: as src/compat has it */
    const enum device_kind *kind; /* of a store; NULL: either */
    bool dry_run;
    struct progress *progress;
};

enum { IN_PLACE_NAME_BYTES = 300 };
enum in_place_outcome { IN_PLACE_DONE, IN_PLACE_WOULD_BE, IN_PLACE_ALREADY };
struct in_place_result {
    enum in_place_outcome outcome;
    bool encrypted;
    char image[IN_PLACE_NAME_BYTES], kept[IN_PLACE_NAME_BYTES], key[IN_PLACE_NAME_BYTES]; /* "" */
};
/* Fails and changes nothing; leaves the working directory elsewhere, so the key's path has to be
 * absolute. ERR_LOCKED: a swtpm runs on it; ERR_STATE_FOREIGN: there is something in the way; and
 * what swtpm_source_read() refuses. */
int in_place_import(const struct in_place_state *s, const struct in_place_how *how,
                    struct in_place_result *ret, struct err *e) MUST_CHECK;

#endif
