/* Root works in somebody's directory with that user's rights on files, and no more: whatever the
 * user puts in the way there (links, other files under our names) reaches nothing that he could not
 * reach himself. Of this thread alone, and only what has to do with files: memory is locked as
 * before.
 */
#ifndef NVKEEP_SRC_OWNER_RIGHTS_H
#define NVKEEP_SRC_OWNER_RIGHTS_H

#include <sys/types.h>

#include "src/base/err.h"

/* New files belong to them. Not root: they have to be one's own. ERR_USAGE. */
int owner_rights_take(uid_t uid, gid_t gid, struct err *e) MUST_CHECK;
/* Root's own again. */
void owner_rights_leave(void);

#endif
