#include "tests/support/power.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One version of one sector, written and not yet known to be durable. */
struct version {
    uint64_t sector;
    uint8_t bytes[POWER_SECTOR];
};

struct power_disk {
    uint8_t *now;     /* what the system sees */
    uint8_t *durable; /* what every crash leaves, where a sector is not volatile */
    uint64_t size;
    struct version *pending; /* limbo first, then since the last flush, in order of writing */
    size_t n_pending, n_limbo, room;
    uint64_t *order; /* the distinct sectors in pending */
    size_t n_order, order_room;

    bool shared;
    bool cut;
    uint8_t *before_cut; /* copies of sectors that changed since the cut, and which */
    uint64_t *changed;
    size_t n_changed, changed_room;
    uint8_t *is_changed; /* by sector */

    unsigned fail_in;
    bool fail_for_good;
    int fail_errno;
    size_t fail_partial;
    struct power_counts counts;
    uint64_t noise;
    void (*on_flush)(void *ctx);
    void *on_flush_ctx;
    struct saved *saved;
};

/* What power_push() puts aside. */
struct saved {
    struct saved *below;
    uint8_t *now, *durable;
    struct version *pending;
    size_t n_pending, n_limbo;
    unsigned fail_in;
};

/* Test programs have no use for a way out of "no memory". */
static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct power_disk *power_disk_new(uint64_t bytes)
{
    struct power_disk *p = must(calloc(1, sizeof(*p)));
    assert(bytes % POWER_SECTOR == 0);
    p->size = bytes;
    p->now = must(calloc(1, bytes));
    p->durable = must(calloc(1, bytes));
    p->is_changed = must(calloc(1, bytes / POWER_SECTOR));
    p->noise = 0x9e3779b97f4a7c15;
    return p;
}

void power_disk_free(struct power_disk *p)
{
    if (!p)
        return;
    free(p->now);
    free(p->durable);
    free(p->pending);
    free(p->order);
    free(p->before_cut);
    free(p->changed);
    free(p->is_changed);
    free(p);
}

uint8_t *power_disk_bytes(struct power_disk *p)
{
    return p->now;
}

uint64_t power_volatile_sector(const struct power_disk *p, size_t i)
{
    return p->order[i];
}

struct power_counts power_counts(const struct power_disk *p)
{
    return p->counts;
}

void power_fail(struct power_disk *p, unsigned nth, bool persistent, int os, size_t partial)
{
    p->fail_in = nth;
    p->fail_for_good = persistent;
    p->fail_errno = os;
    p->fail_partial = partial;
}

static bool fails_now(struct power_disk *p)
{
    if (p->fail_in == 0 || p->cut)
        return false;
    if (p->fail_in > 1) {
        p->fail_in--;
        return false;
    }
    if (!p->fail_for_good)
        p->fail_in = 0;
    return true;
}

/* The sectors in pending, each once. */
static void find_order(struct power_disk *p)
{
    p->n_order = 0;
    for (size_t i = 0; i < p->n_pending; i++) {
        size_t j = 0;
        while (j < p->n_order && p->order[j] != p->pending[i].sector)
            j++;
        if (j < p->n_order)
            continue;
        if (p->n_order == p->order_room) {
            p->order_room = p->order_room * 2 + 64;
            p->order = must(realloc(p->order, p->order_room * sizeof(*p->order)));
        }
        p->order[p->n_order++] = p->pending[i].sector;
    }
}

size_t power_n_volatile(struct power_disk *p)
{
    find_order(p);
    return p->n_order;
}

bool power_has_versions(struct power_disk *p)
{
    find_order(p);
    return p->n_pending > p->n_order;
}

static void note_version(struct power_disk *p, uint64_t sector)
{
    if (p->n_pending == p->room) {
        p->room = p->room * 2 + 64;
        p->pending = must(realloc(p->pending, p->room * sizeof(*p->pending)));
    }
    struct version *v = &p->pending[p->n_pending++];
    v->sector = sector;
    memcpy(v->bytes, p->now + sector * POWER_SECTOR, POWER_SECTOR);
}

