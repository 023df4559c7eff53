/* Two owners of one image under two names, where each name grants its own locks: the second takes
 * over, and the first is to notice at its next commit.
 *
 *     tool_two_owners ONE OTHER PASSPHRASE     exit code 0: it did, and nothing was lost
 *     tool_two_owners --afresh FILE DEVICE PASSPHRASE
 *         what is written to FILE, behind the back of a device made of it (as another machine
 * writes to shared storage), is seen by who looks at the device, and by who claims it then
 */
#include <stdio.h>
#include <string.h>

#include "backend/image.h"

struct owner {
    struct image *image;
    struct store *store;
};

static int failed(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s: %s\n", what, err_class(e->kind)->name, e->text);
    return -1;
}

static int take(const char *path, const struct secret *pass, size_t pass_bytes, struct owner *ret)
{
    struct err e;
    OWNED(image_file) f = NULL;
    if (image_file_open(path, &f, &e) < 0 ||
        image_unlock(&f, pass, pass_bytes, NULL, &ret->image, &e) < 0 ||
        image_claim(ret->image, &ret->store, &e) < 0)
        return failed(path, &e);
    return 0;
}

static void leave(struct owner *o)
{
    store_free(o->store);
    image_free(o->image);
    *o = (struct owner){0};
}

static int commit(struct owner *o, unsigned n, struct err *e)
{
    struct state_change c = {0};
    uint8_t bytes[3000];
    memset(bytes, (int)n, sizeof(bytes));
    c.blob[0] = (struct blob_change){BLOB_SET, bytes, sizeof(bytes)};
    return store_commit(o->store, &c, e);
}

static int commit_some(struct owner *o, unsigned first, unsigned n)
{
    struct err e;
    for (unsigned i = first; i < first + n; i++)
        if (commit(o, i, &e) < 0)
            return failed("an owner cannot commit", &e);
    return 0;
}

static int is_fenced(struct owner *o)
{
    struct err e;
    for (int i = 0; i < 3; i++) {
        if (commit(o, 0xee, &e) == 0) {
            fprintf(stderr, "the stale owner commits\n");
            return -1;
        }
        if (e.kind != ERR_FENCED)
            return failed("the stale owner", &e);
    }
    printf("stale owner: %s\n", e.text);
    return 0;
}

static int holds(const struct store *s, unsigned n)
{
    size_t bytes = 0;
    const uint8_t *p = store_get(s, BLOB_PERMANENT, &bytes);
    if (p && bytes == 3000 && p[0] == n && p[2999] == n)
        return 0;
    fprintf(stderr, "the image holds %d, not %u\n", p ? p[0] : -1, n);
    return -1;
}

static int two_owners(const char *one, const char *other, const struct secret *pass,
                      size_t pass_bytes)
{
    struct owner a = {0}, b = {0};
    int r = -1;
    /* In turns, and with so many commits that both checkpoint areas and the log are used. */
    for (unsigned round = 1; round <= 8; round++) {
        r = -1;
        if (take(one, pass, pass_bytes, &a) < 0 || commit_some(&a, 10, round) < 0 ||
            take(other, pass, pass_bytes, &b) < 0 || holds(b.store, 10 + round - 1) < 0 ||
            commit_some(&b, 100, round * round) < 0 || is_fenced(&a) < 0 ||
            commit_some(&b, 200, 2) < 0)
            break;
        leave(&b);
        leave(&a);
        if (take(one, pass, pass_bytes, &a) < 0 || holds(a.store, 201) < 0)
            break;
        leave(&a);
        r = 0;
    }
    leave(&b);
    leave(&a);
    return r;
}

static int sees(const struct image *i, unsigned n)
{
    OWNED(store_look) l = NULL;
    struct err e;
    size_t bytes = 0;
    if (image_look(i, &l, &e) < 0)
        return failed("looking", &e);
    const uint8_t *p = store_look_get(l, BLOB_PERMANENT, &bytes);
    if (p && bytes == 3000 && p[0] == n && p[2999] == n)
        return 0;
    fprintf(stderr, "seen: %d, not %u\n", p ? p[0] : -1, n);
    return -1;
}

static int afresh(const char *file, const char *device, const struct secret *pass,
                  size_t pass_bytes)
{
    struct owner a = {0}, b = {0};
    struct err e;
    int r = -1;
    if (take(file, pass, pass_bytes, &a) == 0 && take(device, pass, pass_bytes, &b) == 0) {
        image_release(b.image, &b.store);
        r = 0;
    }
    for (unsigned round = 1; r == 0 && round <= 8; round++) {
        r = -1;
        if (commit_some(&a, round, 1) < 0 || sees(b.image, round) < 0 ||
            commit_some(&a, 100 + round, 1) < 0)
            break;
        image_release(a.image, &a.store);
        if (image_claim(b.image, &b.store, &e) < 0) {
            failed("claiming the device", &e);
            break;
        }
        if (holds(b.store, 100 + round) < 0 || commit_some(&b, 200 + round, 1) < 0)
            break;
        image_release(b.image, &b.store);
        if (image_claim(a.image, &a.store, &e) < 0) {
            failed("claiming the file", &e);
            break;
        }
        r = holds(a.store, 200 + round);
    }
    leave(&a);
    leave(&b);
    return r;
}

int main(int argc, char **argv)
{
    bool is_afresh = argc == 5 && strcmp(argv[1], "--afresh") == 0;
    argv += is_afresh;
    argc -= is_afresh;
    struct err e;
    OWNED(secret) pass = NULL;
    if (argc != 4) {
        fprintf(stderr, "usage: tool_two_owners [--afresh] ONE OTHER PASSPHRASE\n");
        return 2;
    }
    size_t n = strlen(argv[3]);
    if (secret_new(n + 1, &pass, &e) < 0) {
        failed("passphrase", &e);
        return 1;
    }
    memcpy(secret_bytes(pass), argv[3], n);
    int (*run)(const char *, const char *, const struct secret *, size_t) =
        is_afresh ? afresh : two_owners;
    return run(argv[1], argv[2], pass, n) == 0 ? 0 : 1;
}
