/* A qcow2 image, level by level; each level can only be built from the one below.
 *
 *     blk ---qcow_open---> qcow_image ---qcow_unlock---> qcow_volume ---qcow_attach---> qcow_disk
 *                              |             ^                                             |
 *                              +--recover----+ volume_key             blk_rw --qcow_arm----+-->
 * qcow_disk_rw
 *
 * holding a                 proves
 *   qcow_image              header, extensions, LUKS header, L1, L2 and refcounts were validated;
 *                           it has no data access
 *   volume_key              the passphrase was right
 *   qcow_volume             key and image in one hand: guest sectors can be read
 *   qcow_disk               the reference sector's MAC matched: this is an nvkeep store
 *   qcow_disk_rw            and the claim is held, and every sector of the store can be overwritten
 * in place: an ordinary write changes no qcow2 metadata
 *
 * An image borrows the blk it was opened on; the blk must outlive it. Opening never writes.
 */
#ifndef NVKEEP_BACKEND_QCOW_H
#define NVKEEP_BACKEND_QCOW_H

#include "backend/blk.h"
#include "backend/qcow_header.h"
#include "crypto/ref_sector.h"

struct qcow_image;
struct qcow_volume;
struct qcow_disk;
struct qcow_disk_rw;

/* Validates everything clear-text. Bounded: at most 2^20 guest clusters and 2^21 host clusters
 * (ERR_UNSUPPORTED beyond), 2^13 snapshots, memory below 16 MiB, some ten milliseconds. Compressed
 * clusters in an encrypted image are refused; so are images that are not encrypted
 * (ERR_KEY_UNEXPECTED: whoever opens has a key). */
int qcow_open(const struct blk *b, struct qcow_image **ret, struct err *e) MUST_CHECK;
void qcow_image_free(struct qcow_image *img);
DEFINE_OWNED(qcow_image);

/* Facts without the key; pointers live as long as the image. */
const struct qcow_header *qcow_image_header(const struct qcow_image *img);
const struct luks_header *qcow_image_luks(const struct qcow_image *img);
const struct blk *qcow_image_blk(const struct qcow_image *img); /* that it was opened on */

/* Which active slots are tried and in which order: 0 to 7. The watch counts iterations over all of
 * them. ERR_KEY_WRONG; ERR_STATE_CORRUPT when no slot is active. */
int qcow_recover(const struct qcow_image *img, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct volume_key **ret, struct err *e) MUST_CHECK;

/* Takes both on success. */
int qcow_unlock(struct qcow_image **img, struct volume_key **key, struct qcow_volume **ret,
                struct err *e) MUST_CHECK;
void qcow_volume_free(struct qcow_volume *v);
DEFINE_OWNED(qcow_volume);
uint64_t qcow_volume_sectors(const struct qcow_volume *v);
/* Unallocated and zero clusters read as zeroes. buf: n_sectors * 512 bytes. */
int qcow_volume_read(const struct qcow_volume *v, struct sector first, size_t n_sectors,
                     uint8_t *buf, struct err *e) MUST_CHECK;

/* Reads and verifies the reference sector. ERR_STATE_EMPTY: sector 0 was never written
 * (unallocated, zero, or its ciphertext is all zero), in an image that does not bear our mark;
 * ERR_STATE_FOREIGN; ERR_STATE_CORRUPT. Takes on success. */
int qcow_attach(struct qcow_volume **v, struct qcow_disk **ret, struct err *e) MUST_CHECK;
void qcow_disk_free(struct qcow_disk *d);
DEFINE_OWNED(qcow_disk);
const struct ref_facts *qcow_disk_facts(const struct qcow_disk *d);
const struct mac_key *qcow_disk_record_key(const struct qcow_disk *d);
const struct qcow_image *qcow_disk_image(const struct qcow_disk *d);
int qcow_disk_read(const struct qcow_disk *d, struct sector first, size_t n_sectors, uint8_t *buf,
                   struct err *e) MUST_CHECK;

