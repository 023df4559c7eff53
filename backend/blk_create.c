#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backend/blk_priv.h"
#include "crypto/prim.h"
#include "src/base/bytes.h"

enum { COPY_BYTES = 1 << 20 };

/* A file that has no name, or one nobody looks for, until it is whole. */
struct blk_new {
    struct blk_rw *rw;
    int fd;  /* of the file; the blk's own, borrowed for linking */
    int dir; /* the directory */
    char *path, *base;
    char temp[32]; /* the name it has meanwhile; "": none */
    char name[BLK_NAME_BYTES];
    bool shared;
    bool over; /* it takes the place of `was` */
    struct stat was;
};

void blk_new_free(struct blk_new *n)
{
    if (!n)
        return;
    if (n->temp[0])
        (void)unlinkat(n->dir, n->temp, 0);
    blk_rw_free(n->rw);
    if (n->dir >= 0)
        close(n->dir);
    free(n->path);
    free(n->base);
    free(n);
}

struct blk_rw *blk_new_rw(struct blk_new *n)
{
    return n->rw;
}

static int exists_already(const struct blk_new *n, struct err *e)
{
    return err_set(e, ERR_USAGE,
                   "%s: exists already and is never replaced; choose another name or remove it "
                   "yourself",
                   n->name);
}

static int open_directory(struct blk_new *n, struct err *e)
{
    OWNED_HEAP char *copy = strdup(n->path);
    if (!copy)
        return err_nomem(e, "a path");
    n->dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (n->dir >= 0)
        return 0;
    bool named_wrong = errno == ENOENT || errno == ENOTDIR;
    return err_sys(e, named_wrong ? ERR_USAGE : ERR_STORAGE, errno,
                   "%s: the directory cannot be opened", n->name);
}

