#include "src/cli/cli_migration.h"
#include "src/serve/serve_plan.h"

static int parse(const struct cli_args *a, struct serve_plan *p, struct err *e)
{
    char *const *text = a->text;
    bool key_is_file = a->key.kind == KEY_SOURCE_FILE || a->key.kind == KEY_SOURCE_PWDFILE;
    p->o.image = a->image;
    p->key_file = key_is_file ? a->key.value : NULL;
    p->key_fd = a->key.fd;
    if (cli_ctrl(text[OPT_CTRL], &p->o.ctrl, e) < 0 ||
        (text[OPT_SERVER] && cli_server(text[OPT_SERVER], &p->o.server, e) < 0) ||
        (text[OPT_ADMIN] && cli_admin(text[OPT_ADMIN], &p->o.admin, e) < 0) ||
        (text[OPT_MIGRATION_KEY] &&
         swtpm_key_parse("migration-key", text[OPT_MIGRATION_KEY], &p->migration_key, e) < 0) ||
        (text[OPT_FLAGS] && cli_flags(text[OPT_FLAGS], &p->o.flags, e) < 0) ||
        (text[OPT_LOCALITY] && cli_locality(text[OPT_LOCALITY], &p->o.flags, e) < 0) ||
        (text[OPT_LOG] && cli_log(text[OPT_LOG], &p->log_to, e) < 0) ||
        (text[OPT_PID] && cli_pid(text[OPT_PID], &p->o.pid_file, &p->o.pid_fd, e) < 0))
        return -1;
    if (text[OPT_TERMINATE])
        p->o.flags |= SERVE_TERMINATE;
    if (text[OPT_KEEP_LISTENING])
        p->o.flags |= SERVE_KEEP_LISTENING;
    if (cli_migration(a, &p->o, e) < 0)
        return -1;
    p->o.remove_when_ready[0] = swtpm_key_to_remove(&p->migration_key);
    return serve_plan_check(p, text[OPT_DAEMON] != NULL, e);
}

static int read_key(struct serve_plan *p, void *ctx, struct err *e)
{
    const struct cli_args *a = ctx;
    if (p->o.key_from_admin)
        return 0;
    /* What is there by now says nothing. */
    if (p->o.copied && a->key.kind == KEY_SOURCE_NONE)
        return cli_key_missing(p->o.image, e);
    return cli_key(a, false, &p->o.pass, &p->o.pass_bytes, e);
}

static int serve_in_background(struct cli_run *run, struct serve_plan *p, void *ctx, struct err *e)
{
    pid_t child = -1;
    int r = serve_plan_run_in_background(p, read_key, ctx, &child, &run->signal, e);
    if (child >= 0)
        json_out_number(run->json, "pid", (uint64_t)child);
    return r;
}

int cmd_serve(struct cli_run *run, struct err *e)
{
    struct serve_plan p;
    struct cli_args args = *run->args;
    serve_plan_init(&p);
    int r = parse(&args, &p, e);
    if (r == 0)
        r = serve_plan_open_log(&p, e);
    if (r == 0)
        r = args.text[OPT_DAEMON] ? serve_in_background(run, &p, &args, e)
                                  : serve_plan_run(&p, read_key, &args, e);
    serve_plan_clear(&p);
    return r;
}
