#include "src/compat/setup_state.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "migration/custody.h"
#include "src/base/fd.h"
#include "src/compat/setup_key.h"
#include "src/key/key_rules.h"
#include "src/key/key_source.h"
#include "src/key/new_key.h"

/* One try of a passphrase is this slow: libvirt opens the image three times at each start. */
enum { PASSPHRASE_MS = 150, RANDOM_KEY_MS = 10, QUOTED_BYTES = 300, MAGIC_BYTES = 8 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* --- names --- */

static int check_dir(const char *dir, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode) && access(dir, R_OK | W_OK | X_OK) == 0)
        return 0;
    return err_set(e, ERR_USAGE,
                   "cannot access directory %s. Make sure it exists and is a directory.",
                   quoted(buf, dir));
}

static int name_in_dir(const char *dir, struct setup_state *s, struct err *e)
{
    const char *stem = s->device == DEVICE_TPM20 ? "tpm2-00" : "tpm-00";
    if (check_dir(dir, e) < 0)
        return -1;
    if (asprintf(&s->image, "%s/%s.qcow2", dir, stem) < 0 ||
        asprintf(&s->key_file, "%s/%s.key", dir, stem) < 0 ||
        asprintf(&s->old, "%s/%s.permall", dir, stem) < 0)
        return err_nomem(e, "a path");
    return 0;
}

static int name_file(const char *path, struct setup_state *s, struct err *e)
{
    if (asprintf(&s->image, "%s", path) < 0 || asprintf(&s->key_file, "%s.key", path) < 0)
        return err_nomem(e, "a path");
    return *path ? 0 : err_set(e, ERR_USAGE, "--tpm-state file:// names no file");
}

int setup_state_name(const struct setup_args *args, struct setup_state *ret, struct err *e)
{
    struct setup_state s = {.device = args->tpm2 ? DEVICE_TPM20 : DEVICE_TPM12, .args = args};
    const char *at = args->state;
    int r = strncmp(at, "file://", 7) == 0
                ? name_file(at + 7, &s, e)
                : name_in_dir(at + (strncmp(at, "dir://", 6) ? 0 : 6), &s, e);
    if (r < 0)
        setup_state_clear(&s);
    else
        *ret = s;
    return r;
}

void setup_state_clear(struct setup_state *s)
{
    free(s->image);
    free(s->key_file);
    free(s->old);
    secret_free(s->key);
    *s = (struct setup_state){0};
}

/* --- what is there --- */

static int refuse_old(const struct setup_state *s, struct err *e)
{
    char old[QUOTED_BYTES], image[QUOTED_BYTES], key[QUOTED_BYTES];
    quoted(image, s->image);
    quoted(key, s->key_file);
    if (!s->old)
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s is a TPM state of swtpm's; it was left alone; take it over with: nvkeep "
                       "import --in-place %s",
                       image, image);
    return err_set(e, ERR_STATE_FOREIGN,
                   "there is a TPM state of swtpm's: %s; it was left alone; take it over with: "
                   "nvkeep import --from %s --new-key %s %s",
                   quoted(old, s->old), old, key, image);
}

/* Reads a few bytes and takes no lock. n: how many; -1: no such file. */
static int read_head(const char *path, uint8_t head[MAGIC_BYTES], ssize_t *ret_n, bool *ret_regular,
                     struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    *ret_n = -1;
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", quoted(buf, path));
    *ret_regular = S_ISREG(st.st_mode);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, ERR_USAGE, "%s cannot hold the TPM's state: wanted a file",
                       quoted(buf, path));
    *ret_n = fd_pread_full(fd, head, MAGIC_BYTES, 0);
    return *ret_n < 0 ? err_sys(e, ERR_STORAGE, errno, "cannot read %s", quoted(buf, path)) : 0;
}

