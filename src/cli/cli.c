#include "src/cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

#include "backend/qcow.h"
#include "src/key/key_prompt.h"
#include "src/make/swtpm_state.h"

/* Whatever was buffered must have arrived before success may be claimed. */
static int flush_stdout(struct err *e)
{
    errno = 0;
    if (fflush(stdout) == EOF || ferror(stdout))
        return err_sys(e, ERR_STORAGE, errno ?: EIO, "cannot write to standard output");
    return 0;
}

static int report_json(const struct err *e, struct err *e2)
{
    const struct err_class *c = err_class(e->kind);
    OWNED(json_out) o = json_out_new();
    if (!o)
        return err_nomem(e2, "the JSON report");
    json_out_text(o, "result", c->name);
    json_out_number(o, "exit", (uint64_t)c->exit_code);
    json_out_text(o, "message", e->text);
    if (json_out_print(o, stdout, e2) < 0)
        return -1;
    return flush_stdout(e2);
}

static int fail(const struct err *e, bool json)
{
    struct err ignored;
    fprintf(stderr, "nvkeep: %s: %s\n", err_class(e->kind)->name, e->text);
    /* The error that was told first stays the one that counts. */
    if (json && report_json(e, &ignored) < 0 && e->kind != ERR_STORAGE)
        fprintf(stderr, "nvkeep: %s\n", ignored.text);
    return err_class(e->kind)->exit_code;
}

/* Only to know how to report that the command line could not be parsed. */
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

/* nvkeep --help, --version, help, help TOPIC. 0: it was none of these. */
static int global_words(int argc, char **argv, struct err *e)
{
    const char *word = argc > 1 ? argv[1] : "";
    bool help = strcmp(word, "help") == 0;
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("nvkeep %s\n", NVKEEP_VERSION);
        return 1;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || (help && argc == 2)) {
        cli_help(stdout);
        return 1;
    }
    if (!help)
        return 0;
    if (strcmp(argv[2], "exit-codes") == 0) {
        cli_help_exit_codes(stdout);
        return 1;
    }
    bool words = strcmp(argv[2], "words") == 0;
    if (words && argc == 3) {
        cli_help_words(stdout, NULL);
        return 1;
    }
    const char *name = words ? argv[3] : argv[2];
    for (size_t i = 0; i < cli_n_commands; i++)
        if (strcmp(name, cli_commands[i].name) == 0) {
            (words ? cli_help_words : cli_help_command)(stdout, &cli_commands[i]);
            return 1;
        }
    return err_set(e, ERR_USAGE, "there is no help on that; try a command's name or exit-codes");
}

static int run_command(const struct cli_args *args, struct cli_run *run, struct err *e)
{
    OWNED(json_out) json = NULL;
    if (args->text[OPT_JSON]) {
        json = json_out_new();
        if (!json)
            return err_nomem(e, "the JSON report");
        json_out_text(json, "result", err_class(ERR_NONE)->name);
        json_out_number(json, "exit", 0);
    }
    run->args = args;
    run->json = json;
    if (args->command->run(run, e) < 0)
        return -1;
    if ((json && !run->reported && json_out_print(json, stdout, e) < 0) || flush_stdout(e) < 0) {
        /* An error never means that it worked: what is new goes again. */
        for (size_t i = 0; i < ARRAY_LEN(run->made); i++)
            if (run->made[i])
                (void)unlink(run->made[i]);
        if (run->made_state)
            swtpm_target_remove(run->made_state, run->made_state_inside);
        return -1;
    }
    return 0;
}

/* The program was interrupted, has tidied up, and ends as if it had not noticed. */
static void end_by_signal(int sig)
{
    static const struct sigaction by_default = {.sa_handler = SIG_DFL};
    (void)sigaction(sig, &by_default, NULL);
    raise(sig);
}

