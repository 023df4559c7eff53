/* Bytes somewhere: the image file.
 *
 * struct blk can be read by anyone. struct blk_rw additionally proves that nobody else writes: it
 * is made from a blk by taking the image lock that QEMU's tools use (OFD locks on bytes 100.. and
 * 200.., so that qemu-img refuses while we hold it and we refuse while it does), and it alone can
 * be written. struct blk_new is a file that has no name yet: it appears, whole, by blk_publish().
 *
 *     path --blk_open--> blk --blk_claim--> blk_rw          blk_new --blk_publish--> (a name)
 *
 * Nothing is opened twice by path (a claim looks whether the path still leads to what was opened);
 * the descriptor that does the I/O carries the lock. All calls are
 * synchronous, and none retries: after a failed flush nothing written since the last good one may
 * be trusted. Offsets and lengths are bytes; any alignment.
 */
#ifndef NVKEEP_BACKEND_BLK_H
#define NVKEEP_BACKEND_BLK_H

#include <stdbool.h>
#include <sys/stat.h>

#include "backend/offset.h"
#include "src/base/err.h"

struct blk;
struct blk_rw;
struct blk_new;

/* What a kind of storage provides; the file is one, the tests' recording disk another. Every
 * function returns 0, or -1 with *e (ERR_STORAGE unless said). */
struct blk_ops {
    int (*pread)(void *ctx, void *buf, size_t n, uint64_t off, struct err *e); /* all n bytes */
    int (*pwrite)(void *ctx, const void *buf, size_t n, uint64_t off, struct err *e);
    int (*flush)(void *ctx, struct err *e);
    int (*claim)(void *ctx, struct err *e); /* ERR_LOCKED */
    void (*release)(void *ctx);
    void (*close)(void *ctx);
    void (*direct)(void *ctx); /* see blk_write_direct(); NULL: not here */
    /* See blk_read_again(). NULL: nothing is kept. */
    void (*forget)(void *ctx);
    /* The size now. NULL: it never changes. */
    int (*size)(void *ctx, uint64_t *ret, struct err *e);
    /* Asked once the claim is held: 0 if this is still what its name leads to. NULL: it is. */
    int (*named)(void *ctx, struct err *e);
    /* See blk_claim_is_enough(). NULL: it is. */
    bool (*exclusive)(void *ctx);
    /* See blk_extend(). NULL: it cannot be had. */
    int (*extend)(void *ctx, uint64_t size, struct err *e);
};

enum blk_mode { BLK_READ_ONLY, BLK_READ_WRITE };

/* Opens an existing regular file or block device; never creates, never follows a final symlink to
 * something else than those two; never waits (FIFO). The path is kept for messages, escaped.
 * ERR_USAGE: no such file, a directory, a FIFO...; ERR_STORAGE: the system refused (permission,
 * I/O). */
int blk_open(const char *path, enum blk_mode mode, struct blk **ret, struct err *e) MUST_CHECK;

/* A blk over other storage. Takes ctx on success (ops->close). */
int blk_from_ops(const struct blk_ops *ops, void *ctx, uint64_t size, const char *name,
                 struct blk **ret, struct err *e) MUST_CHECK;
void blk_free(struct blk *b);
DEFINE_OWNED(blk);

uint64_t blk_size(const struct blk *b); /* at open; refreshed by blk_claim and blk_measure */
/* Without a claim the file may grow or shrink under us, while somebody copies it, and another
 * machine may write to it: where the claim is not enough, what is read from here on is not what was
 * read before and kept in memory. */
int blk_measure(struct blk *b, struct err *e) MUST_CHECK;
enum { BLK_NAME_BYTES = 200 };
const char *blk_name(const struct blk *b); /* escaped, for messages; shorter than that */
void blk_identity(const struct blk *b, uint64_t *ret_dev, uint64_t *ret_ino); /* 0 0: no file */
bool blk_is_claimed(const struct blk *b); /* what is read now was not read before the claim */