int setup_state_look(const struct setup_state *s, enum setup_found *ret, struct err *e)
{
    static const uint8_t qcow2[4] = {'Q', 'F', 'I', 0xfb},
                         linear[MAGIC_BYTES] = {'n', 'i', 'l', 'm', 'p', 't', 'w', 's'};
    uint8_t head[MAGIC_BYTES];
    char buf[QUOTED_BYTES];
    bool regular = false;
    struct stat st;
    ssize_t n;
    if (read_head(s->image, head, &n, &regular, e) < 0)
        return -1;
    if (n >= (ssize_t)sizeof(qcow2) && memcmp(head, qcow2, sizeof(qcow2)) == 0) {
        *ret = SETUP_IMAGE;
        return 0;
    }
    if (n == MAGIC_BYTES && memcmp(head, linear, sizeof(linear)) == 0)
        return refuse_old(s, e);
    if (n > 0 || (n == 0 && !regular))
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s is neither empty nor an image of nvkeep; it was left alone",
                       quoted(buf, s->image));
    if (s->old && lstat(s->old, &st) == 0)
        return refuse_old(s, e);
    *ret = n == 0 ? SETUP_EMPTY_FILE : SETUP_NOTHING;
    return 0;
}

/* --- the key --- */

static int existing_key(struct setup_state *s, struct err *e)
{
    const struct key_source file = {.kind = KEY_SOURCE_FILE, .value = s->key_file, .fd = -1};
    char image[QUOTED_BYTES], name[QUOTED_BYTES];
    if (s->key)
        return 0;
    if (setup_key_given(s->args))
        return setup_key_read(s->args, &s->key, &s->key_bytes, e);
    if (access(s->key_file, F_OK) < 0 && errno == ENOENT)
        return err_set(e, ERR_KEY_MISSING,
                       "%s is encrypted, no key was given, and there is no %s with a key that was "
                       "made for it",
                       quoted(image, s->image), quoted(name, s->key_file));
    return key_source_read(&file, s->image, &s->key, &s->key_bytes, e);
}

int setup_state_take_key(struct setup_state *s, struct err *e)
{
    return setup_key_given(s->args) ? existing_key(s, e) : 0;
}

/* A key file that is there already was made by a run that got no further. */
static int first_key(struct setup_state *s, const struct setup_log *log, bool *ret_made,
                     struct err *e)
{
    char buf[QUOTED_BYTES];
    *ret_made = false;
    if (s->key || setup_key_given(s->args) || access(s->key_file, F_OK) == 0)
        return existing_key(s, e);
    if (new_key_file(s->key_file, &s->key, &s->key_bytes, e) < 0)
        return -1;
    *ret_made = true;
    setup_tell(log,
               "No key was given: a random key was made in %s; a copy of the image is useless "
               "without it, and whoever can read both can read the TPM's state.",
               quoted(buf, s->key_file));
    return 0;
}

/* --- an image that is there --- */

int setup_state_verify(struct setup_state *s, struct err *e)
{
    struct image_report report;
    if (existing_key(s, e) < 0)
        return -1;
    return image_verify(s->image, s->key, s->key_bytes, false, NULL, &report, e);
}

int setup_state_open(struct setup_state *s, struct store **ret, struct err *e)
{
    OWNED(store) store = NULL;
    char buf[QUOTED_BYTES];
    if (existing_key(s, e) < 0 ||
        image_open_store(s->image, s->key, s->key_bytes, NULL, &store, e) < 0)
        return -1;
    if (store_facts(store)->device != s->device)
        return err_set(e, ERR_STATE_FOREIGN, "%s is for a TPM %s; it was left alone",
                       quoted(buf, s->image), s->device == DEVICE_TPM20 ? "1.2" : "2.0");
    *ret = MOVE(store);
    return 0;
}

static void set_blobs(const struct tpm_blobs *blobs, struct state_change *change)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (blobs->blob[i])
            change->blob[i] =
                (struct blob_change){BLOB_SET, secret_peek(blobs->blob[i]), blobs->n[i]};
}

int setup_state_change(struct store *store, const struct tpm_blobs *blobs, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    struct state_change change = {0};
    size_t n;
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (store_get(store, (enum blob_kind)kind, &n))
            change.blob[kind - 1].what = BLOB_DELETE;
    set_blobs(blobs, &change);
    /* What a migration brought is used by this. */
    if (custody_unused(store, origin))
        change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    return store_commit(store, &change, e);
}

/* --- a new one --- */

