#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "src/cli/cli_endpoint.h"
#include "src/cli/cli_migration.h"
#include "src/serve/admin_msg.h"

enum { MAX_WORDS = 20 };

/* A command line as the system passes it: words that can be changed, NULL behind them. */
struct line {
    char room[1000];
    char *argv[MAX_WORDS];
    int argc;
};

static void split(struct line *l, const char *text)
{
    snprintf(l->room, sizeof(l->room), "nvkeep %s", text);
    l->argc = 0;
    for (char *w = strtok(l->room, " "); w; w = strtok(NULL, " "))
        l->argv[l->argc++] = w;
    l->argv[l->argc] = NULL;
}

static struct cli_args parsed(struct line *l, const char *text)
{
    struct cli_args a;
    struct err e = {0};
    split(l, text);
    if (cli_parse(l->argc, l->argv, &a, &e) < 0)
        fail_msg("%s: %s", text, e.text);
    return a;
}

static void assert_refused(const char *text, const char *why)
{
    struct line l;
    struct err e = {0};
    struct cli_args a = {.image = "untouched"};
    split(&l, text);
    if (cli_parse(l.argc, l.argv, &a, &e) == 0)
        fail_msg("accepted: %s", text);
    assert_int_equal(e.kind, ERR_USAGE);
    if (!strstr(e.text, why))
        fail_msg("%s: %s", text, e.text);
    assert_string_equal(a.image, "untouched");
}

static void options_are_understood_in_both_spellings(void **state)
{
    (void)state;
    struct line l;
    struct cli_args a = parsed(&l, "create i.qcow2 --key file=/k --iter-time=50 --size 2M --json");
    assert_string_equal(a.command->name, "create");
    assert_string_equal(a.image, "i.qcow2");
    assert_int_equal(a.key.kind, KEY_SOURCE_FILE);
    assert_string_equal(a.key.value, "/k");
    assert_int_equal(a.number[OPT_ITER_TIME], 50);
    assert_int_equal(a.number[OPT_SIZE], 2 << 20);
    assert_non_null(a.text[OPT_JSON]);
    assert_null(a.text[OPT_TPM12]);

    a = parsed(&l, "serve --ctrl=type=unixio,path=/s --key=pwdfd=5 -dt i");
    assert_string_equal(a.image, "i");
    assert_string_equal(a.text[OPT_CTRL], "type=unixio,path=/s");
    assert_int_equal(a.key.fd, 5);
    assert_non_null(a.text[OPT_DAEMON]);
    assert_non_null(a.text[OPT_TERMINATE]);

    a = parsed(&l, "info -- --strange-name");
    assert_string_equal(a.image, "--strange-name");
}

/* S0.17 */
static void wrong_options_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *line, *why;
    } wrong[] = {
        {"", "no command"},
        {"creat i", "did you mean \"create\"?"},
        {"verify i", "did you mean \"verify-key\"?"},
        {"frobnicate i", "unknown command \"frobnicate\"; see"},
        {"info i --jsn", "did you mean --json?"},
        {"info i --ctrl x", "unknown option --ctrl"},
        {"create i --passphrase hunter2", "unknown option --passphrase; see"},
        {"create i --new_key f", "did you mean --new-key?"},
        {"info i -x", "unknown option -x"},
        {"info i --json --json", "--json is given twice"},
        {"info i --key file=/a --key file=/b", "--key is given twice"},
        {"serve i --ctrl a --ctrl b", "--ctrl is given twice"},
        {"serve i -tt --ctrl a", "--terminate is given twice"},
        {"info i --json=yes", "--json takes no value"},
        {"info i --key", "--key needs its argument: --key SOURCE"},
        {"info i --key --json", "--key needs its argument"},
        {"create i --new-key=", "--new-key: its argument (FILE) is empty"},
        {"info i j", "\"j\" is one argument too many"},
        {"create i --key file=/a --new-key b", "--key and --new-key exclude each other"},
        {"create i --tpm2 --tpm12", "--tpm2 and --tpm12 exclude each other"},
        {"create i --iter-time 0", "--iter-time: wanted a number from 1 to 600000, found \"0\""},
        {"create i --iter-time 2s", "found \"2s\""},
        {"create i --iter-time -5", "found \"-5\""},
        {"create i --iter-time 99999999999999999999", "--iter-time: wanted a number"},
        {"create i --size 1T", "--size: wanted a size"},
        {"create i --size 1MB", "--size: wanted a size"},
        {"create i --size 0x100000", "--size: wanted a size"},
        {"create i --size 17179869184G", "--size: wanted a size"},
        {"create i --size 4K", "--size: wanted a size from 65536"},
        {"create i --cluster-size 4M", "--cluster-size: wanted a size from 512"},
        {"info i --key hunter2", "never taken from the command line"},
        {"info i --key file=/k,mode=aes-256-cbc", "mode=aes-256-cbc"},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_refused(wrong[i].line, wrong[i].why);
}

