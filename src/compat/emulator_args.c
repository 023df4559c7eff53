#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "src/compat/emulator_args.h"
#include "src/compat/emulator_state.h"
#include "src/compat/emulator_words.h"

enum { QUOTED_BYTES = 200 };

/* In the order in which they are looked at. The last one given counts, as with swtpm. */
enum emulator_option {
    O_CTRL,
    O_SERVER,
    O_PORT,
    O_FD,
    O_CHARDEV,
    O_FLAGS,
    O_LOCALITY,
    O_LOG,
    O_PID,
    O_MIGRATION,
    O_MIGRATION_KEY,
    O_KEY,
    O_TPMSTATE,
    O_SECCOMP,
    O_RUNAS,
    O_CHROOT,
    O_PRINT_INFO,
    O_WITH_TEXT, /* those up to here */
    O_TPM2 = O_WITH_TEXT,
    O_TERMINATE,
    O_KEEP_LISTENING,
    O_DAEMON,
    O_PRINT_CAPABILITIES,
    O_PRINT_STATES,
    O_HELP,
    O_VTPM_PROXY,
    O_PROFILE,
    O_PRINT_PROFILES,
    O_PCAP,
    O_N
};

struct given {
    const char *text[O_N]; /* NULL: not given; "" for a switch */
};

#define BOTH(name, arg, id)                                                                        \
    {                                                                                              \
        name, arg, NULL, id                                                                        \
    }
#define BOTH_KNOW                                                                                  \
    BOTH("ctrl", required_argument, O_CTRL), BOTH("fd", required_argument, O_FD),                  \
        BOTH("flags", required_argument, O_FLAGS),                                                 \
        BOTH("locality", required_argument, O_LOCALITY), BOTH("log", required_argument, O_LOG),    \
        BOTH("pid", required_argument, O_PID), BOTH("migration", required_argument, O_MIGRATION),  \
        BOTH("migration-key", required_argument, O_MIGRATION_KEY),                                 \
        BOTH("key", required_argument, O_KEY), BOTH("tpmstate", required_argument, O_TPMSTATE),    \
        BOTH("seccomp", required_argument, O_SECCOMP), BOTH("runas", required_argument, O_RUNAS),  \
        BOTH("chroot", required_argument, O_CHROOT),                                               \
        BOTH("print-info", required_argument, O_PRINT_INFO), BOTH("tpm2", no_argument, O_TPM2),    \
        BOTH("daemon", no_argument, O_DAEMON),                                                     \
        BOTH("print-capabilities", no_argument, O_PRINT_CAPABILITIES),                             \
        BOTH("print-states", no_argument, O_PRINT_STATES), BOTH("help", no_argument, O_HELP),      \
        BOTH("profile", required_argument, O_PROFILE),                                             \
        BOTH("print-profiles", no_argument, O_PRINT_PROFILES),                                     \
        BOTH("pcap", required_argument, O_PCAP)

static const struct option socket_options[] = {
    BOTH_KNOW,
    {"port", required_argument, NULL, O_PORT},
    {"server", required_argument, NULL, O_SERVER},
    {"terminate", no_argument, NULL, O_TERMINATE},
    {"keep-listening", no_argument, NULL, O_KEEP_LISTENING},
    {NULL, 0, NULL, 0},
};
static const struct option chardev_options[] = {
    BOTH_KNOW,
    {"chardev", required_argument, NULL, O_CHARDEV},
    {"vtpm-proxy", no_argument, NULL, O_VTPM_PROXY},
    {NULL, 0, NULL, 0},
};

static const struct {
    char letter;
    enum emulator_option id;
} letters[] = {{'p', O_PORT},    {'f', O_FD},    {'t', O_TERMINATE}, {'d', O_DAEMON},
               {'c', O_CHARDEV}, {'r', O_RUNAS}, {'R', O_CHROOT},    {'h', O_HELP}};

/* --- the words --- */