/* ERR_STATE_CORRUPT where the range does not lie inside the file. */
int blk_read(const struct blk *b, struct host at, void *buf, size_t n, struct err *e) MUST_CHECK;

/* Taken on success (*b becomes NULL). ERR_LOCKED: somebody else holds the image; ERR_USAGE: opened
 * read-only; ERR_STORAGE: locks cannot be had here (we never run unlocked), or the file was deleted
 * or another one has its name. Two racing openers back off and retry; what is let go is had within
 * a millisecond at first; somebody who stays is reported within a second. */
int blk_claim(struct blk **b, struct blk_rw **ret, struct err *e) MUST_CHECK;
void blk_rw_free(struct blk_rw *w); /* lets the claim go, closes */
DEFINE_OWNED(blk_rw);
/* Lets the claim go and keeps the storage open: it can be claimed again. */
void blk_unclaim(struct blk_rw **w, struct blk **ret);

/* Does the claim keep every other writer out? It does for a file on a file system of this machine.
 * On network file systems and block devices another machine, or another name of the device, may
 * grant the same locks: there the store looks for other owners before it writes. */
bool blk_claim_is_enough(const struct blk *b);

const struct blk *blk_of(const struct blk_rw *w); /* for reading; borrowed */
int blk_write(struct blk_rw *w, struct host at, const void *buf, size_t n,
              struct err *e) MUST_CHECK;
int blk_flush(struct blk_rw *w, struct err *e) MUST_CHECK; /* one fdatasync; see also blk_file.c */
/* At least that long from now on (a multiple of 512), zeroes at its end; never shorter.
 * ERR_STORAGE: it is a device, or there is no room. */
int blk_extend(struct blk_rw *w, uint64_t size, struct err *e) MUST_CHECK;

/* From now on writes of whole 512-byte sectors from memory that is aligned so bypass the page
 * cache, where the storage takes them in that size: through the cache such a write costs a whole
 * page, and with its flush nearly twice the time. Best effort; everything else stays as it is. */
void blk_write_direct(struct blk_rw *w);

/* As blk_read(), and not from this machine's memory where that can be avoided: what somebody else
 * may have written since. */
int blk_read_again(struct blk_rw *w, struct host at, void *buf, size_t n, struct err *e) MUST_CHECK;

/* A file of `size` bytes without a name in the directory of `path` (O_TMPFILE), claimed. Nothing is
 * left behind if it is freed before it was published. ERR_USAGE when path exists already. */
int blk_create(const char *path, uint64_t size, struct blk_new **ret, struct err *e) MUST_CHECK;
/* The same for the place of a regular file that is there, `was` as lstat() showed it. blk_publish()
 * exchanges the two in one step and takes the old one away; both refuse with ERR_STATE_FOREIGN if
 * the name is not that file's any more, or it was empty and is not. */
int blk_create_over(const char *path, uint64_t size, const struct stat *was, struct blk_new **ret,
                    struct err *e) MUST_CHECK;
void blk_new_free(struct blk_new *n);
DEFINE_OWNED(blk_new);
/* Owner and mode, before there is a name that somebody could put a link under. -1: as it is. */
int blk_new_permit(struct blk_new *n, uid_t uid, gid_t gid, mode_t mode, struct err *e) MUST_CHECK;
struct blk_rw *blk_new_rw(struct blk_new *n); /* for filling it; borrowed */
/* Somebody else may use it as soon as it has its name: it is not taken away again, not even where
 * publishing fails because the name cannot be made durable. */
void blk_new_share(struct blk_new *n);
/* Everything durable, then the name, then the directory durable. Never replaces another file
 * (ERR_USAGE). Mode 0600 less the umask, where none was given. */
int blk_publish(struct blk_new **n, struct err *e) MUST_CHECK;
/* All of it in a new file of that path, which appears by the same rules. Runs of zeroes are left
 * out and read as such. */
int blk_copy(const struct blk *from, const char *path, struct err *e) MUST_CHECK;

#endif
