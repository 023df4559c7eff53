/* What the files of qcow_*.c share, and nobody else sees. */
#ifndef NVKEEP_BACKEND_QCOW_PRIV_H
#define NVKEEP_BACKEND_QCOW_PRIV_H

#include "backend/qcow.h"
#include "backend/qcow_branch.h"
#include "crypto/luks_header.h"

/* [QCOW2 cluster mapping] */
#define QCOW_COPIED       (UINT64_C(1) << 63)
#define QCOW_COMPRESSED   (UINT64_C(1) << 62)
#define QCOW_ZERO         UINT64_C(1)
#define QCOW_OFFSET       UINT64_C(0x00fffffffffffe00)
#define QCOW_L1_RESERVED  UINT64_C(0x7f000000000001ff)
#define QCOW_L2_RESERVED  UINT64_C(0x3f000000000001fe)
#define QCOW_REF_RESERVED UINT64_C(0x1ff)

enum {
    QCOW_MAX_GUEST = 1 << 20, /* clusters of the disk */
    QCOW_MAX_HOST = 1 << 21,  /* clusters of the file */
    /* Of qcow_check_image(): entries of all L2 tables together, those of snapshots included; a
     * table costs some more. */
    QCOW_MAX_COUNTED = 1 << 24,
    QCOW_L2_COST = 960,
};

/* What a host cluster is used for. */
enum use {
    USE_NONE = 0,
    USE_HEADER,
    USE_REFTABLE,
    USE_REFBLOCK,
    USE_L1,
    USE_L2,
    USE_LUKS,
    USE_DATA,
    USE_SNAPSHOT_TABLE,
    USE_SNAPSHOT_L1,
    USE_SNAPSHOT_L2,
    USE_BITMAP_DIR,
};

/* Where a guest cluster is: number of the host cluster (never 0, that is the header) and flags. */
#define MAP_HOST   UINT32_C(0x00ffffff)
#define MAP_COPIED UINT32_C(0x80000000)
#define MAP_ZERO   UINT32_C(0x40000000)

struct qcow_image {
    const struct blk *blk;
    bool claimed;     /* when it was opened */
    bool of_snapshot; /* the header's L1 table is that of a snapshot */
    struct qcow_header header;
    struct luks_header luks;
    uint64_t cluster_bytes;
    uint32_t n_guest, n_host;
    uint32_t *map;            /* of n_guest */
    uint8_t *use;             /* of n_host: enum use */
    uint8_t *refs;            /* of n_host: on disk; 255 stands for that and more */
    uint64_t snapshots_bytes; /* of their table */
    bool counted;             /* qcow_count_references() was here */
    struct err fixed;         /* kind set: why the tables must not be changed */
};

struct qcow_volume {
    struct qcow_image *img;
    struct volume_key *key;
    struct sector_cipher *cipher;
};
struct qcow_disk {
    struct qcow_volume *v; /* its key is gone */
    struct ref_facts facts;
    struct mac_key *record_key;
    uint8_t branch[QCOW_BRANCH_BYTES]; /* of sector 1; zeroes: the first */
};
struct qcow_disk_rw {
    struct qcow_disk *d;
    struct blk_rw *w;
    bool direct; /* set when the first sector is about to be written: opening reads through the
                    cache */
};

/* *e with the image's name in front. Returns -1. */
int qcow_bad(const struct blk *b, enum err_kind kind, struct err *e, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* The fixed fields without any check, for `info`. False where there are none. */
bool qcow_header_peek(const uint8_t *bytes, size_t n, struct qcow_header *ret);

/* Reads n big-endian numbers. */
int qcow_read_table(const struct blk *b, struct host at, uint64_t *ret, size_t n,
                    struct err *e) MUST_CHECK;

/* May it be written to at all? Of an image that is marked dirty or corrupt, or has bitmaps, not. */
int qcow_check_flags(const struct qcow_image *img, struct err *e) MUST_CHECK;

/* Whether a cluster with refcount 0 is free is only known when the snapshots' references were
 * counted, too: once, before the first change to the tables. That they are wrong is no reason not
 * to serve what lives: it goes into img->fixed. */
int qcow_count_references(struct qcow_image *img, struct err *e) MUST_CHECK;

/* Calls each() for every refcount block inside the file, with the number of its first cluster and
 * the refcounts of n clusters, one after the other. */
struct qcow_refs_visitor {
    int (*each)(void *ctx, uint32_t first, const uint64_t *refs, size_t n, struct err *e);
    void *ctx;
};
int qcow_visit_refs(const struct qcow_image *img, const struct qcow_refs_visitor *v,
                    struct err *e) MUST_CHECK;

/* Number i of a block of refcounts. The caller knows that a value fits. */
uint64_t qcow_refcount_get(const uint8_t *block, unsigned order, size_t i);
void qcow_refcount_put(uint8_t *block, unsigned order, size_t i, uint64_t value);

/* One entry of the snapshot table. */
struct qcow_snapshot {
    struct host l1;
    uint32_t l1_size;
    uint32_t extra_bytes;
    uint64_t at, bytes; /* in the table, without the padding behind it */
};
/* Calls each() for every entry; *ret_bytes is the length of the table. */
int qcow_visit_snapshots(const struct blk *b, const struct qcow_header *h,
                         int (*each)(void *ctx, const struct qcow_snapshot *s, struct err *e),
                         void *ctx, uint64_t *ret_bytes, struct err *e) MUST_CHECK;

#endif
