/* A whole encrypted image in memory, with a record store in it, for tests that pull the plug.
 *
 * Real through and through: LUKS, qcow2 and reference sector are those of the product; only the
 * file below is a power disk. The layout of the store may be made small, so that its log wraps and
 * its every sector can be tried.
 */
#ifndef NVKEEP_TESTS_STORE_IMAGE_H
#define NVKEEP_TESTS_STORE_IMAGE_H

#include "backend/store.h"
#include "tests/support/power.h"

struct store_image {
    struct power_disk *power;
    struct ref_facts facts;
    struct secret *pass;
    struct blk *blk; /* of store_image_disk() */
};

/* 16 sectors to a checkpoint, 24 to the log. */
extern const struct store_layout store_image_small;
enum { STORE_IMAGE_SMALL_SECTORS = 64 };

/* layout NULL: as store_plan() has it. Everything is durable afterwards. */
int store_image_new(const struct store_layout *layout, uint64_t disk_sectors,
                    const struct state_change *first, struct store_image *ret, struct err *e);
/* The same for a TPM of either kind; the others are for a TPM 2.0. */
int store_image_new_for(enum device_kind device, const struct store_layout *layout,
                        uint64_t disk_sectors, const struct state_change *first,
                        struct store_image *ret, struct err *e);
/* The first, with at_flush called with the image at each flush of its making; the disk and the
 * passphrase are there, all else may not be. */
int store_image_new_watched(const struct store_layout *layout, uint64_t disk_sectors,
                            const struct state_change *first, void (*at_flush)(void *im),
                            struct store_image *ret, struct err *e);
void store_image_clear(struct store_image *im);

/* The whole way from the disk's bytes to an armed disk, or a store. */
int store_image_arm(struct store_image *im, struct qcow_disk_rw **ret, struct err *e);
int store_image_open(struct store_image *im, struct store **ret, struct err *e);
/* Read-only; the image keeps the blk below it, one at a time. */
int store_image_disk(struct store_image *im, struct qcow_disk **ret, struct err *e);

/* Where a sector of the decrypted disk lies in the image file, in sectors. */
uint64_t store_image_host_sector(const struct qcow_disk *d, uint64_t guest);

/* The change that would make the very state a store holds (blobs borrowed from it), and a digest to
 * compare states by: equal for equal presence, lengths and bytes. */
struct state_change store_image_content(const struct store *s);
void store_image_digest(const struct state_change *state, uint8_t ret[SHA256_BYTES]);

#endif
