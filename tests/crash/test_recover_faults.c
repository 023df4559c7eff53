/* Faults: every allocation and every system call of a recovery (claim, search, copy, writing)
 * fails, once and for good. Whatever fails: the class is right, nothing is leaked, the copy is
 * whole or not there, and the image is recovered or still reports its damage and can be recovered.
 *
 *     test_recover_faults           the most common error of each call
 *     test_recover_faults --long    every error that each call can give
 */
#include "backend/qcow_priv.h"
#include "tests/crash/fault_loop.h"

static uint8_t *damaged, *spare; /* the whole image, of that many bytes */
static size_t image_bytes;
static uint8_t wanted[SHA256_BYTES];
static char copy[320];
static long long unreadable[3]; /* offsets in the file; 0: none */
static uint64_t n_unreadable;   /* as the last recovery says */

static void read_image(const char *from, uint8_t *ret)
{
    OWNED_FD fd = open(from, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || (size_t)st.st_size != image_bytes ||
        pread(fd, ret, image_bytes, 0) != (ssize_t)image_bytes)
        die(from, &(struct err){.text = "cannot be read"});
}

static void put_damaged(void)
{
    OWNED_FD fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, damaged, image_bytes, 0) != (ssize_t)image_bytes)
        die(path, &(struct err){.text = "cannot be written"});
    unlink(copy);
    fault_readable();
    for (size_t i = 0; i < ARRAY_LEN(unreadable) && unreadable[i] != 0; i++)
        fault_unreadable(unreadable[i]);
}

static void commit_now(struct store *s)
{
    struct err e;
    bytes[100]++;
    struct state_change c = state_now();
    if (store_commit(s, &c, &e) < 0)
        die("a commit without faults", &e);
}

/* A checkpoint and some records, of which the last is damaged. */
static void make_damaged(void)
{
    struct err e;
    struct store *s = NULL;
    if (create(&e) < 0 || open_image(&s, &e) < 0)
        die("the image", &e);
    for (unsigned i = 0; i < 4; i++)
        commit_now(s);
    struct state_change c = state_now();
    store_image_digest(&c, wanted);
    image_bytes = (size_t)facts_of_file().st.st_size;
    damaged = malloc(image_bytes);
    spare = malloc(image_bytes);
    if (!damaged || !spare)
        die("the image", &(struct err){.text = "no memory"});
    read_image(path, spare);
    commit_now(s);
    store_free(s);
    read_image(path, damaged);
    size_t i = 0;
    while (i < image_bytes && damaged[i] == spare[i])
        i++;
    if (i == image_bytes)
        die("a commit", &(struct err){.text = "changed nothing"});
    damaged[i / SECTOR_BYTES * SECTOR_BYTES + 333] ^= 16;
}

static int recover(struct err *e)
{
    OWNED(recovery) r = NULL;
    if (image_open_damaged(path, pass, sizeof(passphrase) - 1, NULL, &r, e) < 0)
        return -1;
    struct recovery_facts facts;
    recovery_facts(r, &facts);
    n_unreadable = facts.n_unreadable;
    if (unreadable[0] == 0 && recovery_backup(r, copy, e) < 0)
        return -1; /* what cannot be read cannot be copied */
    return recovery_write(r, e);
}

static bool holds_wanted(struct store *s)
{
    uint8_t got[SHA256_BYTES];
    struct state_change c = store_image_content(s);
    store_image_digest(&c, got);
    return memcmp(got, wanted, sizeof(got)) == 0;
}

static void check_copy(const struct err *e)
{
    if (access(copy, F_OK) < 0)
        return;
    read_image(copy, spare);
    if (memcmp(spare, damaged, image_bytes) != 0)
        violation("recover", "the copy is not what the image was", e);
}

static bool try_recover(void)
{
    struct err e = {0}, why = {0};
    struct resources before = in_use();
    int r = recover(&e);
    fault_disarm();
    if (r < 0)
        check_class("recover", &e);
    check_leaks("recover", before, &e);
    check_copy(&e);
    if (r == 0 && unreadable[0] == 0 && access(copy, F_OK) < 0)
        violation("recover", "there is no copy", &e);

    struct store *s = NULL;
    if (open_image(&s, &why) < 0) {
        if (r == 0 || (why.kind != ERR_STATE_CORRUPT && unreadable[0] == 0))
            violation("recover", "does not open afterwards", &why);
        unlink(copy);
        if (recover(&why) < 0 || open_image(&s, &why) < 0) {
            violation("recover", "cannot be recovered afterwards", &why);
            return r == 0;
        }
    }
    /* Around a sector that it says could not be read either it may find less. */
    if (!holds_wanted(s) && n_unreadable <= ARRAY_LEN(unreadable))
        violation("recover", "another state was recovered", &e);
    store_free(s);
    return r == 0;
}

/* Three sectors cannot be read: the one that a recovery writes first, the last of that area, and
 * the last of the log. Others may write here. */
static void make_unreadable(void)
{
    struct err e;
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(qcow_volume) v = NULL;
    OWNED(qcow_disk) d = NULL;
    put_damaged();
    if (blk_open(path, BLK_READ_ONLY, &b, &e) < 0 || qcow_open(b, &img, &e) < 0 ||
        qcow_recover(img, pass, sizeof(passphrase) - 1, NULL, &key, &e) < 0 ||
        qcow_unlock(&img, &key, &v, &e) < 0 || qcow_attach(&v, &d, &e) < 0)
        die("the damaged image", &e);
    const struct store_layout *l = &qcow_disk_facts(d)->layout;
    const uint64_t guest[] = {l->checkpoint[0], l->checkpoint[0] + l->checkpoint_sectors - 1,
                              l->log + l->log_sectors - 1};
    for (size_t i = 0; i < ARRAY_LEN(guest); i++)
        unreadable[i] = (long long)(store_image_host_sector(d, guest[i]) * SECTOR_BYTES);
}

static void all_faults(void)
{
    snprintf(copy, sizeof(copy), "%s/copy", folder);
    make_damaged();
    for_each_fault("recover", put_damaged, try_recover);
    fault_elsewhere(true);
    for_most_faults("recover where others may write", put_damaged, try_recover, 110, 50);
    make_unreadable();
    for_most_faults("recover around", put_damaged, try_recover, 120, n_variants > 1 ? 1 : 9);
    memset(unreadable, 0, sizeof(unreadable));
    fault_readable();
    fault_elsewhere(false);
    unlink(copy);
    unlink(path);
    free(damaged);
    free(spare);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all_faults);
}
