/* Simulated power loss in everything that changes snapshots: each is cut at every flush into many
 * of the states that the disk may then have. In each of them the image opens; the TPM's state and
 * the list of snapshots are both as before or both as after, and as after once it was acknowledged;
 * every snapshot holds what it held; the next commit and the next snapshot work and change none of
 * them; and no refcount is too low (ours counts in every state, `qemu-img check` in some).
 *
 *     test_snapshot_crash [--long]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/image_priv.h"
#include "backend/image_snapshot.h"
#include "tests/support/power.h"
#include "tests/support/sanitized.h"
#include "tests/support/store_image.h"

enum { ROOM_BYTES = 3 << 20, MOST_VOLATILE = 1 << 14, SNAPSHOTS_MOST = 12, OUTSIDE_ONE_IN = 97 };
static const char pass_text[] = "a passphrase of the tests";

static struct {
    unsigned long operations, states, lost, mixed, torn, stuck, corrupt, outside, outside_bad;
} tally;
static bool thorough;
static struct power_disk *disk;
static struct secret *pass;
static struct volume_key *kept_key;
static unsigned n_reports;
static const char *step_name = "";

static void report(const char *what, const char *detail)
{
    if (n_reports++ < 20)
        fprintf(stderr, "%s: %s: %s\n", step_name, what, detail);
}

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "test_snapshot_crash: %s: %s: %s\n", step_name, what, detail);
    exit(1);
}

/* ---- the real way from a path, on the power disk, with a passphrase that is stretched once ----
 */

int __real_qcow_recover(const struct qcow_image *img, const struct secret *p, size_t n,
                        const struct watch *watch, struct volume_key **ret, struct err *e);
int __wrap_qcow_recover(const struct qcow_image *img, const struct secret *p, size_t n,
                        const struct watch *watch, struct volume_key **ret, struct err *e);
int __real_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e);
int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e);

int __wrap_qcow_recover(const struct qcow_image *img, const struct secret *p, size_t n,
                        const struct watch *watch, struct volume_key **ret, struct err *e)
{
    if (!kept_key && __real_qcow_recover(img, p, n, watch, &kept_key, e) < 0)
        return -1;
    return volume_key_copy(kept_key, ret, e);
}

int __wrap_blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e)
{
    (void)mode;
    return disk ? power_disk_blk(disk, ret, e) : __real_blk_open(path, mode, ret, e);
}

static struct store *open_store(struct err *e)
{
    struct store *s = NULL;
    return image_open_store("disk", pass, sizeof(pass_text) - 1, NULL, &s, e) < 0 ? NULL : s;
}

static struct image *open_image(struct err *e)
{
    struct image_file *f = NULL;
    struct image *i = NULL;
    if (image_file_open("disk", &f, e) < 0 ||
        image_unlock(&f, pass, sizeof(pass_text) - 1, NULL, &i, e) < 0)
        die("unlocking", e->text);
    return i;
}

/* ---- what an image holds ---- */

struct digest {
    uint8_t bytes[SHA256_BYTES];
};
struct picture {
    bool rolled_back; /* then there is no living state to be told */
    struct digest state;
    size_t n;
    struct {
        char name[SNAPSHOT_NAME_BYTES];
        struct digest state;
    } snapshot[SNAPSHOTS_MOST];
};

/* The TPM's own blobs: what is restored gets another note of its origin. */
static struct digest
digest_of(const uint8_t *(*get)(const void *from, enum blob_kind kind, size_t *n), const void *from)
{
    struct digest d;
    struct state_change c = {0};
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        size_t n;
        const uint8_t *p = get(from, (enum blob_kind)(i + 1), &n);
        if (p)
            c.blob[i] = (struct blob_change){BLOB_SET, p, n};
    }
    store_image_digest(&c, d.bytes);
    return d;
}

static const uint8_t *from_store(const void *from, enum blob_kind kind, size_t *n)
{
    return store_get(from, kind, n);
}

static const uint8_t *from_look(const void *from, enum blob_kind kind, size_t *n)
{
    return store_look_get(from, kind, n);
}

