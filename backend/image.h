/* The whole way, in one call each: from a path and a passphrase to a store, and a new image.
 *
 *     path --image_file_open--> image_file --image_unlock--> image --image_claim--> store
 *                                                              ^                      |
 *                                                              +---- image_release ---+
 *
 * An image_file is open for reading and writing, not claimed, and nothing of it was read. A struct
 * image proves that a passphrase opened it; it keeps the open file and the volume key, and nothing
 * else that was read: whatever is believed about the content was read after the claim. While a
 * store lives that was made from it, that store has the file.
 *
 * Every store is made by the same code (cold start, migration target, take-back, the library). A
 * failed call leaves the file's bytes and mtime alone, and no lock.
 */
#ifndef NVKEEP_BACKEND_IMAGE_H
#define NVKEEP_BACKEND_IMAGE_H

#include "backend/store_recover.h"

struct image_file;
struct image;

/* As blk_open(); ERR_LOCKED is not looked for. */
int image_file_open(const char *path, struct image_file **ret, struct err *e) MUST_CHECK;
void image_file_free(struct image_file *f);
DEFINE_OWNED(image_file);

/* Takes the file on success; lock-free, reads only. What the file is not yet, while somebody copies
 * it, is told from what is wrong: ERR_STATE_EMPTY (no bytes, or zeroes where the header should be),
 * ERR_STATE_CORRUPT (cut off; zeroes in key material or in other places that are never zero; the
 * message says that a copy may not be finished). ERR_KEY_WRONG, and what qcow_open() refuses. */
int image_unlock(struct image_file **f, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct image **ret, struct err *e) MUST_CHECK;
void image_free(struct image *i); /* after the store that has its file */
DEFINE_OWNED(image);
/* Forgets the key; the file is as it was before image_unlock(). For a file whose bytes are not
 * those any more that the key belongs to. Only while no store has it. */
void image_lock(struct image **i, struct image_file **ret);
const char *image_name(const struct image *i); /* escaped, for messages */
const struct volume_key *image_key(const struct image *i);

/* What is in it now, without a claim: milliseconds, any number of times, nothing changes. */
int image_look(const struct image *i, struct store_look **ret, struct err *e) MUST_CHECK;

/* Claims, and reads everything afresh: header, tables, the reference sector (whose MAC proves the
 * key once more), the newest state. Milliseconds. ERR_LOCKED: somebody else has it.
 * ERR_STORAGE: it was deleted or replaced (its name leads to another file). */
int image_claim(struct image *i, struct store **ret, struct err *e) MUST_CHECK;
/* Frees the store, lets the claim go, keeps the file open. */
void image_release(struct image *i, struct store **s);

/* All of it at once, the claim first: somebody who stays out is not made to stretch a passphrase
 * before he is told. The second keeps no image: the store is let go by freeing it. */
int image_open_claimed(const char *path, const struct secret *pass, size_t pass_bytes,
                       const struct watch *watch, struct image **ret_image, struct store **ret,
                       struct err *e) MUST_CHECK;
int image_open_store(const char *path, const struct secret *pass, size_t pass_bytes,
                     const struct watch *watch, struct store **ret, struct err *e) MUST_CHECK;

/* The key alone, for what replaces the state that is there. Whether anybody has the image is asked
 * before the passphrase is stretched; the claim is not kept. */
int image_open_idle(const char *path, const struct secret *pass, size_t pass_bytes,
                    const struct watch *watch, struct image **ret, struct err *e) MUST_CHECK;

/* After ERR_STATE_CORRUPT: the claim, and what of the state can be recovered. Nothing is written.
 */
int image_open_damaged(const char *path, const struct secret *pass, size_t pass_bytes,
                       const struct watch *watch, struct recovery **ret, struct err *e) MUST_CHECK;

/* The same without a claim, reading only (the file need not be writable); usable while another
 * process runs on the image. */
struct image_report {
    struct ref_facts facts;
    struct store_stats store;
    bool holds_tpm;          /* false: it waits for a migration to bring one */
    struct qcow_check check; /* filled when full is true */
};
int image_verify(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                 const struct watch *watch, struct image_report *ret, struct err *e) MUST_CHECK;

/* And the state itself. */
int image_verify_look(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                      const struct watch *watch, struct image_report *ret,
                      struct store_look **ret_look, struct err *e) MUST_CHECK;

struct image_create {
    const char *path;
    enum device_kind device;
    uint64_t size;         /* of the decrypted disk, bytes; 0: IMAGE_DEFAULT_BYTES */
    unsigned cluster_bits; /* 0: 16 */
    uint32_t iterations;   /* of the key slot */
    /* What the new store holds. NULL or no blob: it waits for a migration to bring a TPM. */
    const struct state_change *first;
    const struct stat *over; /* whose place it takes, as blk_create_over(); NULL: nobody's */
    mode_t mode;             /* 0: 0600, or that of `over`, which also gives the owner */
};
#define IMAGE_DEFAULT_BYTES (UINT64_C(1) << 20)

/* The file appears whole, durable and under its name, or not at all; no other existing file is ever
 * touched. What owner and mode cannot be given is said before the key is stretched. ret_facts may
 * be NULL. */
int image_create(const struct image_create *what, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct ref_facts *ret_facts, struct err *e) MUST_CHECK;

#endif