/* S0.4 S1.8 */
static void everything_that_is_missing_is_named_at_once(void **state)
{
    (void)state;
    assert_refused("info", "missing: IMAGE;");
    assert_refused("serve", "missing: IMAGE, --ctrl SOCKET, --key SOURCE;");
    assert_refused("serve i", "missing: --ctrl SOCKET, --key SOURCE;");
    assert_refused("serve --key file=/k", "missing: IMAGE, --ctrl SOCKET;");
    assert_refused("verify-key", "missing: IMAGE, --key SOURCE;");
    assert_refused("create --new-key k", "missing: IMAGE;");
}

/* The value in an unknown option is not echoed: it might have been a passphrase. */
static void what_follows_an_unknown_option_is_not_repeated(void **state)
{
    (void)state;
    struct line l;
    struct err e = {0};
    struct cli_args a;
    split(&l, "create i --password=hunter2");
    assert_int_equal(cli_parse(l.argc, l.argv, &a, &e), -1);
    assert_null(strstr(e.text, "hunter2"));
    split(&l, "create i --key hunter2");
    assert_int_equal(cli_parse(l.argc, l.argv, &a, &e), -1);
    assert_null(strstr(e.text, "hunter2"));
}

static struct endpoint ctrl(const char *text)
{
    static char room[400];
    struct endpoint ep;
    struct err e = {0};
    snprintf(room, sizeof(room), "%s", text);
    if (cli_ctrl(room, &ep, &e) < 0)
        fail_msg("%s: %s", text, e.text);
    return ep;
}

static void sockets_are_understood(void **state)
{
    (void)state;
    struct endpoint ep = ctrl("type=unixio,path=/run/s,mode=0600,uid=0,gid=root,terminate");
    assert_int_equal(ep.kind, ENDPOINT_UNIX);
    assert_string_equal(ep.path, "/run/s");
    assert_int_equal(ep.mode, 0600);
    assert_true(ep.has_owner && ep.terminate);
    assert_int_equal(ep.uid, 0);
    assert_int_equal(ep.gid, 0);
    ep = ctrl("type=unixio,path=/run/a,,b");
    assert_string_equal(ep.path, "/run/a,b");
    assert_false(ep.has_owner);
    ep = ctrl("type=tcp,port=2322");
    assert_int_equal(ep.kind, ENDPOINT_TCP);
    assert_int_equal(ep.port, 2322);
    assert_string_equal(ep.address, "127.0.0.1");
    ep = ctrl("port=2322,bindaddr=::1,type=tcp");
    assert_string_equal(ep.address, "::1");
}

static void inherited_sockets_are_looked_at(void **state)
{
    (void)state;
    int pair[2];
    char room[100];
    struct endpoint ep;
    struct err e = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    snprintf(room, sizeof(room), "type=unixio,clientfd=%d", pair[0]);
    ep = ctrl(room);
    assert_int_equal(ep.kind, ENDPOINT_CLIENTFD);
    assert_int_equal(ep.fd, pair[0]);
    /* swtpm_setup passes a connected socket this way. */
    snprintf(room, sizeof(room), "type=tcp,fd=%d", pair[1]);
    assert_int_equal(cli_server(room, &ep, &e), 0);
    assert_int_equal(ep.kind, ENDPOINT_CLIENTFD);
    assert_true(ep.terminate);
    snprintf(room, sizeof(room), "type=unixio,fd=%d", pair[0]);
    assert_int_equal(cli_ctrl(room, &ep, &e), -1);
    assert_non_null(strstr(e.text, "not listening"));
    close(pair[0]);
    snprintf(room, sizeof(room), "type=unixio,clientfd=%d", pair[0]);
    assert_int_equal(cli_ctrl(room, &ep, &e), -1);
    assert_non_null(strstr(e.text, "no such descriptor"));
    close(pair[1]);
}

