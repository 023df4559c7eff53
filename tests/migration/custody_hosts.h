/* Hosts that hand a TPM's state around, each with an image and a daemon's custody of it. The state
 * is a text: nobody here is a TPM, and all the rest is real. */
#ifndef NVKEEP_TESTS_MIGRATION_CUSTODY_HOSTS_H
#define NVKEEP_TESTS_MIGRATION_CUSTODY_HOSTS_H

#include <stdlib.h>
#include <unistd.h>

#include "migration/custody.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/helpers.h"

struct side {
    char path[300];
    struct custody_rules rules;
    struct custody *c;
    struct store *s; /* while the image is claimed */
    char got[64];    /* what was staged */
};

/* What travels: a permanent state. */
struct set {
    struct secret *blob;
    size_t n;
};

static struct {
    char folder[200];
    struct secret *pass;
    struct migration_key *way;
    struct side a, b, c;
} at;

static const char passphrase[] = "hand over";
enum { PERMANENT_ONLY = 1u << (BLOB_PERMANENT - 1) };

/* --- images --- */

static inline struct state_change holds(const char *text)
{
    return (struct state_change){{{BLOB_SET, (const uint8_t *)text, strlen(text) + 1}}};
}

/* text: NULL: it waits for a TPM. */
static inline void new_image(struct side *h, enum device_kind device, const char *text)
{
    struct err e;
    struct state_change first = holds(text ? text : "");
    const struct image_create what = {.path = h->path,
                                      .device = device,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = text ? &first : NULL};
    unlink(h->path);
    assert_done(image_create(&what, at.pass, strlen(passphrase), NULL, NULL, &e), e);
}