static int collect(int argc, char **argv, bool chardev, struct given *g, bool *ret_usage,
                   struct err *e)
{
    char quoted[QUOTED_BYTES];
    int c;
    optind = 0;
    while ((c = getopt_long(argc, argv, chardev ? "+c:f:dr:R:h" : "+p:f:tdr:R:h",
                            chardev ? chardev_options : socket_options, NULL)) != -1) {
        for (size_t i = 0; i < ARRAY_LEN(letters); i++)
            if (c == letters[i].letter)
                c = (int)letters[i].id;
        if (c < 0 || c >= O_N) {
            *ret_usage = true;
            return err_set(e, ERR_USAGE, "the command line is wrong"); /* getopt has said it */
        }
        g->text[c] = optarg ?: "";
    }
    if (optind < argc)
        return err_set(e, ERR_USAGE, "Unknown parameter '%s'",
                       err_quote(quoted, sizeof(quoted), argv[optind], strlen(argv[optind])));
    return 0;
}

static int refuse_what_is_not_there(const struct given *g, struct err *e)
{
    if (g->text[O_VTPM_PROXY])
        return err_set(e, ERR_UNSUPPORTED,
                       "--vtpm-proxy is not supported: it needs the kernel module tpm_vtpm_proxy, "
                       "whose device nvkeep does not drive; use --chardev or --fd");
    if (g->text[O_PROFILE] || g->text[O_PRINT_PROFILES])
        return err_set(e, ERR_UNSUPPORTED,
                       "profiles are not supported: the libtpms that is linked has none");
    if (g->text[O_PCAP])
        return err_set(e, ERR_UNSUPPORTED,
                       "--pcap is not supported: TPM commands carry passwords, and are never "
                       "written to a file");
    return 0;
}

/* Owned by *a, in our own grammar. */
static int translate(struct emulator_args *a, const char *text, const char *const booleans[],
                     const char *first, char **ret, struct err *e)
{
    char *made = words_for_us(text, booleans, first);
    if (!made)
        return err_nomem(e, "an option");
    a->text[a->n_texts++] = made;
    *ret = made;
    return 0;
}

/* --- one option each --- */

static int take_ctrl(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"terminate", NULL};
    char *ours;
    return translate(a, text, booleans, NULL, &ours, e) < 0 ? -1
                                                            : cli_ctrl(ours, &a->plan.o.ctrl, e);
}

static int take_server(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"disconnect", NULL};
    char *ours;
    /* Its other place to name a port. */
    const char *port = getenv("TPM_PORT"), *type = words_have(text, "type") ? NULL : "type=tcp";
    OWNED_HEAP char *with_port = NULL;
    bool named = words_have(text, "port") || words_have(text, "path") || words_have(text, "fd");
    if (!named && port && asprintf(&with_port, "%s,port=%s", text, port) < 0)
        return err_nomem(e, "an option");
    return translate(a, with_port ?: text, booleans, type, &ours, e) < 0
               ? -1
               : cli_server(ours, &a->plan.o.server, e);
}

static int take_port(struct emulator_args *a, const char *text, struct err *e)
{
    char quoted[QUOTED_BYTES], server[QUOTED_BYTES];
    if (strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
        return err_set(e, ERR_USAGE, "--port: wanted the number of a port, found \"%s\"",
                       err_quote(quoted, sizeof(quoted), text, strlen(text)));
    snprintf(server, sizeof(server), "type=tcp,port=%s,disconnect", text);
    return take_server(a, server, e);
}

static int parse_fd(const char *text, int *ret, struct err *e)
{
    uint64_t n;
    struct stat st;
    if (cli_number("--fd", text, 0, INT32_MAX, &n, e) < 0)
        return -1;
    if (n <= STDERR_FILENO)
        return err_set(e, ERR_USAGE,
                       "Error: Cannot accept file descriptors with values 0, 1, or 2");
    if (fstat((int)n, &st) < 0)
        return err_sys(e, ERR_USAGE, errno, "Cannot stat file descriptor");
    if (!S_ISSOCK(st.st_mode) && !S_ISCHR(st.st_mode))
        return err_set(e, ERR_USAGE,
                       "--fd: descriptor %d is neither a socket nor a character device", (int)n);
    *ret = (int)n;
    return 0;
}

/* A connection that is there already, and with which everything ends. */
static int take_fd(struct emulator_args *a, const char *text, struct err *e)
{
    int fd;
    struct stat st;
    if (parse_fd(text, &fd, e) < 0)
        return -1;
    if (fstat(fd, &st) == 0 && S_ISCHR(st.st_mode)) {
        a->device_fd = fd;
        return 0;
    }
    a->plan.o.server = (struct endpoint){.kind = ENDPOINT_CLIENTFD, .fd = fd, .terminate = true};
    return 0;
}

static int take_flags(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"not-need-init",
                                           "startup-clear",
                                           "startup-state",
                                           "startup-deactivated",
                                           "startup-none",
                                           "disable-auto-shutdown",
                                           NULL};
    char *ours;
    if (translate(a, text, booleans, NULL, &ours, e) < 0)
        return -1;
    return *ours ? cli_flags(ours, &a->plan.o.flags, e) : 0;
}

