/* For libvirtd by LD_PRELOAD: directories below a marked one are told to be on NFS. That is the one
 * thing that libvirt 9.0 asks before it lets two hosts share a TPM's state; the directory itself is
 * shared. A marked directory holds a file ".shared". */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { NFS = 0x6969 };

static int is_marked(const char *path)
{
    char real[PATH_MAX], mark[PATH_MAX + 16];
    if (!realpath(path, real))
        return 0;
    for (char *end; (end = strrchr(real, '/')) && end != real; *end = 0) {
        snprintf(mark, sizeof(mark), "%s/.shared", real);
        if (access(mark, F_OK) == 0)
            return 1;
    }
    return 0;
}

int statfs64(const char *path, struct statfs64 *ret)
{
    int (*next)(const char *, struct statfs64 *) =
        (int (*)(const char *, struct statfs64 *))dlsym(RTLD_NEXT, "statfs64");
    int r = next(path, ret);
    if (r == 0 && is_marked(path))
        ret->f_type = NFS;
    return r;
}