/* S0.17 */
static void wrong_sockets_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"path=/s", "type=unixio or type=tcp is missing"},
        {"type=pipe,path=/s", "wanted unixio or tcp, found \"pipe\""},
        {"type=unixio", "type=unixio needs path=PATH"},
        {"type=tcp", "type=tcp needs port=N"},
        {"type=tcp,path=/s", "type=tcp needs port=N"},
        {"type=unixio,port=3", "type=unixio needs path=PATH"},
        {"type=unixio,path=/s,port=3", "port does not go together with path"},
        {"type=tcp,port=3,mode=0600", "mode does not go together with port"},
        {"type=unixio,path=/s,path=/t", "\"path\" is given twice"},
        {"type=unixio,path=", "\"path\" needs a value: path=PATH"},
        {"type=unixio,path", "\"path\" needs a value"},
        {"type=unixio,path=/s,terminate=yes", "\"terminate\" takes no value"},
        {"type=unixio,path=/s,", "empty between commas"},
        {",type=unixio,path=/s", "empty between commas"},
        {"type=unixio,pat=/s", "did you mean \"path\"?"},
        {"type=unixio,path=/s,colour=red", "unknown \"colour\"; it takes type=, path="},
        {"type=unixio,path=/s,mode=9", "wanted octal permissions"},
        {"type=unixio,path=/s,mode=07777", "wanted octal permissions"},
        {"type=unixio,path=/s,mode=rw", "wanted octal permissions"},
        {"type=unixio,path=/s,uid=no-such-user-here", "there is no user \"no-such-user-here\""},
        {"type=unixio,path=/s,gid=no-such-group-here", "there is no group"},
        {"type=tcp,port=0", "--ctrl: port: wanted a number from 1 to 65535"},
        {"type=tcp,port=65536", "wanted a number from 1 to 65535"},
        {"type=tcp,port=80,bindaddr=localhost", "wanted a numeric address"},
        {"type=unixio,fd=0", "--ctrl: fd: wanted a number from 3"},
        {"type=unixio,fd=9,clientfd=10", "fd does not go together with clientfd"},
        {"type=tcp,port=80,disconnect", "unknown \"disconnect\""},
    };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char room[200];
        struct endpoint ep = {.fd = 77};
        struct err e = {0};
        snprintf(room, sizeof(room), "%s", wrong[i].text);
        if (cli_ctrl(room, &ep, &e) == 0)
            fail_msg("accepted: %s", wrong[i].text);
        assert_int_equal(e.kind, ERR_USAGE);
        if (!strstr(e.text, wrong[i].why))
            fail_msg("%s: %s", wrong[i].text, e.text);
        assert_int_equal(ep.fd, 77);
    }
}

