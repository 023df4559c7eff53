/* The first start: a key, a TPM, and the image that keeps it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/compat/emulator_state.h"
#include "src/log.h"
#include "src/new_image.h"
#include "src/new_key.h"

/* One try of a passphrase is this slow. libvirt waits a second for the socket, and the first start
 * stretches twice before it is there. */
enum { PASSPHRASE_MS = 50, RANDOM_KEY_MS = 10, QUOTED_BYTES = 300 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* For a shell: in single quotes where it is not plain. */
static void shell_word(char buf[QUOTED_BYTES], const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./:=,@%+";
    bool is_plain = text[strspn(text, plain)] == 0;
    snprintf(buf, QUOTED_BYTES, "%s%s%s", is_plain ? "" : "'", text, is_plain ? "" : "'");
}

/* What a user can do is said to the letter. */
static int refuse_old(const struct emulator_state *s, struct err *e)
{
    char old[QUOTED_BYTES], image[QUOTED_BYTES], key[QUOTED_BYTES];
    shell_word(old, s->old ?: s->image);
    shell_word(image, s->image);
    shell_word(key, s->key_file);
    if (s->old)
        return err_set(e, ERR_STATE_FOREIGN,
                       "there is a TPM state of swtpm's: %s; it was left alone; take it over with: "
                       "nvkeep import --from %s --new-key %s %s",
                       old, old, key, image);
    return err_set(e, ERR_STATE_FOREIGN,
                   "%s is a TPM state of swtpm's; it was left alone; take it over with: nvkeep "
                   "import --in-place %s",
                   old, old);
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
        r = new_image(&c, &blobs, key, n, NULL, NULL, e);
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

int emulator_state_prepare(const struct emulator_state *s, const struct emulator_start *how,
                           struct secret **ret, size_t *ret_n, struct err *e)
{
    enum emulator_found found;
    char buf[QUOTED_BYTES];
    if (emulator_state_look(s, &found, e) < 0)
        return -1;
    switch (found) {
    case FOUND_OLD:
        return refuse_old(s, e);
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