static bool look_into(const struct blk *b, const struct snapshot_facts *s, struct digest *ret,
                      struct err *e)
{
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_disk) d = NULL;
    OWNED(store_look) l = NULL;
    if (qcow_open_snapshot(b, s, &img, e) < 0 || image_attach(&img, kept_key, &d, e) < 0 ||
        store_look(d, &l, e) < 0)
        return false;
    *ret = digest_of(from_look, l);
    return true;
}

/* Without the claim: list, snapshots, and that all references are counted. */
static bool see_snapshots(struct picture *p, struct err *e)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct qcow_check check;
    if (power_disk_blk(disk, &b, e) < 0 || qcow_open(b, &img, e) < 0 ||
        snapshot_list_read(img, &l, e) < 0 || qcow_check_image(img, &check, e) < 0)
        return false;
    if (check.corruptions > 0) {
        tally.corrupt++;
        report("a refcount is too low, or another corruption", check.first);
    }
    p->n = l.n;
    for (size_t i = 0; i < l.n && i < SNAPSHOTS_MOST; i++) {
        memcpy(p->snapshot[i].name, l.at[i].name, sizeof(l.at[i].name));
        if (!look_into(b, &l.at[i], &p->snapshot[i].state, e))
            return false;
    }
    return true;
}

/* The store is left open, but where the state was rolled back. */
static bool see(struct picture *p, struct store **ret, struct err *e)
{
    memset(p, 0, sizeof(*p));
    if (!see_snapshots(p, e))
        return false;
    *ret = open_store(e);
    p->rolled_back = !*ret && e->kind == ERR_STATE_ROLLED_BACK;
    if (*ret)
        p->state = digest_of(from_store, *ret);
    return *ret || p->rolled_back;
}

static bool same_snapshots(const struct picture *a, const struct picture *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(a->snapshot[i].name, b->snapshot[i].name) != 0 ||
            memcmp(&a->snapshot[i].state, &b->snapshot[i].state, sizeof(a->snapshot[i].state)) != 0)
            return false;
    return true;
}

static bool same(const struct picture *a, const struct picture *b)
{
    return a->rolled_back == b->rolled_back && a->n == b->n && same_snapshots(a, b, a->n) &&
           memcmp(&a->state, &b->state, sizeof(a->state)) == 0;
}

/* ---- one state ---- */

static uint64_t random_bits = 0x2545f4914f6cdd1d;
static uint32_t draw(uint32_t below)
{
    random_bits ^= random_bits << 13;
    random_bits ^= random_bits >> 7;
    random_bits ^= random_bits << 17;
    return (uint32_t)(random_bits >> 20) % below;
}

static void commit_something(struct store *s, const char *what)
{
    uint8_t bytes[1500];
    struct err e = {0};
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)draw(256);
    struct state_change c = {0};
    c.blob[draw(2) ? BLOB_SAVESTATE - 1 : BLOB_VOLATILE - 1] =
        (struct blob_change){BLOB_SET, bytes, 1 + draw(sizeof(bytes))};
    if (store_commit(s, &c, &e) < 0) {
        tally.stuck++;
        report(what, e.text);
    }
}

/* What comes next works, and changes no snapshot that is there. */
static void go_on(struct store *s, const struct picture *was)
{
    struct picture now = {0};
    struct err e = {0};
    commit_something(s, "the next commit");
    if (store_snapshot_create(s, "the next one", &e) < 0) {
        tally.stuck++;
        report("the next snapshot", e.text);
    }
    commit_something(s, "the commit after it");
    store_free(s);
    if (!see_snapshots(&now, &e) || now.n != was->n + 1 || !same_snapshots(&now, was, was->n)) {
        tally.torn++;
        report("a snapshot was changed by what came next", e.text);
    }
}

static void look_from_outside(void)
{
    FILE *f = fopen("image", "w");
    if (!f ||
        fwrite(power_disk_bytes(disk), 1, power_disk_size(disk), f) != power_disk_size(disk) ||
        fclose(f) != 0)
        die("writing", "image");
    int r = system("qemu-img check --object secret,id=s0,file=key --image-opts "
                   "driver=qcow2,file.filename=image,encrypt.key-secret=s0 >log 2>&1");
    tally.outside++;
    if (WEXITSTATUS(r) != 0 && WEXITSTATUS(r) != 3) { /* 3: leaks */
        tally.outside_bad++;
        report("qemu-img check refuses it", "");
    }
}

