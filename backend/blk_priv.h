/* What blk.c (every kind of storage), blk_file.c (the file and its locks) and blk_create.c (a file
 * without a name) share, and nobody else sees. */
#ifndef NVKEEP_BACKEND_BLK_PRIV_H
#define NVKEEP_BACKEND_BLK_PRIV_H

#include <sys/stat.h>

#include "backend/blk.h"

/* What only storage that is opened by path has. */
struct blk_traits {
    enum blk_mode mode;
    uint64_t dev, ino;
};
int blk_new_over(const struct blk_ops *ops, void *ctx, uint64_t size,
                 const struct blk_traits *traits, const char *name, struct blk **ret,
                 struct err *e) MUST_CHECK;

/* Takes fd on success (the variable becomes -1). */
int blk_from_fd(int *fd, const struct stat *st, uint64_t size, enum blk_mode mode, const char *path,
                struct blk **ret, struct err *e) MUST_CHECK;
/* The claim over a file nobody else can know yet. Takes on success. */
int blk_claim_unnamed(struct blk **b, struct blk_rw **ret, struct err *e) MUST_CHECK;

/* Text in the place of a path, short enough to leave room for the message: its end is kept. */
void blk_name_of(const char *path, char ret[BLK_NAME_BYTES]);

#endif
