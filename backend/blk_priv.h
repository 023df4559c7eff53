/* The file behind a blk: for blk.c and blk_create.c, and nobody else. */
#ifndef NVKEEP_BACKEND_BLK_PRIV_H
#define NVKEEP_BACKEND_BLK_PRIV_H

#include <sys/stat.h>

#include "backend/blk.h"

/* Takes fd on success (the variable becomes -1). */
int blk_from_fd(int *fd, const struct stat *st, uint64_t size, enum blk_mode mode, const char *path,
                struct blk **ret, struct err *e) MUST_CHECK;
/* The claim over a file nobody else can know yet. Takes on success. */
int blk_claim_unnamed(struct blk **b, struct blk_rw **ret, struct err *e) MUST_CHECK;

/* Text in the place of a path, short enough to leave room for the message: its end is kept. */
enum { BLK_NAME_BYTES = 200 };
void blk_name_of(const char *path, char ret[BLK_NAME_BYTES]);

#endif