static void judge(const struct picture *before, const struct picture *after)
{
    struct picture p;
    struct store *s = NULL;
    struct err e = {0};
    if (tally.states++ % OUTSIDE_ONE_IN == 0)
        look_from_outside();
    if (!see(&p, &s, &e)) {
        tally.lost++;
        report("it does not open", e.text);
        return;
    }
    if (!same(&p, after) && (!before || !same(&p, before))) {
        tally.mixed++;
        report("neither as before nor as after", p.rolled_back ? "rolled back" : "");
    }
    if (s)
        go_on(s, &p);
}

/* ---- cutting ---- */

static struct {
    bool learning, busy;
    const struct picture *before, *after;
} cutting;

/* What did not arrive is as it was: sectors of refcounts hold those of others, too. */
static void cut(const bool *arrived)
{
    power_cut(disk, arrived, LOST_STALE, 0);
    judge(cutting.before, cutting.after);
    power_restore(disk);
}

static void cut_here(void *unused)
{
    static bool arrived[MOST_VOLATILE];
    (void)unused;
    size_t n = power_n_volatile(disk);
    unsigned tries = thorough ? 800 : SANITIZED ? 12 : 60;
    if (cutting.busy || cutting.learning || (n == 0 && cutting.before))
        return;
    if (n > MOST_VOLATILE)
        die("so many volatile sectors", "are not foreseen");
    cutting.busy = true;
    if (n <= 3)
        tries = 1U << n;
    for (unsigned t = 0; t < tries; t++) {
        unsigned rare = 2 + draw(40);
        for (size_t i = 0; i < n; i++)
            arrived[i] = n <= 3 ? t >> i & 1 : t == 0 || (t > 1 && draw(rare) > 0);
        cut(arrived);
    }
    cutting.busy = false;
}

/* ---- operations ---- */

struct operation {
    const char *name;
    void (*run)(const char *argument);
    const char *argument;
};

static void must(int r, const struct err *e)
{
    if (r < 0)
        die("on a sound disk", e->text);
}

static struct store *must_open(void)
{
    struct err e = {0};
    struct store *s = open_store(&e);
    if (!s)
        die("opening", e.text);
    return s;
}

static void create(const char *name)
{
    struct err e = {0};
    OWNED(store) s = must_open();
    must(store_snapshot_create(s, name, &e), &e);
}

static void delete_one(const char *name)
{
    struct err e = {0};
    OWNED(store) s = must_open();
    must(store_snapshot_delete(s, name, &e), &e);
}

static void apply(const char *name)
{
    struct err e = {0};
    struct image_restored done;
    OWNED(image) i = open_image(&e);
    must(image_apply(i, name, &done, &e), &e);
}

static void adopt(const char *unused)
{
    struct err e = {0};
    struct image_restored done;
    OWNED(image) i = open_image(&e);
    (void)unused;
    must(image_adopt(i, true, &done, &e), &e);
}

/* Where clusters are shared, that alone changes the tables. */
static void open_only(const char *unused)
{
    (void)unused;
    store_free(must_open());
}

/* Twice from the same bytes: to learn what comes of it, and to be cut. */
static void run(const struct operation *op)
{
    struct picture before, after;
    struct store *s = NULL;
    struct err e = {0};
    uint64_t bits = random_bits;
    step_name = op->name;
    tally.operations++;
    cutting.learning = true;
    power_push(disk);
    if (!see(&before, &s, &e))
        die("before", e.text);
    store_free(MOVE(s));
    power_pop(disk);
    power_push(disk);
    op->run(op->argument);
    if (!see(&after, &s, &e))
        die("after", e.text);
    store_free(MOVE(s));
    power_pop(disk);
    random_bits = bits;
    cutting.before = &before;
    cutting.after = &after;
    cutting.learning = false;
    op->run(op->argument);
    /* Acknowledged: whatever is lost now, that is not. */
    cutting.before = NULL;
    cut_here(NULL);
    cutting.learning = true;
    power_settle(disk);
}

/* ---- other tools ---- */