static void socket_path_that_is_too_long_is_refused(void **state)
{
    (void)state;
    char room[300] = "type=unixio,path=/";
    size_t n = strlen(room);
    memset(room + n, 'x', 106);
    assert_int_equal(strlen(ctrl(room).path), 107);
    room[n + 106] = 'x';
    struct endpoint ep;
    struct err e = {0};
    assert_int_equal(cli_ctrl(room, &ep, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_non_null(strstr(e.text, "107 bytes and this has 108"));
}

static int flags_of(const char *text, unsigned *ret, struct err *e)
{
    char room[200];
    snprintf(room, sizeof(room), "%s", text);
    return cli_flags(room, ret, e);
}

static void startup_flags_imply_power_on(void **state)
{
    (void)state;
    struct err e = {0};
    unsigned f = 0;
    assert_int_equal(flags_of("not-need-init", &f, &e), 0);
    assert_int_equal(f, SERVE_NOT_NEED_INIT);
    f = SERVE_TERMINATE;
    assert_int_equal(flags_of("startup-clear,disable-auto-shutdown", &f, &e), 0);
    assert_int_equal(f, SERVE_TERMINATE | SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR |
                            SERVE_NO_AUTO_SHUTDOWN);
    f = 0;
    assert_int_equal(flags_of("startup-none", &f, &e), 0);
    assert_int_equal(f, 0);
    assert_int_equal(flags_of("startup-clear,startup-state", &f, &e), -1);
    assert_non_null(strstr(e.text, "startup-clear and startup-state exclude each other"));
    assert_int_equal(flags_of("startup-cler", &f, &e), -1);
    assert_non_null(strstr(e.text, "did you mean \"startup-clear\"?"));
    assert_int_equal(flags_of("startup-clear=1", &f, &e), -1);
    assert_int_equal(f, 0);
}

static void log_and_pid_go_to_one_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"level=3", "wanted file=PATH or fd=N"},
        {"file=/l,fd=2", "either file= or fd=, not both"},
        {"file=/l,level=x", "--log: level: wanted a number from 0 to 20"},
        {"file=/l,level=21", "--log: level"},
        {"fd=2,truncate", "truncate does not go together with fd"},
        {"fd=0", "--log: fd: wanted a number from 1"},
        {"fd=1000000", "no such descriptor"},
    };
    struct cli_log l;
    struct err e = {0};
    char good[] = "file=/l,level=5,prefix=[vm 7],,,truncate";
    assert_int_equal(cli_log(good, &l, &e), 0);
    assert_string_equal(l.file, "/l");
    assert_string_equal(l.prefix, "[vm 7],");
    assert_int_equal(l.level, 5);
    assert_true(l.truncate);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        char room[100];
        snprintf(room, sizeof(room), "%s", wrong[i].text);
        assert_int_equal(cli_log(room, &l, &e), -1);
        if (!strstr(e.text, wrong[i].why))
            fail_msg("%s: %s", wrong[i].text, e.text);
    }
    const char *file = NULL;
    int fd = -1;
    char pid[] = "file=/p", both[] = "file=/p,fd=1";
    assert_int_equal(cli_pid(pid, &file, &fd, &e), 0);
    assert_string_equal(file, "/p");
    assert_int_equal(fd, -1);
    assert_int_equal(cli_pid(both, &file, &fd, &e), -1);
}

static char *help_of(const struct cli_command *c)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    if (c)
        cli_help_command(f, c);
    else
        cli_help(f);
    fclose(f);
    return text;
}

static void help_mentions_every_command_option_and_suboption(void **state)
{
    (void)state;
    OWNED_HEAP char *all = help_of(NULL);
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *c = &cli_commands[i];
        OWNED_HEAP char *text = help_of(c);
        char want[80];
        assert_non_null(strstr(all, c->name));
        for (size_t j = 0; j < c->n_options; j++) {
            const struct cli_option *o = &cli_options[c->options[j]];
            snprintf(want, sizeof(want), "--%s", o->name);
            assert_non_null(strstr(text, want));
            for (const struct cli_subopt *s = o->sub; s->name; s++) {
                snprintf(want, sizeof(want), "\n      %s%s%s", s->name, s->optional ? "[" : "",
                         s->value ? "=" : "");
                if (!strstr(text, want))
                    fail_msg("help of %s lacks %s", c->name, want);
            }
        }
        for (const char *line = text; line && *line; line = strchr(line + 1, '\n'))
            assert_true(strcspn(line + 1, "\n") <= 100);
    }
}

/* What --key's help lists is what key_source_parse() takes. */
static void listed_key_sources_are_the_ones_that_parse(void **state)
{
    (void)state;
    unsigned n = 0;
    for (const struct cli_subopt *s = cli_options[OPT_KEY].sub; s->name; s++, n++) {
        char arg[60];
        struct key_source src;
        struct err e = {0};
        snprintf(arg, sizeof(arg), "%s%s%s", s->name, s->value ? "=" : "",
                 !s->value               ? ""
                 : strcmp(s->value, "N") ? "x"
                                         : "3");
        if (key_source_parse(arg, &src, &e) < 0)
            fail_msg("%s: %s", arg, e.text);
    }
    assert_int_equal(n, KEY_SOURCE_N_KINDS - 1);
}

static char *read_text(const char *name)
{
    char path[500];
    const char *source = getenv("NVKEEP_SOURCE");
    snprintf(path, sizeof(path), "%s/%s", source ? source : ".", name);
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("cannot read %s", path);
    char *text = calloc(1, 65536);
    assert_non_null(text);
    assert_true(fread(text, 1, 65535, f) > 1000);
    fclose(f);
    return text;
}

