/* What the tests of files share: a directory of their own, and files in it. */
#ifndef NVKEEP_TESTS_BLK_HELPERS_H
#define NVKEEP_TESTS_BLK_HELPERS_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/blk.h"
#include "src/base/fd.h"

static char dir[64];

static inline int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/nvkeep-blk-XXXXXX");
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static inline int remove_dir(void **state)
{
    char command[100];
    (void)state;
    if (chdir("/") < 0)
        return -1;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

static inline void put_file(const char *name, const char *text)
{
    OWNED_FD fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
}

static inline void open_rw(const char *name, struct blk **ret)
{
    struct err e;
    assert_int_equal(blk_open(name, BLK_READ_WRITE, ret, &e), 0);
}

#endif