static int take_locality(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"reject-locality-4", "allow-set-locality", NULL};
    char *ours;
    if (translate(a, text, booleans, NULL, &ours, e) < 0)
        return -1;
    return *ours ? cli_locality(ours, &a->plan.o.flags, e) : 0;
}

static int take_log(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"truncate", NULL};
    char *ours;
    /* Without a place it is a log on stderr. */
    bool placed = words_have(text, "file") || words_have(text, "fd");
    return translate(a, text, booleans, placed ? NULL : "fd=2", &ours, e) < 0
               ? -1
               : cli_log(ours, &a->plan.log_to, e);
}

static int take_pid(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {NULL};
    char *ours;
    return translate(a, text, booleans, NULL, &ours, e) < 0
               ? -1
               : cli_pid(ours, &a->plan.o.pid_file, &a->plan.o.pid_fd, e);
}

static int take_migration(struct emulator_args *a, const char *text, struct err *e)
{
    static const char *const booleans[] = {"incoming", "release-lock-outgoing", NULL};
    char quoted[QUOTED_BYTES], *ours;
    const char *name, *value;
    if (translate(a, text, booleans, NULL, &ours, e) < 0)
        return -1;
    for (struct words w = {ours}; words_next(&w, &name, &value);) {
        if (strcmp(name, "incoming") == 0)
            a->plan.o.incoming = true;
        else if (strcmp(name, "release-lock-outgoing") != 0) /* which is always so */
            return err_set(e, ERR_USAGE, "Error parsing migration options: Unknown option '%s'",
                           err_quote(quoted, sizeof(quoted), name, strlen(name)));
    }
    return 0;
}

static int take_migration_key(struct emulator_args *a, const char *text, struct err *e)
{
    int r = swtpm_key_parse("migration-key", text, &a->plan.migration_key, e);
    a->plan.migration_key.limit_ms = KEY_LIMIT_MS;
    return r;
}

static int take_key(struct emulator_args *a, const char *text, struct err *e)
{
    int r = swtpm_key_parse("key", text, &a->image.key, e);
    a->image.key.limit_ms = KEY_LIMIT_MS;
    return r;
}

static int take_state(struct emulator_args *a, const char *text, struct err *e)
{
    a->has_state = true;
    return emulator_state_parse(text, a->plan.o.device, &a->image.place, &a->image.mode, e);
}

/* The filter is ours, lists what is allowed, and fails what is not; that it kills or logs, or is
 * not there, cannot be chosen. */
static int take_seccomp(struct emulator_args *a, const char *text, struct err *e)
{
    char quoted[QUOTED_BYTES];
    (void)a;
    if (strcmp(text, "action=kill") != 0 && strcmp(text, "action=log") != 0 &&
        strcmp(text, "action=none") != 0)
        return err_set(e, ERR_USAGE,
                       "--seccomp: wanted action=kill, action=log or action=none, found \"%s\"",
                       err_quote(quoted, sizeof(quoted), text, strlen(text)));
    return 0;
}

static int take_run_as(struct emulator_args *a, const char *text, struct err *e)
{
    (void)e;
    a->run_as = text;
    return 0;
}

static int take_chroot(struct emulator_args *a, const char *text, struct err *e)
{
    (void)e;
    a->chroot = text;
    return 0;
}

static int take_chardev(struct emulator_args *a, const char *text, struct err *e)
{
    (void)e;
    a->device = text;
    return 0;
}

static int take_info(struct emulator_args *a, const char *text, struct err *e)
{
    char *end = NULL;
    char quoted[QUOTED_BYTES];
    errno = 0;
    a->info = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end || errno)
        return err_set(e, ERR_USAGE, "--print-info: wanted a number, found \"%s\"",
                       err_quote(quoted, sizeof(quoted), text, strlen(text)));
    return 0;
}