/* ERR_STATE_CORRUPT: part of the record store lies beyond the end of the file. (What was never
 * allocated is another matter: qcow_arm.) */
int qcow_disk_check_whole(const struct qcow_disk *d, struct err *e) MUST_CHECK;

/* w must be the claim over the very blk the disk was opened on, and the image must have been opened
 * after it was claimed. ERR_UNSUPPORTED: clusters of the store are shared with a snapshot,
 * unallocated, or the image is marked dirty or corrupt. ERR_STATE_CORRUPT: the same of clusters
 * where it cannot be, in an image of ours without snapshots. Takes both on success. */
int qcow_arm(struct qcow_disk **d, struct blk_rw **w, struct qcow_disk_rw **ret,
             struct err *e) MUST_CHECK;
void qcow_disk_rw_free(struct qcow_disk_rw *d);
DEFINE_OWNED(qcow_disk_rw);
/* Frees the disk; the claim that it had is the caller's again. */
void qcow_disarm(struct qcow_disk_rw **d, struct blk_rw **ret);
const struct qcow_disk *qcow_disk_of(const struct qcow_disk_rw *d); /* borrowed */
/* Encrypts buf in place, whatever the outcome, and writes it: one pwrite per run of clusters that
 * lie one after the other in the file. Not durable before qcow_disk_flush(). */
int qcow_disk_write(struct qcow_disk_rw *d, struct sector first, size_t n_sectors, uint8_t *buf,
                    struct err *e) MUST_CHECK;
int qcow_disk_flush(struct qcow_disk_rw *d, struct err *e) MUST_CHECK;
/* One sector of the store as it is on the storage now, whoever wrote it. */
int qcow_disk_read_again(struct qcow_disk_rw *d, struct sector at, uint8_t buf[SECTOR_BYTES],
                         struct err *e) MUST_CHECK;
bool qcow_disk_claim_is_enough(const struct qcow_disk_rw *d); /* blk_claim_is_enough() */

/* What is in the clear, for a tool that has no key: also of images that qcow_open() would refuse.
 */
struct qcow_facts {
    struct qcow_header header;
    struct qcow_oddities odd;
    bool has_luks;
    struct luks_header luks;
    struct err refused; /* kind ERR_NONE: qcow_open() would take it (LUKS part included) */
};
int qcow_inspect(const struct blk *b, struct qcow_facts *ret, struct err *e) MUST_CHECK;

/* Every reference counted and compared with the refcounts, as `qemu-img check` does. */
struct qcow_check {
    uint64_t clusters;    /* in use */
    uint64_t leaks;       /* refcount higher than the number of references */
    uint64_t corruptions; /* lower, or COPIED wrong, or overlapping */
    char first[200];      /* a description of the first corruption, or of the first leak */
};
int qcow_check_image(const struct qcow_image *img, struct qcow_check *ret,
                     struct err *e) MUST_CHECK;

/* A new image, whole: everything is written through w except the header, then flushed, then the
 * header, then flushed. fill() is called once, with a writer for guest sectors, after all clusters
 * were preallocated and hold encrypted zeroes. */
struct qcow_new;
struct qcow_create {
    uint64_t size;         /* virtual size in bytes, multiple of 4096 */
    unsigned cluster_bits; /* 9 to 21; 16 unless there is a reason */
    uint8_t instance[16];
    struct luks_header luks;               /* with at least one slot sealed */
    const uint8_t *material[LUKS_N_SLOTS]; /* of the sealed slots, NULL for the others */
};
/* Length of the file that qcow_format() will write. */
uint64_t qcow_create_bytes(const struct qcow_create *c);
int qcow_format(struct blk_rw *w, const struct qcow_create *c, const struct volume_key *key,
                int (*fill)(void *ctx, struct qcow_new *n, const uint8_t header_digest[32],
                            struct err *e),
                void *ctx, struct err *e) MUST_CHECK;
/* For fill(): encrypts buf in place and writes it. */
int qcow_new_write(struct qcow_new *n, struct sector first, size_t n_sectors, uint8_t *buf,
                   struct err *e) MUST_CHECK;

#endif
