#include "src/make/owner_rights.h"

#include <assert.h>
#include <grp.h>
#include <stdbool.h>
#include <sys/fsuid.h>

/* setfsuid() and setfsgid() say only what was before. */
static bool is_now(uid_t uid, gid_t gid)
{
    return (uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid;
}

int owner_rights_take(uid_t uid, gid_t gid, struct err *e)
{
    uid_t self = geteuid();
    if (self != 0 && self != uid)
        return err_set(e, ERR_USAGE,
                       "it belongs to user %u and this is user %u; run as that user or as root",
                       (unsigned)uid, (unsigned)self);
    if (self != 0)
        return 0;
    /* In a user namespace this may be forbidden; no name is followed that could profit. */
    (void)setgroups(0, NULL);
    (void)setfsgid(gid); /* first: the other one takes the right to do it away */
    (void)setfsuid(uid);
    if (is_now(uid, gid))
        return 0;
    owner_rights_leave();
    return err_set(e, ERR_USAGE, "cannot work with the rights of user %u, group %u", (unsigned)uid,
                   (unsigned)gid);
}

void owner_rights_leave(void)
{
    if (geteuid() != 0)
        return;
    (void)setfsuid(0);
    (void)setfsgid(getegid());
    assert(is_now(0, getegid()));
}