static int (*const takers[O_WITH_TEXT])(struct emulator_args *, const char *, struct err *) = {
    [O_CTRL] = take_ctrl,
    [O_SERVER] = take_server,
    [O_PORT] = take_port,
    [O_FD] = take_fd,
    [O_CHARDEV] = take_chardev,
    [O_FLAGS] = take_flags,
    [O_LOCALITY] = take_locality,
    [O_LOG] = take_log,
    [O_PID] = take_pid,
    [O_MIGRATION] = take_migration,
    [O_MIGRATION_KEY] = take_migration_key,
    [O_KEY] = take_key,
    [O_TPMSTATE] = take_state,
    [O_SECCOMP] = take_seccomp,
    [O_RUNAS] = take_run_as,
    [O_CHROOT] = take_chroot,
    [O_PRINT_INFO] = take_info,
};

/* --- what they mean together --- */

static const char *path_of(const struct swtpm_key_source *s)
{
    return s->kind == KEY_SOURCE_FILE ? s->value : NULL;
}

static void choose_action(struct emulator_args *a, const struct given *g)
{
    a->action = g->text[O_HELP]                 ? ACTION_HELP
                : g->text[O_PRINT_CAPABILITIES] ? ACTION_CAPABILITIES
                : g->text[O_PRINT_STATES]       ? ACTION_STATES
                : g->text[O_PRINT_INFO]         ? ACTION_INFO
                                                : ACTION_SERVE;
}

/* A serving daemon has a state and somebody who can connect. */
static int check_serving(struct emulator_args *a, struct err *e)
{
    struct serve_plan *p = &a->plan;
    const unsigned starts =
        SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_STARTUP_STATE | SERVE_STARTUP_DEACTIVATED;
    if (!a->has_state && take_state(a, NULL, e) < 0)
        return -1;
    if (a->chardev && !a->device && a->device_fd < 0 && p->o.server.kind == ENDPOINT_NONE)
        return err_set(e, ERR_USAGE, "Error: Missing character device or file descriptor");
    if (p->o.incoming && p->o.flags & starts)
        return err_set(e, ERR_USAGE,
                       "--flags and --migration: a TPM that waits for its state is not powered on "
                       "at start");
    p->o.image = a->image.place.image;
    p->o.only_this_device = true;
    p->key_fd = a->image.key.fd;
    if (a->image.key.kind == KEY_SOURCE_NONE)
        p->key_file = a->image.place.key_file;
    /* The two keys may come from one file. */
    if (path_of(&a->image.key) && (!path_of(&p->migration_key) ||
                                   strcmp(path_of(&a->image.key), path_of(&p->migration_key)) != 0))
        p->key_file = path_of(&a->image.key);
    p->o.remove_when_ready[0] = swtpm_key_to_remove(&p->migration_key);
    p->o.remove_when_ready[1] = swtpm_key_to_remove(&a->image.key);
    return serve_plan_check(p, a->daemon, e);
}

int emulator_args_parse(int argc, char **argv, struct emulator_args *ret, bool *ret_usage,
                        struct err *e)
{
    struct given g = {{NULL}};
    struct emulator_args *a = ret;
    *a = (struct emulator_args){.chardev = strcmp(argv[0], "chardev") == 0, .device_fd = -1};
    a->image.key.fd = -1;
    serve_plan_init(&a->plan);
    if (collect(argc, argv, a->chardev, &g, ret_usage, e) < 0)
        return -1;
    choose_action(a, &g);
    a->plan.o.device = g.text[O_TPM2] ? DEVICE_TPM20 : DEVICE_TPM12;
    a->daemon = g.text[O_DAEMON] != NULL;
    if (g.text[O_TERMINATE])
        a->plan.o.flags |= SERVE_TERMINATE;
    if (g.text[O_KEEP_LISTENING])
        a->plan.o.flags |= SERVE_KEEP_LISTENING;
    /* Whoever asks what there is does not need the rest to be right. */
    if (a->action == ACTION_HELP || a->action == ACTION_CAPABILITIES)
        return 0;
    if (refuse_what_is_not_there(&g, e) < 0)
        return -1;
    for (size_t i = 0; i < O_WITH_TEXT; i++)
        if (g.text[i] && takers[i](a, g.text[i], e) < 0)
            return -1;
    return a->action == ACTION_SERVE ? check_serving(a, e) : 0;
}

void emulator_args_clear(struct emulator_args *a)
{
    serve_plan_clear(&a->plan);
    compat_image_clear(&a->image);
    free(a->advice);
    while (a->n_texts > 0)
        free(a->text[--a->n_texts]);
}
