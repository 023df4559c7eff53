/* swtpm's command line in front of our daemon. Exit codes are swtpm's: 0 and 1. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/emulator_bridge.h"
#include "src/compat/emulator_print.h"
#include "src/serve/harden.h"

static void usage(FILE *to)
{
    fputs("TPM emulator with choice of interface.\n\n"
          "Usage: swtpm [options] <socket|chardev> [interface options]\n\n"
          "  -v|--version  : the version\n"
          "  -h|--help     : this text; swtpm socket --help for the options of an interface\n",
          to);
}

static int say(const struct err *e)
{
    fprintf(stderr, "swtpm: %s\n", e->text);
    return 1;
}

/* --- who and where --- */

static int change_root(const char *path, struct err *e)
{
    if (!path || (chroot(path) == 0 && chdir("/") == 0))
        return 0;
    return err_sys(e, ERR_USAGE, errno, "--chroot: cannot change the root directory");
}

static int change_user(const char *name, struct err *e)
{
    char *end = NULL;
    if (!name)
        return 0;
    const struct passwd *pw = getpwnam(name);
    if (!pw && *name) {
        unsigned long id = strtoul(name, &end, 10);
        pw = *end ? NULL : getpwuid((uid_t)id);
    }
    if (!pw)
        return err_set(e, ERR_USAGE, "--runas: there is no user '%s'", name);
    if (initgroups(pw->pw_name, pw->pw_gid) < 0 || setgid(pw->pw_gid) < 0 || setuid(pw->pw_uid) < 0)
        return err_sys(e, ERR_USAGE, errno, "--runas: cannot become user '%s'", name);
    return 0;
}

/* --- the daemon --- */

struct start {
    struct emulator_args *args;
    struct emulator_policy policy;
};

static int open_device(struct emulator_args *a, struct err *e)
{
    struct endpoint *server = &a->plan.o.server;
    if (a->device && a->device_fd < 0)
        a->device_fd = open(a->device, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (a->device && a->device_fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "Cannot open %s", a->device);
    if (a->device_fd < 0)
        return 0;
    *server = (struct endpoint){.kind = ENDPOINT_CLIENTFD, .fd = -1, .terminate = true};
    return emulator_bridge(&a->device_fd, &server->fd, e);
}

/* In the process that stays. */
static int open_state(struct serve_plan *p, void *ctx, struct err *e)
{
    struct start *s = ctx;
    const struct emulator_start how = {
        .key = &s->args->key, .policy = &s->policy, .log = &p->log, .waits = p->o.incoming};
    int r = emulator_state_prepare(&s->args->state, &how, &p->o.pass, &p->o.pass_bytes, e);
    return r < 0 ? -1 : open_device(s->args, e);
}

static int run(struct emulator_args *a, struct err *e)
{
    struct start s = {.args = a};
    pid_t child;
    int signal = 0;
    if (emulator_policy_read(&s.policy, e) < 0)
        return -1;
    a->plan.o.rules.seal = s.policy.seal;
    a->plan.o.rules.rewind = true; /* swtpm takes what it is given: saved VMs are restored */
    int r = a->daemon ? serve_plan_run_in_background(&a->plan, open_state, &s, &child, &signal, e)
                      : serve_plan_run(&a->plan, open_state, &s, e);
    /* Those who start us read either the log or what comes to stderr. */
    if (r < 0)
        log_err(&a->plan.log, e);
    return r;
}

static int serve_emulator(struct emulator_args *a, struct err *e)
{
    if (change_root(a->chroot, e) < 0 || change_user(a->run_as, e) < 0 ||
        serve_plan_open_log(&a->plan, e) < 0)
        return -1;
    return run(a, e);
}

/* --- what was asked --- */

static int act(struct emulator_args *a, struct err *e)
{
    switch (a->action) {
    case ACTION_HELP:
        emulator_usage(stdout, a->chardev);
        return 0;
    case ACTION_CAPABILITIES:
        return emulator_print_capabilities(a->plan.o.device, stdout, e);
    case ACTION_STATES:
        return emulator_print_states(a, stdout, e);
    case ACTION_INFO:
        return emulator_print_info(a, stdout, e);
    case ACTION_SERVE:
        break;
    }
    return serve_emulator(a, e);
}

static int run_interface(int argc, char **argv)
{
    struct emulator_args a;
    struct err e = {0};
    bool wants_usage = false;
    int r = emulator_args_parse(argc, argv, &a, &wants_usage, &e);
    if (r == 0)
        r = act(&a, &e);
    if (r == 0 && fflush(stdout) == EOF)
        r = err_sys(&e, ERR_STORAGE, errno, "cannot write to standard output");
    if (wants_usage)
        emulator_usage(stderr, a.chardev);
    emulator_args_clear(&a);
    return r < 0 ? say(&e) : 0;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (harden_process() < 0) {
        fprintf(stderr, "swtpm: cannot set up the process: %s\n", strerrordesc_np(errno));
        return 1;
    }
    if (strcmp(word, "socket") == 0 || strcmp(word, "chardev") == 0)
        return run_interface(argc - 1, argv + 1);
    if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(word, "-v") == 0 || strcmp(word, "--version") == 0) {
        printf("TPM emulator version %s (nvkeep, in the place of swtpm)\n", NVKEEP_VERSION);
        return 0;
    }
    if (strcmp(word, "cuse") == 0)
        fputs("The interface 'cuse' is not supported: a device made in user space needs root and a "
              "kernel module, and nothing asks for it any more; use socket.\n",
              stderr);
    else if (*word)
        fprintf(stderr, "Unsupported TPM interface type '%s'.\n", word);
    else
        fputs("Missing TPM interface type.\n", stderr);
    usage(stderr);
    return 1;
}
