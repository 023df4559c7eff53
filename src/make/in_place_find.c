/* Looking for states below a directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/make/in_place.h"
#include "src/make/swtpm_state_priv.h"

/* libvirt: UUID/tpm2 below what is named. */
enum { LEVELS = 4, QUOTED_BYTES = 200 };

static const char *quoted(char buf[QUOTED_BYTES], const char *path)
{
    return err_quote(buf, QUOTED_BYTES, path, strlen(path));
}

static void state_free(struct in_place_state *s)
{
    free(s->path);
    free(s->machine);
    free(s);
}

void in_place_states_free(struct in_place_state *list)
{
    while (list) {
        struct in_place_state *next = list->next;
        state_free(list);
        list = next;
    }
}

/* UUID/tpm2, UUID/tpm1.2: the name is that of the directory above. */
static char *machine_of(const char *path)
{
    const char *end = path + strlen(path), *name = strrchr(path, '/');
    if (name && name > path && (strcmp(name, "/tpm2") == 0 || strcmp(name, "/tpm1.2") == 0)) {
        end = name;
        name = memrchr(path, '/', (size_t)(name - path));
    }
    name = name ? name + 1 : path;
    return strndup(name, (size_t)(end - name));
}

/* By name, and each only once: what is given may overlap. */
static struct in_place_state **place_of(struct in_place_state **list, const char *path,
                                        enum device_kind device)
{
    for (; *list; list = &(*list)->next) {
        int order = strcmp((*list)->path, path);
        if (order > 0 || (order == 0 && (*list)->device >= device))
            break;
    }
    return list;
}

static int add(const char *path, size_t trusted, bool is_store, enum device_kind device,
               struct in_place_state **list, struct err *e)
{
    struct in_place_state **at = place_of(list, path, device);
    if (*at && (*at)->device == device && strcmp((*at)->path, path) == 0)
        return 0;
    struct in_place_state *s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "a list");
    s->path = strdup(path);
    s->machine = machine_of(path);
    s->trusted = trusted;
    s->is_store = is_store;
    s->device = device;
    if (!s->path || !s->machine) {
        state_free(s);
        return err_nomem(e, "a list");
    }
    s->next = *at;
    *at = s;
    return 0;
}

struct search {
    const enum device_kind *kind;
    struct in_place_state **list;
    size_t trusted;
};

static int has(int dir, const char *path, const char *name, bool *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (*ret)
        return 0;
    *ret = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    return *ret || errno == ENOENT ? 0
                                   : err_sys(e, err_kind_of_path(errno), errno,
                                             "cannot look for %s in %s", name, quoted(buf, path));
}

static int look_here(const struct search *search, const char *path, int dir, struct err *e)
{
    static const struct {
        enum device_kind kind;
        const char *image;
    } tpms[] = {{DEVICE_TPM12, "tpm-00.qcow2"}, {DEVICE_TPM20, "tpm2-00.qcow2"}};
    for (size_t i = 0; i < ARRAY_LEN(tpms); i++) {
        char state[SWTPM_NAME_BYTES];
        bool there = false;
        if (search->kind && *search->kind != tpms[i].kind)
            continue;
        swtpm_file_name(tpms[i].kind, BLOB_PERMANENT, state);
        if (has(dir, path, state, &there, e) < 0 || has(dir, path, tpms[i].image, &there, e) < 0 ||
            (there && add(path, search->trusted, false, tpms[i].kind, search->list, e) < 0))
            return -1;
    }
    return 0;
}

static int look_below(const struct search *search, const char *path, int dir, int levels,
                      struct err *e);

/* What went away meanwhile, or is a link, is not looked into. */
static int look_into(const struct search *search, const char *path, int dir, const char *name,
                     int levels, struct err *e)
{
    OWNED_HEAP char *below = NULL;
    char buf[QUOTED_BYTES];
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP || errno == ENOENT))
        return 0;
    if (asprintf(&below, "%s/%s", strcmp(path, "/") == 0 ? "" : path, name) < 0) {
        below = NULL;
        if (fd >= 0)
            close(fd);
        return err_nomem(e, "a path");
    }
    if (fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot look into %s",
                       quoted(buf, below));
    return look_below(search, below, fd, levels, e);
}

static bool may_be_directory(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 &&
           (d->d_type == DT_DIR || d->d_type == DT_UNKNOWN);
}

/* Takes dir. */
static int look_below(const struct search *search, const char *path, int dir, int levels,
                      struct err *e)
{
    char buf[QUOTED_BYTES];
    int r = look_here(search, path, dir, e);
    DIR *d = r == 0 && levels > 0 ? fdopendir(dir) : NULL;
    if (!d) {
        if (r == 0 && levels > 0)
            r = err_sys(e, ERR_STORAGE, errno, "cannot read %s", quoted(buf, path));
        close(dir);
        return r;
    }
    while (r == 0) {
        errno = 0;
        const struct dirent *entry = readdir(d);
        if (!entry && errno)
            r = err_sys(e, ERR_STORAGE, errno, "cannot read %s", quoted(buf, path));
        if (!entry)
            break;
        if (may_be_directory(entry))
            r = look_into(search, path, dirfd(d), entry->d_name, levels - 1, e);
    }
    closedir(d);
    return r;
}

int in_place_find(const char *path, const enum device_kind *kind, struct in_place_state **list,
                  struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && stat(path, &st) == 0 &&
        !S_ISDIR(st.st_mode))
        return err_set(e, ERR_USAGE, "%s is a link; name the file itself", quoted(buf, path));
    OWNED_HEAP char *full = realpath(path, NULL);
    int fd = full ? open(full, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    if (fd < 0 || fstat(fd, &st) < 0) {
        err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", quoted(buf, path));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (S_ISDIR(st.st_mode)) {
        const struct search search = {kind, list, strlen(full)};
        return look_below(&search, full, fd, LEVELS, e);
    }
    close(fd);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE,
                       "%s is neither a directory nor a file; a state on a device is imported into "
                       "a new image: nvkeep import SOURCE IMAGE",
                       quoted(buf, path));
    char *slash = strrchr(full, '/');
    return add(full, slash == full ? 1 : (size_t)(slash - full), true, DEVICE_TPM20, list, e);
}