/* The section of one command, as a text of its own. */
static char *section(const char *manual, const char *command)
{
    char title[60] = "\n# NVKEEP ";
    size_t n = strlen(title);
    for (const char *p = command; *p; p++)
        title[n++] = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
    title[n++] = '\n';
    const char *at = strstr(manual, title);
    if (!at)
        fail_msg("the manual has no section%s", title);
    at += n;
    const char *end = strstr(at, "\n# ");
    return strndup(at, end ? (size_t)(end - at) : strlen(at));
}

static bool listed(const struct cli_command *c, const char *name, size_t n)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (strlen(cli_options[c->options[i]].name) == n &&
            memcmp(cli_options[c->options[i]].name, name, n) == 0)
            return true;
    return false;
}

static void manual_lists_exactly_the_options_of_the_table(void **state)
{
    (void)state;
    OWNED_HEAP char *manual = read_text("src/man/nvkeep.1.scd");
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *c = &cli_commands[i];
        OWNED_HEAP char *text = section(manual, c->name);
        for (size_t j = 0; j < c->n_options; j++) {
            const struct cli_option *o = &cli_options[c->options[j]];
            char want[80];
            char letter[] = {',', ' ', '*', '-', o->letter, '*', 0};
            snprintf(want, sizeof(want), "\n*--%s*%s%s%s%s\n", o->name, o->letter ? letter : "",
                     o->value ? " _" : "", o->value ? o->value : "", o->value ? "_" : "");
            if (!strstr(text, want))
                fail_msg("section %s of the manual lacks the line %s", c->name, want + 1);
            for (const struct cli_subopt *s = o->sub; s->name && o->kind != ARG_KEY; s++) {
                bool bare = !s->value || s->optional;
                snprintf(want, sizeof(want), "*%s%s%s", s->name, bare ? "*" : "=",
                         s->optional ? "[=" : "");
                if (!strstr(text, want))
                    fail_msg("section %s of the manual lacks %s of --%s", c->name, want, o->name);
            }
        }
        for (const char *at = text; (at = strstr(at, "\n*--")); at++) {
            size_t n = strcspn(at + 4, "*");
            if (!listed(c, at + 4, n))
                fail_msg("the manual lists --%.*s, which %s does not have", (int)n, at + 4,
                         c->name);
        }
    }
}

static void manual_lists_every_exit_code(void **state)
{
    (void)state;
    OWNED_HEAP char *manual = read_text("src/man/nvkeep.1.scd");
    for (unsigned k = 0; k < ERR_N_KINDS; k++) {
        const struct err_class *c = err_class((enum err_kind)k);
        char want[200], name[60];
        size_t n = 0;
        for (const char *p = c->name; *p; p++) {
            if (*p == '_')
                name[n++] = '\\';
            name[n++] = *p;
        }
        name[n] = 0;
        snprintf(want, sizeof(want), "\n|  %d\n:  %s\n:  %s\n", c->exit_code, name, c->brief);
        if (!strstr(manual, want))
            fail_msg("the manual's table of exit codes lacks%s", want);
    }
}

/* S2.13 */
static void manual_and_readme_name_the_limits_of_what_is_used(void **state)
{
    (void)state;
    static const char *const files[] = {"src/man/nvkeep.1.scd", "README.md"};
    static const char *const limits[] = {"does not authenticate", "PBKDF2", "older copy",
                                         "root on the host"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        OWNED_HEAP char *text = read_text(files[i]);
        const char *at = strstr(text, "# L") ?: text;
        while (strncmp(at, "# LIMITS\n", 9) != 0 && strncmp(at, "# Limits\n", 9) != 0)
            if (!(at = strstr(at + 1, "# L")))
                fail_msg("%s has no section on limits", files[i]);
        for (size_t j = 0; j < ARRAY_LEN(limits); j++) {
            const char *found = strstr(at, limits[j]);
            if (!found)
                fail_msg("the limits in %s lack \"%s\"", files[i], limits[j]);
        }
    }
}

static void readme_lists_every_exit_code(void **state)
{
    (void)state;
    OWNED_HEAP char *readme = read_text("README.md");
    for (unsigned k = 0; k < ERR_N_KINDS; k++) {
        const struct err_class *c = err_class((enum err_kind)k);
        char want[200];
        snprintf(want, sizeof(want), "\n| %d | %s | %s |\n", c->exit_code, c->name, c->brief);
        if (!strstr(readme, want))
            fail_msg("the table of exit codes in README.md lacks%s", want);
    }
}