/* Keeps what a sector held at the cut, once. */
static void note_change(struct power_disk *p, uint64_t sector)
{
    if (p->is_changed[sector])
        return;
    if (p->n_changed == p->changed_room) {
        p->changed_room = p->changed_room * 2 + 64;
        p->changed = must(realloc(p->changed, p->changed_room * sizeof(*p->changed)));
        p->before_cut = must(realloc(p->before_cut, p->changed_room * POWER_SECTOR));
    }
    p->is_changed[sector] = 1;
    memcpy(p->before_cut + p->n_changed * POWER_SECTOR, p->now + sector * POWER_SECTOR,
           POWER_SECTOR);
    p->changed[p->n_changed++] = sector;
}

static void write_bytes(struct power_disk *p, const void *buf, size_t n, uint64_t off)
{
    uint64_t first = off / POWER_SECTOR, end = (off + n + POWER_SECTOR - 1) / POWER_SECTOR;
    for (uint64_t s = first; p->cut && s < end; s++)
        note_change(p, s);
    memcpy(p->now + off, buf, n);
    for (uint64_t s = first; !p->cut && s < end; s++)
        note_version(p, s);
    p->counts.sectors_written += end - first;
}

static int power_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    struct power_disk *p = ctx;
    if (off > p->size || n > p->size - off)
        return err_sys(e, ERR_STORAGE, EIO, "reading beyond the disk");
    memcpy(buf, p->now + off, n);
    p->counts.reads++;
    return 0;
}

static int power_pwrite(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e)
{
    struct power_disk *p = ctx;
    p->counts.writes++;
    if (off > p->size || n > p->size - off)
        return err_sys(e, ERR_STORAGE, EIO, "writing beyond the disk");
    if (fails_now(p)) {
        size_t some = p->fail_partial * POWER_SECTOR;
        if (some > 0)
            write_bytes(p, buf, some < n ? some : n, off);
        return err_sys(e, ERR_STORAGE, p->fail_errno, "writing to the test's disk");
    }
    write_bytes(p, buf, n, off);
    return 0;
}

static int power_flush(void *ctx, struct err *e)
{
    struct power_disk *p = ctx;
    p->counts.flushes++;
    if (p->on_flush && !p->cut)
        p->on_flush(p->on_flush_ctx);
    if (fails_now(p)) {
        p->n_limbo = p->n_pending;
        return err_sys(e, ERR_STORAGE, p->fail_errno, "flushing the test's disk");
    }
    if (p->cut)
        return 0;
    /* What was written since the last flush is durable, and with it whatever it overwrote. */
    size_t kept = 0;
    for (size_t i = p->n_limbo; i < p->n_pending; i++) {
        struct version *v = &p->pending[i];
        memcpy(p->durable + v->sector * POWER_SECTOR, v->bytes, POWER_SECTOR);
    }
    for (size_t i = 0; i < p->n_limbo; i++) {
        bool overwritten = false;
        for (size_t j = p->n_limbo; j < p->n_pending; j++)
            overwritten |= p->pending[j].sector == p->pending[i].sector;
        if (!overwritten)
            p->pending[kept++] = p->pending[i];
    }
    p->n_pending = p->n_limbo = kept;
    return 0;
}

static int power_claim(void *ctx, struct err *e)
{
    (void)ctx;
    (void)e;
    return 0;
}

static void power_release(void *ctx)
{
    (void)ctx;
}

static bool power_exclusive(void *ctx)
{
    return !((const struct power_disk *)ctx)->shared;
}

void power_share(struct power_disk *p)
{
    p->shared = true;
}

int power_disk_blk(struct power_disk *p, struct blk **ret, struct err *e)
{
    static const struct blk_ops ops = {
        .pread = power_pread,
        .pwrite = power_pwrite,
        .flush = power_flush,
        .claim = power_claim,
        .release = power_release,
        .close = power_release,
        .exclusive = power_exclusive,
    };
    return blk_from_ops(&ops, p, p->size, "power disk", ret, e);
}