static int check_free_name(const struct blk_new *n, struct err *e)
{
    struct stat st;
    if (fstatat(n->dir, n->base, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return exists_already(n, e);
    if (errno == ENOENT)
        return 0;
    return err_sys(e, errno == ENAMETOOLONG ? ERR_USAGE : ERR_STORAGE, errno, "%s: looking for it",
                   n->name);
}

/* Is that the file whose place is taken, and still empty if it was? */
static bool is_old(const struct blk_new *n, const char *name)
{
    struct stat st;
    return fstatat(n->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           st.st_dev == n->was.st_dev && st.st_ino == n->was.st_ino &&
           (n->was.st_size != 0 || st.st_size == 0);
}

static int check_name(const struct blk_new *n, struct err *e)
{
    if (!n->over)
        return check_free_name(n, e);
    if (is_old(n, n->base))
        return 0;
    return err_set(e, ERR_STATE_FOREIGN,
                   "%s: is not the file any more that it was; it was left alone", n->name);
}

/* Every byte will be written: a lack of space is better known before the work than behind it. */
static int check_space(const struct blk_new *n, uint64_t size, struct err *e)
{
    struct statvfs v;
    struct rlimit r;
    if (getrlimit(RLIMIT_FSIZE, &r) == 0 && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < size)
        return err_sys(e, ERR_STORAGE, EFBIG,
                       "%s: needs %" PRIu64 " bytes, the limit for a file is %" PRIu64
                       " (ulimit -f)",
                       n->name, size, (uint64_t)r.rlim_cur);
    if (fstatvfs(n->dir, &v) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: asking for free space", n->name);
    uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
    if (room < size)
        return err_sys(e, ERR_STORAGE, ENOSPC,
                       "%s: needs %" PRIu64 " bytes, the file system has %" PRIu64 " left", n->name,
                       size, room);
    return 0;
}

static int open_hidden(const struct blk_new *n, const char *name)
{
    return openat(n->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* A hidden name that nobody else uses, for what `make` makes. */
static int take_hidden_name(struct blk_new *n,
                            int (*make)(const struct blk_new *n, const char *name))
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    for (int attempt = 0; attempt < 100; attempt++) {
        uint8_t r[12];
        struct err ignored;
        if (random_bytes(r, sizeof(r), &ignored) < 0)
            break;
        for (size_t i = 0; i < sizeof(r); i++)
            r[i] = (uint8_t)letters[r[i] & 31];
        snprintf(n->temp, sizeof(n->temp), ".nvkeep-%.12s", (const char *)r);
        int made = make(n, n->temp);
        if (made >= 0)
            return made;
        int os = errno;
        n->temp[0] = 0;
        errno = os;
        if (os != EEXIST)
            break;
    }
    return -1;
}

static int open_nameless(struct blk_new *n)
{
    int fd = openat(n->dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL))
        return take_hidden_name(n, open_hidden);
    return fd;
}

static int create(const char *path, uint64_t size, const struct stat *was, struct blk_new **ret,
                  struct err *e)
{
    OWNED(blk_new) n = calloc(1, sizeof(*n));
    OWNED(blk) b = NULL;
    struct stat st;
    if (!n)
        return err_nomem(e, "a new image");
    n->dir = -1;
    n->over = was;
    if (was)
        n->was = *was;
    blk_name_of(path, n->name);
    n->path = strdup(path);
    OWNED_HEAP char *copy = strdup(path);
    n->base = copy ? strdup(basename(copy)) : NULL;
    if (!n->path || !n->base)
        return err_nomem(e, "a path");
    if (!*path || path[strlen(path) - 1] == '/')
        return err_set(e, ERR_USAGE, "\"%s\": names no file", n->name);
    if (open_directory(n, e) < 0 || check_name(n, e) < 0 || check_space(n, size, e) < 0)
        return -1;

    OWNED_FD fd = open_nameless(n);
    if (fd < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: making a file there", n->name);
    if (ftruncate(fd, (off_t)size) < 0 || fstat(fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: setting its size to %" PRIu64, n->name, size);
    n->fd = fd;
    if (blk_from_fd(&fd, &st, size, BLK_READ_WRITE, path, &b, e) < 0 ||
        blk_claim_unnamed(&b, &n->rw, e) < 0)
        return -1;
    *ret = MOVE(n);
    return 0;
}

int blk_create(const char *path, uint64_t size, struct blk_new **ret, struct err *e)
{
    return create(path, size, NULL, ret, e);
}

int blk_create_over(const char *path, uint64_t size, const struct stat *was, struct blk_new **ret,
                    struct err *e)
{
    return create(path, size, was, ret, e);
}

int blk_new_permit(struct blk_new *n, uid_t uid, gid_t gid, mode_t mode, struct err *e)
{
    struct stat st;
    if (fstat(n->fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: fstat", n->name);
    if (((uid != (uid_t)-1 && st.st_uid != uid) || (gid != (gid_t)-1 && st.st_gid != gid)) &&
        fchown(n->fd, uid, gid) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: giving the new file its owner %u:%u", n->name,
                       (unsigned)uid, (unsigned)gid);
    if (fchmod(n->fd, mode & 0777) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: giving the new file its mode", n->name);
    return 0;
}

void blk_new_share(struct blk_new *n)
{
    n->shared = true;
}

/* --- the name --- */

/* A nameless file is named through /proc, or, where that is not mounted, by the descriptor itself
 * (which needs a privilege). */
static int link_as(const struct blk_new *n, const char *name)
{
    char self[40];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", n->fd);
    if (linkat(AT_FDCWD, self, n->dir, name, AT_SYMLINK_FOLLOW) == 0)
        return 0;
    if (errno != ENOENT || faccessat(AT_FDCWD, self, F_OK, 0) == 0)
        return -1;
    return linkat(n->fd, "", n->dir, name, AT_EMPTY_PATH);
}

static int give_final_name(const struct blk_new *n)
{
    if (renameat2(n->dir, n->temp, n->dir, n->base, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (linkat(n->dir, n->temp, n->dir, n->base, 0) < 0)
        return -1;
    (void)unlinkat(n->dir, n->temp, 0); /* a second name does no harm */
    return 0;
}

static int cannot_name(const struct blk_new *n, struct err *e)
{
    return err_sys(e, ERR_STORAGE, errno, "%s: giving the new file its name", n->name);
}

static int publish_new(struct blk_new *n, struct err *e)
{
    if ((n->temp[0] ? give_final_name(n) : link_as(n, n->base)) < 0)
        return errno == EEXIST ? exists_already(n, e) : cannot_name(n, e);
    n->temp[0] = 0;
    if (fsync(n->dir) == 0)
        return 0;
    err_sys(e, ERR_STORAGE, errno, "%s: making the name of the new file durable", n->name);
    if (!n->shared)
        (void)unlinkat(n->dir, n->base, 0);
    return -1;
}

static int exchange(const struct blk_new *n)
{
    return renameat2(n->dir, n->temp, n->dir, n->base, RENAME_EXCHANGE);
}

/* For file systems that cannot exchange: looked at just before. */
static int rename_over(struct blk_new *n, struct err *e)
{
    if (check_name(n, e) < 0)
        return -1;
    if (renameat(n->dir, n->temp, n->dir, n->base) < 0)
        return cannot_name(n, e);
    n->temp[0] = 0;
    if (fsync(n->dir) == 0)
        return 0;
    return err_sys(e, ERR_STORAGE, errno,
                   "%s: it was replaced, and may be the old one after a loss of power", n->name);
}

/* They change places, so that what is taken away is what was looked at, and there is a way back. */
static int publish_over(struct blk_new *n, struct err *e)
{
    if (!n->temp[0] && take_hidden_name(n, link_as) < 0)
        return cannot_name(n, e);
    if (exchange(n) < 0)
        return errno == EINVAL || errno == ENOSYS ? rename_over(n, e) : cannot_name(n, e);
    int r = 0;
    if (!is_old(n, n->temp))
        r = err_set(e, ERR_STATE_FOREIGN,
                    "%s: is not the file any more that it was; it was left alone", n->name);
    else if (fsync(n->dir) < 0)
        r = err_sys(e, ERR_STORAGE, errno, "%s: making the name of the new file durable", n->name);
    if (r < 0 && exchange(n) < 0)
        n->temp[0] = 0; /* what has that name now is not ours to take away */
    if (r < 0)
        return -1;
    (void)unlinkat(n->dir, n->temp, 0);
    n->temp[0] = 0;
    return 0;
}

int blk_publish(struct blk_new **new, struct err *e)
{
    struct blk_new *n = *new;
    if (fsync(n->fd) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: making the new file durable", n->name);
    if ((n->over ? publish_over : publish_new)(n, e) < 0)
        return -1;
    blk_new_free(MOVE(*new));
    return 0;
}

int blk_copy(const struct blk *from, const char *path, struct err *e)
{
    OWNED(blk_new) n = NULL;
    OWNED_HEAP uint8_t *buf = malloc(COPY_BYTES);
    if (!buf)
        return err_nomem(e, "copying an image");
    if (blk_create(path, blk_size(from), &n, e) < 0)
        return -1;
    for (uint64_t at = 0; at < blk_size(from);) {
        uint64_t left = blk_size(from) - at;
        size_t now = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        if (blk_read(from, (struct host){at}, buf, now, e) < 0)
            return -1;
        if (!bytes_all_zero(buf, now) &&
            blk_write(blk_new_rw(n), (struct host){at}, buf, now, e) < 0)
            return -1;
        at += now;
    }
    return blk_publish(&n, e);
}
