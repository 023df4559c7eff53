/* One command of swtpm_ioctl: what it sends, and what it prints of the answer. */
#ifndef NVKEEP_COMPAT_IOCTL_COMMAND_H
#define NVKEEP_COMPAT_IOCTL_COMMAND_H

#include "src/compat/ioctl_link.h"

enum ioctl_verb {
    IOCTL_NONE = 0,
    IOCTL_CAPABILITIES,
    IOCTL_INIT,
    IOCTL_STOP,
    IOCTL_SHUTDOWN,
    IOCTL_GET_BIT,
    IOCTL_RESET_BIT,
    IOCTL_STORE,
    IOCTL_CANCEL,
    IOCTL_LOCALITY,
    IOCTL_HASH,
    IOCTL_SAVE,
    IOCTL_LOAD,
    IOCTL_CONFIG,
    IOCTL_BUFFER,
    IOCTL_INFO,
    IOCTL_LOCK,
    IOCTL_N_VERBS
};

struct ioctl_command {
    enum ioctl_verb verb;
    const char *argument; /* NULL where the verb takes none */
    const char *file;     /* of SAVE and LOAD */
    uint64_t number;      /* out of check: what the argument says */
};

/* Before anybody is asked. ERR_USAGE. */
int ioctl_command_check(struct ioctl_command *c, struct err *e) MUST_CHECK;
int ioctl_command_run(const struct ioctl_command *c, struct link *l, struct err *e) MUST_CHECK;

#endif
