#include "src/compat/emulator_state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"
#include "src/compat/emulator_words.h"

enum { QUOTED_BYTES = 300, MAGIC_BYTES = 8 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* --- the argument --- */

struct place {
    const char *dir, *file;
};

static int take_uri(const char *uri, struct place *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (strncmp(uri, "dir://", 6) == 0 && uri[6])
        ret->dir = uri + 6;
    else if (strncmp(uri, "file://", 7) == 0 && uri[7])
        ret->file = uri + 7;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "--tpmstate: backend-uri: wanted dir://DIR or file://PATH, found \"%s\"",
                       quoted(buf, uri));
    return 0;
}

static int take_mode(const char *text, mode_t *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    char *end = NULL;
    unsigned long m = strtoul(text, &end, 8);
    if (text[0] < '0' || text[0] > '7' || *end || m > 0777)
        return err_set(e, ERR_USAGE,
                       "--tpmstate: mode: wanted octal permissions such as 0600, found \"%s\"",
                       quoted(buf, text));
    *ret = (mode_t)m;
    return 0;
}

/* The image is always locked while it is used, nothing is acknowledged before it is durable, and
 * the state before the newest one is always kept: lock, fsync and backup need nothing to be done.
 */
static int take_word(const char *name, const char *value, struct place *place, mode_t *mode,
                     struct err *e)
{
    char buf[QUOTED_BYTES];
    if (strcmp(name, "dir") == 0 && *value)
        place->dir = value;
    else if (strcmp(name, "backend-uri") == 0)
        return take_uri(value, place, e);
    else if (strcmp(name, "mode") == 0)
        return take_mode(value, mode, e);
    else if (strcmp(name, "lock") != 0 && strcmp(name, "fsync") != 0 && strcmp(name, "backup") != 0)
        return err_set(e, ERR_USAGE, "Error parsing tpmstate options: Unknown option '%s%s%s'",
                       quoted(buf, name), *value ? "=" : "", value);
    return 0;
}

static int name_files(const struct place *at, struct emulator_state *s, struct err *e)
{
    const char *stem = s->device == DEVICE_TPM20 ? "tpm2-00" : "tpm-00";
    char buf[QUOTED_BYTES];
    int n = at->dir ? asprintf(&s->image, "%s/%s.qcow2", at->dir, stem)
                    : asprintf(&s->image, "%s", at->file);
    int m = at->dir ? asprintf(&s->key_file, "%s/%s.key", at->dir, stem)
                    : asprintf(&s->key_file, "%s.key", at->file);
    int o = at->dir ? asprintf(&s->old, "%s/%s.permall", at->dir, stem) : 0;
    if (n < 0 || m < 0 || o < 0)
        return err_nomem(e, "a path");
    if (n >= PATH_MAX || m >= PATH_MAX || o >= PATH_MAX)
        return err_set(e, ERR_USAGE, "--tpmstate: the path is too long: %s",
                       quoted(buf, at->dir ?: at->file));
    return 0;
}

int emulator_state_parse(const char *text, enum device_kind device, struct emulator_state *ret,
                         struct err *e)
{
    struct emulator_state s = {.device = device};
    OWNED_HEAP char *copy = strdup(text ?: "");
    struct place at = {NULL, NULL};
    const char *name, *value;
    if (!copy)
        return err_nomem(e, "an option");
    for (struct words w = {copy}; words_next(&w, &name, &value);)
        if (take_word(name, value, &at, &s.mode, e) < 0)
            return -1;
    if (!at.dir && !at.file)
        at.dir = getenv("TPM_PATH");
    if ((!at.dir || !*at.dir) && !at.file)
        return err_set(e, ERR_USAGE,
                       "Error: no place for the TPM's state: give --tpmstate dir=DIR or "
                       "backend-uri=file://PATH");
    if (at.dir && at.file)
        return err_set(e, ERR_USAGE, "--tpmstate: dir and file:// are two places; give one");
    if (name_files(&at, &s, e) < 0) {
        emulator_state_clear(&s);
        return -1;
    }
    *ret = s;
    return 0;
}

void emulator_state_clear(struct emulator_state *s)
{
    free(s->image);
    free(s->key_file);
    free(s->old);
    *s = (struct emulator_state){0};
}

/* --- what is there --- */

static int look_into(const char *path, enum emulator_found *ret, struct err *e)
{
    static const uint8_t ours[4] = {'Q', 'F', 'I', 0xfb},
                         linear[MAGIC_BYTES] = {'n', 'i', 'l', 'm', 'p', 't', 'w', 's'};
    uint8_t head[MAGIC_BYTES] = {0};
    char buf[QUOTED_BYTES];
    struct stat st;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        *ret = FOUND_NOTHING;
        return 0;
    }
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", quoted(buf, path));
    ssize_t n =
        S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? fd_pread_full(fd, head, sizeof(head), 0) : -1;
    if (n < 0)
        return err_set(e, ERR_USAGE, "%s cannot hold the TPM's state: wanted a file",
                       quoted(buf, path));
    *ret = n == 0 && S_ISREG(st.st_mode)               ? FOUND_EMPTY_FILE
           : memcmp(head, ours, sizeof(ours)) == 0     ? FOUND_IMAGE
           : memcmp(head, linear, sizeof(linear)) == 0 ? FOUND_OLD
                                                       : FOUND_OTHER;
    return 0;
}

int emulator_state_look(const struct emulator_state *s, enum emulator_found *ret, struct err *e)
{
    enum emulator_found found;
    struct stat st;
    if (look_into(s->image, &found, e) < 0)
        return -1;
    /* Not even an empty one: swtpm's own may have been cut off by a loss of power. */
    if ((found == FOUND_NOTHING || found == FOUND_EMPTY_FILE) && s->old && lstat(s->old, &st) == 0)
        found = FOUND_OLD;
    *ret = found;
    return 0;
}

int emulator_state_old_is_image(const struct emulator_state *s, bool *ret, struct err *e)
{
    enum emulator_found found;
    if (look_into(s->old, &found, e) < 0)
        return -1;
    *ret = found == FOUND_IMAGE;
    return 0;
}

int emulator_state_key(const struct emulator_state *s, const struct migration_key_source *key,
                       struct secret **ret, size_t *ret_n, struct err *e)
{
    const struct key_source file = {.kind = KEY_SOURCE_FILE, .value = s->key_file, .fd = -1};
    char image[QUOTED_BYTES], name[QUOTED_BYTES];
    if (key->kind != KEY_SOURCE_NONE)
        return swtpm_key_source_passphrase(key, ret, ret_n, e);
    if (access(s->key_file, F_OK) < 0 && errno == ENOENT)
        return err_set(e, ERR_KEY_MISSING,
                       "%s is encrypted, no --key was given, and there is no %s with a key that "
                       "was made for it",
                       quoted(image, s->image), quoted(name, s->key_file));
    return key_source_read(&file, s->image, ret, ret_n, e);
}
