/* The qcow2 header and its extensions, as bytes and as numbers. Pure.
 *
 * A decoded header satisfies every rule that can be checked without reading further: sizes,
 * alignments, feature bits, that everything it names lies inside the file. What we do not support
 * is refused here, by name: backing file, external data file, extended L2, compression type,
 * unknown incompatible bits, legacy AES. The names of other files in it are never interpreted.
 * [QCOW2 = qemu docs/interop/qcow2.txt]
 */
#ifndef NVKEEP_BACKEND_QCOW_HEADER_H
#define NVKEEP_BACKEND_QCOW_HEADER_H

#include <stdbool.h>

#include "backend/offset.h"
#include "backend/qcow_branch.h"
#include "src/base/err.h"

enum { QCOW_HEADER_MAX = 4096 }; /* what qcow_header_decode wants to see, or the whole file */

enum {
    QCOW_DIRTY = 1 << 0, /* incompatible bits we know */
    QCOW_CORRUPT = 1 << 1,
};

struct qcow_header {
    unsigned version; /* 2 or 3 */
    unsigned cluster_bits;
    uint64_t size;
    unsigned crypt_method; /* 0 or 2 */
    uint32_t l1_size;
    struct host l1;
    struct host reftable;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    struct host snapshots;
    uint64_t incompatible, compatible, autoclear;
    unsigned refcount_order;
    uint32_t header_length;
    struct host luks; /* full disk encryption header pointer, crypt_method 2 */
    uint64_t luks_bytes;
    bool has_bitmaps; /* extension present and its autoclear bit set */
    uint32_t n_bitmaps;
    uint64_t bitmap_dir_bytes;
    struct host bitmap_dir;
    bool ours;            /* our own extension is present: "nvkp" */
    unsigned our_version; /* of that extension */
    uint8_t instance[16];
    bool has_branch; /* and the other: "nvkb" */
    struct qcow_branch branch;
};

/* Facts for `info`: what could be read although qcow_header_decode() may refuse it. Escaped text.
 */
struct qcow_oddities {
    bool backing, data_file, legacy_aes, extended_l2;
};

/* bytes: the first min(file size, QCOW_HEADER_MAX) bytes... of a file of file_bytes. Where
 * extensions lie further (clusters above 4 KiB), the scan still ends at QCOW_HEADER_MAX and says
 * so. ret_oddities may be NULL; it is filled as far as decoding came, also on failure.
 * ERR_STATE_FOREIGN: not qcow2; ERR_STATE_CORRUPT: contradictory, or qcow2 but for one byte of the
 * magic; ERR_UNSUPPORTED: by name. */
int qcow_header_decode(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct qcow_header *ret,
                       struct qcow_oddities *ret_oddities, struct err *e) MUST_CHECK;

/* A new version 3 header with crypto and nvkeep extensions, END and zero padding up to
 * QCOW_HEADER_MAX; the extensions lie inside the first 512 bytes. */
void qcow_header_encode(const struct qcow_header *h, uint8_t ret[QCOW_HEADER_MAX]);

/* The first sector of an image that is there, with the active L1 table, the snapshot table and the
 * branch of `to`; everything else stays, but for the names of features. bytes: as for decoding.
 * ERR_UNSUPPORTED: the extensions do not fit into one sector. */
int qcow_header_switch(const uint8_t *bytes, size_t n, const struct qcow_header *to,
                       uint8_t ret[SECTOR_BYTES], struct err *e) MUST_CHECK;

/* SHA-256 over the clear-text fields that the reference sector vouches for. */
struct luks_header;
void qcow_header_digest(const struct qcow_header *h, const struct luks_header *luks,
                        uint8_t ret[32]);

#endif
