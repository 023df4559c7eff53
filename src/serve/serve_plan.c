#include "src/serve/serve_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "src/base/fd.h"
#include "src/cli/cli_daemon.h"

void serve_plan_init(struct serve_plan *p)
{
    *p = (struct serve_plan){.key_fd = -1};
    p->o.pid_fd = p->o.ready_fd = -1;
    p->o.ctrl.fd = p->o.server.fd = p->o.admin.fd = -1;
    p->log_to.fd = p->log.fd = -1;
    p->migration_key.fd = -1;
}

void serve_plan_clear(struct serve_plan *p)
{
    secret_free(p->o.pass);
    migration_key_free(p->o.migration_key);
    for (size_t i = 0; i < ARRAY_LEN(p->absolute); i++)
        free(p->absolute[i]);
}

/* No descriptor can serve two purposes: whoever reads it first leaves nothing to the other. */
static int check_descriptors(const struct serve_plan *p, bool daemon, struct err *e)
{
    if (daemon && ((p->log_to.fd >= 0 && p->log_to.fd <= STDERR_FILENO) ||
                   (p->o.pid_fd >= 0 && p->o.pid_fd <= STDERR_FILENO)))
        return err_set(e, ERR_USAGE,
                       "--log and --pid cannot use descriptors 0 to 2 with --daemon, which closes "
                       "them");
    const struct {
        const char *name;
        int fd;
    } used[] = {{"--key", p->key_fd},
                {"--ctrl", p->o.ctrl.fd},
                {"--server", p->o.server.fd},
                {"--admin", p->o.admin.fd},
                {"--migration-key", p->migration_key.fd},
                {"--log", p->log_to.fd},
                {"--pid", p->o.pid_fd}};
    for (size_t i = 0; i < ARRAY_LEN(used); i++)
        for (size_t j = i + 1; j < ARRAY_LEN(used); j++)
            if (used[i].fd >= 0 && used[i].fd == used[j].fd)
                return err_set(e, ERR_USAGE, "%s and %s name the same descriptor %d", used[i].name,
                               used[j].name, used[i].fd);
    if (p->o.ctrl.port && p->o.ctrl.port == p->o.server.port)
        return err_set(e, ERR_USAGE, "--ctrl and --server name the same port %u", p->o.ctrl.port);
    return 0;
}

static int check_sockets(const struct serve_plan *p, struct err *e)
{
    const struct {
        const char *name, *path;
    } used[] = {
        {"--ctrl", p->o.ctrl.path}, {"--server", p->o.server.path}, {"--admin", p->o.admin.path}};
    for (size_t i = 0; i < ARRAY_LEN(used); i++)
        for (size_t j = i + 1; j < ARRAY_LEN(used); j++)
            if (used[i].path && used[j].path && strcmp(used[i].path, used[j].path) == 0)
                return err_set(e, ERR_USAGE, "%s and %s name the same path", used[i].name,
                               used[j].name);
    return 0;
}

/* Log and pid file are written to: never over the image or its key, by whatever name. */
static int check_files(const struct serve_plan *p, struct err *e)
{
    bool way_is_file = p->migration_key.kind == KEY_SOURCE_FILE;
    const char *log = p->log_to.file && strcmp(p->log_to.file, "-") != 0 ? p->log_to.file : NULL;
    const struct {
        const char *name, *path;
    } used[] = {{"the image", p->o.image},
                {"--key", p->key_file},
                {"--migration-key", way_is_file ? p->migration_key.value : NULL},
                {"--log", log},
                {"--pid", p->o.pid_file}};
    char buf[200];
    for (size_t i = 0; i < ARRAY_LEN(used); i++)
        for (size_t j = i + 1; j < ARRAY_LEN(used); j++)
            if (used[i].path && used[j].path && fd_same_file(used[i].path, used[j].path))
                return err_set(e, ERR_USAGE, "%s and %s are the same file, %s", used[i].name,
                               used[j].name,
                               err_quote(buf, sizeof(buf), used[j].path, strlen(used[j].path)));
    return 0;
}

int serve_plan_check(const struct serve_plan *p, bool daemon, struct err *e)
{
    if (check_descriptors(p, daemon, e) < 0 || check_sockets(p, e) < 0)
        return -1;
    return check_files(p, e);
}

