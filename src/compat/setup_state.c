#include "src/compat/setup_state.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/image.h"
#include "migration/custody.h"
#include "src/base/fd.h"

enum { QUOTED_BYTES = 300 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* --- the command line --- */

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

static int name_place(const struct setup_args *args, struct compat_place *ret, struct err *e)
{
    const char *at = args->state, *dir = strncmp(at, "dir://", 6) ? at : at + 6;
    const char *file = strncmp(at, "file://", 7) ? NULL : at + 7;
    if (file && !*file)
        return err_set(e, ERR_USAGE, "--tpm-state file:// names no file");
    /* The daemon could never be told. */
    if (strchr(at, ','))
        return err_set(e, ERR_USAGE, "--tpm-state: in the options of swtpm a path has no comma");
    if (!file && check_dir(dir, e) < 0)
        return -1;
    return compat_place_name(file ? NULL : dir, file, args->tpm2 ? DEVICE_TPM20 : DEVICE_TPM12, ret,
                             e);
}

static int number_of(const char *text, int *ret, struct err *e)
{
    char *end = NULL;
    char buf[60];
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || v > 1 << 20)
        return err_set(e, ERR_USAGE, "wanted the number of a descriptor, found \"%s\"",
                       err_quote(buf, sizeof(buf), text, strlen(text)));
    *ret = (int)v;
    return 0;
}

static int name_key(const struct setup_args *args, struct swtpm_key_source *ret, struct err *e)
{
    const char *where = args->key_file ?: args->password_file;
    bool is_fd = args->key_file ? args->key_is_fd : args->password_is_fd;
    ret->fd = -1;
    if (!where)
        return 0;
    if (strlen(where) >= sizeof(ret->value))
        return err_set(e, ERR_USAGE, "the path of the key is too long");
    ret->kind = is_fd ? KEY_SOURCE_FD : KEY_SOURCE_FILE;
    memcpy(ret->value, where, strlen(where) + 1);
    ret->passphrase = !args->key_file;
    ret->form = MIGRATION_KEY_HEX;
    ret->bits = args->aes256 ? 256 : 128;
    ret->limit_ms = KEY_LIMIT_MS;
    return is_fd ? number_of(where, &ret->fd, e) : 0;
}

int setup_state_name(const struct setup_args *args, struct compat_image *ret, struct err *e)
{
    return name_place(args, &ret->place, e) < 0 ? -1 : name_key(args, &ret->key, e);
}

/* Nobody's log: the image, or what opens it. */
int setup_state_check_log(const struct setup_args *args, struct err *e)
{
    struct compat_image i = {.key = {.fd = -1}};
    char buf[QUOTED_BYTES];
    int r = setup_state_name(args, &i, e);
    const char *const taken[] = {i.place.image, i.place.key_file, i.place.old,
                                 i.key.kind == KEY_SOURCE_FILE ? i.key.value : NULL};
    for (size_t k = 0; r == 0 && k < ARRAY_LEN(taken); k++)
        if (taken[k] && fd_same_file(taken[k], args->log_file))
            r = err_set(e, ERR_USAGE, "--logfile: %s is the state or its key",
                        quoted(buf, args->log_file));
    compat_image_clear(&i);
    return r;
}

/* --- an image that is there --- */

static int check_device(const struct compat_image *i, enum device_kind found, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (found == i->place.device)
        return 0;
    return err_set(e, ERR_STATE_FOREIGN, "%s is for a TPM %s; it was left alone",
                   quoted(buf, i->place.image), found == DEVICE_TPM20 ? "2.0" : "1.2");
}

int setup_state_verify(struct compat_image *i, bool *ret_holds_tpm, struct err *e)
{
    struct image_report report;
    if (compat_image_find_key(i, e) < 0 ||
        image_verify(i->place.image, i->pass, i->pass_bytes, false, NULL, &report, e) < 0 ||
        check_device(i, report.facts.device, e) < 0)
        return -1;
    *ret_holds_tpm = report.holds_tpm;
    return 0;
}

int setup_state_open(struct compat_image *i, struct store **ret, struct err *e)
{
    OWNED(store) store = NULL;
    if (compat_image_find_key(i, e) < 0 ||
        image_open_store(i->place.image, i->pass, i->pass_bytes, NULL, &store, e) < 0 ||
        check_device(i, store_facts(store)->device, e) < 0)
        return -1;
    *ret = MOVE(store);
    return 0;
}

int setup_state_change(struct store *store, const struct tpm_blobs *blobs, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    struct state_change change = {0};
    size_t n;
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (store_get(store, (enum blob_kind)kind, &n))
            change.blob[kind - 1].what = BLOB_DELETE;
    tpm_blobs_change(blobs, &change);
    /* What a migration brought is used by this. */
    if (custody_unused(store, origin))
        change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    return store_commit(store, &change, e);
}

int setup_state_replace(struct compat_image *i, struct store *store, const struct tpm_blobs *blobs,
                        struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (lstat(i->place.image, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at %s", quoted(buf, i->place.image));
    return S_ISREG(st.st_mode) ? compat_image_replace(i, blobs, e)
                               : setup_state_change(store, blobs, e);
}
