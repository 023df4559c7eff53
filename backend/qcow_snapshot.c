#include "backend/qcow_snapshot.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/qcow_tree.h"
#include "src/base/bytes.h"

/* [QCOW2 snapshots] */
enum {
    FIXED_BYTES = 40,
    EXTRA_BYTES = 24, /* as QEMU writes it: size of the VM state, of the disk, icount */
};

static uint64_t padded(uint64_t n)
{
    return (n + 7) & ~UINT64_C(7);
}

/* ---- the list ---- */

static void take_text(struct bytes_in *in, size_t n, char *ret, size_t room)
{
    const uint8_t *p = bytes_take(in, n);
    size_t kept = n < room ? n : room - 1;
    if (p)
        memcpy(ret, p, kept);
}

static bool decode_entry(struct bytes_in *in, struct snapshot_facts *s)
{
    s->l1.byte = bytes_be64(in);
    s->l1_size = bytes_be32(in);
    size_t n_id = bytes_be16(in), n_name = bytes_be16(in);
    s->seconds = bytes_be32(in);
    s->nanoseconds = bytes_be32(in);
    bytes_skip(in, 8);
    s->vm_state_bytes = bytes_be32(in);
    size_t n_extra = bytes_be32(in), left = in->left;
    if (n_extra >= 8)
        s->vm_state_bytes = bytes_be64(in);
    if (n_extra >= 16)
        s->disk_bytes = bytes_be64(in);
    if (left < n_extra || in->bad)
        return false;
    bytes_skip(in, n_extra - (left - in->left));
    take_text(in, n_id, s->id, sizeof(s->id));
    take_text(in, n_name, s->name, sizeof(s->name));
    return !in->bad;
}

int snapshot_list_read(const struct qcow_image *img, struct snapshot_list *ret, struct err *e)
{
    OWNED_HEAP uint8_t *table = NULL;
    size_t n = img->header.n_snapshots;
    OWNED_HEAP struct snapshot_facts *at = calloc(n + 1, sizeof(*at));
    if (!at)
        return err_nomem(e, "the list of snapshots");
    if (n > 0 && change_read(img, img->header.snapshots, img->snapshots_bytes, &table, e) < 0)
        return -1;
    struct bytes_in in = bytes_in(table, n > 0 ? img->snapshots_bytes : 0);
    for (size_t i = 0; i < n; i++) {
        size_t left = in.left;
        at[i].disk_bytes = img->header.size;
        if (!decode_entry(&in, &at[i]))
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e, "the snapshot table is cut off");
        size_t used = left - in.left;
        if (i + 1 < n)
            bytes_skip(&in, padded(used) - used);
    }
    *ret = (struct snapshot_list){MOVE(at), n};
    return 0;
}

void snapshot_list_clear(struct snapshot_list *l)
{
    free(l->at);
    *l = (struct snapshot_list){0};
}

static int none_of_that_name(const struct snapshot_list *l, const char *name, struct err *e)
{
    char quoted[300];
    err_quote(quoted, sizeof(quoted), name, strlen(name));
    return err_set(e, ERR_USAGE, "there is no snapshot \"%s\"; the image has %zu", quoted, l->n);
}

int snapshot_find(const struct snapshot_list *l, const char *id_or_name, size_t *ret, struct err *e)
{
    size_t n_found = 0, found = 0;
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->at[i].id, id_or_name) == 0) {
            *ret = i;
            return 0;
        }
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->at[i].name, id_or_name) == 0) {
            n_found++;
            found = i;
        }
    if (n_found > 1)
        return err_set(e, ERR_USAGE,
                       "%zu snapshots have that name; give the id of one, `nvkeep snapshot list` "
                       "shows them",
                       n_found);
    if (n_found == 0)
        return none_of_that_name(l, id_or_name, e);
    *ret = found;
    return 0;
}

/* As much of UTF-8 as matters: no control characters, and continuation bytes where they belong. */
static bool is_text(const char *s)
{
    size_t follow = 0;
    for (; *s; s++) {
        uint8_t c = (uint8_t)*s;
        bool continues = (c & 0xc0) == 0x80;
        if (continues != (follow > 0) || c < 0x20 || c == 0x7f || c >= 0xf8)
            return false;
        follow = continues ? follow - 1 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    }
    return follow == 0;
}

