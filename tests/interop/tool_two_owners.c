/* Two owners of one image under two names, where each name grants its own locks: the second takes
 * over, and the first is to notice at its next commit.
 *
 *     tool_two_owners ONE OTHER PASSPHRASE     exit code 0: it did, and nothing was lost
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

int main(int argc, char **argv)
{
    struct err e;
    OWNED(secret) pass = NULL;
    if (argc != 4) {
        fprintf(stderr, "usage: tool_two_owners ONE OTHER PASSPHRASE\n");
        return 2;
    }
    size_t n = strlen(argv[3]);
    if (secret_new(n + 1, &pass, &e) < 0) {
        failed("passphrase", &e);
        return 1;
    }
    memcpy(secret_bytes(pass), argv[3], n);
    return two_owners(argv[1], argv[2], pass, n) == 0 ? 0 : 1;
}