static void by_qemu_img(const char *arguments)
{
    char line[300];
    FILE *f = fopen("image", "w");
    if (!f ||
        fwrite(power_disk_bytes(disk), 1, power_disk_size(disk), f) != power_disk_size(disk) ||
        fclose(f) != 0)
        die("writing", "image");
    (void)snprintf(line, sizeof(line),
                   "qemu-img snapshot %s --object secret,id=s0,file=key --image-opts "
                   "driver=qcow2,file.filename=image,encrypt.key-secret=s0 >log 2>&1",
                   arguments);
    if (system(line) != 0)
        die("qemu-img snapshot", arguments);
    f = fopen("image", "r");
    if (!f || fread(power_disk_bytes(disk), 1, power_disk_size(disk), f) != power_disk_size(disk) ||
        fclose(f) != 0)
        die("reading", "image");
    power_settle(disk);
}

static void change_state(void)
{
    OWNED(store) s = must_open();
    for (unsigned i = 0; i < 3; i++)
        commit_something(s, "a commit");
    power_settle(disk);
}

static void walk(void)
{
    static const struct operation first[] = {
        {"create", create, "one"},
        {"create the second", create, "two"},
        {"delete", delete_one, "one"},
        {"create in its place", create, "three"},
        {"apply", apply, "two"},
        {"apply again", apply, "three"},
        {"delete the last", delete_one, "three"},
    };
    for (size_t i = 0; i < ARRAY_LEN(first); i++) {
        change_state();
        run(&first[i]);
    }
    by_qemu_img("-c theirs");
    run(&(struct operation){"open what is shared", open_only, NULL});
    change_state();
    by_qemu_img("-a theirs");
    run(&(struct operation){"adopt theirs", adopt, NULL});
    change_state();
    by_qemu_img("-c others");
    run(&(struct operation){"create beside what is shared", create, "four"});
    run(&(struct operation){"apply theirs", apply, "theirs"});
    by_qemu_img("-a two");
    run(&(struct operation){"adopt ours", adopt, NULL});
    run(&(struct operation){"delete theirs", delete_one, "theirs"});
    by_qemu_img("-c last");
    by_qemu_img("-a two");
    run(&(struct operation){"apply where another was put", apply, "others"});
}

/* ---- the image ---- */

static void make_disk(void)
{
    static const uint8_t bytes[3000] = {1, 2, 3};
    const struct state_change content = {{{BLOB_SET, bytes, sizeof(bytes)}}};
    const struct image_create what = {.path = "new",
                                      .device = DEVICE_TPM20,
                                      .size = 640 * 1024,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &content};
    struct err e = {0};
    FILE *f;
    must(secret_new(sizeof(pass_text), &pass, &e), &e);
    memcpy(secret_bytes(pass), pass_text, sizeof(pass_text));
    must(image_create(&what, pass, sizeof(pass_text) - 1, NULL, NULL, &e), &e);
    f = fopen("new", "r");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        die("reading", "new");
    long n = ftell(f);
    struct power_disk *d = power_disk_new((uint64_t)n + ROOM_BYTES);
    rewind(f);
    if (fread(power_disk_bytes(d), 1, (size_t)n, f) != (size_t)n || fclose(f) != 0)
        die("reading", "new");
    disk = d;
    power_settle(disk);
    power_on_flush(disk, cut_here, NULL);
    cutting.learning = true;
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/nvkeep-snapshots-XXXXXX";
    thorough = argc > 1 && strcmp(argv[1], "--long") == 0;
    if (system("command -v qemu-img >/dev/null") != 0) {
        puts("missing: qemu-img");
        return 77;
    }
    if (!mkdtemp(dir) || chdir(dir) != 0)
        die("making", dir);
    FILE *key = fopen("key", "w");
    if (!key || fputs(pass_text, key) == EOF || fclose(key) != 0)
        die("writing", "key");
    make_disk();
    walk();
    (void)unlink("new");
    (void)unlink("key");
    (void)unlink("image");
    (void)unlink("log");
    (void)rmdir(dir);
    power_disk_free(disk);
    volume_key_free(kept_key);
    secret_free(pass);
    printf(
        "power loss, snapshots: operations %lu, states %lu, lost %lu, neither old nor new %lu, "
        "snapshots changed %lu, next step failed %lu, refcounts too low %lu, checked by qemu-img "
        "%lu, refused by it %lu\n",
        tally.operations, tally.states, tally.lost, tally.mixed, tally.torn, tally.stuck,
        tally.corrupt, tally.outside, tally.outside_bad);
    return n_reports || tally.states == 0 || tally.outside == 0;
}
