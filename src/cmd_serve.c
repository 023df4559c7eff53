#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "src/cli_daemon.h"
#include "src/cli_endpoint.h"
#include "src/cli_migration.h"
#include "src/migration_key_source.h"

/* Everything that serve needs, and who owns the paths that had to be made absolute. */
struct plan {
    struct serve_options o;
    struct migration_key_source migration_key; /* KEY_SOURCE_NONE: no such key */
    struct cli_log log_to;
    struct log log;
    char *image, *ctrl_path, *server_path, *admin_path, *pid_path, *spent_path;
};

static void plan_clear(struct plan *p)
{
    secret_free(p->o.pass);
    migration_key_free(p->o.migration_key);
    free(p->image);
    free(p->ctrl_path);
    free(p->server_path);
    free(p->admin_path);
    free(p->pid_path);
    free(p->spent_path);
}

/* No descriptor can serve two purposes: whoever reads it first leaves nothing to the other. */
static int check_descriptors(const struct cli_args *a, const struct plan *p, struct err *e)
{
    if (a->text[OPT_DAEMON] && ((p->log_to.fd >= 0 && p->log_to.fd <= STDERR_FILENO) ||
                                (p->o.pid_fd >= 0 && p->o.pid_fd <= STDERR_FILENO)))
        return err_set(e, ERR_USAGE,
                       "--log and --pid cannot use descriptors 0 to 2 with --daemon, which closes "
                       "them");
    const struct {
        const char *name;
        int fd;
    } used[] = {{"--key", a->key.fd},
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

static int check_sockets(const struct plan *p, struct err *e)
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

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    if (stat(a, &x) < 0 || stat(b, &y) < 0)
        return strcmp(a, b) == 0;
    return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Log and pid file are written to: never over the image or its key, by whatever name. */
static int check_files(const struct cli_args *a, const struct plan *p, struct err *e)
{
    bool key_is_file = a->key.kind == KEY_SOURCE_FILE || a->key.kind == KEY_SOURCE_PWDFILE;
    bool way_is_file = p->migration_key.kind == KEY_SOURCE_FILE;
    const char *log = p->log_to.file && strcmp(p->log_to.file, "-") != 0 ? p->log_to.file : NULL;
    const struct {
        const char *name, *path;
    } used[] = {{"the image", p->o.image},
                {"--key", key_is_file ? a->key.value : NULL},
                {"--migration-key", way_is_file ? p->migration_key.value : NULL},
                {"--log", log},
                {"--pid", p->o.pid_file}};
    char buf[200];
    for (size_t i = 0; i < ARRAY_LEN(used); i++)
        for (size_t j = i + 1; j < ARRAY_LEN(used); j++)
            if (used[i].path && used[j].path && same_file(used[i].path, used[j].path))
                return err_set(e, ERR_USAGE, "%s and %s are the same file, %s", used[i].name,
                               used[j].name,
                               err_quote(buf, sizeof(buf), used[j].path, strlen(used[j].path)));
    return 0;
}

static int parse(const struct cli_args *a, struct plan *p, struct err *e)
{
    char *const *text = a->text;
    p->o = (struct serve_options){.image = a->image, .pid_fd = -1, .ready_fd = -1};
    p->o.ctrl.fd = p->o.server.fd = p->o.admin.fd = -1;
    p->log_to = (struct cli_log){.fd = -1};
    p->migration_key.fd = -1;
    if (cli_ctrl(text[OPT_CTRL], &p->o.ctrl, e) < 0 ||
        (text[OPT_SERVER] && cli_server(text[OPT_SERVER], &p->o.server, e) < 0) ||
        (text[OPT_ADMIN] && cli_admin(text[OPT_ADMIN], &p->o.admin, e) < 0) ||
        (text[OPT_MIGRATION_KEY] &&
         migration_key_source_parse(text[OPT_MIGRATION_KEY], &p->migration_key, e) < 0) ||
        (text[OPT_FLAGS] && cli_flags(text[OPT_FLAGS], &p->o.flags, e) < 0) ||
        (text[OPT_LOCALITY] && cli_locality(text[OPT_LOCALITY], &p->o.flags, e) < 0) ||
        (text[OPT_LOG] && cli_log(text[OPT_LOG], &p->log_to, e) < 0) ||
        (text[OPT_PID] && cli_pid(text[OPT_PID], &p->o.pid_file, &p->o.pid_fd, e) < 0))
        return -1;
    if (text[OPT_TERMINATE])
        p->o.flags |= SERVE_TERMINATE;
    if (cli_migration(a, &p->o, e) < 0 || check_descriptors(a, p, e) < 0 || check_sockets(p, e) < 0)
        return -1;
    return check_files(a, p, e);
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

static int make_all_absolute(struct plan *p, struct err *e)
{
    if (make_absolute(p->o.remove_when_ready, &p->spent_path, &p->o.remove_when_ready, e) < 0 ||
        make_absolute(p->o.image, &p->image, &p->o.image, e) < 0 ||
        make_absolute(p->o.ctrl.path, &p->ctrl_path, &p->o.ctrl.path, e) < 0 ||
        make_absolute(p->o.server.path, &p->server_path, &p->o.server.path, e) < 0 ||
        make_absolute(p->o.admin.path, &p->admin_path, &p->o.admin.path, e) < 0 ||
        make_absolute(p->o.pid_file, &p->pid_path, &p->o.pid_file, e) < 0)
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
static int open_log(struct plan *p, struct err *e)
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

static int read_keys(const struct cli_args *a, struct plan *p, struct err *e)
{
    if (p->migration_key.kind != KEY_SOURCE_NONE &&
        migration_key_source_read(&p->migration_key, &p->o.migration_key, e) < 0)
        return -1;
    p->o.rules.migration_key = p->o.migration_key;
    if (p->o.key_from_admin)
        return 0;
    /* What is there by now says nothing. */
    if (p->o.copied && a->key.kind == KEY_SOURCE_NONE)
        return cli_key_missing(p->o.image, e);
    return cli_key(a, false, &p->o.pass, &p->o.pass_bytes, e);
}

/* In the process that stays. serve() sends its own verdict; what fails before it is ours to send.
 */
static int serve_here(const struct cli_args *a, struct plan *p, struct err *e)
{
    int r = read_keys(a, p, e);
    if (r == 0 && p->o.ready_fd >= 0)
        r = daemon_detach(e);
    if (r < 0)
        daemon_tell(&p->o.ready_fd, e);
    return r < 0 ? -1 : serve(&p->o, &p->log, e);
}

static int serve_in_background(struct cli_run *run, struct plan *p, struct err *e)
{
    struct daemon_parent parent;
    if (make_all_absolute(p, e) < 0)
        return -1;
    int r = daemon_fork(&parent, &p->o.ready_fd, e);
    if (r < 0)
        return -1;
    if (r > 0) {
        json_out_number(run->json, "pid", (uint64_t)parent.child);
        return daemon_wait(&parent, &run->signal, e);
    }
    /* The child never returns to the caller: what it has to say went through the pipe. */
    struct err verdict = {0};
    r = serve_here(run->args, p, &verdict);
    plan_clear(p);
    _exit(r < 0 ? err_class(verdict.kind)->exit_code : 0);
}

int cmd_serve(struct cli_run *run, struct err *e)
{
    struct plan p = {0};
    int r = parse(run->args, &p, e);
    p.o.remove_when_ready = migration_key_source_to_remove(&p.migration_key);
    if (r == 0)
        r = open_log(&p, e);
    if (r == 0)
        r = run->args->text[OPT_DAEMON] ? serve_in_background(run, &p, e)
                                        : serve_here(run->args, &p, e);
    plan_clear(&p);
    return r;
}
