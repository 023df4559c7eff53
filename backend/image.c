#include <stdio.h>
#include <string.h>

#include "backend/image_priv.h"
#include "src/base/bytes.h"

enum {
    SLOT = 0,              /* a new image has its key here */
    DIGEST_COST_SHARE = 8, /* the digest costs an eighth of the slot, as qemu-img has it */
};

int image_file_open(const char *path, struct image_file **ret, struct err *e)
{
    OWNED(image_file) f = calloc(1, sizeof(*f));
    if (!f)
        return err_nomem(e, "an image");
    if (blk_open(path, BLK_READ_WRITE, &f->blk, e) < 0)
        return -1;
    *ret = MOVE(f);
    return 0;
}

void image_file_free(struct image_file *f)
{
    if (!f)
        return;
    blk_free(f->blk);
    free(f);
}

void image_free(struct image *i)
{
    if (!i)
        return;
    volume_key_free(i->key);
    image_file_free(i->shell);
    blk_free(i->blk);
    free(i);
}

const char *image_name(const struct image *i)
{
    return i->name;
}

const struct volume_key *image_key(const struct image *i)
{
    return i->key;
}

static int image_new(const struct blk *b, struct image **ret, struct err *e)
{
    struct image *i = calloc(1, sizeof(*i));
    if (!i)
        return err_nomem(e, "an image");
    (void)snprintf(i->name, sizeof(i->name), "%s", blk_name(b));
    *ret = i;
    return 0;
}

int image_attach(struct qcow_image **img, const struct volume_key *key, struct qcow_disk **ret,
                 struct err *e)
{
    OWNED(volume_key) copy = NULL;
    OWNED(qcow_volume) volume = NULL;
    if (volume_key_copy(key, &copy, e) < 0 || qcow_unlock(img, &copy, &volume, e) < 0)
        return -1;
    OWNED(qcow_disk) disk = NULL;
    if (qcow_attach(&volume, &disk, e) < 0 || qcow_disk_check_whole(disk, e) < 0)
        return -1;
    *ret = MOVE(disk);
    return 0;
}

/* The disk that lives: everything that reads takes this way, with a claim below it or without. */
static int attach(struct qcow_image **img, const struct volume_key *key, struct qcow_disk **ret,
                  struct err *e)
{
    OWNED(qcow_disk) disk = NULL;
    if (image_attach(img, key, &disk, e) < 0 || qcow_disk_check_branch(disk, e) < 0)
        return -1;
    *ret = MOVE(disk);
    return 0;
}

/* From a claimed image to a disk that can be written. Takes the claim on success. */
static int arm(struct blk_rw **w, struct qcow_image **img, const struct volume_key *key,
               struct qcow_disk_rw **ret, struct err *e)
{
    OWNED(qcow_disk) disk = NULL;
    if (attach(img, key, &disk, e) < 0)
        return -1;
    return qcow_arm(&disk, w, ret, e);
}

/* Another tool's snapshot shares the clusters of what lives: the state, which is sound, gets a tree
 * of its own before anything is written to it. */
static int stop_sharing(struct blk_rw *w, struct qcow_image **img, const struct volume_key *key,
                        struct err *e)
{
    OWNED(qcow_disk) disk = NULL;
    OWNED(store_look) look = NULL;
    struct store_mark mark;
    if (qcow_image_header(*img)->n_snapshots == 0)
        return 0;
    if (attach(img, key, &disk, e) < 0)
        return -1;
    if (qcow_disk_is_shared(disk)) {
        if (store_look(disk, &look, e) < 0)
            return -1;
        store_look_mark(look, &mark);
        const struct store_rebirth same = {look, NULL, mark.generation, mark.epoch};
        if (store_replace(disk, w, &same, e) < 0)
            return -1;
    }
    qcow_disk_free(MOVE(disk));
    return qcow_open(blk_of(w), img, e);
}

/* From a claimed image to a store. Takes the claim on success. */
static int open_store(struct blk_rw **w, struct qcow_image **img, const struct volume_key *key,
                      struct store **ret, struct err *e)
{
    OWNED(qcow_disk_rw) disk_rw = NULL;
    if (stop_sharing(*w, img, key, e) < 0 || arm(w, img, key, &disk_rw, e) < 0)
        return -1;
    if (store_open(&disk_rw, ret, e) == 0)
        return 0;
    qcow_disarm(&disk_rw, w);
    return -1;
}

/* Whether anything is there yet, where somebody may still be copying it. */
static int is_there(const struct blk *b, struct err *e)
{
    uint8_t head[SECTOR_BYTES];
    size_t n = blk_size(b) < sizeof(head) ? (size_t)blk_size(b) : sizeof(head);
    if (n == 0)
        return err_set(e, ERR_STATE_EMPTY,
                       "%s: is empty (0 bytes): nothing was copied here yet, or another file was "
                       "meant",
                       blk_name(b));
    if (blk_read(b, (struct host){0}, head, n, e) < 0)
        return -1;
    if (bytes_all_zero(head, n))
        return err_set(e, ERR_STATE_EMPTY,
                       "%s: has zeroes where the header of an image belongs: its begin was not "
                       "copied here yet, or another file was meant",
                       blk_name(b));
    return 0;
}

