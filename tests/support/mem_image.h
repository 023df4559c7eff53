/* A whole encrypted image in memory: real LUKS, real qcow2, a reference sector, and a pattern in
 * every other sector. For tests of the image layer, which change its bytes and look what happens.
 */
#ifndef NVKEEP_TESTS_MEM_IMAGE_H
#define NVKEEP_TESTS_MEM_IMAGE_H

#include "backend/qcow.h"
#include "mem_disk.h"

#define MEM_IMAGE_PASS "correct horse"

struct mem_image {
    struct mem_disk *disk; /* formatted; its log holds what qcow_format() did */
    struct qcow_header header;
    struct ref_facts facts;
    uint64_t sectors;
};

/* Size in bytes, a multiple of 4096, at least 32768. Aborts on failure: nothing to be tested. */
void mem_image_new(unsigned cluster_bits, uint64_t size, struct mem_image *ret);
void mem_image_clear(struct mem_image *im);

/* What sector nr > 0 holds. */
void mem_image_pattern(uint64_t nr, uint8_t ret[SECTOR_BYTES]);

/* The whole way up. *b is the caller's and must outlive what is returned. */
int mem_image_volume(const struct blk *b, const char *pass, struct qcow_volume **ret,
                     struct err *e);
int mem_image_attach(const struct blk *b, const char *pass, struct qcow_disk **ret, struct err *e);
int mem_image_arm(struct mem_disk *disk, const char *pass, struct qcow_disk_rw **ret,
                  struct err *e);

/* Does every sector of the first n but 0 hold its pattern? */
bool mem_image_intact(const struct qcow_disk *d, uint64_t n);

/* Offsets of table entries in the file, from the header. */
uint64_t mem_image_l2_entry(const struct mem_image *im, uint64_t guest_cluster);
uint64_t mem_image_refcount(const struct mem_image *im, uint64_t host_cluster);

#endif
