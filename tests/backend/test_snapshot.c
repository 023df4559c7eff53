/* Snapshots in numbers, with every write looked at: what a snapshot holds stays where and what it
 * is, and no two states that live share a physical sector, which is the tweak that it is encrypted
 * under. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/image_priv.h"
#include "backend/image_snapshot.h"
#include "backend/qcow_priv.h"
#include "tests/support/mem_disk.h"
#include "tests/support/sanitized.h"
#include "tests/support/store_image.h"

enum { ROOM = 8 << 20, MOST = 24, CLUSTERS_MOST = 1 << 15 };
static const char pass_text[] = "a passphrase of the tests";
static unsigned rounds = SANITIZED ? 60 : 200;

/* ---- an image in memory ---- */

struct bench {
    struct mem_disk *disk;
    struct image image; /* as custody has one */
    struct store *store;
};

static void made_in_a_file(const struct secret *pass, unsigned bits, uint8_t **ret, size_t *ret_n)
{
    char path[] = "/tmp/nvkeep-snapshot-XXXXXX";
    const struct state_change first = {{{BLOB_SET, (const uint8_t *)"first", 5}}};
    struct image_create what = {.device = DEVICE_TPM20,
                                .size = 640 * 1024,
                                .cluster_bits = bits,
                                .iterations = LUKS_MIN_ITERATIONS,
                                .first = &first};
    struct err e;
    close(mkstemp(path));
    unlink(path);
    what.path = path;
    if (image_create(&what, pass, sizeof(pass_text) - 1, NULL, NULL, &e) < 0)
        fail_msg("%s", e.text);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *ret_n = (size_t)ftell(f);
    rewind(f);
    *ret = calloc(*ret_n + ROOM, 1);
    assert_non_null(*ret);
    assert_int_equal(fread(*ret, 1, *ret_n, f), *ret_n);
    fclose(f);
    unlink(path);
}

static void begin(struct bench *t, unsigned bits)
{
    OWNED(secret) pass = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED_HEAP uint8_t *bytes = NULL;
    struct blk_rw *w = NULL;
    size_t n;
    struct err e;
    memset(t, 0, sizeof(*t));
    assert_int_equal(secret_new(sizeof(pass_text), &pass, &e), 0);
    memcpy(secret_bytes(pass), pass_text, sizeof(pass_text));
    made_in_a_file(pass, bits, &bytes, &n);
    t->disk = mem_disk_of(bytes, n + ROOM);
    assert_int_equal(mem_disk_claimed(t->disk, &w, &e), 0);
    assert_int_equal(qcow_open(blk_of(w), &img, &e), 0);
    assert_int_equal(qcow_recover(img, pass, sizeof(pass_text) - 1, NULL, &t->image.key, &e), 0);
    if (image_open_again(&w, t->image.key, &t->store, &e) < 0)
        fail_msg("%s", e.text);
}

static void end(struct bench *t)
{
    store_free(t->store);
    volume_key_free(t->image.key);
    mem_disk_free(t->disk);
}

/* ---- who has which cluster ---- */

struct owners {
    uint8_t living[CLUSTERS_MOST], kept[CLUSTERS_MOST]; /* by how many trees */
    size_t n_snapshots;
    uint64_t cluster_bytes, leaks;
};

static void add_tree(const struct qcow_image *img, uint8_t *by)
{
    for (uint32_t i = 0; i < img->n_guest; i++)
        if (img->map[i] & MAP_HOST)
            by[img->map[i] & MAP_HOST]++;
}