/* What is damage in an image that somebody made is, in one that is being copied, what lacks. */
static int not_whole(const struct blk *b, struct err *e)
{
    if (e->kind != ERR_STATE_CORRUPT)
        return -1;
    return err_prefix(e, "%s is not whole; if it is being copied here, the copy is not finished",
                      blk_name(b));
}

/* As it is now. */
static int open_measured(struct blk *b, struct qcow_image **ret, struct err *e)
{
    if (blk_measure(b, e) < 0 || is_there(b, e) < 0)
        return -1;
    return qcow_open(b, ret, e);
}

int image_unlock(struct image_file **f, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct image **ret, struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(image) i = NULL;
    if (image_new((*f)->blk, &i, e) < 0)
        return -1;
    if (open_measured((*f)->blk, &img, e) < 0 ||
        qcow_recover(img, pass, pass_bytes, watch, &i->key, e) < 0)
        return not_whole((*f)->blk, e);
    i->blk = MOVE((*f)->blk);
    i->shell = MOVE(*f);
    *ret = MOVE(i);
    return 0;
}

void image_lock(struct image **i, struct image_file **ret)
{
    struct image_file *f = MOVE((*i)->shell);
    f->blk = MOVE((*i)->blk);
    image_free(*i);
    *i = NULL;
    *ret = f;
}

int image_look(const struct image *i, struct store_look **ret, struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_disk) disk = NULL;
    if (open_measured(i->blk, &img, e) < 0 || attach(&img, i->key, &disk, e) < 0 ||
        store_look(disk, ret, e) < 0)
        return not_whole(i->blk, e);
    return 0;
}

int image_open_again(struct blk_rw **w, const struct volume_key *key, struct store **ret,
                     struct err *e)
{
    OWNED(qcow_image) img = NULL;
    if (qcow_open(blk_of(*w), &img, e) < 0)
        return -1;
    return open_store(w, &img, key, ret, e);
}

int image_claim(struct image *i, struct store **ret, struct err *e)
{
    struct blk_rw *w = NULL;
    if (blk_claim(&i->blk, &w, e) < 0)
        return -1;
    if (is_there(blk_of(w), e) == 0 && image_open_again(&w, i->key, ret, e) == 0)
        return 0;
    blk_unclaim(&w, &i->blk);
    return not_whole(i->blk, e);
}

void image_release(struct image *i, struct store **s)
{
    store_release(s, &i->blk);
}

int image_open_claimed(const char *path, const struct secret *pass, size_t pass_bytes,
                       const struct watch *watch, struct image **ret_image, struct store **ret,
                       struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(image) i = NULL;
    OWNED(qcow_image) img = NULL;
    if (blk_open(path, BLK_READ_WRITE, &b, e) < 0 || image_new(b, &i, e) < 0 ||
        blk_claim(&b, &w, e) < 0 || qcow_open(blk_of(w), &img, e) < 0 ||
        qcow_recover(img, pass, pass_bytes, watch, &i->key, e) < 0 ||
        open_store(&w, &img, i->key, ret, e) < 0)
        return -1;
    *ret_image = MOVE(i);
    return 0;
}

int image_open_store(const char *path, const struct secret *pass, size_t pass_bytes,
                     const struct watch *watch, struct store **ret, struct err *e)
{
    OWNED(image) i = NULL;
    return image_open_claimed(path, pass, pass_bytes, watch, &i, ret, e);
}

int image_open_idle(const char *path, const struct secret *pass, size_t pass_bytes,
                    const struct watch *watch, struct image **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    struct blk_rw *w = NULL;
    OWNED(image) i = NULL;
    OWNED(qcow_image) img = NULL;
    if (blk_open(path, BLK_READ_WRITE, &b, e) < 0 || image_new(b, &i, e) < 0 ||
        blk_claim(&b, &w, e) < 0)
        return -1;
    int r = qcow_open(blk_of(w), &img, e);
    if (r == 0)
        r = qcow_recover(img, pass, pass_bytes, watch, &i->key, e);
    qcow_image_free(MOVE(img)); /* it borrows what is given back */
    blk_unclaim(&w, &i->blk);
    if (r < 0)
        return -1;
    *ret = MOVE(i);
    return 0;
}

int image_open_damaged(const char *path, const struct secret *pass, size_t pass_bytes,
                       const struct watch *watch, struct recovery **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_disk_rw) disk = NULL;
    if (blk_open(path, BLK_READ_WRITE, &b, e) < 0 || blk_claim(&b, &w, e) < 0 ||
        qcow_open(blk_of(w), &img, e) < 0 ||
        qcow_recover(img, pass, pass_bytes, watch, &key, e) < 0 || arm(&w, &img, key, &disk, e) < 0)
        return -1;
    return recovery_new(&disk, ret, e);
}

