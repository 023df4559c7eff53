#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/qcow_tree.h"
#include "src/base/bytes.h"

/* The living tree: whether it is the one that the header means, and another one in its place. */

static const uint8_t no_name[QCOW_BRANCH_BYTES];

/* Do both lead to the same? */
static bool same_tree(const struct qcow_image *img, const struct snapshot_facts *s)
{
    struct err ignored;
    OWNED_HEAP uint8_t *a = NULL;
    OWNED_HEAP uint8_t *b = NULL;
    uint32_t n = img->header.l1_size;
    if (s->l1_size != n || n == 0 ||
        change_read(img, img->header.l1, (uint64_t)n * 8, &a, &ignored) < 0 ||
        change_read(img, s->l1, (uint64_t)n * 8, &b, &ignored) < 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (((get_be64(a + i * 8) ^ get_be64(b + i * 8)) & QCOW_OFFSET) != 0)
            return false;
    return true;
}

/* For the message: " (it is that of snapshot ...)", or nothing. */
static void name_tree(const struct qcow_image *img, char *ret, size_t n)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    struct err ignored;
    char quoted[120];
    *ret = 0;
    if (snapshot_list_read(img, &l, &ignored) < 0)
        return;
    for (size_t i = 0; i < l.n; i++) {
        if (!same_tree(img, &l.at[i]))
            continue;
        err_quote(quoted, sizeof(quoted), l.at[i].name, strlen(l.at[i].name));
        (void)snprintf(ret, n, " (it is that of snapshot \"%s\")", quoted);
        return;
    }
}

int qcow_disk_check_branch(const struct qcow_disk *d, struct err *e)
{
    const struct qcow_image *img = d->v->img;
    const struct qcow_header *h = &img->header;
    char which[160];
    if (h->has_branch && !qcow_branch_verify(d->record_key, &h->branch))
        return qcow_bad(
            img->blk, ERR_STATE_CORRUPT, e,
            "the header's mark of the branch that lives is damaged; `nvkeep adopt` goes "
            "on with the state that is there");
    if (memcmp(h->has_branch ? h->branch.name : no_name, d->branch, sizeof(d->branch)) == 0)
        return 0;
    name_tree(img, which, sizeof(which));
    return qcow_bad(
        img->blk, ERR_STATE_ROLLED_BACK, e,
        "another program has put an older state in the place of the TPM's newest%s, as "
        "`qemu-img snapshot -a` does; `nvkeep adopt` goes on with it, if that was meant",
        which);
}

/* ---- another one ---- */

static int replace(struct qcow_change *c, struct qcow_tree *tree, struct qcow_header *h,
                   struct err *e)
{
    if (tree_take(tree, c, e) < 0 || change_drop_tree(c, h->l1, h->l1_size, e) < 0 ||
        change_raise(c, e) < 0 || tree_write(tree, c, e) < 0)
        return -1;
    h->l1 = tree->l1;
    return change_switch(c, h, e);
}

int qcow_replace_living(struct qcow_disk *d, struct blk_rw *w, const struct qcow_life *life,
                        struct err *e)
{
    struct qcow_image *img = d->v->img;
    struct qcow_header h = img->header;
    struct qcow_change c;
    h.has_branch = true;
    h.branch = (struct qcow_branch){.generation = life->generation, .epoch = life->epoch};
    struct qcow_tree tree = {
        .from = d, .record = &life->record, .branch = h.branch.name, .lives = true};
    if (img->blk != blk_of(w) || !img->claimed)
        return qcow_bad(img->blk, ERR_USAGE, e, "the image was opened before it was claimed");
    if (random_bytes(h.branch.name, sizeof(h.branch.name), e) < 0)
        return -1;
    qcow_branch_seal(d->record_key, &h.branch);
    if (change_begin(&c, img, w, e) < 0)
        return -1;
    int r = replace(&c, &tree, &h, e);
    change_end(&c);
    return r;
}

int qcow_disk_still_lives(struct qcow_disk_rw *d, struct err *e)
{
    const struct qcow_image *img = d->d->v->img;
    OWNED_HEAP uint8_t *sector = change_buffer(SECTOR_BYTES);
    struct qcow_header now;
    if (!sector)
        return err_nomem(e, "the header");
    if (blk_read_again(d->w, (struct host){0}, sector, SECTOR_BYTES, e) < 0)
        return -1;
    if (qcow_header_peek(sector, SECTOR_BYTES, &now) && now.l1.byte == img->header.l1.byte)
        return 0;
    return qcow_bad(img->blk, ERR_FENCED, e,
                    "somebody else has put another state in the place of this one; nothing more is "
                    "written here");
}