int snapshot_check_name(const struct snapshot_list *l, const char *name, struct err *e)
{
    size_t n = strlen(name);
    if (n == 0 || n >= SNAPSHOT_NAME_BYTES || !is_text(name))
        return err_set(e, ERR_USAGE,
                       "the name of a snapshot has 1 to %d bytes of UTF-8, without control "
                       "characters",
                       SNAPSHOT_NAME_BYTES - 1);
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->at[i].name, name) == 0 || strcmp(l->at[i].id, name) == 0)
            return err_set(e, ERR_USAGE, "there is a snapshot with that name, or that id, already");
    return 0;
}

/* One more than that, and the next who opens the image could not count its references. */
static int check_number(const struct qcow_image *img, const struct snapshot_list *l, struct err *e)
{
    uint64_t each = img->header.l1_size * (img->cluster_bytes / 8 + QCOW_L2_COST);
    if ((l->n + 2) * each <= QCOW_MAX_COUNTED)
        return 0;
    return qcow_bad(img->blk, ERR_UNSUPPORTED, e,
                    "has %zu snapshots, and has no room for more; delete some", l->n);
}

/* ---- the table ---- */

/* Ids are numbers; whoever uses others has them. */
static unsigned long next_id(const struct snapshot_list *l)
{
    unsigned long most = 0;
    for (size_t i = 0; i < l->n; i++) {
        char *end;
        unsigned long id = strtoul(l->at[i].id, &end, 10);
        if (isdigit((unsigned char)l->at[i].id[0]) && *end == 0 && id > most && id < UINT32_MAX)
            most = id;
    }
    return most + 1;
}

/* A table to be: what is in the image, less one or more by one. */
struct table {
    uint8_t *bytes;
    uint64_t n; /* without padding */
    uint32_t n_entries;
};

static int table_with(const struct qcow_image *img, const struct snapshot_list *l,
                      const struct qcow_tree *tree, const char *name, struct table *ret,
                      struct err *e)
{
    char id[32];
    struct timespec now = {0};
    int n_id = snprintf(id, sizeof(id), "%lu", next_id(l));
    uint64_t old = l->n > 0 ? padded(img->snapshots_bytes) : 0;
    uint64_t room = old + FIXED_BYTES + EXTRA_BYTES + (size_t)n_id + strlen(name);
    OWNED_HEAP uint8_t *had = NULL;
    OWNED_HEAP uint8_t *bytes = change_buffer(room);
    if (!bytes)
        return err_nomem(e, "the snapshot table");
    if (old > 0 && change_read(img, img->header.snapshots, img->snapshots_bytes, &had, e) < 0)
        return -1;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    struct bytes_out out = bytes_out(bytes, room);
    bytes_put(&out, had, old > 0 ? img->snapshots_bytes : 0);
    bytes_put_zero(&out, old - (old > 0 ? img->snapshots_bytes : 0));
    bytes_put_be64(&out, tree->l1.byte);
    bytes_put_be32(&out, img->header.l1_size);
    bytes_put_be16(&out, (uint16_t)n_id);
    bytes_put_be16(&out, (uint16_t)strlen(name));
    bytes_put_be32(&out, (uint32_t)now.tv_sec);
    bytes_put_be32(&out, (uint32_t)now.tv_nsec);
    bytes_put_zero(&out, 12); /* no VM, no state of it */
    bytes_put_be32(&out, EXTRA_BYTES);
    bytes_put_be64(&out, 0);
    bytes_put_be64(&out, img->header.size);
    bytes_put_be64(&out, UINT64_MAX); /* no icount */
    bytes_put(&out, id, (size_t)n_id);
    bytes_put(&out, name, strlen(name));
    *ret = (struct table){MOVE(bytes), room, (uint32_t)l->n + 1};
    return 0;
}

static int table_without(const struct qcow_image *img, uint32_t which, struct table *ret,
                         struct err *e)
{
    OWNED_HEAP uint8_t *had = NULL;
    OWNED_HEAP uint8_t *bytes = change_buffer(img->snapshots_bytes);
    if (!bytes)
        return err_nomem(e, "the snapshot table");
    if (change_read(img, img->header.snapshots, img->snapshots_bytes, &had, e) < 0)
        return -1;
    struct bytes_in in = bytes_in(had, img->snapshots_bytes);
    struct table t = {.n_entries = img->header.n_snapshots - 1};
    for (uint32_t i = 0; i < img->header.n_snapshots; i++) {
        struct snapshot_facts unused = {0};
        uint64_t from = img->snapshots_bytes - in.left;
        if (!decode_entry(&in, &unused))
            return qcow_bad(img->blk, ERR_STATE_CORRUPT, e, "the snapshot table is cut off");
        uint64_t n = img->snapshots_bytes - in.left - from;
        if (i + 1 < img->header.n_snapshots)
            bytes_skip(&in, padded(n) - n);
        if (i == which)
            continue;
        memcpy(bytes + padded(t.n), had + from, n);
        t.n = padded(t.n) + n;
    }
    t.bytes = MOVE(bytes);
    *ret = t;
    return 0;
}

