/* Faults in the middle of a hand-over: every allocation and every system call of export, take-over
 * and take-back fails, once and for good. Whatever fails, one of the two goes on: a take-back that
 * failed can be tried again and is never told that somebody else ran when nobody did; a take-over
 * that failed leaves the image to whoever gave the state away.
 *
 *     test_custody_faults           the most common error of each call
 *     test_custody_faults --long    every error that each call can give
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migration/custody.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/support/fault.h"

static struct {
    unsigned long faults, refused, withstood, violations;
} tally;
static char folder[200], path[300];
static struct secret *pass;
static const char passphrase[] = "hand over";
static const char state_text[] = "a permanent state";
static unsigned variant, max_variant;
static struct custody_rules rules; /* of both hosts, in the trial that is on */
static struct migration_key *way;

/* One host: its daemon's custody, and the store while it has the claim. */
struct side {
    struct custody *c;
    struct store *s;
};

static void violation(const char *where, const char *what, const struct err *e)
{
    int os = 0;
    const char *call = fault_hit(&os);
    if (tally.violations++ < 30)
        fprintf(stderr, "%s, %s fails with %s: %s (%s)\n", where, call ? call : "nothing",
                strerrorname_np(os), what, e->text);
}

static void must(int r, const char *what, const struct err *e)
{
    if (r == 0)
        return;
    fprintf(stderr, "test_custody_faults: %s: %s\n", what, e->text);
    exit(1);
}

/* --- two hosts, one image --- */

static void create_image(void)
{
    struct err e = {0};
    const struct state_change first = {
        {{BLOB_SET, (const uint8_t *)state_text, sizeof(state_text)}}};
    const struct image_create what = {.path = path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    must(image_create(&what, pass, sizeof(passphrase) - 1, NULL, NULL, &e), "create", &e);
}

/* Made once; a copy needs no disk to wait for. */
static void new_image(void)
{
    static uint8_t *bytes;
    static size_t n;
    struct err e = {.text = "cannot copy the image"};
    if (!bytes) {
        create_image();
        OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
        off_t end = lseek(fd, 0, SEEK_END);
        bytes = end > 0 ? malloc((size_t)end) : NULL;
        n = bytes ? (size_t)end : 0;
        must(bytes && pread(fd, bytes, n, 0) == (ssize_t)n ? 0 : -1, "read", &e);
    }
    OWNED_FD fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && pwrite(fd, bytes, n, 0) == (ssize_t)n ? 0 : -1, "write", &e);
}

static struct side source_new(void)
{
    struct err e = {0};
    struct image *i = NULL;
    struct side h = {0};
    must(image_open_claimed(path, pass, sizeof(passphrase) - 1, NULL, &i, &h.s, &e), "open", &e);
    must(custody_new(&i, &rules, HO_IDLE, &h.c, &e), "custody", &e);
    return h;
}

static struct side target_new(void)
{
    struct err e = {0};
    struct image_file *f = NULL;
    struct image *i = NULL;
    struct side h = {0};
    must(image_file_open(path, &f, &e), "open", &e);
    must(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e), "unlock", &e);
    must(custody_new(&i, &rules, HO_AWAY, &h.c, &e), "custody", &e);
    return h;
}

static void side_free(struct side *h)
{
    if (h->s)
        custody_release(h->c, &h->s, false);
    custody_free(h->c);
    *h = (struct side){0};
}

static int give(struct side *h, struct secret **ret, size_t *ret_n, struct err *e)
{
    bool encrypted;
    size_t n;
    const uint8_t *p = store_get(h->s, BLOB_PERMANENT, &n);
    if (custody_export_begin(h->c, h->s, 1, 0, e) < 0)
        return -1;
    return custody_export(h->c, BLOB_PERMANENT, p, n, ret, ret_n, &encrypted, e);
}

static int stage(struct side *h, const struct secret *blob, size_t n, struct err *e)
{
    OWNED(secret) state = NULL;
    size_t state_n;
    return custody_stage(h->c, BLOB_PERMANENT, secret_peek(blob), n, &state, &state_n, e);
}

/* What the load hook does, without a TPM: the claim, and the set with its origin in one commit. */
static int take_over(struct side *h, struct err *e)
{
    struct state_change change = {{{BLOB_SET, (const uint8_t *)state_text, sizeof(state_text)}}};
    uint8_t origin[ORIGIN_BYTES];
    if (custody_take_over(h->c, &h->s, e) < 0)
        return -1;
    custody_set_origin(h->c, h->s, false, origin);
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    if (store_commit(h->s, &change, e) == 0)
        return 0;
    custody_release(h->c, &h->s, false);
    return -1;
}

