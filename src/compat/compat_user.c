#include "src/compat/compat_user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <string.h>

int compat_run_as(const char *name, struct err *e)
{
    char buf[100], *end = NULL;
    const struct passwd *user = getpwnam(name);
    unsigned long uid = strtoul(name, &end, 10);
    if (!user && *name >= '0' && *name <= '9' && !*end && uid < UINT32_MAX)
        user = getpwuid((uid_t)uid);
    if (!user)
        return err_set(e, ERR_USAGE, "--runas: User '%s' does not exist.",
                       err_quote(buf, sizeof(buf), name, strlen(name)));
    if (user->pw_uid == geteuid() && user->pw_gid == getegid())
        return 0;
    if (initgroups(user->pw_name, user->pw_gid) < 0 || setgid(user->pw_gid) < 0 ||
        setuid(user->pw_uid) < 0)
        return err_sys(e, ERR_USAGE, errno, "--runas: cannot become user %s", user->pw_name);
    return 0;
}
