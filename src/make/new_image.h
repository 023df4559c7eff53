/* What the commands that make an image have in common: numbers and key from the command line, the
 * image with its first state, and what is said of it.
 */
#ifndef NVKEEP_SRC_NEW_IMAGE_H
#define NVKEEP_SRC_NEW_IMAGE_H

#include "backend/image.h"
#include "backend/tpm.h"
#include "src/cli/cli.h"

struct new_image {
    unsigned ms;
    struct image_create image;
    const char *why; /* ms */
};

/* From the options, and how many iterations that are on this machine. The path must be free.
 * random_key: nobody chose it. */
int new_image_plan(const struct cli_args *a, const char *path, bool random_key,
                   struct new_image *ret, struct err *e) MUST_CHECK;
/* --size and --cluster-size alone. */
int new_image_sizes(const struct cli_args *a, struct image_create *ret, struct err *e) MUST_CHECK;
/* A new key (--new-key: its file is made, and run->made[1] names it), or one that exists or is
 * chosen now. */
int new_image_key(struct cli_run *run, const char *path, struct secret **ret, size_t *ret_bytes,
                  struct err *e) MUST_CHECK;
int new_image_make(struct new_image *p, const struct tpm_blobs *blobs, const struct secret *key,
                   size_t key_bytes, struct progress *progress, struct ref_facts *ret,
                   struct err *e) MUST_CHECK;
/* The cost of the key, on standard error. */
void new_image_say_cost(const struct new_image *p);
void new_image_json(struct json_out *j, const struct cli_args *a, const struct new_image *p,
                    const struct ref_facts *facts, bool holds_tpm);

#endif