static void check_state(const char *where, const struct side *h)
{
    struct err e = {.text = "other bytes"};
    size_t n = 0;
    const uint8_t *p = store_get(h->s, BLOB_PERMANENT, &n);
    if (!p || n != sizeof(state_text) || memcmp(p, state_text, n) != 0)
        violation(where, "the state is another one", &e);
}

/* --- what is tried --- */

static struct side source, target;
static struct secret *blob;
static size_t n_blob;

static char offer[CUSTODY_TOKEN_MAX], ready[CUSTODY_TOKEN_MAX];

static void prepare_running(void)
{
    new_image();
    source = source_new();
}

static void prepare_released(void)
{
    struct err e = {0};
    prepare_running();
    must(give(&source, &blob, &n_blob, &e), "export", &e);
    custody_release(source.c, &source.s, true);
}

static void prepare_staged(void)
{
    struct err e = {0};
    prepare_released();
    target = target_new();
    must(stage(&target, blob, n_blob, &e), "stage", &e);
}

/* The target knows no image yet, only where it will be: it keeps the passphrase. */
static void prepare_awaiting(void)
{
    struct err e = {0};
    OWNED(image_file) f = NULL;
    OWNED(secret) its_pass = NULL;
    prepare_released();
    must(image_file_open(path, &f, &e), "open", &e);
    must(secret_new(sizeof(passphrase) - 1, &its_pass, &e), "a passphrase", &e);
    memcpy(secret_bytes(its_pass), passphrase, sizeof(passphrase) - 1);
    must(custody_await(&f, &its_pass, sizeof(passphrase) - 1, &rules, &target.c, &e), "await", &e);
}

static void prepare_offered(void)
{
    struct err e = {0};
    prepare_running();
    custody_enter(source.c, HO_RUNNING);
    target = target_new();
    must(custody_offer(source.c, source.s, 0, offer, &e), "offer", &e);
}

static void prepare_answered(void)
{
    struct err e = {0};
    OWNED(store_look) look = NULL;
    prepare_offered();
    must(custody_prepare_load(target.c, NULL, &look, &e), "look", &e);
    must(custody_ready(target.c, offer, look, 0, ready, &e), "answer", &e);
}

static struct image *unlocked;

static void prepare_unlocked(void)
{
    struct err e = {0};
    OWNED(image_file) f = NULL;
    prepare_released();
    must(image_file_open(path, &f, &e), "open", &e);
    must(image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &unlocked, &e), "unlock", &e);
}

/* The target has stored it, and gives up before it was used. */
static void prepare_given_up(void)
{
    struct err e = {0};
    prepare_staged();
    must(take_over(&target, &e), "take over", &e);
    custody_release(target.c, &target.s, false);
}

static void clean_up(void)
{
    side_free(&source);
    side_free(&target);
    secret_free(MOVE(blob));
    image_free(MOVE(unlocked));
}

static int try_export(struct err *e)
{
    return give(&source, &blob, &n_blob, e);
}

static int try_stage(struct err *e)
{
    custody_forget_set(target.c);
    return stage(&target, blob, n_blob, e);
}

static int try_take_over(struct err *e)
{
    return take_over(&target, e);
}

static int try_take_back(struct err *e)
{
    return custody_take_back(source.c, &source.s, e);
}

static int try_offer(struct err *e)
{
    return custody_offer(source.c, source.s, 0, offer, e);
}

static int try_ready(struct err *e)
{
    OWNED(store_look) look = NULL;
    if (custody_prepare_load(target.c, NULL, &look, e) < 0)
        return -1;
    return custody_ready(target.c, offer, look, 0, ready, e);
}

static int try_arm(struct err *e)
{
    return custody_arm(source.c, ready, e);
}

static int try_look(struct err *e)
{
    OWNED(store_look) look = NULL;
    return custody_prepare_load(target.c, NULL, &look, e);
}

static int try_new(struct err *e)
{
    OWNED(custody) c = NULL;
    return custody_new(&unlocked, &rules, HO_AWAY, &c, e);
}

static int try_await(struct err *e)
{
    OWNED(image_file) f = NULL;
    OWNED(secret) its_pass = NULL;
    OWNED(custody) c = NULL;
    if (image_file_open(path, &f, e) < 0 || secret_new(sizeof(passphrase) - 1, &its_pass, e) < 0)
        return -1;
    return custody_await(&f, &its_pass, sizeof(passphrase) - 1, &rules, &c, e);
}

