/* Images whose tables are as large, as many and as entangled as a header can say: a sound image,
 * onto which tables are appended. The key opens them and the state inside verifies, so that every
 * reader gets as far as it can. They are marked dirty: then no refcount is missed.
 */
#ifndef NVKEEP_TESTS_HOSTILE_IMAGE_H
#define NVKEEP_TESTS_HOSTILE_IMAGE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/image.h"
#include "backend/qcow_priv.h"
#include "src/base/bytes.h"
#include "src/base/fd.h"

#define HOSTILE_PASS "correct horse"

struct hostile {
    char path[300];
    int fd;
    struct qcow_header h;
    uint64_t cluster, end; /* the end of the file as it grows */
    uint32_t n_bitmaps;    /* 0: no such extension */
    uint64_t bitmap_dir, bitmap_dir_bytes;
};

static inline void hostile_must(bool done, const char *what)
{
    if (done)
        return;
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static inline void hostile_put(const struct hostile *x, uint64_t at, const void *p, size_t n)
{
    hostile_must(pwrite(x->fd, p, n, (off_t)at) == (ssize_t)n, "writing");
}

/* n numbers: the first, and each by `step` more than the one before. */
static inline void hostile_series(const struct hostile *x, uint64_t at, size_t n, uint64_t first,
                                  uint64_t step)
{
    uint8_t *p = malloc(n * 8);
    hostile_must(p != NULL, "memory");
    for (size_t i = 0; i < n; i++)
        put_be64(p + 8 * i, first + i * step);
    hostile_put(x, at, p, n * 8);
    free(p);
}

/* Zeroes of so many bytes at the end, in clusters of their own. */
static inline uint64_t hostile_room(struct hostile *x, uint64_t n)
{
    uint64_t at = x->end;
    x->end += (n + x->cluster - 1) / x->cluster * x->cluster;
    return at;
}

static inline void hostile_copy(const struct hostile *x, uint64_t from, uint64_t to, size_t n)
{
    uint8_t *p = malloc(n);
    hostile_must(p && pread(x->fd, p, n, (off_t)from) == (ssize_t)n, "reading");
    hostile_put(x, to, p, n);
    free(p);
}

/* A longer L1 table that begins as the old one. */
static inline void hostile_grow_l1(struct hostile *x, uint32_t n)
{
    uint64_t at = hostile_room(x, n * UINT64_C(8));
    hostile_copy(x, x->h.l1.byte, at, x->h.l1_size * 8);
    x->h.l1.byte = at;
    x->h.l1_size = n;
}

static inline void hostile_begin(struct hostile *x, unsigned cluster_bits,
                                 const struct secret *pass)
{
    static const uint8_t state[2000];
    const struct state_change first = {{{BLOB_SET, state, sizeof(state)}}};
    const struct image_create what = {.path = x->path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .cluster_bits = cluster_bits,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    struct err e;
    uint8_t bytes[QCOW_HEADER_MAX] = {0};
    (void)unlink(x->path);
    if (image_create(&what, pass, sizeof(HOSTILE_PASS) - 1, NULL, NULL, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    x->fd = open(x->path, O_RDWR | O_CLOEXEC);
    off_t size = x->fd < 0 ? -1 : lseek(x->fd, 0, SEEK_END);
    hostile_must(size > 0 && pread(x->fd, bytes, sizeof(bytes), 0) > 0, "an image");
    if (qcow_header_decode(bytes, sizeof(bytes), (uint64_t)size, &x->h, NULL, &e) < 0)
        hostile_must(false, e.text);
    x->cluster = UINT64_C(1) << cluster_bits;
    x->end = (uint64_t)size;
    x->h.incompatible |= QCOW_DIRTY;
    x->n_bitmaps = 0;
}

static inline void hostile_add_bitmaps(const struct hostile *x, uint8_t *header)
{
    uint8_t *p = header + x->h.header_length + 56; /* where END is */
    put_be32(p, 0x23852875);
    put_be32(p + 4, 24);
    put_be32(p + 8, x->n_bitmaps);
    put_be64(p + 16, x->bitmap_dir_bytes);
    put_be64(p + 24, x->bitmap_dir);
    put_be64(header + 88, 1);
}

/* False where this file system takes no file of that size. */
static inline bool hostile_end(struct hostile *x)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    qcow_header_encode(&x->h, bytes);
    if (x->n_bitmaps > 0)
        hostile_add_bitmaps(x, bytes);
    hostile_put(x, 0, bytes, 512);
    bool fits = ftruncate(x->fd, (off_t)x->end) == 0;
    close(x->fd);
    return fits;
}

#endif