static void find_owners(struct bench *t, struct owners *ret)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    struct qcow_check check;
    struct err e;
    memset(ret, 0, sizeof(*ret));
    assert_int_equal(mem_disk_blk(t->disk, &b, &e), 0);
    if (qcow_open(b, &img, &e) < 0 || snapshot_list_read(img, &l, &e) < 0 ||
        qcow_check_image(img, &check, &e) < 0)
        fail_msg("%s", e.text);
    if (check.corruptions > 0)
        fail_msg("after a change: %s", check.first);
    ret->leaks = check.leaks;
    ret->cluster_bytes = img->cluster_bytes;
    ret->n_snapshots = l.n;
    add_tree(img, ret->living);
    for (size_t i = 0; i < l.n; i++) {
        OWNED(qcow_image) one = NULL;
        assert_int_equal(qcow_open_snapshot(b, &l.at[i], &one, &e), 0);
        add_tree(one, ret->kept);
    }
    for (size_t i = 0; i < CLUSTERS_MOST; i++)
        if (ret->living[i] + ret->kept[i] > 1)
            fail_msg("the cluster %zu belongs to %u states", i, ret->living[i] + ret->kept[i]);
}

/* Nothing that a snapshot holds was written; 0: all is well. */
static size_t written_over(struct bench *t, const struct owners *o)
{
    size_t n, bad = 0;
    const struct mem_op *ops = mem_disk_log(t->disk, &n);
    for (size_t i = 0; i < n; i++)
        if (ops[i].what == MEM_WRITE)
            for (uint64_t at = ops[i].off; at < ops[i].off + ops[i].n; at += SECTOR_BYTES)
                bad += o->kept[at / o->cluster_bytes];
    mem_disk_forget(t->disk);
    return bad;
}

/* ---- what is done ---- */

static uint32_t draw(uint32_t below)
{
    static uint64_t bits = 0x9e3779b97f4a7c15;
    bits ^= bits << 13;
    bits ^= bits >> 7;
    bits ^= bits << 17;
    return (uint32_t)(bits >> 20) % below;
}

static void commit(struct bench *t)
{
    uint8_t bytes[20000];
    struct state_change c = {0};
    struct err e;
    size_t n = 1 + draw(draw(4) ? 900 : sizeof(bytes));
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)draw(256);
    c.blob[draw(3)] = (struct blob_change){BLOB_SET, bytes, n};
    if (store_commit(t->store, &c, &e) < 0)
        fail_msg("%s", e.text);
}

struct kept {
    char name[20];
    uint8_t digest[SHA256_BYTES];
};

static void digest_of(const struct store *s, uint8_t ret[SHA256_BYTES])
{
    struct state_change c = store_image_content(s);
    c.blob[BLOB_ORIGIN - 1] = (struct blob_change){0};
    store_image_digest(&c, ret);
}

static void apply(struct bench *t, const struct kept *k)
{
    uint8_t now[SHA256_BYTES];
    struct image_restored done;
    struct store_mark before;
    struct err e;
    store_mark(t->store, &before);
    if (image_apply_open(&t->image, k->name, &t->store, &done, &e) < 0)
        fail_msg("%s", e.text);
    digest_of(t->store, now);
    assert_memory_equal(now, k->digest, sizeof(now));
    assert_true(done.next_generation > before.generation);
    assert_true(done.next_epoch > before.epoch);
}

/* One of: keep another, let one go, go back to one. */
static void change(struct bench *t, struct kept *kept, size_t *n, unsigned nr)
{
    struct err e;
    size_t which = *n > 0 ? draw((uint32_t)*n) : 0;
    unsigned what = draw(10);
    if (*n == 0 || (what < 6 && *n < MOST)) {
        struct kept *k = &kept[*n];
        snprintf(k->name, sizeof(k->name), "state %u", nr);
        digest_of(t->store, k->digest);
        if (store_snapshot_create(t->store, k->name, &e) < 0)
            fail_msg("%s", e.text);
        (*n)++;
    } else if (what < 9) {
        if (store_snapshot_delete(t->store, kept[which].name, &e) < 0)
            fail_msg("%s", e.text);
        memmove(&kept[which], &kept[which + 1], (*n - which - 1) * sizeof(*kept));
        (*n)--;
    } else {
        apply(t, &kept[which]);
    }
}

