/* Faults: every allocation and every system call of looking, claiming and releasing fails, once and
 * for good. Whatever fails: the file is as it was, no lock and no memory is left, and the same
 * image can be looked at and claimed afterwards.
 *
 *     test_handover_faults           the most common error of each call
 *     test_handover_faults --long    every error that each call can give
 */
#include "tests/crash/fault_loop.h"

static struct image *image;
static struct store *held;
static struct file_facts original;

static void check_file(const char *where, const struct err *e)
{
    struct file_facts now = facts_of_file();
    if (!same_file(&now, &original))
        violation(where, "the image changed", e);
}

/* Somebody else can have it, and then we can. */
static void check_free(const char *where)
{
    struct err e;
    OWNED(store) other = NULL;
    if (open_image(&other, &e) < 0)
        violation(where, "a lock is left", &e);
    store_free(MOVE(other));
    struct store *again = NULL;
    if (image_claim(image, &again, &e) < 0)
        violation(where, "cannot be claimed afterwards", &e);
    else
        image_release(image, &again);
}

static bool try_file_open(void)
{
    struct err e = {0};
    struct resources before = in_use();
    struct image_file *f = NULL;
    int r = image_file_open(path, &f, &e);
    fault_disarm();
    if (r < 0)
        check_class("open without a claim", &e);
    if (r < 0 && f)
        violation("open without a claim", "a failed call gave a result", &e);
    image_file_free(f);
    check_leaks("open without a claim", before, &e);
    return r == 0;
}

static struct image_file *file;

static void open_file(void)
{
    struct err e;
    if (!file && image_file_open(path, &file, &e) < 0)
        die("opening the file", &e);
}

static bool try_unlock(void)
{
    struct err e = {0}, why;
    struct resources before = in_use();
    OWNED(image) i = NULL;
    int r = image_unlock(&file, pass, sizeof(passphrase) - 1, NULL, &i, &e);
    fault_disarm();
    if (r == 0) {
        if (file)
            violation("unlock", "took nothing", &e);
        return true;
    }
    check_class("unlock", &e);
    if (!file || i) {
        violation("unlock", "a failed call took or gave something", &e);
        return false;
    }
    check_leaks("unlock", before, &e);
    check_file("unlock", &e);
    if (image_unlock(&file, pass, sizeof(passphrase) - 1, NULL, &i, &why) < 0)
        violation("unlock", "does not work afterwards", &why);
    return false;
}

static bool try_look(void)
{
    struct err e = {0}, why;
    struct resources before = in_use();
    struct store_look *l = NULL;
    int r = image_look(image, &l, &e);
    fault_disarm();
    if (r < 0)
        check_class("look", &e);
    if (r < 0 && l)
        violation("look", "a failed call gave a result", &e);
    store_look_free(l);
    check_leaks("look", before, &e);
    check_file("look", &e);
    OWNED(store_look) again = NULL;
    if (image_look(image, &again, &why) < 0)
        violation("look", "does not work afterwards", &why);
    return r == 0;
}

static bool try_claim(void)
{
    struct err e = {0};
    struct resources before = in_use();
    struct store *s = NULL;
    int r = image_claim(image, &s, &e);
    fault_disarm();
    if (r < 0)
        check_class("claim", &e);
    if (r < 0 && s)
        violation("claim", "a failed call gave a result", &e);
    if (s)
        image_release(image, &s);
    check_leaks("claim", before, &e);
    check_file("claim", &e);
    check_free("claim");
    return r == 0;
}

static void hold(void)
{
    struct err e;
    if (image_claim(image, &held, &e) < 0)
        die("claiming", &e);
}

/* Cannot fail. */
static bool try_release(void)
{
    struct err e = {0};
    image_release(image, &held);
    fault_disarm();
    if (held)
        violation("release", "the store is still there", &e);
    check_file("release", &e);
    check_free("release");
    return true;
}

static void all_faults(void)
{
    struct err e;
    if (create(&e) < 0)
        die("creating the image", &e);
    original = facts_of_file();
    for_each_fault("open without a claim", nothing_to_prepare, try_file_open);
    for_each_fault("unlock", open_file, try_unlock);
    open_file();
    if (image_unlock(&file, pass, sizeof(passphrase) - 1, NULL, &image, &e) < 0)
        die("unlocking the image", &e);
    for_each_fault("look", nothing_to_prepare, try_look);
    for_each_fault("claim", nothing_to_prepare, try_claim);
    for_each_fault("release", hold, try_release);
    image_free(image);
    image = NULL;
    unlink(path);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all_faults);
}