static int make_image(struct setup_state *s, const char *path, const struct tpm_blobs *blobs,
                      const struct setup_log *log, struct err *e)
{
    struct state_change first = {0};
    struct image_create c = {.path = path, .device = s->device, .first = &first};
    const bool is_passphrase = setup_key_given(s->args) && !s->args->key_file;
    bool made = false;
    set_blobs(blobs, &first);
    if (first_key(s, log, &made, e) < 0)
        return -1;
    int r = key_usable_by_qemu(s->key, s->key_bytes, e);
    if (r == 0)
        r = key_cost(is_passphrase ? PASSPHRASE_MS : RANDOM_KEY_MS, &c.iterations, e);
    if (r == 0)
        r = image_create(&c, s->key, s->key_bytes, NULL, NULL, e);
    if (r < 0 && made)
        (void)unlink(s->key_file);
    return r;
}

/* It steps aside, and comes back where nothing was made. */
static int make_in_place_of(struct setup_state *s, const struct tpm_blobs *blobs,
                            const struct setup_log *log, struct err *e)
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
                ? make_image(s, s->image, blobs, log, e)
                : err_set(e, ERR_STATE_FOREIGN, "%s is not empty any more; it was left alone",
                          quoted(buf, s->image));
    if (r < 0) {
        (void)renameat2(AT_FDCWD, aside, AT_FDCWD, s->image, RENAME_NOREPLACE);
        return -1;
    }
    (void)unlink(aside);
    if (chown(s->image, st.st_uid, st.st_gid) < 0 || chmod(s->image, st.st_mode & 0777) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot give %s the owner and mode it had",
                       quoted(buf, s->image));
    return 0;
}

/* Left by a run that was killed in the last moment. Only an image of ours is taken away. */
static void remove_stale(const char *path)
{
    struct err ignored;
    OWNED(blk) b = NULL;
    struct qcow_facts *f = calloc(1, sizeof(*f));
    if (f && blk_open(path, BLK_READ_ONLY, &b, &ignored) == 0 &&
        qcow_inspect(b, f, &ignored) == 0 && f->header.ours)
        (void)unlink(path);
    free(f);
}

static int sync_dir(const char *path, struct err *e)
{
    char copy[PATH_MAX];
    (void)snprintf(copy, sizeof(copy), "%s", path); /* it was opened by this name */
    OWNED_FD fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0
               ? 0
               : err_sys(e, ERR_STORAGE, errno, "cannot make the new image durable");
}

/* The one at `new` gets owner, mode and name of the other. */
static int put_in_place(const struct setup_state *s, const char *new, const struct stat *was,
                        struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (stat(new, &st) < 0 ||
        ((st.st_uid != was->st_uid || st.st_gid != was->st_gid) &&
         chown(new, was->st_uid, was->st_gid) < 0) ||
        chmod(new, was->st_mode & 0777) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot give the new image owner and mode of %s",
                       quoted(buf, s->image));
    if (rename(new, s->image) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot put the new image in place of %s",
                       quoted(buf, s->image));
    return sync_dir(s->image, e);
}

int setup_state_replace(struct setup_state *s, struct store *store, const struct tpm_blobs *blobs,
                        const struct setup_log *log, struct err *e)
{
    OWNED_HEAP char *new = NULL;
    char buf[QUOTED_BYTES];
    struct stat was;
    if (lstat(s->image, &was) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at %s", quoted(buf, s->image));
    if (!S_ISREG(was.st_mode))
        return setup_state_change(store, blobs, e);
    if (asprintf(&new, "%s.new", s->image) < 0)
        return err_nomem(e, "a path");
    remove_stale(new);
    if (make_image(s, new, blobs, log, e) < 0)
        return -1;
    if (put_in_place(s, new, &was, e) == 0)
        return 0;
    (void)unlink(new); /* after the rename there is none */
    return -1;
}

int setup_state_create(struct setup_state *s, enum setup_found found, const struct tpm_blobs *blobs,
                       const struct setup_log *log, struct err *e)
{
    return found == SETUP_EMPTY_FILE ? make_in_place_of(s, blobs, log, e)
                                     : make_image(s, s->image, blobs, log, e);
}
