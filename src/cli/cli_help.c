#include <string.h>

#include "src/cli/cli.h"
#include "src/serve/admin_msg.h"

enum { NAME_COLUMN = 30, WIDTH = 96 };

/* `text` behind what is in the line already (`at` columns), wrapped to column `from`. */
static void wrapped(FILE *to, size_t at, size_t from, const char *text)
{
    if (at + 1 >= from) {
        fputc('\n', to);
        at = 0;
    }
    fprintf(to, "%*s", (int)(from - at), "");
    for (at = from; *text;) {
        size_t word = strcspn(text, " ");
        if (at > from && at + 1 + word > WIDTH) {
            fprintf(to, "\n%*s", (int)from, "");
            at = from;
        } else if (at > from) {
            fputc(' ', to);
            at++;
        }
        fwrite(text, 1, word, to);
        at += word;
        text += word + (text[word] == ' ');
    }
    fputc('\n', to);
}

static void option_help(FILE *to, const struct cli_option *o)
{
    char name[80];
    char letter[] = {'-', o->letter, ',', ' ', 0};
    int n = snprintf(name, sizeof(name), "  %s--%s%s%s", o->letter ? letter : "", o->name,
                     o->value ? " " : "", o->value ? o->value : "");
    fputs(name, to);
    wrapped(to, (size_t)n, NAME_COLUMN, o->help);
    for (const struct cli_subopt *s = o->sub; s->name; s++) {
        n = snprintf(name, sizeof(name), "      %s%s%s%s%s", s->name, s->optional ? "[" : "",
                     s->value ? "=" : "", s->value ? s->value : "", s->optional ? "]" : "");
        fputs(name, to);
        wrapped(to, (size_t)n, NAME_COLUMN, s->help);
    }
}

/* What ctl takes, from the table of the daemon. */
static void verbs_help(FILE *to)
{
    char name[80];
    fputs("\n\nCommands:\n", to);
    for (size_t i = 0; i < admin_n_verbs; i++) {
        const struct admin_verb *v = &admin_verbs[i];
        if (v->kind == VERB_CAPABILITIES)
            continue;
        int n = snprintf(name, sizeof(name), "  %s%s%s%s%s%s%s", v->name, v->argument ? " " : "",
                         v->optional ? "[" : "", v->argument ? v->argument : "",
                         v->argument ? "=" : "", v->value ? v->value : "", v->optional ? "]" : "");
        if (v->second)
            n += snprintf(name + n, sizeof(name) - (size_t)n, " [%s=%s]", v->second,
                          v->second_value);
        fputs(name, to);
        wrapped(to, (size_t)n, NAME_COLUMN, v->help);
    }
    int n = fprintf(to, "  events");
    wrapped(to, (size_t)n, NAME_COLUMN, "wait for the next event and show it");
}

void cli_help_command(FILE *to, const struct cli_command *c)
{
    fprintf(to, "Usage: nvkeep %s %s%s%s [OPTIONS]\n\n%s", c->name, c->operand ? c->operand : "",
            c->more ? " " : "", c->more ? c->more : "", c->about);
    if (c->run == cmd_ctl)
        verbs_help(to);
    fputs(c->run == cmd_ctl ? "\nOptions:\n" : "\n\nOptions:\n", to);
    for (size_t i = 0; i < c->n_options; i++)
        option_help(to, &cli_options[c->options[i]]);
}

void cli_help_exit_codes(FILE *to)
{
    fprintf(to, "%4s  %-18s %s\n", "exit", "class", "meaning");
    for (unsigned k = ERR_NONE; k < ERR_N_KINDS; k++) {
        const struct err_class *c = err_class((enum err_kind)k);
        fprintf(to, "%4d  %-18s %s\n", c->exit_code, c->name, c->brief);
    }
}

void cli_help_words(FILE *to, const struct cli_command *c)
{
    for (size_t i = 0; !c && i < cli_n_commands; i++)
        fprintf(to, "%s\n", cli_commands[i].name);
    for (size_t i = 0; c && i < c->n_options; i++)
        fprintf(to, "--%s\n", cli_options[c->options[i]].name);
}

void cli_help(FILE *to)
{
    fputs("Usage: nvkeep COMMAND IMAGE [OPTIONS]\n\n"
          "Keeps the state of a virtual TPM in an encrypted qcow2 image.\n\nCommands:\n",
          to);
    for (size_t i = 0; i < cli_n_commands; i++)
        fprintf(to, "  %-12s %s\n", cli_commands[i].name, cli_commands[i].brief);
    fputs("\nKeys (--key):\n", to);
    for (const struct cli_subopt *s = cli_options[OPT_KEY].sub; s->name; s++) {
        char name[40];
        int n = snprintf(name, sizeof(name), "  %s%s%s", s->name, s->value ? "=" : "",
                         s->value ? s->value : "");
        fputs(name, to);
        wrapped(to, (size_t)n, 19, s->help);
    }
    fputs("\nnvkeep COMMAND --help      all options of a command\n"
          "nvkeep help exit-codes     result classes and their exit codes\n"
          "nvkeep --version           the version\n",
          to);
}
