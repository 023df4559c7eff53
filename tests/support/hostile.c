#include "tests/support/hostile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/qcow_priv.h"
#include "src/base/bytes.h"
#include "tests/support/resign.h"

enum { ROOM = 4 << 20, MAX_UNDO = 4096, GROWTH = 256 * 1024 };

/* Where the base was overwritten. */
struct undo {
    uint64_t at;
    size_t n;
};

static struct {
    enum known_kind kind;
    uint8_t *bytes;             /* of that kind: its base, but for the undo list */
    uint8_t *kept[KNOWN_KINDS]; /* of ROOM bytes; NULL: not yet */
    bool too_much;              /* for the undo list */
    uint64_t size;
    struct undo undo[MAX_UNDO];
    size_t n_undo;
    uint8_t plain[KNOWN_SECTORS][512];
    bool sealed;
    bool claimed, written;
    unsigned fail_in;
    bool fail_for_good;
    size_t partial;
    const struct qcow_image *opened; /* whose clusters may be written */
    struct hostile_cost cost;
} now;

static void broken(const char *what)
{
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* ---- tampering ---- */

static void restore(uint64_t at, size_t n)
{
    const struct known_image *base = known_image(now.kind);
    uint64_t there = at >= base->size ? 0 : base->size - at;
    if (there > n)
        there = n;
    memcpy(now.bytes + at, base->bytes + at, there);
    memset(now.bytes + at + there, 0, n - there);
}

/* What was changed last time. */
static void undo(void)
{
    if (now.too_much)
        restore(0, ROOM);
    for (size_t i = 0; i < now.n_undo && !now.too_much; i++)
        restore(now.undo[i].at, now.undo[i].n);
    now.n_undo = 0;
    now.too_much = false;
}

static void choose(enum known_kind kind)
{
    bool is_new = !now.kept[kind];
    if (is_new)
        now.kept[kind] = malloc(ROOM);
    if (!now.kept[kind] || known_image(kind)->size + GROWTH > ROOM)
        broken("room for the image");
    now.kind = kind;
    now.bytes = now.kept[kind];
    if (is_new)
        restore(0, ROOM);
}

void hostile_begin(enum known_kind kind)
{
    const struct known_image *base = known_image(kind);
    undo();
    choose(kind);
    now.size = base->size;
    memcpy(now.plain, base->plain, sizeof(now.plain));
    now.sealed = now.claimed = now.written = false;
    now.fail_in = 0;
    now.opened = NULL;
    now.cost = (struct hostile_cost){0};
}

static void overwrite(uint64_t at, const void *p, size_t n)
{
    if (now.n_undo == MAX_UNDO)
        now.too_much = true;
    else
        now.undo[now.n_undo++] = (struct undo){at, n};
    memcpy(now.bytes + at, p, n);
}

void hostile_file(uint64_t at, const void *p, size_t n)
{
    if (at < now.size)
        overwrite(at, p, n < now.size - at ? n : (size_t)(now.size - at));
}

void hostile_disk(uint64_t at, const void *p, size_t n)
{
    uint64_t all = sizeof(now.plain);
    if (at >= all || n == 0)
        return;
    if (n > all - at)
        n = (size_t)(all - at);
    uint8_t *plain = now.plain[0];
    memcpy(plain + at, p, n);
}

void hostile_resize(uint64_t size)
{
    uint64_t most = known_image(now.kind)->size + GROWTH;
    now.size = size < most ? size : most;
}

uint8_t *hostile_bytes(void)
{
    return now.bytes;
}

uint64_t hostile_size(void)
{
    return now.size;
}

enum known_kind hostile_kind(void)
{
    return now.kind;
}

bool hostile_was_written(void)
{
    return now.written;
}

bool hostile_was_sealed(void)
{
    return now.sealed;
}

struct hostile_cost hostile_cost(void)
{
    return now.cost;
}

/* ---- sealing ---- */

static void new_digest(const struct qcow_image *img)
{
    const uint8_t *old = known_image(now.kind)->facts.header_digest;
    uint8_t *at = memmem(now.plain[0], 448, old, 32);
    if (at)
        qcow_header_digest(&img->header, &img->luks, at);
}

static void sign(const struct qcow_image *img, const struct volume_key *key, unsigned flags)
{
    const struct store_layout *l = &known_layout;
    const struct resign_areas areas = {
        {now.plain[l->checkpoint[0]], now.plain[l->checkpoint[1]], now.plain[l->log]},
        {l->checkpoint_sectors, l->checkpoint_sectors, l->log_sectors},
    };
    OWNED(mac_key) record = NULL;
    struct err e;
    if (flags & SEAL_DIGEST)
        new_digest(img);
    if (flags & SEAL_REFERENCE)
        resign_reference(now.plain[0], key);
    if (!(flags & SEAL_RECORDS))
        return;
    if (resign_record_key(now.plain[0], key, &record, &e) < 0)
        broken("a record key");
    resign_records(record, &areas);
}

static void place(const struct qcow_image *img, const struct sector_cipher *c, uint64_t sector)
{
    uint64_t byte = sector * 512, cluster = byte / img->cluster_bytes;
    uint8_t buf[512];
    if (cluster >= img->n_guest)
        return;
    uint32_t entry = img->map[cluster];
    uint64_t at = (entry & MAP_HOST) * img->cluster_bytes + byte % img->cluster_bytes;
    if ((entry & MAP_HOST) == 0 || !range_within(at, 512, now.size))
        return;
    memcpy(buf, now.plain[sector], 512);
    sector_encrypt(c, at / 512, 1, buf);
    overwrite(at, buf, 512);
}

/* Which sectors have another content than the image that they come from. */
static uint64_t changed_sectors(void)
{
    const struct known_image *base = known_image(now.kind);
    uint64_t changed = 0;
    for (unsigned i = 0; i < KNOWN_SECTORS; i++)
        if (memcmp(now.plain[i], base->plain[i], 512) != 0)
            changed |= UINT64_C(1) << i;
    return changed;
}

void hostile_seal(unsigned flags)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(sector_cipher) c = NULL;
    struct err e;
    if (flags == 0 && changed_sectors() == 0)
        return;
    if (hostile_blk(&b, &e) < 0 || qcow_open(b, &img, &e) < 0)
        return;
    const struct volume_key *key = known_image_key(&img->luks.cipher);
    if (!key || sector_cipher_new(&img->luks.cipher, key, &c, &e) < 0)
        return;
    sign(img, key, flags);
    uint64_t changed = flags & SEAL_ALL ? UINT64_MAX : changed_sectors();
    now.sealed = changed != 0;
    for (unsigned i = 0; i < KNOWN_SECTORS; i++)
        if (changed & UINT64_C(1) << i)
            place(img, c, i);
}

