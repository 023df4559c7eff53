#include "tests/support/hostile_way.h"

#include <string.h>

#include "backend/store_recover.h"
#include "tests/fuzz/fuzz.h"

static unsigned opened_with;

/* For images of some two megabytes. */
enum { MOST_BYTES = 16 << 20, MOST_READS = 1 << 16 };

static const uint8_t *get_store(const void *of, enum blob_kind kind, size_t *ret_n)
{
    return store_get(of, kind, ret_n);
}

static const uint8_t *get_look(const void *of, enum blob_kind kind, size_t *ret_n)
{
    return store_look_get(of, kind, ret_n);
}

static void check_refusal(const struct err *e)
{
    PROMISE(e->kind == ERR_STATE_FOREIGN || e->kind == ERR_STATE_CORRUPT ||
            e->kind == ERR_STATE_EMPTY || e->kind == ERR_UNSUPPORTED ||
            e->kind == ERR_KEY_UNEXPECTED || e->kind == ERR_KEY_WRONG);
    PROMISE(e->text[0] && strlen(e->text) < sizeof(e->text) - 1);
}

static void check_cost(void)
{
    PROMISE(hostile_cost().bytes <= MOST_BYTES && hostile_cost().reads <= MOST_READS);
}

/* Which of the image's generations this is; 0: none. */
static unsigned known_generation(enum known_kind kind, const uint8_t digest[32])
{
    for (unsigned g = KNOWN_GENERATIONS; g > 0; g--)
        if (!memcmp(known_image(kind)->state[g], digest, 32))
            return g;
    return 0;
}

/* Nobody without the key makes a state. */
static void check_state(const uint8_t digest[32], uint64_t generation)
{
    if (hostile_was_sealed())
        return;
    unsigned known = known_generation(hostile_kind(), digest);
    PROMISE(known > 0);
    PROMISE(generation >= known); /* higher only after a recovery */
}

static void same_as(struct store *s, const uint8_t digest[32])
{
    uint8_t found[32];
    known_state_digest(get_store, s, found);
    PROMISE(!memcmp(found, digest, 32));
}

/* What a look shows is what a store holds. */
static void look(const uint8_t digest[32])
{
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) disk = NULL;
    OWNED(store_look) l = NULL;
    uint8_t found[32];
    struct err e;
    PROMISE(hostile_blk(&b, &e) == 0 && hostile_disk_of(b, &disk, &e) == 0);
    PROMISE(store_look(disk, &l, &e) == 0);
    known_state_digest(get_look, l, found);
    PROMISE(!memcmp(found, digest, 32));
}

static void reopens_with(const uint8_t digest[32])
{
    OWNED(store) s = NULL;
    struct err e;
    PROMISE(hostile_open(&s, &e) == 0);
    same_as(s, digest);
    store_free(MOVE(s));
    look(digest);
}

/* Two commits: a checkpoint, and a record of the log where it has room. */
static void goes_on(struct store *taken)
{
    OWNED(store) s = taken;
    uint8_t digest[32], blob[300];
    struct err e;
    for (unsigned i = 0; i < 2; i++) {
        struct state_change c = {0};
        memset(blob, (int)(0x70 + i), sizeof(blob));
        c.blob[i] = (struct blob_change){BLOB_SET, blob, sizeof(blob)};
        if (store_commit(s, &c, &e) < 0) {
            PROMISE(e.kind == ERR_UNSUPPORTED && e.text[0]);
            break;
        }
        size_t n = 0;
        const uint8_t *p = store_get(s, (enum blob_kind)(i + 1), &n);
        PROMISE(p && n == sizeof(blob) && !memcmp(p, blob, n));
    }
    known_state_digest(get_store, s, digest);
    store_free(MOVE(s));
    reopens_with(digest);
}

/* ---- recovery ---- */

static void check_recovered(const struct recovery_facts *f)
{
    OWNED(store) s = NULL;
    struct store_stats stats;
    uint8_t digest[32];
    struct err e;
    PROMISE(hostile_open(&s, &e) == 0);
    store_stats(s, &stats);
    PROMISE(stats.generation == f->next_generation && stats.epoch == f->next_epoch);
    for (size_t i = 0; i < N_BLOBS; i++) {
        size_t n = 0;
        const uint8_t *p = store_get(s, (enum blob_kind)(i + 1), &n);
        PROMISE((p != NULL) == f->present[i] && (!p || n == f->n_bytes[i]));
    }
    known_state_digest(get_store, s, digest);
    check_state(digest, f->generation);
    goes_on(MOVE(s));
}

static void recover(void)
{
    OWNED(qcow_disk_rw) rw = NULL;
    OWNED(recovery) r = NULL;
    struct recovery_facts f;
    struct err e = {0};
    if (hostile_arm(&rw, &e) < 0 || recovery_new(&rw, &r, &e) < 0) {
        check_refusal(&e);
        return;
    }
    recovery_facts(r, &f);
    PROMISE(f.damage.kind == ERR_STATE_CORRUPT && f.next_generation >= f.generation + 3);
    if (recovery_write(r, &e) < 0) {
        PROMISE(e.kind == ERR_UNSUPPORTED && e.text[0]); /* larger than a checkpoint */
        return;
    }
    recovery_free(MOVE(r));
    check_recovered(&f);
}

/* ---- the way ---- */

/* What cannot be written to can perhaps be read. */
static void only_look(void)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) disk = NULL;
    OWNED(store_look) l = NULL;
    struct store_stats stats;
    uint8_t digest[32];
    struct err e = {0};
    if (hostile_blk(&b, &e) < 0 || hostile_disk_of(b, &disk, &e) < 0 ||
        store_look(disk, &l, &e) < 0) {
        check_refusal(&e);
        return;
    }
    store_look_stats(l, &stats);
    known_state_digest(get_look, l, digest);
    check_state(digest, stats.generation);
}

enum err_kind hostile_way(struct err *e)
{
    OWNED(store) s = NULL;
    struct store_stats stats;
    uint8_t digest[32];
    *e = (struct err){0};
    if (hostile_open(&s, e) < 0) {
        check_refusal(e);
        check_cost();
        PROMISE(!hostile_was_written());
        if (e->kind == ERR_UNSUPPORTED)
            only_look();
        if (e->kind == ERR_STATE_CORRUPT)
            recover();
        return e->kind;
    }
    check_cost();
    store_stats(s, &stats);
    known_state_digest(get_store, s, digest);
    check_state(digest, stats.generation);
    opened_with = known_generation(hostile_kind(), digest);
    goes_on(MOVE(s));
    return ERR_NONE;
}

unsigned hostile_way_generation(void)
{
    return opened_with;
}
