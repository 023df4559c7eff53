/* swtpm's command line in front of our daemon. Exit codes are swtpm's: 0 and 1. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/compat_user.h"
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

/* --- who and where --- */

static int change_root(const char *path, struct err *e)
{
    if (!path || (chroot(path) == 0 && chdir("/") == 0))
        return 0;
    return err_sys(e, ERR_USAGE, errno, "--chroot: cannot change the root directory");
}

/* --- the daemon --- */

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

static void tell(void *ctx, const char *text)
{
    log_text(ctx, 0, text);
}

/* A first start, while clients may connect already. Where a migration is to bring the TPM, the
 * image waits for it. */
static int make_image(void *ctx, const struct secret *pass, size_t pass_bytes,
                      const struct watch *watch, struct err *e)
{
    const struct emulator_args *a = ctx;
    const struct compat_image *i = &a->image;
    struct tpm_blobs blobs = {{NULL}, {0}};
    char buf[300];
    if (!watch->go_on(watch->ctx, 0, 1))
        return err_set(e, ERR_USAGE, "interrupted");
    int r = a->plan.o.incoming ? 0 : tpm_manufacture(i->place.device, &blobs, e);
    if (r == 0)
        r = compat_image_create(i, a->found, &blobs, pass, pass_bytes, watch, e);
    tpm_blobs_clear(&blobs);
    if (r == 0)
        log_line(&a->plan.log, 1, "made %s: a new TPM %s",
                 err_quote(buf, sizeof(buf), i->place.image, strlen(i->place.image)),
                 i->place.device == DEVICE_TPM20 ? "2.0" : "1.2");
    return r;
}

static int plan_image(struct emulator_args *a, struct err *e)
{
    a->plan.o.make = make_image;
    a->plan.o.make_ctx = a;
    return compat_image_first_key(&a->image, e);
}

static int find_image(struct emulator_args *a, struct err *e)
{
    const struct compat_place *p = &a->image.place;
    char buf[300];
    if (p->old && access(p->old, F_OK) == 0)
        log_line(&a->plan.log, 0, "%s is not used: the TPM's state is in the image",
                 err_quote(buf, sizeof(buf), p->old, strlen(p->old)));
    return compat_image_find_key(&a->image, e);
}

/* In the process that stays. */
static int open_state(struct serve_plan *p, void *ctx, struct err *e)
{
    struct emulator_args *a = ctx;
    int r = a->found == FOUND_IMAGE ? find_image(a, e) : plan_image(a, e);
    p->o.pass = MOVE(a->image.pass);
    p->o.pass_bytes = a->image.pass_bytes;
    return r < 0 ? -1 : open_device(a, e);
}

static int run(struct emulator_args *a, struct err *e)
{
    pid_t child;
    int signal = 0;
    a->plan.o.rules.seal = a->image.policy.seal;
    a->plan.o.rules.rewind = true; /* swtpm takes what it is given: saved VMs are restored */
    a->image.tell = tell;
    a->image.ctx = &a->plan.log;
    /* What can be refused by a look is refused here, where there is room for all of the reason. */
    if (compat_image_look(&a->image, &a->found, &a->advice, e) < 0)
        return -1;
    return a->daemon ? serve_plan_run_in_background(&a->plan, open_state, a, &child, &signal, e)
                     : serve_plan_run(&a->plan, open_state, a, e);
}

static int serve_emulator(struct emulator_args *a, struct err *e)
{
    /* The machine's, not that of another root or user. */
    if (compat_policy_read(&a->image.policy, e) < 0 || change_root(a->chroot, e) < 0 ||
        (a->run_as && compat_run_as(a->run_as, e) < 0) || serve_plan_open_log(&a->plan, e) < 0)
        return -1;
    return run(a, e);
}

/* Those who start us read either the log or what comes to stderr. */
static void say(const struct emulator_args *a, const struct err *e)
{
    const char *more = a->advice ? "; " : "", *advice = a->advice ?: "";
    OWNED_HEAP char *line = NULL;
    fprintf(stderr, "swtpm: %s%s%s\n", e->text, more, advice);
    if (asprintf(&line, "%s: %s%s%s", err_class(e->kind)->name, e->text, more, advice) >= 0)
        log_text(&a->plan.log, 0, line);
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
    if (r < 0)
        say(&a, &e);
    emulator_args_clear(&a);
    return r < 0 ? 1 : 0;
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