/* ---- the storage ---- */

static int hostile_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    (void)ctx;
    (void)e;
    if (!range_within(off, n, now.size))
        broken("a read beyond the end of the file");
    memcpy(buf, now.bytes + off, n);
    now.cost.reads++;
    now.cost.bytes += n;
    return 0;
}

void hostile_fail(unsigned nth, bool for_good, size_t partial)
{
    now.fail_in = nth;
    now.fail_for_good = for_good;
    now.partial = partial * 512;
}

static bool fails(struct err *e)
{
    if (now.fail_in == 0 || --now.fail_in > 0)
        return false;
    now.fail_in = now.fail_for_good;
    (void)err_sys(e, ERR_STORAGE, EIO, "injected");
    return true;
}

static int hostile_pwrite(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e)
{
    (void)ctx;
    if (!now.claimed || !now.opened || !range_within(off, n, now.size) || n == 0)
        broken("a write without the claim, or beyond the end of the file");
    uint64_t cluster = now.opened->cluster_bytes;
    for (uint64_t c = off / cluster; c <= (off + n - 1) / cluster; c++)
        if (now.opened->use[c] != USE_DATA || now.opened->refs[c] != 1)
            broken("a write to a cluster that is not data of this disk alone");
    bool failed = fails(e);
    overwrite(off, buf, failed && now.partial < n ? now.partial : n);
    now.written = true;
    return failed ? -1 : 0;
}

static int hostile_flush(void *ctx, struct err *e)
{
    (void)ctx;
    return fails(e) ? -1 : 0;
}

static int hostile_claim(void *ctx, struct err *e)
{
    (void)ctx;
    if (now.claimed)
        return err_set(e, ERR_LOCKED, "claimed already");
    now.claimed = true;
    return 0;
}

static void hostile_release(void *ctx)
{
    (void)ctx;
    now.claimed = false;
    now.opened = NULL;
}

static void hostile_close(void *ctx)
{
    (void)ctx;
}

static int hostile_size_now(void *ctx, uint64_t *ret, struct err *e)
{
    (void)ctx;
    (void)e;
    *ret = now.size;
    return 0;
}

static const struct blk_ops ops = {
    .pread = hostile_pread,
    .pwrite = hostile_pwrite,
    .flush = hostile_flush,
    .claim = hostile_claim,
    .release = hostile_release,
    .close = hostile_close,
    .size = hostile_size_now,
};

int hostile_blk(struct blk **ret, struct err *e)
{
    return blk_from_ops(&ops, &now, now.size, "hostile", ret, e);
}

/* ---- the way up ---- */

/* As the image layer does it. */
static int attach(struct qcow_image **img, struct qcow_disk **ret, struct err *e)
{
    OWNED(volume_key) key = NULL;
    OWNED(qcow_volume) volume = NULL;
    OWNED(qcow_disk) disk = NULL;
    const struct volume_key *known = known_image_key(&(*img)->luks.cipher);
    if (!known)
        return err_set(e, ERR_KEY_WRONG, "no key is known for this cipher");
    if (volume_key_copy(known, &key, e) < 0 || qcow_unlock(img, &key, &volume, e) < 0 ||
        qcow_attach(&volume, &disk, e) < 0 || qcow_disk_check_whole(disk, e) < 0)
        return -1;
    *ret = MOVE(disk);
    return 0;
}

int hostile_disk_of(const struct blk *b, struct qcow_disk **ret, struct err *e)
{
    OWNED(qcow_image) img = NULL;
    return qcow_open(b, &img, e) < 0 ? -1 : attach(&img, ret, e);
}

int hostile_arm(struct qcow_disk_rw **ret, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) disk = NULL;
    if (hostile_blk(&b, e) < 0 || blk_claim(&b, &w, e) < 0 ||
        hostile_disk_of(blk_of(w), &disk, e) < 0 || qcow_arm(&disk, &w, ret, e) < 0)
        return -1;
    now.opened = qcow_disk_image(qcow_disk_of(*ret));
    return 0;
}

int hostile_open(struct store **ret, struct err *e)
{
    OWNED(qcow_disk_rw) rw = NULL;
    return hostile_arm(&rw, e) < 0 ? -1 : store_open(&rw, ret, e);
}
