#include "src/compat/compat_place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"

enum { QUOTED_BYTES = 300, MAGIC_BYTES = 8 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* --- names --- */

static int name_in_dir(const char *dir, struct compat_place *p)
{
    const char *stem = p->device == DEVICE_TPM20 ? "tpm2-00" : "tpm-00";
    return asprintf(&p->image, "%s/%s.qcow2", dir, stem) < 0 ||
                   asprintf(&p->key_file, "%s/%s.key", dir, stem) < 0 ||
                   asprintf(&p->old, "%s/%s.permall", dir, stem) < 0 ||
                   asprintf(&p->dir, "%s", dir) < 0
               ? -1
               : 0;
}

static int name_file(const char *file, struct compat_place *p)
{
    return asprintf(&p->image, "%s", file) < 0 || asprintf(&p->key_file, "%s.key", file) < 0 ? -1
                                                                                             : 0;
}

int compat_place_name(const char *dir, const char *file, enum device_kind device,
                      struct compat_place *ret, struct err *e)
{
    static const char longest[] = "/tpm2-00.permall";
    struct compat_place p = {.device = device};
    char buf[QUOTED_BYTES];
    if (strlen(dir ?: file) + sizeof(longest) > PATH_MAX)
        return err_set(e, ERR_USAGE, "the path is too long: %s", quoted(buf, dir ?: file));
    if ((dir ? name_in_dir(dir, &p) : name_file(file, &p)) < 0) {
        compat_place_clear(&p);
        return err_nomem(e, "a path");
    }
    *ret = p;
    return 0;
}

void compat_place_clear(struct compat_place *p)
{
    free(p->image);
    free(p->key_file);
    free(p->dir);
    free(p->old);
    *p = (struct compat_place){0};
}

/* --- what is there --- */

static int look_into(const char *path, enum compat_found *ret, struct err *e)
{
    static const uint8_t ours[4] = {'Q', 'F', 'I', 0xfb},
                         linear[MAGIC_BYTES] = {'n', 'i', 'l', 'm', 'p', 't', 'w', 's'};
    uint8_t head[MAGIC_BYTES];
    char buf[QUOTED_BYTES];
    struct stat st;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        *ret = FOUND_NOTHING;
        return 0;
    }
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", quoted(buf, path));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, ERR_USAGE, "%s cannot hold the TPM's state: wanted a file",
                       quoted(buf, path));
    ssize_t n = fd_pread_full(fd, head, sizeof(head), 0);
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot read %s", quoted(buf, path));
    *ret = FOUND_OTHER;
    if (n == 0 && S_ISREG(st.st_mode))
        *ret = FOUND_EMPTY_FILE;
    if (n >= (ssize_t)sizeof(ours) && memcmp(head, ours, sizeof(ours)) == 0)
        *ret = FOUND_IMAGE;
    if (n >= MAGIC_BYTES && memcmp(head, linear, sizeof(linear)) == 0)
        *ret = FOUND_OLD;
    return 0;
}

int compat_place_look(const struct compat_place *p, enum compat_found *ret, struct err *e)
{
    enum compat_found found;
    struct stat st;
    if (look_into(p->image, &found, e) < 0)
        return -1;
    /* Not even an empty one: swtpm's own may have been cut off by a loss of power. */
    if ((found == FOUND_NOTHING || found == FOUND_EMPTY_FILE) && p->old && lstat(p->old, &st) == 0)
        found = FOUND_OLD;
    *ret = found;
    return 0;
}

int compat_place_old_is_image(const struct compat_place *p, bool *ret, struct err *e)
{
    enum compat_found found;
    if (look_into(p->old, &found, e) < 0)
        return -1;
    *ret = found == FOUND_IMAGE;
    return 0;
}
