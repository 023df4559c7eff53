#include "src/compat/compat_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/image.h"
#include "src/base/fd.h"
#include "src/compat/compat_import.h"
#include "src/key/new_key.h"

enum { QUOTED_BYTES = 300, LINE_BYTES = 600 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

void compat_image_clear(struct compat_image *i)
{
    compat_place_clear(&i->place);
    secret_free(MOVE(i->pass));
}

/* --- what is there --- */

static int refuse_old(const struct compat_image *i, char **ret_advice, struct err *e)
{
    const struct compat_place *p = &i->place;
    OWNED_HEAP char *command = compat_import_command(p, &i->key, i->policy.iter_ms);
    char buf[QUOTED_BYTES];
    if (!command || asprintf(ret_advice, "take it over with: %s", command) < 0)
        *ret_advice = NULL; /* better no advice than half of one */
    return err_set(e, ERR_STATE_FOREIGN, "%s is a TPM state of swtpm's, which was left alone",
                   quoted(buf, p->old ?: p->image));
}

/* An import in place (src/make/in_place.h) was killed on its way, where the image had the state's
 * name already: it gets its own. Two that start at once do the same. */
static int finish_import(const struct compat_place *p, enum compat_found *found, struct err *e)
{
    char buf[QUOTED_BYTES];
    bool is_image = false;
    if (compat_place_old_is_image(p, &is_image, e) < 0)
        return -1;
    if (!is_image)
        return 0;
    if ((link(p->old, p->image) < 0 && errno != EEXIST) || (unlink(p->old) < 0 && errno != ENOENT))
        return err_sys(e, ERR_STORAGE, errno, "cannot give the image in %s its name",
                       quoted(buf, p->old));
    return compat_place_look(p, found, e);
}

int compat_image_look(const struct compat_image *i, enum compat_found *ret, char **ret_advice,
                      struct err *e)
{
    enum compat_found found;
    char buf[QUOTED_BYTES];
    if (compat_place_look(&i->place, &found, e) < 0 ||
        (found == FOUND_OLD && i->place.old && finish_import(&i->place, &found, e) < 0))
        return -1;
    if (found == FOUND_OLD)
        return refuse_old(i, ret_advice, e);
    if (found == FOUND_OTHER)
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s is neither empty nor an image of nvkeep; it was left alone",
                       quoted(buf, i->place.image));
    *ret = found;
    return 0;
}

/* --- the key --- */

int compat_image_take_key(struct compat_image *i, struct err *e)
{
    OWNED(secret) pass = NULL;
    size_t n = 0;
    if (i->pass)
        return 0;
    if (i->key.kind == KEY_SOURCE_NONE && i->policy.require_key)
        return err_set(e, ERR_KEY_MISSING,
                       "no key was given, and this machine's policy (require-key) wants one");
    if (i->key.kind == KEY_SOURCE_NONE)
        return 0;
    if (swtpm_key_read("key", &i->key, &pass, &n, e) < 0 ||
        swtpm_key_passphrase("key", &i->key, &pass, &n, e) < 0)
        return -1;
    i->pass = MOVE(pass);
    i->pass_bytes = n;
    return 0;
}

int compat_image_find_key(struct compat_image *i, struct err *e)
{
    const struct compat_place *p = &i->place;
    const struct key_source file = {
        .kind = KEY_SOURCE_FILE, .value = p->key_file, .fd = -1, .limit_ms = KEY_LIMIT_MS};
    char image[QUOTED_BYTES], name[QUOTED_BYTES];
    struct stat st;
    if (compat_image_take_key(i, e) < 0)
        return -1;
    if (i->pass)
        return 0;
    bool there = stat(p->key_file, &st) == 0;
    if (!there && errno == ENOENT)
        return err_set(e, ERR_KEY_MISSING,
                       "%s is encrypted, no key was given, and there is no %s with a key that was "
                       "made for it",
                       quoted(image, p->image), quoted(name, p->key_file));
    if (there && !S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE, "%s is no key: wanted a file", quoted(name, p->key_file));
    return key_source_read(&file, p->image, &i->pass, &i->pass_bytes, e);
}

static int make_key(struct compat_image *i, struct err *e)
{
    char line[LINE_BYTES], buf[QUOTED_BYTES];
    if (new_key_file(i->place.key_file, &i->pass, &i->pass_bytes, e) < 0)
        return -1;
    snprintf(line, sizeof(line),
             "no key was given: a random key was made in %s; a copy of the image is useless "
             "without it, and whoever can read both can read the TPM's state",
             quoted(buf, i->place.key_file));
    i->tell(i->ctx, line);
    return 0;
}

/* A key file that is there already is of a start that got no further, or of one that is on its way
 * now: the key of the image that is about to appear. It is never taken away again. */
static int share_key(struct compat_image *i, struct err *e)
{
    if (compat_image_find_key(i, e) < 0)
        return -1;
    return fd_sync_parent(i->place.key_file) == 0
               ? 0
               : err_sys(e, ERR_STORAGE, errno, "cannot make the name of the key file durable");
}

int compat_image_first_key(struct compat_image *i, struct err *e)
{
    const char *file = i->place.key_file;
    if (compat_image_take_key(i, e) < 0)
        return -1;
    if (!i->pass && access(file, F_OK) < 0 && make_key(i, e) < 0 && access(file, F_OK) < 0)
        return -1;
    if (!i->pass && share_key(i, e) < 0)
        return -1;
    return key_usable_by_qemu(i->pass, i->pass_bytes, e);
}

/* --- a new image --- */

/* What is made, and under which key. */
struct content {
    const struct tpm_blobs *blobs;
    const struct secret *pass;
    size_t pass_bytes;
    const struct watch *watch;
};

/* over: NULL: there is nothing yet. */
static int create(const struct compat_image *i, const struct stat *over, const struct content *what,
                  struct err *e)
{
    struct state_change first = {0};
    struct image_create c = {.path = i->place.image,
                             .device = i->place.device,
                             .first = &first,
                             .over = over,
                             .mode = i->mode};
    bool is_passphrase = i->key.kind != KEY_SOURCE_NONE && i->key.passphrase;
    tpm_blobs_change(what->blobs, &first);
    if (key_cost(is_passphrase ? i->policy.iter_ms : RANDOM_KEY_MS, &c.iterations, e) < 0)
        return -1;
    return image_create(&c, what->pass, what->pass_bytes, what->watch, NULL, e);
}

/* wants_empty: nothing was in it when it was looked at. */
static int create_over(const struct compat_image *i, const struct content *what, bool wants_empty,
                       struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat was;
    if (lstat(i->place.image, &was) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at %s", quoted(buf, i->place.image));
    if (!S_ISREG(was.st_mode) || (wants_empty && was.st_size != 0))
        return err_set(e, ERR_STATE_FOREIGN, "%s is not an empty file; it was left alone",
                       quoted(buf, i->place.image));
    return create(i, &was, what, e);
}

int compat_image_create(const struct compat_image *i, enum compat_found found,
                        const struct tpm_blobs *blobs, const struct secret *pass, size_t pass_bytes,
                        const struct watch *watch, struct err *e)
{
    const struct content what = {blobs, pass, pass_bytes, watch};
    return found == FOUND_EMPTY_FILE ? create_over(i, &what, true, e) : create(i, NULL, &what, e);
}

int compat_image_replace(struct compat_image *i, const struct tpm_blobs *blobs, struct err *e)
{
    if (compat_image_find_key(i, e) < 0)
        return -1;
    const struct content what = {blobs, i->pass, i->pass_bytes, NULL};
    return create_over(i, &what, false, e);
}