/* The parser cuts its words up in place, and `ps` is to show them as they were typed. One block. */
static char **copy_words(int argc, char **argv)
{
    size_t n = ((size_t)argc + 1) * sizeof(char *), text = 0;
    for (int i = 0; i < argc; i++)
        text += strlen(argv[i]) + 1;
    char **words = malloc(n + text);
    if (!words)
        return NULL;
    char *to = (char *)words + n;
    for (int i = 0; i < argc; i++) {
        words[i] = to;
        to = stpcpy(to, argv[i]) + 1;
    }
    words[argc] = NULL;
    return words;
}

int cli_main(int argc, char **arguments)
{
    struct err e = {0};
    OWNED_HEAP char **argv = copy_words(argc, arguments);
    if (!argv) {
        err_nomem(&e, "the command line");
        return fail(&e, false);
    }
    struct cli_args args;
    struct cli_run run = {0};
    bool json = wants_json(argc, argv);
    int r = global_words(argc, argv, &e);
    if (r != 0) {
        if (r < 0 || flush_stdout(&e) < 0)
            return fail(&e, json);
        return 0;
    }
    if (cli_parse(argc, argv, &args, &e) < 0)
        return fail(&e, json);
    if (args.text[OPT_HELP]) {
        cli_help_command(stdout, args.command);
        return flush_stdout(&e) < 0 ? fail(&e, false) : 0;
    }
    r = run_command(&args, &run, &e);
    int code = r < 0 ? fail(&e, json && !run.failure_reported) : 0;
    if (r < 0 && run.signal)
        end_by_signal(run.signal);
    return code;
}

static int inspect(const char *image, struct qcow_facts *ret, struct err *e)
{
    OWNED(blk) b = NULL;
    if (blk_open(image, BLK_READ_ONLY, &b, e) < 0)
        return -1;
    return qcow_inspect(b, ret, e);
}

int cli_recovery_fd(const struct cli_args *a, int *ret, struct err *e)
{
    enum { TERMINAL, FD };
    char *found[MAX_SUBOPTS];
    uint64_t fd = 0;
    *ret = -1;
    if (!a->text[OPT_RECOVERY_KEY])
        return 0;
    if (cli_subopts(&cli_options[OPT_RECOVERY_KEY], a->text[OPT_RECOVERY_KEY], found, e) < 0)
        return -1;
    if (found[TERMINAL] && found[FD])
        return err_set(e, ERR_USAGE, "--recovery-key: terminal or fd=N, not both");
    if (found[FD] && cli_number("--recovery-key: fd", found[FD], 0, INT_MAX, &fd, e) < 0)
        return -1;
    if (found[FD])
        *ret = (int)fd;
    return 0;
}

int cli_key_missing(const char *image, struct err *e)
{
    char name[200];
    return err_set(e, ERR_KEY_MISSING,
                   "%s is encrypted and no key was given; name its source with --key file=PATH, "
                   "pwdfile=PATH, fd=N, pwdfd=N, credential=NAME or prompt",
                   err_quote(name, sizeof(name), image, strlen(image)));
}

int cli_key(const struct cli_args *args, bool may_ask, struct secret **ret, size_t *ret_bytes,
            struct err *e)
{
    char name[200];
    enum key_source_kind kind = args->key.kind;
    if (kind != KEY_SOURCE_NONE && kind != KEY_SOURCE_PROMPT)
        return key_source_read(&args->key, args->image, ret, ret_bytes, e);

    OWNED_HEAP struct qcow_facts *f = calloc(1, sizeof(*f));
    if (!f)
        return err_nomem(e, "what is known of the image");
    if (inspect(args->image, f, e) < 0)
        return -1;
    if (f->refused.kind == ERR_KEY_UNEXPECTED)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s is not encrypted; nvkeep keeps state in encrypted images alone",
                       err_quote(name, sizeof(name), args->image, strlen(args->image)));
    if (f->refused.kind != ERR_NONE) {
        *e = f->refused;
        return -1;
    }
    if (kind == KEY_SOURCE_PROMPT || (may_ask && key_can_prompt()))
        return key_prompt(args->image, ret, ret_bytes, e);
    return cli_key_missing(args->image, e);
}
