#include "backend/qcow_tree.h"

#include <string.h>

#include "src/base/bytes.h"

enum { HEAD_SECTORS = 2 }; /* reference sector, branch sector */

static uint64_t store_end(const struct store_layout *l)
{
    uint64_t end = l->log + l->log_sectors;
    for (size_t i = 0; i < 2; i++)
        if (l->checkpoint[i] + l->checkpoint_sectors > end)
            end = l->checkpoint[i] + l->checkpoint_sectors;
    return end;
}

static bool overlaps(uint64_t a, uint64_t n_a, uint64_t b, uint64_t n_b)
{
    return a < b + n_b && b < a + n_a;
}

/* Is that cluster of the disk part of the tree? */
static bool has(const struct qcow_tree *t, uint64_t guest)
{
    uint64_t n = t->from->v->img->cluster_bytes / SECTOR_BYTES, first = guest * n;
    if (t->lives)
        return first < store_end(&t->from->facts.layout);
    return first < HEAD_SECTORS || overlaps(first, n, t->record->first.nr, t->record->n_sectors);
}

static uint64_t per_l2(const struct qcow_image *img)
{
    return img->cluster_bytes / 8;
}

static bool l2_has(const struct qcow_tree *t, uint64_t i)
{
    const struct qcow_image *img = t->from->v->img;
    uint64_t end = (i + 1) * per_l2(img) < img->n_guest ? (i + 1) * per_l2(img) : img->n_guest;
    for (uint64_t g = i * per_l2(img); g < end; g++)
        if (has(t, g))
            return true;
    return false;
}

int tree_take(struct qcow_tree *t, struct qcow_change *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t l1_bytes = (uint64_t)img->header.l1_size * 8;
    t->n_l2 = t->n_data = 0;
    for (uint32_t i = 0; i < img->header.l1_size; i++)
        t->n_l2 += l2_has(t, i);
    for (uint32_t i = 0; i < img->n_guest; i++)
        t->n_data += has(t, i);
    uint32_t n_l1 = (uint32_t)((l1_bytes + img->cluster_bytes - 1) / img->cluster_bytes);
    if (change_take(c, n_l1, USE_SNAPSHOT_L1, &t->l1, e) < 0 ||
        change_take(c, t->n_l2, USE_SNAPSHOT_L2, &t->l2, e) < 0)
        return -1;
    return change_take(c, t->n_data, USE_DATA, &t->data, e);
}

static int write_l1(const struct qcow_tree *t, struct qcow_change *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t bytes = (uint64_t)img->header.l1_size * 8, at = t->l2.byte;
    OWNED_HEAP uint8_t *table = change_buffer(bytes);
    if (!table)
        return err_nomem(e, "an L1 table");
    for (uint32_t i = 0; i < img->header.l1_size; i++) {
        if (!l2_has(t, i))
            continue;
        put_be64(table + (size_t)i * 8, at | (t->lives ? QCOW_COPIED : 0));
        at += img->cluster_bytes;
    }
    bytes = (bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
    return blk_write(c->w, t->l1, table, bytes, e);
}

static int write_l2s(const struct qcow_tree *t, struct qcow_change *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    struct host at = t->l2;
    uint64_t data = t->data.byte;
    OWNED_HEAP uint8_t *table = change_buffer(img->cluster_bytes);
    if (!table)
        return err_nomem(e, "an L2 table");
    for (uint32_t i = 0; i < img->header.l1_size; i++) {
        if (!l2_has(t, i))
            continue;
        memset(table, 0, img->cluster_bytes);
        for (uint64_t k = 0; k < per_l2(img) && i * per_l2(img) + k < img->n_guest; k++) {
            if (!has(t, i * per_l2(img) + k))
                continue;
            put_be64(table + k * 8, data | (t->lives ? QCOW_COPIED : 0));
            data += img->cluster_bytes;
        }
        if (blk_write(c->w, at, table, img->cluster_bytes, e) < 0)
            return -1;
        at.byte += img->cluster_bytes;
    }
    return 0;
}

/* One sector of the disk, in clear; buf holds zeroes. */
static void fill_sector(const struct qcow_tree *t, const uint8_t *reference, uint64_t nr,
                        uint8_t *buf)
{
    if (nr == 0)
        memcpy(buf, reference, SECTOR_BYTES);
    else if (nr == 1)
        branch_sector_encode(t->from->record_key, t->branch, buf);
    else if (nr - t->record->first.nr < t->record->n_sectors)
        memcpy(buf, t->record->plain + (nr - t->record->first.nr) * SECTOR_BYTES, SECTOR_BYTES);
}

static int write_data(const struct qcow_tree *t, struct qcow_change *c, struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t n = img->cluster_bytes / SECTOR_BYTES;
    OWNED(secret) reference = NULL;
    OWNED(secret) cluster = NULL;
    struct host at = t->data;
    if (secret_new(SECTOR_BYTES, &reference, e) < 0 ||
        secret_new(img->cluster_bytes, &cluster, e) < 0 ||
        qcow_disk_read(t->from, (struct sector){0}, 1, secret_bytes(reference), e) < 0)
        return -1;
    uint8_t *buf = secret_bytes(cluster);
    for (uint32_t i = 0; i < img->n_guest; i++) {
        if (!has(t, i))
            continue;
        memset(buf, 0, img->cluster_bytes);
        for (uint64_t k = 0; k < n; k++)
            fill_sector(t, secret_peek(reference), i * n + k, buf + k * SECTOR_BYTES);
        sector_encrypt(t->from->v->cipher, at.byte / SECTOR_BYTES, n, buf);
        if (blk_write(c->w, at, buf, img->cluster_bytes, e) < 0)
            return -1;
        at.byte += img->cluster_bytes;
    }
    return 0;
}

int tree_write(const struct qcow_tree *t, struct qcow_change *c, struct err *e)
{
    if (write_l1(t, c, e) < 0 || write_l2s(t, c, e) < 0)
        return -1;
    return write_data(t, c, e);
}