static void fill_noise(struct power_disk *p, uint8_t *to)
{
    for (size_t i = 0; i < POWER_SECTOR; i += 8) {
        p->noise ^= p->noise << 13;
        p->noise ^= p->noise >> 7;
        p->noise ^= p->noise << 17;
        uint64_t x = p->noise * 0x2545f4914f6cdd1d;
        memcpy(to + i, &x, sizeof(x));
    }
}

uint64_t power_disk_size(const struct power_disk *p)
{
    return p->size;
}

/* The `version`-th content that a volatile sector had: 0 is the durable one. */
static const uint8_t *content_of(const struct power_disk *p, uint64_t sector, unsigned version)
{
    const uint8_t *found = p->durable + sector * POWER_SECTOR;
    for (size_t i = 0; i < p->n_pending && version > 0; i++) {
        if (p->pending[i].sector != sector)
            continue;
        found = p->pending[i].bytes;
        version--;
    }
    return found;
}

void power_cut(struct power_disk *p, const bool *arrived, enum power_lost lost, unsigned version)
{
    assert(!p->cut);
    find_order(p);
    p->cut = true;
    for (size_t i = 0; i < p->n_order; i++) {
        uint64_t sector = p->order[i];
        uint8_t *at = p->now + sector * POWER_SECTOR;
        note_change(p, sector);
        if (arrived[i])
            memcpy(at, content_of(p, sector, UINT32_MAX), POWER_SECTOR);
        else if (lost == LOST_STALE)
            memcpy(at, content_of(p, sector, version), POWER_SECTOR);
        else if (lost == LOST_ZERO)
            memset(at, 0, POWER_SECTOR);
        else
            fill_noise(p, at);
    }
}

void power_restore(struct power_disk *p)
{
    assert(p->cut);
    for (size_t i = 0; i < p->n_changed; i++) {
        memcpy(p->now + p->changed[i] * POWER_SECTOR, p->before_cut + i * POWER_SECTOR,
               POWER_SECTOR);
        p->is_changed[p->changed[i]] = 0;
    }
    p->n_changed = 0;
    p->cut = false;
}

static void *copy_of(const void *p, size_t n)
{
    void *copy = must(malloc(n ? n : 1));
    if (n > 0)
        memcpy(copy, p, n);
    return copy;
}

void power_push(struct power_disk *p)
{
    struct saved *s = must(calloc(1, sizeof(*s)));
    assert(!p->cut);
    s->below = p->saved;
    s->now = copy_of(p->now, p->size);
    s->durable = copy_of(p->durable, p->size);
    s->pending = copy_of(p->pending, p->n_pending * sizeof(*p->pending));
    s->n_pending = p->n_pending;
    s->n_limbo = p->n_limbo;
    s->fail_in = p->fail_in;
    p->fail_in = 0;
    p->saved = s;
}

void power_pop(struct power_disk *p)
{
    struct saved *s = p->saved;
    assert(s && !p->cut);
    free(p->now);
    free(p->durable);
    free(p->pending);
    p->now = s->now;
    p->durable = s->durable;
    p->pending = s->pending;
    p->n_pending = p->room = s->n_pending;
    p->n_limbo = s->n_limbo;
    p->fail_in = s->fail_in;
    p->saved = s->below;
    free(s);
}

void power_on_flush(struct power_disk *p, void (*fn)(void *ctx), void *ctx)
{
    p->on_flush = fn;
    p->on_flush_ctx = ctx;
}

void power_settle(struct power_disk *p)
{
    for (size_t i = 0; i < p->n_changed; i++)
        p->is_changed[p->changed[i]] = 0;
    p->n_changed = 0;
    p->cut = false;
    p->n_pending = p->n_limbo = 0;
    p->n_order = 0;
    memcpy(p->durable, p->now, p->size);
}