static struct serve_options migration(const char *line)
{
    static struct line l;
    struct err e = {0};
    struct serve_options o = {.admin.kind = ENDPOINT_UNIX, .ctrl.fd = -1, .server.fd = -1};
    struct cli_args a = parsed(&l, line);
    if (cli_migration(&a, &o, &e) < 0)
        fail_msg("%s: %s", line, e.text);
    return o;
}

static void migration_is_understood(void **state)
{
    (void)state;
    struct serve_options o = migration("serve i --ctrl c --key file=k");
    assert_false(o.incoming || o.copied || o.rules.rewind || o.key_from_admin);
    assert_int_equal(o.rules.armed_ms, 0);
    assert_int_equal(o.rules.seal, SEAL_AUTO);
    o = migration("serve i --ctrl c --key admin --migration release-lock-outgoing,incoming");
    assert_true(o.incoming && o.key_from_admin);
    assert_false(o.copied);
    o = migration("serve i --ctrl c --key file=k --tpm12 --migration-seal off --migration "
                  "incoming,storage=copied,rewind");
    assert_true(o.copied && o.rules.rewind);
    assert_int_equal(o.device, DEVICE_TPM12);
    assert_int_equal(o.rules.seal, SEAL_OFF);
    o = migration("serve i --ctrl c --key file=k --migration-seal required --migration "
                  "require-prepare,incoming,storage=shared");
    assert_int_equal(o.rules.armed_ms, 60000);
    assert_int_equal(o.rules.seal, SEAL_REQUIRED);
    assert_false(o.copied);
    o = migration("serve i --ctrl c --key file=k --migration require-prepare=5");
    assert_int_equal(o.rules.armed_ms, 5000);
}

/* The words of the admin socket are explained where people look. */
static void help_and_manual_know_every_command_of_the_admin_socket(void **state)
{
    (void)state;
    OWNED_HEAP char *manual = read_text("src/man/nvkeep.1.scd");
    OWNED_HEAP char *text = section(manual, "ctl");
    const struct cli_command *ctl = &cli_commands[cli_n_commands - 1];
    assert_string_equal(ctl->name, "ctl");
    OWNED_HEAP char *help = help_of(ctl);
    for (size_t i = 0; i < admin_n_verbs; i++) {
        const struct admin_verb *v = &admin_verbs[i];
        char want[80];
        if (v->kind == VERB_CAPABILITIES)
            continue;
        snprintf(want, sizeof(want), "*%s*", v->name);
        if (!strstr(text, want))
            fail_msg("the manual lacks %s", want);
        if (!strstr(help, v->name))
            fail_msg("the help of ctl lacks %s", v->name);
    }
}

static void suggestions_are_close_or_not_made(void **state)
{
    (void)state;
    assert_refused("srve i", "did you mean \"serve\"?");
    assert_refused("inof i", "did you mean \"info\"?");
    assert_refused("xyz i", "unknown command \"xyz\"; see");
    assert_refused("info i --jsnox", "did you mean --json?");
    assert_refused("info i --encrypt.format=aes", "unknown option --encrypt.format; see");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_understood_in_both_spellings),
        cmocka_unit_test(wrong_options_are_refused_by_name),
        cmocka_unit_test(everything_that_is_missing_is_named_at_once),
        cmocka_unit_test(what_follows_an_unknown_option_is_not_repeated),
        cmocka_unit_test(sockets_are_understood),
        cmocka_unit_test(inherited_sockets_are_looked_at),
        cmocka_unit_test(wrong_sockets_are_refused_by_name),
        cmocka_unit_test(socket_path_that_is_too_long_is_refused),
        cmocka_unit_test(startup_flags_imply_power_on),
        cmocka_unit_test(log_and_pid_go_to_one_place),
        cmocka_unit_test(help_mentions_every_command_option_and_suboption),
        cmocka_unit_test(listed_key_sources_are_the_ones_that_parse),
        cmocka_unit_test(manual_lists_exactly_the_options_of_the_table),
        cmocka_unit_test(migration_is_understood),
        cmocka_unit_test(help_and_manual_know_every_command_of_the_admin_socket),
        cmocka_unit_test(manual_lists_every_exit_code),
        cmocka_unit_test(manual_and_readme_name_the_limits_of_what_is_used),
        cmocka_unit_test(readme_lists_every_exit_code),
        cmocka_unit_test(suggestions_are_close_or_not_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
