#include "src/make/swtpm_state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "migration/blob.h"
#include "migration/linear.h"
#include "src/base/bytes.h"
#include "src/base/fd.h"
#include "src/make/swtpm_state_priv.h"

enum { QUOTED_BYTES = 200 };

struct swtpm_source {
    struct swtpm_place place;
    int fd;   /* the directory, or the store */
    int lock; /* DIR/.lock; -1: there is none */
    bool made_lock;
};

static const char *quoted(char buf[QUOTED_BYTES], const char *path)
{
    return err_quote(buf, QUOTED_BYTES, path, strlen(path));
}

void swtpm_file_name(enum device_kind device, enum blob_kind kind, char ret[SWTPM_NAME_BYTES])
{
    static const char *const suffixes[] = {"permall", "volatilestate", "savestate"};
    snprintf(ret, SWTPM_NAME_BYTES, "tpm%s-00.%s", device == DEVICE_TPM20 ? "2" : "",
             suffixes[kind - 1]);
}

/* ---- names ---- */

static bool takes_prefix(const char **text, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*text, prefix, n) != 0)
        return false;
    *text += n;
    return true;
}

int swtpm_place_parse(const char *text, struct swtpm_place *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    struct swtpm_place p = {0};
    if (takes_prefix(&text, "file://"))
        p.is_store = true;
    else if (!takes_prefix(&text, "dir://"))
        p.is_store = stat(text, &st) == 0 && !S_ISDIR(st.st_mode);
    size_t n = strlen(text);
    while (n > 1 && text[n - 1] == '/')
        n--;
    if (n == 0 || n >= sizeof(p.path))
        return err_set(e, ERR_USAGE, "\"%s\": wanted dir://PATH, file://PATH or a path",
                       quoted(buf, text));
    memcpy(p.path, text, n);
    *ret = p;
    return 0;
}

/* ---- opening ---- */

static int in_use(const struct swtpm_place *place, struct err *e)
{
    char buf[QUOTED_BYTES];
    return err_set(e, ERR_LOCKED, "%s: a swtpm is running on this state; shut its machine down",
                   quoted(buf, place->path));
}

/* A lock for reading keeps swtpm's out as one for writing would, and needs no right to write. */
static int take_lock(const struct swtpm_place *place, int fd, short type, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return in_use(place, e);
    return err_sys(e, ERR_STORAGE, errno, "cannot lock %s", quoted(buf, place->path));
}

/* Most versions do not lock a linear store, but each has it open for writing: the kernel refuses a
 * lease for reading then. Where there are no leases (devices, files of others) it says nothing. */
static int refuse_if_written(const struct swtpm_place *place, int fd, struct err *e)
{
    /* The default, SIGIO, would end the program if somebody came just now. */
    (void)fcntl(fd, F_SETSIG, SIGURG);
    if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
        (void)fcntl(fd, F_SETLEASE, F_UNLCK);
        return 0;
    }
    return errno == EAGAIN ? in_use(place, e) : 0;
}