static void table_clear(struct table *t)
{
    free(t->bytes);
}

static uint64_t sectors_up(uint64_t n)
{
    return (n + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
}

/* The new table is taken, the old one dropped, and `h` names the new one. */
static int table_take(const struct table *t, struct qcow_change *c, struct qcow_header *h,
                      struct err *e)
{
    const struct qcow_image *img = c->img;
    uint64_t n = (t->n + img->cluster_bytes - 1) / img->cluster_bytes;
    if (h->n_snapshots > 0 && change_drop(c, h->snapshots, img->snapshots_bytes, e) < 0)
        return -1;
    h->n_snapshots = t->n_entries;
    h->snapshots.byte = 0;
    return t->n_entries > 0 ? change_take(c, (uint32_t)n, USE_SNAPSHOT_TABLE, &h->snapshots, e) : 0;
}

static int table_write(const struct table *t, struct qcow_change *c, const struct qcow_header *h,
                       struct err *e)
{
    if (t->n_entries == 0)
        return 0;
    return blk_write(c->w, h->snapshots, t->bytes, sectors_up(t->n), e);
}

/* ---- making one ---- */

static int create(struct qcow_change *c, struct qcow_tree *tree, const struct snapshot_list *l,
                  const char *name, struct err *e)
{
    struct qcow_image *img = c->img;
    struct qcow_header h = img->header;
    __attribute__((cleanup(table_clear))) struct table t = {0};
    if (tree_take(tree, c, e) < 0 || table_with(img, l, tree, name, &t, e) < 0 ||
        table_take(&t, c, &h, e) < 0 || change_raise(c, e) < 0 || tree_write(tree, c, e) < 0 ||
        table_write(&t, c, &h, e) < 0 || change_switch(c, &h, e) < 0)
        return -1;
    img->snapshots_bytes = t.n;
    return 0;
}

int qcow_snapshot_create(struct qcow_disk_rw *d, const char *name, const struct qcow_piece *record,
                         struct err *e)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    struct qcow_image *img = d->d->v->img;
    uint8_t branch[QCOW_BRANCH_BYTES];
    struct qcow_tree tree = {.from = d->d, .record = record, .branch = branch};
    struct qcow_change c;
    if (snapshot_list_read(img, &l, e) < 0 || snapshot_check_name(&l, name, e) < 0 ||
        check_number(img, &l, e) < 0 || random_bytes(branch, sizeof(branch), e) < 0 ||
        change_begin(&c, img, d->w, e) < 0)
        return -1;
    int r = create(&c, &tree, &l, name, e);
    change_end(&c);
    return r;
}

/* ---- taking one away ---- */

static int take_away(struct qcow_change *c, const struct snapshot_facts *s, uint32_t which,
                     struct err *e)
{
    struct qcow_image *img = c->img;
    struct qcow_header h = img->header;
    __attribute__((cleanup(table_clear))) struct table t = {0};
    if (table_without(img, which, &t, e) < 0 || table_take(&t, c, &h, e) < 0 ||
        change_drop_tree(c, s->l1, s->l1_size, e) < 0 || change_raise(c, e) < 0 ||
        table_write(&t, c, &h, e) < 0 || change_switch(c, &h, e) < 0)
        return -1;
    img->snapshots_bytes = t.n;
    return 0;
}

int qcow_snapshot_delete(struct qcow_disk_rw *d, const char *id_or_name, struct err *e)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    struct qcow_image *img = d->d->v->img;
    struct qcow_change c;
    size_t which;
    if (snapshot_list_read(img, &l, e) < 0 || snapshot_find(&l, id_or_name, &which, e) < 0 ||
        change_begin(&c, img, d->w, e) < 0)
        return -1;
    int r = take_away(&c, &l.at[which], (uint32_t)which, e);
    change_end(&c);
    return r;
}