static void changes_in_a_row(unsigned bits)
{
    static struct owners o;
    struct bench t;
    struct kept kept[MOST + 1];
    size_t n = 0;
    begin(&t, bits);
    for (unsigned i = 0; i < rounds; i++) {
        find_owners(&t, &o);
        assert_int_equal(o.n_snapshots, n);
        assert_int_equal(o.leaks, 0);
        mem_disk_forget(t.disk);
        for (unsigned k = draw(4); k > 0; k--)
            commit(&t);
        change(&t, kept, &n, i);
        commit(&t);
        assert_int_equal(written_over(&t, &o), 0);
    }
    for (size_t i = 0; i < n; i++) /* whatever came since */
        apply(&t, &kept[i]);
    end(&t);
}

static void no_sector_of_a_state_that_lives_is_written_by_another(void **state) /* S2.3 */
{
    (void)state;
    changes_in_a_row(16);
    changes_in_a_row(12);
}

/* What finds it does find it. */
static void a_write_into_a_snapshot_is_seen(void **state)
{
    static struct owners o;
    static uint8_t sector[SECTOR_BYTES];
    struct bench t;
    struct blk_rw *w;
    struct err e;
    size_t at = 0;
    (void)state;
    begin(&t, 16);
    assert_int_equal(store_snapshot_create(t.store, "one", &e), 0);
    find_owners(&t, &o);
    while (!o.kept[at])
        at++;
    mem_disk_forget(t.disk);
    store_disarm(&t.store, &w);
    assert_int_equal(blk_write(w, (struct host){at * o.cluster_bytes}, sector, sizeof(sector), &e),
                     0);
    assert_int_equal(written_over(&t, &o), 1);
    blk_rw_free(w);
    end(&t);
}

/* The device has no room: the error leaves everything as it was, and nothing leaks. */
static void what_does_not_fit_leaves_nothing(void **state)
{
    static struct owners o;
    struct bench t;
    struct err e = {0};
    char name[20];
    unsigned n = 0;
    (void)state;
    begin(&t, 16);
    do
        snprintf(name, sizeof(name), "state %u", n++);
    while (store_snapshot_create(t.store, name, &e) == 0);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_non_null(strstr(e.text, "cannot be made longer"));
    find_owners(&t, &o);
    assert_int_equal(o.n_snapshots, n - 1);
    assert_int_equal(o.leaks, 0);
    commit(&t);
    assert_int_equal(store_snapshot_delete(t.store, "state 0", &e), 0);
    assert_int_equal(store_snapshot_create(t.store, "in its place", &e), 0);
    find_owners(&t, &o);
    end(&t);
}

/* Each operation of a change fails once: it has not happened, or it has; then the next one works,
 * and snapshots where it is known what is on the disk. */
static void a_change_that_fails_has_not_happened(void **state)
{
    (void)state;
    for (size_t k = 0;; k++) {
        static struct owners o;
        struct bench t;
        struct err e = {0};
        begin(&t, 16);
        assert_int_equal(store_snapshot_create(t.store, "one", &e), 0);
        mem_disk_fail(t.disk, k, MEM_FAIL_ONCE, EIO, 0);
        int r = store_snapshot_create(t.store, "two", &e);
        bool done = mem_disk_n_ops(t.disk) <= k; /* nothing failed */
        mem_disk_heal(t.disk);
        commit(&t);
        bool unknown = store_snapshot_delete(t.store, "one", &e) < 0;
        if (unknown && !strstr(e.text, "it is not known"))
            fail_msg("operation %zu: %s", k, e.text);
        if (!unknown) {
            find_owners(&t, &o);
            assert_int_equal(o.n_snapshots, r == 0);
            assert_true(o.leaks == 0 || r == 0); /* only what was to be given back then */
        }
        end(&t);
        if (done)
            break;
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_sector_of_a_state_that_lives_is_written_by_another),
        cmocka_unit_test(a_write_into_a_snapshot_is_seen),
        cmocka_unit_test(what_does_not_fit_leaves_nothing),
        cmocka_unit_test(a_change_that_fails_has_not_happened),
    };
    if (argc > 1 && strcmp(argv[1], "--long") == 0)
        rounds = 2000;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
