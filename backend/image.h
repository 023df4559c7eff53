/* The whole way, in one call each: from a path and a passphrase to a store, and a new image.
 *
 * image_open_store() is the one initialisation path: cold start, migration target and the library
 * all come through it. A failed call leaves the file's bytes and mtime alone, and no lock.
 */
#ifndef NVKEEP_BACKEND_IMAGE_H
#define NVKEEP_BACKEND_IMAGE_H

#include "backend/store.h"

/* Claim, validate, recover the key, verify the reference sector, find the newest state. */
int image_open_store(const char *path, const struct secret *pass, size_t pass_bytes,
                     const struct watch *watch, struct store **ret, struct err *e) MUST_CHECK;

/* The same without a claim, reading only; usable while another process runs on the image. */
struct image_report {
    struct ref_facts facts;
    struct store_stats store;
    struct qcow_check check; /* filled when full is true */
};
int image_verify(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                 const struct watch *watch, struct image_report *ret, struct err *e) MUST_CHECK;

struct image_create {
    const char *path;
    enum device_kind device;
    uint64_t size;                    /* of the decrypted disk, bytes; 0: IMAGE_DEFAULT_BYTES */
    unsigned cluster_bits;            /* 0: 16 */
    uint32_t iterations;              /* of the key slot */
    const struct state_change *first; /* what the new store holds */
};
#define IMAGE_DEFAULT_BYTES (UINT64_C(1) << 20)

/* The file appears whole, durable and under its name, or not at all; an existing file is never
 * touched. ret_facts may be NULL. */
int image_create(const struct image_create *what, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct ref_facts *ret_facts, struct err *e) MUST_CHECK;

#endif