/* Without faults the source goes on, unless the target has the state. */
static void source_goes_on(const char *where, bool done)
{
    struct err e = {0};
    if (done && target.s) {
        check_state(where, &target);
        return;
    }
    secret_free(MOVE(blob));
    if (!source.s && custody_take_back(source.c, &source.s, &e) < 0)
        violation(where, "the source cannot take back", &e);
    if (!source.s)
        return;
    check_state(where, &source);
    if (give(&source, &blob, &n_blob, &e) < 0)
        violation(where, "the source cannot hand over again", &e);
}

static const struct trial {
    const char *name;
    void (*prepare)(void);
    int (*try)(struct err *e);
    enum seal_policy seal;
    bool with_key;
    unsigned step; /* in the short form one call in so many fails; 0: each */
} trials[] = {
    {"export", prepare_running, try_export},
    {"stage", prepare_staged, try_stage},
    {"take over", prepare_staged, try_take_over},
    {"take back", prepare_released, try_take_back},
    {"take back what was stored", prepare_given_up, try_take_back},
    {"export, sealed under a key", prepare_running, try_export, .with_key = true},
    {"stage, sealed under a key", prepare_staged, try_stage, .with_key = true},
    {"export, in the clear", prepare_running, try_export, SEAL_OFF},
    {"stage, in the clear", prepare_staged, try_stage, SEAL_OFF},
    {"export, as swtpm seals", prepare_running, try_export, SEAL_OFF, true},
    {"stage, as swtpm seals", prepare_staged, try_stage, SEAL_OFF, true},
    {"offer", prepare_offered, try_offer},
    {"answer", prepare_offered, try_ready, .step = 4},
    {"arm", prepare_answered, try_arm},
    {"begin with an image", prepare_unlocked, try_new},
    {"begin and await an image", prepare_released, try_await},
    {"look at what is awaited", prepare_awaiting, try_look, .step = 5},
    {"stage into what is awaited", prepare_awaiting, try_stage, .step = 5},
};

static struct custody_rules rules_of(const struct trial *t)
{
    return (struct custody_rules){.seal = t->seal, .migration_key = t->with_key ? way : NULL};
}

/* True: there was such a call. */
static bool one_fault(const struct trial *t, unsigned nth, bool for_good)
{
    struct err e = {0};
    int os;
    rules = rules_of(t);
    t->prepare();
    fault_arm(nth, for_good, variant);
    int r = t->try(&e);
    fault_disarm();
    bool hit = fault_hit(&os);
    if (hit) {
        tally.faults++;
        tally.refused += r < 0;
        tally.withstood += r == 0;
        if (r < 0 && e.kind != ERR_STORAGE)
            violation(t->name, err_class(e.kind)->name, &e);
        source_goes_on(t->name, r == 0);
    }
    clean_up();
    return hit;
}

static void all_faults(const struct trial *t)
{
    struct err e = {0};
    rules = rules_of(t);
    t->prepare();
    fault_arm(0, false, 0);
    must(t->try(&e), t->name, &e);
    unsigned n = fault_disarm();
    clean_up();
    unsigned step = t->step > 0 && max_variant == 1 ? t->step : 1;
    for (unsigned nth = 1; nth <= n; nth += step) {
        (void)one_fault(t, nth, false);
        (void)one_fault(t, nth, true);
    }
    printf("faults: %-28s %4u calls\n", t->name, n);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    const char *tmp = getenv("TMPDIR");
    max_variant = argc > 1 && strcmp(argv[1], "--long") == 0 ? 4 : 1;
    snprintf(folder, sizeof(folder), "%s/nvkeep-custody-XXXXXX", tmp ? tmp : "/tmp");
    must(mkdtemp(folder) ? 0 : -1, "mkdtemp", &e);
    snprintf(path, sizeof(path), "%s/image", folder);
    must(secret_new(sizeof(passphrase) - 1, &pass, &e), "a passphrase", &e);
    memcpy(secret_bytes(pass), passphrase, sizeof(passphrase) - 1);
    way = known_migration_key(256, 1);
    for (variant = 0; variant < max_variant; variant++)
        for (size_t i = 0; i < ARRAY_LEN(trials); i++)
            all_faults(&trials[i]);
    unlink(path);
    rmdir(folder);
    secret_free(pass);
    migration_key_free(way);
    printf("%lu faults: %lu refused, %lu withstood, %lu violations\n", tally.faults, tally.refused,
           tally.withstood, tally.violations);
    /* A loop that tried nothing has shown nothing. */
    return tally.violations > 0 || tally.faults < 500 || tally.refused < tally.faults / 2;
}