static inline void copy_file(const char *from, const char *to)
{
    char command[1000];
    snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

/* --- daemons --- */

/* As plain `serve`: the image is claimed, the TPM runs. */
static inline void serve(struct side *h)
{
    struct err e;
    struct image *i = NULL;
    assert_done(image_open_claimed(h->path, at.pass, strlen(passphrase), NULL, &i, &h->s, &e), e);
    assert_done(custody_new(&i, &h->rules, HO_RUNNING, &h->c, &e), e);
}

/* As `--migration incoming`. */
static inline void await(struct side *h)
{
    struct err e;
    struct image_file *f = NULL;
    struct image *i = NULL;
    assert_done(image_file_open(h->path, &f, &e), e);
    assert_done(image_unlock(&f, at.pass, strlen(passphrase), NULL, &i, &e), e);
    assert_done(custody_new(&i, &h->rules, HO_AWAY, &h->c, &e), e);
}

static inline void let_go(struct side *h, bool remember)
{
    custody_release(h->c, &h->s, remember);
    custody_enter(h->c, remember ? HO_RELEASED : HO_AWAY);
}

/* Another daemon on the same image. */
static inline struct side beside(const struct side *h)
{
    struct side other = {.rules = h->rules};
    memcpy(other.path, h->path, sizeof(other.path));
    return other;
}

static inline void stop(struct side *h)
{
    if (h->s)
        custody_release(h->c, &h->s, false);
    custody_free(h->c);
    h->c = NULL;
}

/* --- the state --- */

/* So many commits; the last one is the text. */
static inline void run(struct side *h, unsigned n_commits, const char *text)
{
    for (; n_commits > 0; n_commits--) {
        char on_the_way[64];
        struct err e;
        snprintf(on_the_way, sizeof(on_the_way), "%u more, then %s", n_commits - 1, text);
        struct state_change change = holds(n_commits > 1 ? on_the_way : text);
        assert_done(store_commit(h->s, &change, &e), e);
    }
}

static inline void assert_holds(const struct store *s, const char *text)
{
    size_t n = 0;
    const uint8_t *p = store_get(s, BLOB_PERMANENT, &n);
    assert_non_null(p);
    assert_string_equal((const char *)p, text);
}

static inline bool read_origin(const struct store *s, struct store_origin *ret)
{
    struct err e;
    size_t n = 0;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    if (p)
        assert_done(origin_decode(p, n, ret, &e), e);
    return p;
}

static inline uint64_t generation(const struct side *h)
{
    struct store_mark m;
    store_mark(h->s, &m);
    return m.generation;
}

static inline uint64_t clock_of(const struct side *h)
{
    struct store_origin o;
    return origin_clock(read_origin(h->s, &o) ? &o : NULL, generation(h));
}

/* --- the hooks --- */

static inline struct set give(struct side *h)
{
    struct set set = {0};
    struct err e;
    bool encrypted;
    size_t n = 0;
    const uint8_t *p = store_get(h->s, BLOB_PERMANENT, &n);
    assert_done(custody_export_begin(h->c, h->s, PERMANENT_ONLY, 0x902, &e), e);
    assert_done(custody_export(h->c, BLOB_PERMANENT, p, n, &set.blob, &set.n, &encrypted, &e), e);
    assert_true(encrypted == (h->rules.seal != SEAL_OFF));
    return set;
}

static inline void drop_set(struct set *set)
{
    secret_free(MOVE(set->blob));
}

static inline int stage(struct side *h, const struct set *set, struct err *e)
{
    OWNED(secret) content = NULL;
    size_t n = 0;
    if (custody_stage(h->c, BLOB_PERMANENT, secret_peek(set->blob), set->n, &content, &n, e) < 0)
        return -1;
    assert_true(n > 0 && n <= sizeof(h->got));
    memcpy(h->got, secret_peek(content), n);
    assert_true(custody_set_is_whole(h->c));
    return 0;
}

/* The set and its origin, as one commit. */
static inline void commit_set(struct side *h, bool used)
{
    struct err e;
    uint8_t origin[ORIGIN_BYTES];
    struct state_change change = holds(h->got);
    custody_set_origin(h->c, h->s, used, origin);
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    assert_done(store_commit(h->s, &change, &e), e);
    custody_forget_set(h->c);
    custody_enter(h->c, used ? HO_RUNNING : HO_LOADED);
}

static inline int take_over(struct side *h, const struct set *set, struct err *e)
{
    if (stage(h, set, e) < 0 || custody_take_over(h->c, &h->s, e) < 0)
        return -1;
    commit_set(h, false);
    return 0;
}

/* The first command. */
static inline void use(struct side *h)
{
    struct err e;
    uint8_t origin[ORIGIN_BYTES];
    assert_true(custody_unused(h->s, origin));
    struct state_change change = {0};
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    assert_done(store_commit(h->s, &change, &e), e);
    assert_false(custody_unused(h->s, origin));
    custody_enter(h->c, HO_RUNNING);
}

/* A whole migration; *ret: what an onlooker captured. */
static inline void move(struct side *from, struct side *to, struct set *ret)
{
    struct err e;
    *ret = give(from);
    let_go(from, true);
    stop(from);
    await(to);
    assert_done(take_over(to, ret, &e), e);
    use(to);
}

static inline void move_unseen(struct side *from, struct side *to)
{
    struct set set;
    move(from, to, &set);
    drop_set(&set);
}

/* Refused by a daemon that waits, and its image holds the same record as before; it is stopped. */
static inline void not_taken(struct side *h, const struct set *set, enum err_kind kind,
                             const char *says)
{
    struct store_mark before, after;
    struct err e;
    serve(h);
    store_mark(h->s, &before);
    stop(h);
    await(h);
    assert_refused(take_over(h, set, &e), e, kind, says);
    assert_null(h->s);
    stop(h);
    serve(h);
    store_mark(h->s, &after);
    stop(h);
    assert_true(store_mark_equal(&before, &after));
}

/* --- around each test --- */

/* A has a TPM, B and C wait for one; all have the same migration key. */
static inline int set_up(void **state)
{
    (void)state;
    struct side *all[] = {&at.a, &at.b, &at.c};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        *all[i] = (struct side){.rules = {.migration_key = at.way}};
        snprintf(all[i]->path, sizeof(all[i]->path), "%s/%c", at.folder, (char)('a' + i));
        new_image(all[i], DEVICE_TPM20, i == 0 ? "made in A" : NULL);
    }
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    struct side *all[] = {&at.a, &at.b, &at.c};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i]->c)
            stop(all[i]);
    return 0;
}

static inline int open_folder(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(at.folder, sizeof(at.folder), "%s/nvkeep-hosts-XXXXXX", tmp ? tmp : "/tmp");
    at.pass = secret_of(passphrase);
    at.way = known_migration_key(256, 1);
    return mkdtemp(at.folder) ? 0 : -1;
}

static inline int drop_folder(void **state)
{
    char command[300];
    (void)state;
    secret_free(at.pass);
    migration_key_free(at.way);
    snprintf(command, sizeof(command), "rm -rf '%s'", at.folder);
    return system(command);
}

#endif
