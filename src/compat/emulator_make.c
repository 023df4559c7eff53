/* The first start: a key, a TPM, and the image that keeps it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/image.h"
#include "backend/tpm.h"
#include "src/compat/emulator_state.h"
#include "src/key/new_key.h"
#include "src/serve/log.h"

/* One try of a passphrase is this slow. libvirt waits a second for the socket, and the first start
 * stretches twice before it is there. */
enum { PASSPHRASE_MS = 50, RANDOM_KEY_MS = 10, QUOTED_BYTES = 300, WORD_BYTES = 200 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* A word for a shell, made of three parts: in single quotes where it is not plain. */
static const char *word(char buf[WORD_BYTES], const char *a, const char *b, const char *c)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./:=,@%+";
    const char *quote = a[strspn(a, plain)] || b[strspn(b, plain)] ? "'" : "";
    snprintf(buf, WORD_BYTES, "%s%s%s%s%s", quote, a, b, c, quote);
    return buf;
}

/* What a user can do is said to the letter. A key that came through a descriptor has no name. */
static int refuse_old(const struct emulator_state *s, const struct migration_key_source *key,
                      struct err *e)
{
    char from[WORD_BYTES], image[WORD_BYTES], file[WORD_BYTES], keys[2 * WORD_BYTES];
    const char *more = s->old ? "" : ".qcow2";
    OWNED_HEAP char *dir = s->old ? strndup(s->old, (size_t)(strrchr(s->old, '/') - s->old)) : NULL;
    if (s->old && !dir)
        return err_nomem(e, "a path");
    word(from, s->old ? "dir://" : "file://", s->old ? dir : s->image, "");
    word(image, s->image, more, "");
    if (key->kind == KEY_SOURCE_NONE) {
        word(file, s->old ? s->key_file : s->image, more, s->old ? "" : ".key");
        snprintf(keys, sizeof(keys), "--new-key %s", file);
    } else {
        word(file, "file=", key->kind == KEY_SOURCE_FILE ? key->value : "FILE", "");
        snprintf(keys, sizeof(keys), "--source-key %s%s --key %s", key->passphrase ? "pwd" : "",
                 file, file);
    }
    return err_set(e, ERR_STATE_FOREIGN,
                   "%s is a TPM state of swtpm's, which was left alone; take it over with: nvkeep "
                   "import %s %s %s %s",
                   s->old ?: s->image, from, image,
                   s->device == DEVICE_TPM20 ? "--tpm2" : "--tpm12", keys);
}

/* --- the key --- */

static int make_key(const struct emulator_state *s, const struct emulator_start *how,
                    struct secret **ret, size_t *ret_n, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (how->policy->require_key)
        return err_set(e, ERR_KEY_MISSING,
                       "no --key was given, and this machine's policy (require-key) wants one");
    if (new_key_file(s->key_file, ret, ret_n, e) < 0)
        return -1;
    log_line(how->log, 0,
             "no --key was given: a random key was made in %s; a copy of the image is useless "
             "without it, and whoever can read both can read the TPM's state",
             quoted(buf, s->key_file));
    return 0;
}

/* A key file that is there already was made by a start that got no further. */
static int first_key(const struct emulator_state *s, const struct emulator_start *how,
                     struct secret **ret, size_t *ret_n, struct err *e)
{
    bool given = how->key->kind != KEY_SOURCE_NONE;
    int r = given || (!how->policy->require_key && access(s->key_file, F_OK) == 0)
                ? emulator_state_key(s, how->key, ret, ret_n, e)
                : make_key(s, how, ret, ret_n, e);
    return r < 0 ? -1 : key_usable_by_qemu(*ret, *ret_n, e);
}

/* --- the image --- */

static int create(struct image_create *c, const struct tpm_blobs *blobs, const struct secret *key,
                  size_t n, struct err *e)
{
    struct state_change first = {0};
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        if (blobs->blob[i])
            first.blob[i] =
                (struct blob_change){BLOB_SET, secret_peek(blobs->blob[i]), blobs->n[i]};
    c->first = &first;
    int r = image_create(c, key, n, NULL, NULL, e);
    c->first = NULL;
    return r;
}

