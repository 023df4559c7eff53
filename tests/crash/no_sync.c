/* Preloaded: flushes that do nothing, as if a program had forgotten them; with NO_SYNC=directories
 * only those of directories. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sync_unless_forgotten(int fd, long call)
{
    const char *which = getenv("NO_SYNC");
    struct stat st;
    if (!which || strcmp(which, "directories") != 0)
        return 0;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return (int)syscall(call, fd);
}

int fsync(int fd)
{
    return sync_unless_forgotten(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_unless_forgotten(fd, SYS_fdatasync);
}
