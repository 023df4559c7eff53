#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli.h"

enum { QUOTED_BYTES = 120, LIST_BYTES = 400 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* How many letters to insert, leave out, change or swap, up to a limit. */
static unsigned distance(const char *a, const char *b)
{
    enum { MAX = 24 };
    unsigned d[MAX + 1][MAX + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX || m > MAX)
        return MAX;
    for (size_t i = 0; i <= n; i++)
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (unsigned)(i + j);
                continue;
            }
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *cli_suggest(const char *text, const char *(*next)(const void *ctx, size_t i),
                        const void *ctx)
{
    const char *best = NULL, *name;
    unsigned least = 4;
    size_t n = strlen(text);
    for (size_t i = 0; (name = next(ctx, i)); i++) {
        unsigned d = n >= 3 && strncmp(name, text, n) == 0 ? 1 : distance(text, name);
        if (d < least && d * 2 <= strlen(name)) {
            least = d;
            best = name;
        }
    }
    return best;
}

static const char *nth_command(const void *ctx, size_t i)
{
    (void)ctx;
    return i < cli_n_commands ? cli_commands[i].name : i == cli_n_commands ? "help" : NULL;
}

static const char *nth_option(const void *ctx, size_t i)
{
    const struct cli_command *c = ctx;
    return i < c->n_options ? cli_options[c->options[i]].name : NULL;
}

static const char *nth_subopt(const void *ctx, size_t i)
{
    const struct cli_option *o = ctx;
    return o->sub[i].name;
}

int cli_number(const char *what, const char *text, uint64_t least, uint64_t most, uint64_t *ret,
               struct err *e)
{
    char buf[QUOTED_BYTES];
    char *end = NULL;
    errno = 0;
    unsigned long long n = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (!end || *end || errno || n < least || n > most)
        return err_set(e, ERR_USAGE, "%s: wanted a number from %llu to %llu, found \"%s\"", what,
                       (unsigned long long)least, (unsigned long long)most, quoted(buf, text));
    *ret = n;
    return 0;
}

int cli_size(const char *what, const char *text, uint64_t least, uint64_t most, uint64_t *ret,
             struct err *e)
{
    static const char suffixes[] = "KMG";
    char buf[QUOTED_BYTES];
    char *end = NULL;
    errno = 0;
    uint64_t n = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    bool good = end && errno == 0;
    if (good && *end) {
        const char *s = strchr(suffixes, toupper((unsigned char)*end));
        unsigned shift = s ? 10 * (unsigned)(s - suffixes + 1) : 0;
        good = s && !end[1] && n <= UINT64_MAX >> shift;
        n = good ? n << shift : 0;
    }
    if (!good || n < least || n > most)
        return err_set(e, ERR_USAGE,
                       "%s: wanted a size from %llu to %llu bytes (K, M and G are understood), "
                       "found \"%s\"",
                       what, (unsigned long long)least, (unsigned long long)most,
                       quoted(buf, text));
    *ret = n;
    return 0;
}

/* Cuts the next element off *at: up to a single comma. Doubled commas become one. */
static char *next_element(char **at)
{
    char *start = *at, *to = *at, *from = *at;
    while (*from && (*from != ',' || from[1] == ',')) {
        if (*from == ',')
            from++;
        *to++ = *from++;
    }
    *at = *from ? from + 1 : NULL;
    *to = 0;
    return start;
}

static int unknown_subopt(const struct cli_option *opt, const char *name, struct err *e)
{
    char buf[QUOTED_BYTES], list[LIST_BYTES] = "";
    const char *like = cli_suggest(name, nth_subopt, opt);
    if (like)
        return err_set(e, ERR_USAGE, "--%s: unknown \"%s\"; did you mean \"%s\"?", opt->name,
                       quoted(buf, name), like);
    for (const struct cli_subopt *s = opt->sub; s->name; s++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s%s%s", n ? ", " : "", s->name, s->value ? "=" : "");
    }
    return err_set(e, ERR_USAGE, "--%s: unknown \"%s\"; it takes %s", opt->name, quoted(buf, name),
                   list);
}

static int take_subopt(const struct cli_option *opt, char *element, char *ret[MAX_SUBOPTS],
                       struct err *e)
{
    char *value = strchr(element, '=');
    if (value)
        *value++ = 0;
    size_t i = 0;
    while (opt->sub[i].name && strcmp(opt->sub[i].name, element) != 0)
        i++;
    const struct cli_subopt *sub = &opt->sub[i];
    if (!sub->name)
        return unknown_subopt(opt, element, e);
    if (ret[i])
        return err_set(e, ERR_USAGE, "--%s: \"%s\" is given twice", opt->name, sub->name);
    if (sub->value && !sub->optional && (!value || !*value))
        return err_set(e, ERR_USAGE, "--%s: \"%s\" needs a value: %s=%s", opt->name, sub->name,
                       sub->name, sub->value);
    if (!sub->value && value)
        return err_set(e, ERR_USAGE, "--%s: \"%s\" takes no value", opt->name, sub->name);
    ret[i] = value ? value : element + strlen(element);
    return 0;
}

int cli_subopts(const struct cli_option *opt, char *text, char *ret[MAX_SUBOPTS], struct err *e)
{
    char *found[MAX_SUBOPTS] = {NULL};
    for (char *at = text; at;) {
        char *element = next_element(&at);
        if (!*element)
            return err_set(e, ERR_USAGE, "--%s: empty between commas", opt->name);
        if (take_subopt(opt, element, found, e) < 0)
            return -1;
    }
    memcpy(ret, found, sizeof(found));
    return 0;
}

int cli_word(const struct cli_option *opt, const char *text, size_t *ret, struct err *e)
{
    for (size_t i = 0; opt->sub[i].name; i++)
        if (strcmp(opt->sub[i].name, text) == 0) {
            *ret = i;
            return 0;
        }
    return unknown_subopt(opt, text, e);
}

static int unknown_option(const struct cli_command *c, const char *name, struct err *e)
{
    char buf[QUOTED_BYTES];
    const char *like = cli_suggest(name, nth_option, c);
    return err_set(e, ERR_USAGE, "unknown option --%s%s%s%s; see nvkeep %s --help",
                   quoted(buf, name), like ? "; did you mean --" : "", like ? like : "",
                   like ? "?" : "", c->name);
}

static int set_option(struct cli_args *a, enum cli_option_id id, char *text, struct err *e)
{
    const struct cli_option *o = &cli_options[id];
    char what[40];
    if (a->text[id])
        return err_set(e, ERR_USAGE, "--%s is given twice", o->name);
    if (o->kind != ARG_NONE && !*text)
        return err_set(e, ERR_USAGE, "--%s: its argument (%s) is empty", o->name, o->value);
    snprintf(what, sizeof(what), "--%s", o->name);
    if (o->kind == ARG_NUMBER && cli_number(what, text, o->least, o->most, &a->number[id], e) < 0)
        return -1;
    if (o->kind == ARG_SIZE && cli_size(what, text, o->least, o->most, &a->number[id], e) < 0)
        return -1;
    struct key_source *key = id == OPT_KEY ? &a->key : &a->second_key;
    if (o->kind == ARG_KEY && key_source_parse(text, key, e) < 0)
        return -1;
    if (o->kind == ARG_KEY && key->kind == KEY_SOURCE_ADMIN && a->command->run != cmd_serve)
        return err_set(e, ERR_USAGE, "--%s admin: only serve has an admin socket to wait at",
                       o->name);
    size_t which;
    if (o->kind == ARG_WORDS && cli_word(o, text, &which, e) < 0)
        return -1;
    a->text[id] = text;
    return 0;
}

/* --name, --name=value, --name value. Returns how many arguments were used, or -1. */
static int long_option(struct cli_args *a, char **argv, struct err *e)
{
    char *name = argv[0] + 2;
    size_t n = strcspn(name, "=");
    char *value = name[n] ? name + n + 1 : NULL;
    const struct cli_command *c = a->command;
    for (size_t i = 0; i < c->n_options; i++) {
        const struct cli_option *o = &cli_options[c->options[i]];
        if (strlen(o->name) != n || memcmp(o->name, name, n) != 0)
            continue;
        if (o->kind == ARG_NONE && value)
            return err_set(e, ERR_USAGE, "--%s takes no value", o->name);
        if (o->kind == ARG_NONE)
            return set_option(a, c->options[i], name + n, e) < 0 ? -1 : 1;
        if (value)
            return set_option(a, c->options[i], value, e) < 0 ? -1 : 1;
        if (!argv[1] || strncmp(argv[1], "--", 2) == 0)
            return err_set(e, ERR_USAGE, "--%s needs its argument: --%s %s", o->name, o->name,
                           o->value);
        return set_option(a, c->options[i], argv[1], e) < 0 ? -1 : 2;
    }
    name[n] = 0;
    return unknown_option(c, name, e);
}

/* -t, -dt: switches only. */
static int short_options(struct cli_args *a, char *arg, struct err *e)
{
    char buf[QUOTED_BYTES];
    const struct cli_command *c = a->command;
    for (const char *p = arg + 1; *p; p++) {
        size_t i = 0;
        while (i < c->n_options && cli_options[c->options[i]].letter != *p)
            i++;
        if (i == c->n_options)
            return err_set(e, ERR_USAGE, "unknown option %s; see nvkeep %s --help",
                           quoted(buf, arg), c->name);
        if (set_option(a, c->options[i], arg + strlen(arg), e) < 0)
            return -1;
    }
    return 0;
}

static int set_operand(struct cli_args *a, const char *text, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (!*text)
        return err_set(e, ERR_USAGE, "%s is empty", a->command->operand);
    size_t most = a->command->run == cmd_ctl ? CTL_MORE_MAX : CLI_MORE_MAX;
    if (a->image && a->command->more && a->n_more < most) {
        a->more[a->n_more++] = text;
        return 0;
    }
    if (a->image && a->command->more)
        return err_set(e, ERR_USAGE, "\"%s\" is one argument too many", quoted(buf, text));
    if (a->image)
        return err_set(e, ERR_USAGE, "one image at a time: \"%s\" is one argument too many",
                       quoted(buf, text));
    a->image = text;
    return 0;
}

static int parse_arguments(struct cli_args *a, int argc, char **argv, struct err *e)
{
    bool only_operands = false;
    for (int i = 0; i < argc;) {
        int used = 1;
        if (!only_operands && strcmp(argv[i], "--") == 0)
            only_operands = true;
        else if (!only_operands && strncmp(argv[i], "--", 2) == 0)
            used = long_option(a, argv + i, e);
        else if (!only_operands && argv[i][0] == '-' && argv[i][1])
            used = short_options(a, argv[i], e) < 0 ? -1 : 1;
        else
            used = set_operand(a, argv[i], e) < 0 ? -1 : 1;
        if (used < 0)
            return -1;
        i += used;
    }
    return 0;
}

static void add_missing(char list[LIST_BYTES], const char *dashes, const char *name,
                        const char *value)
{
    size_t n = strlen(list);
    snprintf(list + n, LIST_BYTES - n, "%s%s%s%s%s", n ? ", " : "", dashes, name, value ? " " : "",
             value ? value : "");
}

/* Everything that is missing, in one error. A missing key alone is left to the command: it may ask,
 * and otherwise has a class of its own. */
static int check_complete(const struct cli_args *a, struct err *e)
{
    const struct cli_command *c = a->command;
    char list[LIST_BYTES] = "";
    if (c->operand && !a->image)
        add_missing(list, "", c->operand, NULL);
    if (c->more && a->n_more == 0 && !a->text[OPT_IN_PLACE])
        add_missing(list, "", c->more, NULL);
    for (size_t i = 0; i < c->n_required; i++)
        if (!a->text[c->required[i]])
            add_missing(list, "--", cli_options[c->required[i]].name,
                        cli_options[c->required[i]].value);
    if (!list[0])
        return 0;
    if (c->wants_key && !a->text[OPT_KEY] && !a->text[OPT_NEW_KEY] && !a->text[OPT_KEEP_KEY])
        add_missing(list, "--", cli_options[OPT_KEY].name, cli_options[OPT_KEY].value);
    return err_set(e, ERR_USAGE, "missing: %s; see nvkeep %s --help", list, c->name);
}

static int find_command(const char *name, const struct cli_command **ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    for (size_t i = 0; i < cli_n_commands; i++)
        if (strcmp(cli_commands[i].name, name) == 0) {
            *ret = &cli_commands[i];
            return 0;
        }
    const char *like = cli_suggest(name, nth_command, NULL);
    return err_set(e, ERR_USAGE, "unknown command \"%s\"%s%s%s; see nvkeep --help",
                   quoted(buf, name), like ? "; did you mean \"" : "", like ? like : "",
                   like ? "\"?" : "");
}

int cli_parse(int argc, char **argv, struct cli_args *ret, struct err *e)
{
    struct cli_args a = {.key = {.fd = -1}, .second_key = {.fd = -1}};
    if (argc < 2)
        return err_set(e, ERR_USAGE, "no command was given; see nvkeep --help");
    if (find_command(argv[1], &a.command, e) < 0 || parse_arguments(&a, argc - 2, argv + 2, e) < 0)
        return -1;
    for (size_t i = 0; i < a.command->n_exclusive; i++) {
        const enum cli_option_id *pair = a.command->exclusive[i];
        if (a.text[pair[0]] && a.text[pair[1]])
            return err_set(e, ERR_USAGE, "--%s and --%s exclude each other; give one of them",
                           cli_options[pair[0]].name, cli_options[pair[1]].name);
    }
    if (!a.text[OPT_HELP] && check_complete(&a, e) < 0)
        return -1;
    *ret = a;
    return 0;
}