int image_verify_look(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                      const struct watch *watch, struct image_report *ret,
                      struct store_look **ret_look, struct err *e)
{
    struct image_report report = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(qcow_disk) disk = NULL;
    OWNED(store_look) look = NULL;
    if (blk_open(path, BLK_READ_ONLY, &b, e) < 0 || qcow_open(b, &img, e) < 0 ||
        qcow_recover(img, pass, pass_bytes, watch, &key, e) < 0 ||
        attach(&img, key, &disk, e) < 0 || store_look(disk, &look, e) < 0)
        return -1;
    store_look_stats(look, &report.store);
    if (full && qcow_check_image(qcow_disk_image(disk), &report.check, e) < 0)
        return -1;
    report.facts = *qcow_disk_facts(disk);
    report.holds_tpm = store_look_get(look, BLOB_PERMANENT, &(size_t){0}) != NULL;
    *ret = report;
    *ret_look = MOVE(look);
    return 0;
}

int image_verify(const char *path, const struct secret *pass, size_t pass_bytes, bool full,
                 const struct watch *watch, struct image_report *ret, struct err *e)
{
    OWNED(store_look) look = NULL;
    return image_verify_look(path, pass, pass_bytes, full, watch, ret, &look, e);
}

/* What qcow_format() calls back for: the only content of a new disk. */
struct content {
    struct ref_facts *facts;
    const struct volume_key *key;
    const struct state_change *first;
};

static int write_content(void *ctx, struct qcow_new *n, const uint8_t header_digest[32],
                         struct err *e)
{
    struct content *c = ctx;
    OWNED(secret) sector = NULL;
    OWNED(mac_key) record_key = NULL;
    memcpy(c->facts->header_digest, header_digest, sizeof(c->facts->header_digest));
    if (secret_new(SECTOR_BYTES, &sector, e) < 0 ||
        ref_sector_encode(c->facts, c->key, secret_bytes(sector), &record_key, e) < 0 ||
        qcow_new_write(n, (struct sector){0}, 1, secret_bytes(sector), e) < 0)
        return -1;
    return store_format(n, c->facts, record_key, c->first, e);
}

/* A random uuid [RFC 4122 4.4]. */
static int uuid_new(uint8_t ret[16], struct err *e)
{
    if (random_bytes(ret, 16, e) < 0)
        return -1;
    ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
    ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
    return 0;
}

static int new_file(const struct image_create *what, uint64_t bytes, struct blk_new **ret,
                    struct err *e)
{
    const struct stat *was = what->over;
    OWNED(blk_new) file = NULL;
    mode_t mode = what->mode ?: was ? was->st_mode : 0;
    uid_t uid = was ? was->st_uid : (uid_t)-1;
    gid_t gid = was ? was->st_gid : (gid_t)-1;
    if ((was ? blk_create_over(what->path, bytes, was, &file, e)
             : blk_create(what->path, bytes, &file, e)) < 0 ||
        (mode && blk_new_permit(file, uid, gid, mode, e) < 0))
        return -1;
    *ret = MOVE(file);
    return 0;
}

int image_create(const struct image_create *what, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct ref_facts *ret_facts, struct err *e)
{
    struct ref_facts facts = {.device = what->device};
    struct qcow_create c = {
        .size = what->size ? what->size : IMAGE_DEFAULT_BYTES,
        .cluster_bits = what->cluster_bits ? what->cluster_bits : 16,
    };
    OWNED(volume_key) key = NULL;
    OWNED(blk_new) file = NULL;
    OWNED_HEAP uint8_t *material = NULL;

    /* What can be refused is refused before time goes into the key. */
    if (store_plan(c.size / SECTOR_BYTES, &facts.layout, e) < 0 || uuid_new(facts.instance, e) < 0)
        return -1;
    memcpy(c.instance, facts.instance, sizeof(c.instance));
    uint32_t digest_iterations = what->iterations / DIGEST_COST_SHARE;
    if (digest_iterations < LUKS_MIN_ITERATIONS)
        digest_iterations = LUKS_MIN_ITERATIONS;
    if (luks_volume_new(digest_iterations, &c.luks, &key, e) < 0 ||
        new_file(what, qcow_create_bytes(&c), &file, e) < 0)
        return -1;

    material = calloc(luks_slot_sectors(c.luks.cipher.key_bytes), SECTOR_BYTES);
    if (!material)
        return err_nomem(e, "the key material of a LUKS slot");
    if (luks_slot_seal(&c.luks, SLOT, key, pass, pass_bytes, what->iterations, watch, material, e) <
        0)
        return -1;
    c.material[SLOT] = material;

    static const struct state_change nothing = {0};
    struct content content = {&facts, key, what->first ? what->first : &nothing};
    if (qcow_format(blk_new_rw(file), &c, key, write_content, &content, e) < 0 ||
        blk_publish(&file, e) < 0)
        return -1;
    if (ret_facts)
        *ret_facts = facts;
    return 0;
}