/* The daemon changes to "/": a relative path would then mean another file. */
static int make_absolute(const char *path, char **owner, const char **ret, struct err *e)
{
    char *absolute = NULL;
    OWNED_HEAP char *cwd = NULL;
    if (!path || path[0] == '/')
        return 0;
    cwd = getcwd(NULL, 0);
    if (!cwd)
        return err_sys(e, err_kind_of_path(errno), errno,
                       "cannot tell what the current directory is");
    if (asprintf(&absolute, "%s/%s", cwd, path) < 0)
        return err_nomem(e, "a path");
    *owner = absolute;
    *ret = absolute;
    return 0;
}

static int make_all_absolute(struct serve_plan *p, struct err *e)
{
    const char **const paths[SERVE_PLAN_PATHS] = {&p->o.image,
                                                  &p->o.ctrl.path,
                                                  &p->o.server.path,
                                                  &p->o.admin.path,
                                                  &p->o.pid_file,
                                                  &p->o.remove_when_ready[0],
                                                  &p->o.remove_when_ready[1]};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (make_absolute(*paths[i], &p->absolute[i], paths[i], e) < 0)
            return -1;
    static const char *const names[] = {"--ctrl", "--server", "--admin"};
    const char *sockets[] = {p->o.ctrl.path, p->o.server.path, p->o.admin.path};
    for (size_t i = 0; i < ARRAY_LEN(sockets); i++)
        if (sockets[i] && strlen(sockets[i]) >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return err_set(e, ERR_USAGE,
                           "%s: with --daemon the path of a socket is made absolute, and this one "
                           "then has more than %zu bytes; choose a shorter one",
                           names[i], sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    return 0;
}

/* Appending, and never waiting for a reader: a log that stalls must not stall the TPM. */
int serve_plan_open_log(struct serve_plan *p, struct err *e)
{
    char buf[200];
    p->log = (struct log){.fd = p->log_to.fd, .level = p->log_to.level, .prefix = p->log_to.prefix};
    if (!p->log_to.file || strcmp(p->log_to.file, "-") == 0)
        return 0;
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    p->log.fd = open(p->log_to.file, flags | (p->log_to.truncate ? O_TRUNC : 0), 0600);
    if (p->log.fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "--log: cannot open %s",
                       err_quote(buf, sizeof(buf), p->log_to.file, strlen(p->log_to.file)));
    return 0;
}

static int read_keys(struct serve_plan *p, serve_plan_key *key, void *ctx, struct err *e)
{
    if (p->migration_key.kind != KEY_SOURCE_NONE &&
        swtpm_key_read_cipher("migration-key", &p->migration_key, &p->o.migration_key, e) < 0)
        return -1;
    p->o.rules.migration_key = p->o.migration_key;
    return key(p, ctx, e);
}

/* serve() sends its own verdict; what fails before it is ours to send. */
int serve_plan_run(struct serve_plan *p, serve_plan_key *key, void *ctx, struct err *e)
{
    int r = read_keys(p, key, ctx, e);
    if (r == 0 && p->o.ready_fd >= 0)
        r = daemon_detach(e);
    if (r < 0)
        daemon_tell(&p->o.ready_fd, e);
    return r < 0 ? -1 : serve(&p->o, &p->log, e);
}

int serve_plan_run_in_background(struct serve_plan *p, serve_plan_key *key, void *ctx,
                                 pid_t *ret_child, int *ret_signal, struct err *e)
{
    struct daemon_parent parent;
    if (make_all_absolute(p, e) < 0)
        return -1;
    int r = daemon_fork(&parent, &p->o.ready_fd, e);
    if (r < 0)
        return -1;
    if (r > 0) {
        *ret_child = parent.child;
        return daemon_wait(&parent, ret_signal, e);
    }
    /* The child never returns to the caller: what it has to say went through the pipe. */
    struct err verdict = {0};
    r = serve_plan_run(p, key, ctx, &verdict);
    serve_plan_clear(p);
    _exit(r < 0 ? err_class(verdict.kind)->exit_code : 0);
}