static int lock_directory(struct swtpm_source *s, struct err *e)
{
    char buf[QUOTED_BYTES];
    s->lock = openat(s->fd, ".lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (s->lock >= 0)
        return take_lock(&s->place, s->lock, F_RDLCK, e);
    if (errno == ENOENT) /* a copy, or of a machine that never ran */
        return 0;
    return err_sys(e, err_kind_of_path(errno), errno, "cannot open the lock of %s",
                   quoted(buf, s->place.path));
}

static int open_store(const struct swtpm_source *s, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat st;
    if (fstat(s->fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at %s", quoted(buf, s->place.path));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(e, ERR_USAGE, "%s is neither a file nor a block device",
                       quoted(buf, s->place.path));
    if (take_lock(&s->place, s->fd, F_RDLCK, e) < 0)
        return -1;
    return refuse_if_written(&s->place, s->fd, e);
}

int swtpm_source_open(const struct swtpm_place *place, struct swtpm_source **ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED(swtpm_source) s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "swtpm's state");
    s->place = *place;
    s->lock = -1;
    s->fd =
        open(place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (place->is_store ? 0 : O_DIRECTORY));
    if (s->fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open swtpm's state %s",
                       quoted(buf, place->path));
    if ((place->is_store ? open_store(s, e) : lock_directory(s, e)) < 0)
        return -1;
    *ret = MOVE(s);
    return 0;
}

static int make_lock(struct swtpm_source *s, struct err *e)
{
    const int how = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    char buf[QUOTED_BYTES];
    s->lock = openat(s->fd, ".lock", how);
    if (s->lock < 0 && errno == ENOENT) {
        s->lock = openat(s->fd, ".lock", how | O_CREAT | O_EXCL, 0600);
        s->made_lock = s->lock >= 0;
    }
    if (s->lock < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open the lock of %s",
                       quoted(buf, s->place.path));
    return take_lock(&s->place, s->lock, F_WRLCK, e);
}

/* Only one importer at a time: where the file cannot be locked so, the names decide. */
static int take_store(struct swtpm_source *s, int dir, const char *name, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct stat mine, named;
    if (flock(s->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        return err_set(e, ERR_LOCKED, "%s: somebody else is importing it",
                       quoted(buf, s->place.path));
    if (open_store(s, e) < 0)
        return -1;
    if (fstat(s->fd, &mine) == 0 && fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        mine.st_ino == named.st_ino && mine.st_dev == named.st_dev)
        return 0;
    return err_set(e, ERR_LOCKED, "%s: somebody else has just replaced it",
                   quoted(buf, s->place.path));
}

int swtpm_source_open_at(int dir, const char *name, const struct swtpm_place *place, bool to_go,
                         struct swtpm_source **ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED(swtpm_source) s = calloc(1, sizeof(*s));
    if (!s)
        return err_nomem(e, "swtpm's state");
    s->place = *place;
    s->lock = -1;
    s->fd = place->is_store ? openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
                            : openat(dir, ".", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (s->fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open swtpm's state %s",
                       quoted(buf, place->path));
    int r = place->is_store ? to_go ? take_store(s, dir, name, e) : open_store(s, e)
            : to_go ? make_lock(s, e)
                            : lock_directory(s, e);
    if (r < 0)
        return -1;
    *ret = MOVE(s);
    return 0;
}

int swtpm_source_is_idle(const struct swtpm_source *s, struct err *e)
{
    return s->place.is_store ? refuse_if_written(&s->place, s->fd, e) : 0;
}

void swtpm_source_free(struct swtpm_source *s)
{
    if (!s)
        return;
    if (s->made_lock)
        (void)unlinkat(s->fd, ".lock", 0);
    if (s->lock >= 0)
        close(s->lock);
    if (s->fd >= 0)
        close(s->fd);
    free(s);
}

/* ---- files, as they are ---- */

struct files {
    struct secret *file[N_TPM_BLOBS]; /* an unencrypted one is the TPM in clear */
    size_t n[N_TPM_BLOBS];
};

static void files_clear(struct files *f)
{
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        secret_free(f->file[i]);
}

static int read_part(int fd, uint64_t off, size_t n, const char *name, struct secret **ret,
                     struct err *e)
{
    OWNED(secret) s = NULL;
    if (secret_new(n, &s, e) < 0)
        return -1;
    ssize_t got = fd_pread_full(fd, secret_bytes(s), n, off);
    if (got < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot read %s", name);
    if ((size_t)got < n)
        return err_set(e, ERR_STORAGE, "%s: only %zd of %zu bytes can be read", name, got, n);
    *ret = MOVE(s);
    return 0;
}

static int read_file(int dir, const char *name, struct secret **ret, size_t *ret_n, struct err *e)
{
    struct stat st;
    OWNED_FD fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open %s", name);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE, "%s is not a file", name);
    if (st.st_size == 0)
        return err_set(e, ERR_STATE_CORRUPT, "%s is empty (0 bytes)", name);
    if (st.st_size > BLOB_ENVELOPE_MAX)
        return err_set(e, ERR_UNSUPPORTED, "%s has %lld bytes; at most %d are read", name,
                       (long long)st.st_size, BLOB_ENVELOPE_MAX);
    *ret_n = (size_t)st.st_size;
    return read_part(fd, 0, *ret_n, name, ret, e);
}

static int has_permanent(int dir, enum device_kind device, bool *ret, struct err *e)
{
    char name[SWTPM_NAME_BYTES];
    struct stat st;
    swtpm_file_name(device, BLOB_PERMANENT, name);
    *ret = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    return *ret || errno == ENOENT
               ? 0
               : err_sys(e, err_kind_of_path(errno), errno, "cannot look for %s", name);
}

/* Nobody came while it was read, where there was nothing to lock. */
static int check_unlocked(const struct swtpm_source *s, struct err *e)
{
    if (s->lock < 0 && faccessat(s->fd, ".lock", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return in_use(&s->place, e);
    return 0;
}

static int choose_kind(const struct swtpm_source *s, const enum device_kind *want,
                       enum device_kind *ret, struct err *e)
{
    bool has12 = false, has20 = false;
    if (has_permanent(s->fd, DEVICE_TPM12, &has12, e) < 0 ||
        has_permanent(s->fd, DEVICE_TPM20, &has20, e) < 0)
        return -1;
    if (has12 && has20 && !want)
        return err_set(e, ERR_USAGE,
                       "it holds a TPM 1.2 and a TPM 2.0; say which: --tpm12, --tpm2");
    enum device_kind kind = want ? *want : has12 ? DEVICE_TPM12 : DEVICE_TPM20;
    if (!(kind == DEVICE_TPM20 ? has20 : has12))
        return err_set(e, ERR_STATE_EMPTY, "it holds no TPM%s: there is no %s in it",
                       has12 || has20 ? " of that kind" : "",
                       kind == DEVICE_TPM20 ? "tpm2-00.permall" : "tpm-00.permall");
    *ret = kind;
    return 0;
}

static int read_directory(const struct swtpm_source *s, const enum device_kind *want,
                          enum device_kind *ret_kind, struct files *ret, struct err *e)
{
    if (choose_kind(s, want, ret_kind, e) < 0)
        return -1;
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        char name[SWTPM_NAME_BYTES];
        swtpm_file_name(*ret_kind, (enum blob_kind)(i + 1), name);
        if (read_file(s->fd, name, &ret->file[i], &ret->n[i], e) < 0)
            return -1;
    }
    return check_unlocked(s, e);
}

static int read_store(const struct swtpm_source *s, struct files *ret, struct err *e)
{
    uint8_t head[LINEAR_HEADER_BYTES];
    struct linear l;
    off_t end = lseek(s->fd, 0, SEEK_END); /* of a device too */
    ssize_t n = end < 0 ? -1 : fd_pread_full(s->fd, head, sizeof(head), 0);
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot read it");
    if (end == 0)
        return err_set(e, ERR_STATE_EMPTY, "it is empty (0 bytes)");
    if (n < end && (size_t)n < sizeof(head))
        return err_set(e, ERR_STORAGE, "it has %lld bytes, and only %zd can be read",
                       (long long)end, n);
    if (linear_decode(head, (size_t)n, (uint64_t)end, &l, e) < 0)
        return -1;
    if (l.part[BLOB_PERMANENT - 1].n == 0)
        return err_set(e, ERR_STATE_EMPTY, "it holds no TPM: there is no permanent state in it");
    for (size_t i = 0; i < N_TPM_BLOBS; i++) {
        if (l.part[i].n == 0)
            continue;
        ret->n[i] = l.part[i].n;
        if (read_part(s->fd, l.part[i].off, l.part[i].n, "the store", &ret->file[i], e) < 0)
            return -1;
    }
    return 0;
}

/* ---- what is in them ---- */

/* A linear store does not say what kind of TPM it holds. The permanent state of a TPM 2.0 begins
 * with a version and libtpms' mark of one. */
static enum device_kind kind_of_state(const uint8_t *p, size_t n)
{
    const uint32_t mark = 0xab364723;
    return n >= 6 && get_be32(p + 2) == mark ? DEVICE_TPM20 : DEVICE_TPM12;
}

static int open_file(const struct files *f, enum blob_kind kind, const struct migration_key *key,
                     struct swtpm_state *ret, struct err *e)
{
    static const char *const names[] = {"permanent", "volatile", "saved"};
    unsigned i = kind - 1;
    if (blob_file_open(secret_peek(f->file[i]), f->n[i], key, &ret->blobs.blob[i], &ret->blobs.n[i],
                       e) == 0)
        return 0;
    if (e->kind == ERR_KEY_MISSING)
        return err_set(e, ERR_KEY_MISSING,
                       "the state is encrypted and no key for it was given; name with --source-key "
                       "what swtpm was given with --key");
    /* It opened the permanent state. */
    if (e->kind == ERR_KEY_WRONG && kind != BLOB_PERMANENT)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the %s state does not open with the key that opens the permanent state: "
                       "it is damaged, or another TPM's",
                       names[i]);
    return err_prefix(e, "the %s state", names[i]);
}

static int check_kind(enum device_kind found, const enum device_kind *want, struct err *e)
{
    if (!want || found == *want)
        return 0;
    return err_set(e, ERR_STATE_FOREIGN, "it holds a TPM %s, and a TPM %s was asked for",
                   found == DEVICE_TPM20 ? "2.0" : "1.2", *want == DEVICE_TPM20 ? "2.0" : "1.2");
}

static int read_all(const struct swtpm_source *s, const enum device_kind *want,
                    const struct migration_key *key, struct files *f, struct swtpm_state *ret,
                    struct err *e)
{
    if ((s->place.is_store ? read_store(s, f, e) : read_directory(s, want, &ret->kind, f, e)) < 0)
        return -1;
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        if (f->file[i] && open_file(f, (enum blob_kind)(i + 1), key, ret, e) < 0)
            return -1;
    if (s->place.is_store)
        ret->kind = kind_of_state(secret_peek(ret->blobs.blob[0]), ret->blobs.n[0]);
    return check_kind(ret->kind, want, e);
}

int swtpm_source_read(const struct swtpm_source *s, const enum device_kind *want,
                      const struct migration_key *key, struct swtpm_state *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct files f = {0};
    struct swtpm_state found = {0};
    int r = read_all(s, want, key, &f, &found, e);
    files_clear(&f);
    if (r < 0) {
        tpm_blobs_clear(&found.blobs);
        return err_prefix(e, "%s", quoted(buf, s->place.path));
    }
    *ret = found;
    return 0;
}
