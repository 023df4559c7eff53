/* Faults: every allocation and every system call of a recovery (claim, search, copy, writing)
 * fails, once and for good. Whatever fails: the class is right, nothing is leaked, the copy is
 * whole or not there, and the image is recovered or still reports its damage and can be recovered.
 *
 *     test_recover_faults           the most common error of each call
 *     test_recover_faults --long    every error that each call can give
 */
#include "tests/crash/fault_loop.h"

static uint8_t *damaged, *spare; /* the whole image, of that many bytes */
static size_t image_bytes;
static uint8_t wanted[SHA256_BYTES];
static char copy[320];

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
    if (image_open_damaged(path, pass, sizeof(passphrase) - 1, NULL, &r, e) < 0 ||
        recovery_backup(r, copy, e) < 0)
        return -1;
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
    if (r == 0 && access(copy, F_OK) < 0)
        violation("recover", "there is no copy", &e);

    struct store *s = NULL;
    if (open_image(&s, &why) < 0) {
        if (r == 0 || why.kind != ERR_STATE_CORRUPT)
            violation("recover", "does not open afterwards", &why);
        unlink(copy);
        if (recover(&why) < 0 || open_image(&s, &why) < 0) {
            violation("recover", "cannot be recovered afterwards", &why);
            return r == 0;
        }
    }
    if (!holds_wanted(s))
        violation("recover", "another state was recovered", &e);
    store_free(s);
    return r == 0;
}

static void all_faults(void)
{
    snprintf(copy, sizeof(copy), "%s/copy", folder);
    make_damaged();
    for_each_fault("recover", put_damaged, try_recover);
    unlink(copy);
    unlink(path);
    free(damaged);
    free(spare);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all_faults);
}