static int make_image(const struct emulator_state *s, const struct emulator_start *how,
                      const struct secret *key, size_t n, struct err *e)
{
    struct image_create c = {.path = s->image, .device = s->device};
    struct tpm_blobs blobs = {{NULL}, {0}};
    char buf[QUOTED_BYTES];
    bool is_passphrase = how->key->kind != KEY_SOURCE_NONE && how->key->passphrase;
    int r = key_cost(is_passphrase ? PASSPHRASE_MS : RANDOM_KEY_MS, &c.iterations, e);
    if (r == 0 && !how->waits)
        r = tpm_manufacture(s->device, &blobs, e);
    if (r == 0)
        r = create(&c, &blobs, key, n, e);
    tpm_blobs_clear(&blobs);
    if (r == 0 && s->mode && chmod(s->image, s->mode) < 0)
        r = err_sys(e, ERR_STORAGE, errno, "cannot change the mode of %s", quoted(buf, s->image));
    if (r == 0)
        log_line(how->log, 1, "made %s: a new TPM %s", quoted(buf, s->image),
                 s->device == DEVICE_TPM20 ? "2.0" : "1.2");
    return r;
}

/* An empty file holds the name, the owner and the mode of what is to come. It steps aside, and
 * comes back where nothing was made. */
static int make_in_place_of(const struct emulator_state *s, const struct emulator_start *how,
                            const struct secret *key, size_t n, struct err *e)
{
    OWNED_HEAP char *aside = NULL;
    char buf[QUOTED_BYTES];
    struct stat st;
    if (asprintf(&aside, "%s.empty", s->image) < 0)
        return err_nomem(e, "a path");
    if (renameat2(AT_FDCWD, s->image, AT_FDCWD, aside, RENAME_NOREPLACE) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot set the empty file %s aside",
                       quoted(buf, s->image));
    int r = lstat(aside, &st) == 0 && st.st_size == 0
                ? make_image(s, how, key, n, e)
                : err_set(e, ERR_STATE_FOREIGN, "%s is not empty any more; it was left alone",
                          quoted(buf, s->image));
    if (r == 0 && (chown(s->image, st.st_uid, st.st_gid) < 0 ||
                   chmod(s->image, s->mode ? s->mode : st.st_mode & 0777) < 0))
        r = err_sys(e, ERR_STORAGE, errno, "cannot give %s the owner and mode it had",
                    quoted(buf, s->image));
    if (r < 0)
        (void)renameat2(AT_FDCWD, aside, AT_FDCWD, s->image, RENAME_NOREPLACE);
    else
        (void)unlink(aside);
    return r;
}

static int make(const struct emulator_state *s, const struct emulator_start *how, bool was_empty,
                struct secret **ret, size_t *ret_n, struct err *e)
{
    OWNED(secret) key = NULL;
    size_t n = 0;
    if (first_key(s, how, &key, &n, e) < 0 ||
        (was_empty ? make_in_place_of : make_image)(s, how, key, n, e) < 0)
        return -1;
    *ret = MOVE(key);
    *ret_n = n;
    return 0;
}

/* --- all of it --- */

/* An import in place was killed on its way, where the image had the state's name already: it gets
 * its own. Two that start at once do the same. */
static int finish_import(const struct emulator_state *s, enum emulator_found *found, struct err *e)
{
    char buf[QUOTED_BYTES];
    bool is_image = false;
    if (emulator_state_old_is_image(s, &is_image, e) < 0)
        return -1;
    if (!is_image)
        return 0;
    if ((link(s->old, s->image) < 0 && errno != EEXIST) || (unlink(s->old) < 0 && errno != ENOENT))
        return err_sys(e, ERR_STORAGE, errno, "cannot give the image in %s its name",
                       quoted(buf, s->old));
    return emulator_state_look(s, found, e);
}

int emulator_state_prepare(const struct emulator_state *s, const struct emulator_start *how,
                           struct secret **ret, size_t *ret_n, struct err *e)
{
    enum emulator_found found;
    char buf[QUOTED_BYTES];
    if (emulator_state_look(s, &found, e) < 0 ||
        (found == FOUND_OLD && s->old && finish_import(s, &found, e) < 0))
        return -1;
    switch (found) {
    case FOUND_OLD:
        return refuse_old(s, how->key, e);
    case FOUND_OTHER:
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s is neither empty nor an image of nvkeep; it was left alone",
                       quoted(buf, s->image));
    case FOUND_IMAGE:
        if (s->old && access(s->old, F_OK) == 0)
            log_line(how->log, 0, "%s is not used: the TPM's state is in the image",
                     quoted(buf, s->old));
        return emulator_state_key(s, how->key, ret, ret_n, e);
    default:
        return make(s, how, found == FOUND_EMPTY_FILE, ret, ret_n, e);
    }
}
