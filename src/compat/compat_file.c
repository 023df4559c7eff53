#include "src/compat/compat_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "src/base/own.h"

static bool is_null_device(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

int compat_file_open(const char *path, FILE **ret, struct err *e)
{
    char buf[200];
    struct stat st;
    FILE *f = NULL;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    bool none = fd < 0 && (errno == ENOENT || errno == ENOTDIR);
    err_quote(buf, sizeof(buf), path, strlen(path));
    if (!none && (fd < 0 || fstat(fd, &st) < 0))
        return err_sys(e, ERR_USAGE, errno, "cannot read %s", buf);
    if (!none && !S_ISREG(st.st_mode) && !is_null_device(&st))
        return err_set(e, ERR_USAGE, "cannot read %s: wanted a file", buf);
    if (!none && !(f = fdopen(fd, "r")))
        return err_nomem(e, "a file");
    if (f)
        (void)MOVE_FD(fd);
    *ret = f;
    return 0;
}
