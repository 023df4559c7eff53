/* The sub-options of serve, from text to what serve() takes. Nothing is opened here; inherited
 * descriptors are looked at.
 */
#ifndef NVKEEP_SRC_CLI_ENDPOINT_H
#define NVKEEP_SRC_CLI_ENDPOINT_H

#include "src/cli/cli.h"
#include "src/serve/serve.h"

/* text is changed, and ret points into it. ERR_USAGE. */
int cli_ctrl(char *text, struct endpoint *ret, struct err *e) MUST_CHECK;
int cli_server(char *text, struct endpoint *ret, struct err *e) MUST_CHECK;
int cli_admin(char *text, struct endpoint *ret, struct err *e) MUST_CHECK;
int cli_flags(char *text, unsigned *flags, struct err *e) MUST_CHECK;
int cli_locality(char *text, unsigned *flags, struct err *e) MUST_CHECK;

struct cli_log {
    const char *file; /* NULL: none, then fd */
    int fd;           /* -1: none */
    int level;
    const char *prefix;
    bool truncate;
};
int cli_log(char *text, struct cli_log *ret, struct err *e) MUST_CHECK;
/* Exactly one of the two is set. */
int cli_pid(char *text, const char **ret_file, int *ret_fd, struct err *e) MUST_CHECK;

#endif
