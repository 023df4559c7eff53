/* A daemon that is about to be served: what serve() takes, who owns its texts, and the way from
 * there to a process that serves, in the foreground or behind --daemon.
 *
 * Whoever fills it parses; here is checked what the parts mean together, and the order is kept:
 * the log is opened, the process forks, and only then keys are read (a forked child finds zeroes in
 * a secret).
 */
#ifndef NVKEEP_SRC_SERVE_PLAN_H
#define NVKEEP_SRC_SERVE_PLAN_H

#include "src/cli/cli_endpoint.h"
#include "src/key/swtpm_key.h"

enum { SERVE_PLAN_PATHS = 7 };

struct serve_plan {
    struct serve_options o;
    struct swtpm_key_source migration_key; /* KEY_SOURCE_NONE: no such key */
    struct cli_log log_to;
    struct log log;
    const char *key_file;             /* where the key comes from, to compare it; NULL: elsewhere */
    int key_fd;                       /* -1: none */
    char *absolute[SERVE_PLAN_PATHS]; /* owners of paths that had to be made so */
};

void serve_plan_init(struct serve_plan *p);
void serve_plan_clear(struct serve_plan *p);

/* No two purposes share a descriptor, a path, a port or a file. ERR_USAGE. */
int serve_plan_check(const struct serve_plan *p, bool daemon, struct err *e) MUST_CHECK;
int serve_plan_open_log(struct serve_plan *p, struct err *e) MUST_CHECK;

/* Sets p->o.pass, in the process that stays. */
typedef int serve_plan_key(struct serve_plan *p, void *ctx, struct err *e);

int serve_plan_run(struct serve_plan *p, serve_plan_key *key, void *ctx, struct err *e) MUST_CHECK;
/* 0: *ret_child is ready. The child never returns from this. */
int serve_plan_run_in_background(struct serve_plan *p, serve_plan_key *key, void *ctx,
                                 pid_t *ret_child, int *ret_signal, struct err *e) MUST_CHECK;

#endif
