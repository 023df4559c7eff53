#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <time.h>

#include "backend/blk_priv.h"
#include "src/base/fd.h"

/* ---- the file ---- */

struct file {
    int fd;
    char *path; /* to where the path led when it was opened; NULL: not known */
    bool is_device;
    bool direct;    /* O_DIRECT is set on fd */
    bool exclusive; /* the kernel that grants our locks is the only one that writes there */
    bool had_name;  /* when it was claimed; a new image has none yet */
};
enum { DIRECT_ALIGN = 512 };

static void set_direct(struct file *f, bool direct)
{
    int flags = fcntl(f->fd, F_GETFL);
    if (flags >= 0 && fcntl(f->fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0)
        f->direct = direct;
}

/* Only where the kernel says which alignment it wants, and wants no more than a sector. */
static bool can_direct(const struct file *f)
{
    struct statx st;
    return statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
           (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_offset_align != 0 &&
           st.stx_dio_offset_align <= DIRECT_ALIGN && st.stx_dio_mem_align <= DIRECT_ALIGN;
}

static void file_direct(void *ctx)
{
    struct file *f = ctx;
    if (can_direct(f))
        set_direct(f, true);
}

/* Where commits go through the page cache, a flush that failed leaves there what the disk does not
 * hold, and no later flush tells. What an owner builds on must be read from the disk. */
static void forget_cache(const struct file *f)
{
    if (!f->is_device && !can_direct(f))
        (void)posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* All of it: what is cached in larger pieces is dropped whole or not at all. What is dirty stays,
 * and is ours. A direct read needs none of this, but the next one may be none. */
static void file_forget(void *ctx)
{
    (void)posix_fadvise(((const struct file *)ctx)->fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* What is not aligned takes the way through the cache, for good. */
static void direct_if_aligned(struct file *f, const void *buf, size_t n, uint64_t off)
{
    if (f->direct && (((uintptr_t)buf | n | off) & (DIRECT_ALIGN - 1)))
        set_direct(f, false);
}

static int file_pread(void *ctx, void *buf, size_t n, uint64_t off, struct err *e)
{
    struct file *f = ctx;
    direct_if_aligned(f, buf, n, off);
    ssize_t r = fd_pread_full(f->fd, buf, n, off);
    if (r < 0)
        return err_sys(e, ERR_STORAGE, errno, "reading %zu bytes at offset %" PRIu64, n, off);
    if ((size_t)r < n)
        return err_set(e, ERR_STORAGE,
                       "the file became shorter while it was read: %zu bytes at "
                       "offset %" PRIu64 " gave %zd",
                       n, off, r);
    return 0;
}

static int file_pwrite(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e)
{
    struct file *f = ctx;
    direct_if_aligned(f, buf, n, off);
    if (fd_pwrite_full(f->fd, buf, n, off) < 0)
        return err_sys(e, ERR_STORAGE, errno, "writing %zu bytes at offset %" PRIu64, n, off);
    return 0;
}

/* By its last sector: a write is what a confined process may do. What lies before reads as zeroes.
 */
static int file_extend(void *ctx, uint64_t size, struct err *e)
{
    static const _Alignas(DIRECT_ALIGN) uint8_t zeroes[DIRECT_ALIGN];
    const struct file *f = ctx;
    if (f->is_device)
        return err_set(e, ERR_STORAGE,
                       "a device has the size that it has; %" PRIu64 " bytes are needed", size);
    return file_pwrite(ctx, zeroes, sizeof(zeroes), size - sizeof(zeroes), e);
}

/* What was written is kept when the disk has it and others can open it: a file whose last name was
 * taken away while it is served goes with this process. */
static int file_flush(void *ctx, struct err *e)
{
    const struct file *f = ctx;
    struct stat mine;
    if (fdatasync(f->fd) < 0)
        return err_sys(e, ERR_STORAGE, errno, "flushing");
    if (!f->had_name)
        return 0;
    if (fstat(f->fd, &mine) < 0)
        return err_sys(e, ERR_STORAGE, errno, "asking whether it still has a name");
    if (mine.st_nlink == 0)
        return err_set(e, ERR_STORAGE,
                       "was deleted or replaced while it is in use here: what is written now would "
                       "be lost with this process");
    return 0;
}

static void file_close(void *ctx)
{
    struct file *f = ctx;
    close(f->fd);
    free(f->path);
    free(f);
}

/* ---- the claim: the locks of QEMU's tools, see its block/file-posix.c ----
 *
 * A read lock on byte 100+p says "I use permission p", one on 200+p says "nobody else may". p is
 * 0 consistent read, 1 write, 2 write unchanged, 3 resize. The locks never conflict as such; each
 * side sets its own and then asks, with a write lock it does not take, whether others hold the
 * opposite. We use 0, 1 and 3 and allow nothing, so that even readers stay away: what is cached
 * here and what is on disk belong together only for us. */
enum { LOCK_USES = 100, LOCK_DENIES = 200, N_PERMISSIONS = 4 };
static const bool lock_uses[N_PERMISSIONS] = {true, true, false, true};

static int lock_byte(int fd, int cmd, short type, off_t at, struct flock *ret)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int r;
    do
        r = fcntl(fd, cmd, &l);
    while (r < 0 && errno == EINTR);
    if (ret)
        *ret = l;
    return r;
}

/* Everything at once, from the first byte to the last: the kernel needs no memory for that, and
 * nobody sees half of it. */
static void unlock_all(int fd)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    int r;
    do
        r = fcntl(fd, F_OFD_SETLK, &all);
    while (r < 0 && errno == EINTR);
}

static int lock_all(int fd)
{
    for (int p = 0; p < N_PERMISSIONS; p++)
        if ((lock_uses[p] && lock_byte(fd, F_OFD_SETLK, F_RDLCK, LOCK_USES + p, NULL) < 0) ||
            lock_byte(fd, F_OFD_SETLK, F_RDLCK, LOCK_DENIES + p, NULL) < 0)
            return -1;
    return 0;
}

/* 1: somebody else holds `at`; 0: nobody; -1 with errno. */
static int held_by_other(int fd, off_t at)
{
    struct flock l;
    if (lock_byte(fd, F_OFD_GETLK, F_WRLCK, at, &l) < 0)
        return -1;
    return l.l_type != F_UNLCK;
}

static int any_conflict(int fd)
{
    for (int p = 0; p < N_PERMISSIONS; p++) {
        int r = held_by_other(fd, LOCK_USES + p);
        if (r == 0 && lock_uses[p])
            r = held_by_other(fd, LOCK_DENIES + p);
        if (r != 0)
            return r;
    }
    return 0;
}

enum verdict { CLAIMED, BUSY, REFUSED };

static enum verdict try_claim(int fd)
{
    /* Somebody who takes real write locks makes ours fail; that is "busy" too. */
    if (lock_all(fd) < 0) {
        int os = errno;
        unlock_all(fd);
        errno = os;
        return os == EAGAIN || os == EACCES ? BUSY : REFUSED;
    }
    int r = any_conflict(fd);
    if (r == 0)
        return CLAIMED;
    int os = errno;
    unlock_all(fd);
    errno = os;
    return r > 0 ? BUSY : REFUSED;
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Shorter than a daemon waits for the verdict before it binds its sockets: an image that is held is
 * refused before there is anything to connect to. At first eager: whoever hands the image over lets
 * it go about when we come, and a guest stands still until we have it. */
enum { CLAIM_PATIENCE_US = 300000, CLAIM_EAGER_US = 30000 };

/* Two who claim at once see each other and both back off; the pauses must differ. Not random in
 * any stronger sense. */
static void pause_jittered(unsigned round, bool eager)
{
    uint64_t least = eager ? 300000 : 5000000, range = eager ? 600000 : 35000000;
    uint64_t x = ((uint64_t)getpid() << 20) ^ (uint64_t)now_us() ^ ((uint64_t)round << 40);
    x = (x ^ (x >> 13)) * UINT64_C(0x9e3779b97f4a7c15);
    struct timespec t = {0, (long)(least + (x >> 32) % range)};
    (void)nanosleep(&t, NULL);
}

static int file_claim(void *ctx, struct err *e)
{
    const struct file *f = ctx;
    int64_t from = now_us();
    for (unsigned round = 0;; round++) {
        enum verdict v = try_claim(f->fd);
        if (v == CLAIMED) {
            forget_cache(f);
            return 0;
        }
        if (v == REFUSED)
            return err_sys(e, ERR_STORAGE, errno,
                           "this file system gives no locks (open file description locks), and "
                           "without them two writers could destroy the image");
        int64_t waited = now_us() - from;
        if (waited >= CLAIM_PATIENCE_US)
            return err_set(e, ERR_LOCKED,
                           "another process is using the image; end it first (`lslocks` may name "
                           "it; `nvkeep info` and `nvkeep verify-key` work meanwhile)");
        pause_jittered(round, waited < CLAIM_EAGER_US);
    }
}

static void file_release(void *ctx)
{
    const struct file *f = ctx;
    unlock_all(f->fd);
}

/* By its end, where a system call filter lets nobody ask a device anything else. */
static int device_size(int fd, uint64_t *ret)
{
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -1;
    *ret = (uint64_t)end;
    return 0;
}

static int file_size(void *ctx, uint64_t *ret, struct err *e)
{
    const struct file *f = ctx;
    struct stat st;
    if (f->is_device) {
        if (device_size(f->fd, ret) < 0)
            return err_sys(e, ERR_STORAGE, errno, "asking for the size of the device");
        return 0;
    }
    if (fstat(f->fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "asking for the size");
    *ret = (uint64_t)st.st_size;
    return 0;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    if (S_ISBLK(a->st_mode))
        return S_ISBLK(b->st_mode) && a->st_rdev == b->st_rdev;
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The claim is on the inode. One that has no name any more, or whose name leads to another file, is
 * not what others will open. A name that leads nowhere, or that we may not look at any more, says
 * nothing. */
static int file_named(void *ctx, struct err *e)
{
    struct file *f = ctx;
    struct stat mine, named;
    if (fstat(f->fd, &mine) < 0)
        return err_sys(e, ERR_STORAGE, errno, "asking for its identity");
    if (mine.st_nlink == 0)
        return err_set(e, ERR_STORAGE,
                       "was deleted or replaced after it was opened here; what is under this name "
                       "now is opened by a new start");
    if (f->path && stat(f->path, &named) == 0 && !is_same(&mine, &named))
        return err_set(e, ERR_STORAGE,
                       "was replaced after it was opened here: its name leads to another file now, "
                       "which is opened by a new start");
    f->had_name = true;
    return 0;
}

static bool file_exclusive(void *ctx)
{
    return ((const struct file *)ctx)->exclusive;
}

static const struct blk_ops file_ops = {
    .pread = file_pread,
    .pwrite = file_pwrite,
    .flush = file_flush,
    .claim = file_claim,
    .release = file_release,
    .close = file_close,
    .size = file_size,
    .named = file_named,
    .direct = file_direct,
    .forget = file_forget,
    .exclusive = file_exclusive,
    .extend = file_extend,
};

/* ---- opening ---- */

/* File systems of this machine alone. On others, and on block devices (which may have several
 * names, or several machines), whoever else writes may hold locks that we never see. */
static bool is_local(int fd)
{
    static const uint32_t local[] = {
        EXT4_SUPER_MAGIC, /* and ext2, ext3 */
        XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC,     F2FS_SUPER_MAGIC,
        TMPFS_MAGIC,      OVERLAYFS_SUPER_MAGIC, REISERFS_SUPER_MAGIC,
        0x2fc12fc1, /* zfs */
        0xca451a4e, /* bcachefs */
        0x3153464a, /* jfs */
    };
    struct statfs st;
    if (fstatfs(fd, &st) < 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(local); i++)
        if ((uint32_t)st.f_type == local[i])
            return true;
    return false;
}

int blk_from_fd(int *fd, const struct stat *st, uint64_t size, enum blk_mode mode, const char *path,
                struct blk **ret, struct err *e)
{
    bool is_device = S_ISBLK(st->st_mode);
    OWNED_HEAP struct file *f = calloc(1, sizeof(*f));
    if (!f)
        return err_nomem(e, "an open file");
    *f = (struct file){.fd = *fd, .is_device = is_device, .exclusive = !is_device && is_local(*fd)};
    /* Resolved now: directories may change, and a process that is confined has no other way. */
    OWNED_HEAP char *resolved = realpath(path, NULL);
    if (!resolved && errno == ENOMEM)
        return err_nomem(e, "the name of a file");
    f->path = resolved;
    struct blk_traits traits = {mode, is_device ? st->st_rdev : st->st_dev,
                                is_device ? 0 : st->st_ino};
    if (blk_new_over(&file_ops, f, size, &traits, path, ret, e) < 0)
        return -1;
    *fd = -1;
    (void)MOVE(resolved); /* both by file_close() */
    (void)MOVE(f);
    return 0;
}

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
        return "a character device";
    default:
        return "neither a regular file nor a block device";
    }
}

static int check_type(const char *name, const struct stat *st, struct err *e)
{
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return err_set(e, ERR_USAGE, "%s: is %s; an image is a regular file or a block device", name,
                   type_name(st->st_mode));
}

/* What the caller named is wrong, or what the system says about a right name. */
static int cannot_open(const char *name, enum blk_mode mode, int os, struct err *e)
{
    if (os == ENOENT)
        return err_set(e, ERR_USAGE, "%s: no such file; `nvkeep create` makes a new image", name);
    if (os == ENOTDIR || os == ELOOP || os == ENAMETOOLONG)
        return err_sys(e, ERR_USAGE, os, "%s: no such file", name);
    if (os == EACCES || os == EPERM || os == EROFS)
        return err_sys(e, ERR_STORAGE, os, "%s: may not be opened for %s by user %u", name,
                       mode == BLK_READ_WRITE ? "reading and writing" : "reading",
                       (unsigned)geteuid());
    return err_sys(e, ERR_STORAGE, os, "%s: opening", name);
}

int blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e)
{
    char name[BLK_NAME_BYTES];
    struct stat st;
    uint64_t size;
    blk_name_of(path, name);

    /* Looked at before it is opened: opening some devices has effects of its own. What counts is
     * the second look, at what was opened. */
    if (stat(path, &st) < 0)
        return cannot_open(name, mode, errno, e);
    if (check_type(name, &st, e) < 0)
        return -1;
    OWNED_FD fd = open(path, (mode == BLK_READ_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK |
                                 O_NOCTTY);
    if (fd < 0)
        return cannot_open(name, mode, errno, e);
    if (fstat(fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: fstat", name);
    if (check_type(name, &st, e) < 0)
        return -1;
    size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && device_size(fd, &size) < 0)
        return err_sys(e, ERR_STORAGE, errno, "%s: asking for the size of the device", name);
    return blk_from_fd(&fd, &st, size, mode, path, ret, e);
}
