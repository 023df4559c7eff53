#include "src/compat/localca_args.h"

#include <getopt.h>
#include <string.h>

enum act { SET, TEXT, SPEC, TPM };

struct row {
    const char *name;
    int has_arg;
    enum act act;
    size_t at; /* SET: a bool; TEXT: a text; SPEC, TPM: which pair */
    const char *passed;
};

#define AT(field) offsetof(struct localca_args, field)
static const struct row rows[] = {
    {"type", 1, TEXT, AT(type), NULL},
    {"ek", 1, TEXT, AT(ek), NULL},
    {"dir", 1, TEXT, AT(dir), NULL},
    {"vmid", 1, TEXT, AT(vm_id), NULL},
    {"optsfile", 1, TEXT, AT(options_file), NULL},
    {"configfile", 1, TEXT, AT(config_file), NULL},
    {"logfile", 1, TEXT, AT(log_file), NULL},
    {"tpm-spec-family", 1, SPEC, 0, "--tpm-spec-family"},
    {"tpm-spec-revision", 1, SPEC, 2, "--tpm-spec-revision"},
    {"tpm-spec-level", 1, SPEC, 4, "--tpm-spec-level"},
    {"tpm-manufacturer", 1, TPM, 0, "--tpm-manufacturer"},
    {"tpm-model", 1, TPM, 2, "--tpm-model"},
    {"tpm-version", 1, TPM, 4, "--tpm-version"},
    {"tpm2", 0, SET, AT(tpm2), NULL},
    {"allow-signing", 0, SET, AT(allow_signing), NULL},
    {"decryption", 0, SET, AT(decryption), NULL},
    {"help", 0, SET, AT(help), NULL},
};

static void take(struct localca_args *a, const struct row *r, const char *value)
{
    char *base = (char *)a;
    const char **pair = r->act == SPEC ? a->spec : a->tpm;
    switch (r->act) {
    case SET:
        *(bool *)(base + r->at) = true;
        return;
    case TEXT:
        *(const char **)(base + r->at) = value;
        return;
    case SPEC:
    case TPM:
        pair[r->at] = r->passed;
        pair[r->at + 1] = value;
        return;
    }
}

static int check(const struct localca_args *a, struct err *e)
{
    char buf[100];
    if (a->help)
        return 0;
    if (!a->type || (strcmp(a->type, "ek") != 0 && strcmp(a->type, "platform") != 0))
        return err_set(e, ERR_USAGE, "--type must be 'ek' or 'platform', and not '%s'",
                       a->type ? err_quote(buf, sizeof(buf), a->type, strlen(a->type)) : "");
    return a->ek ? 0 : err_set(e, ERR_USAGE, "--ek must be provided");
}

int localca_args_parse(int argc, char *const *argv, struct localca_args *ret, struct err *e)
{
    struct option options[ARRAY_LEN(rows) + 1] = {{0}};
    struct localca_args a = {.dir = "."};
    int c, i = 0;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++)
        options[k] = (struct option){rows[k].name, rows[k].has_arg, NULL, 0};
    optind = 0;
    while ((c = getopt_long(argc, argv, "h?", options, &i)) != -1) {
        if (c == 'h')
            a.help = true;
        else if (c == 0)
            take(&a, &rows[i], optarg);
        else
            return err_set(e, ERR_USAGE, "an option is not understood; see --help");
    }
    if (check(&a, e) < 0)
        return -1;
    *ret = a;
    return 0;
}

bool localca_point(char *text, struct localca_point *ret)
{
    char *y = strstr(text, ",y="), *curve = y ? strstr(y + 1, ",id=") : NULL;
    if (strncmp(text, "x=", 2) != 0 || !y)
        return false;
    *y = 0;
    if (curve)
        *curve = 0;
    *ret = (struct localca_point){text + 2, y + 3, curve ? curve + 4 : NULL};
    return true;
}
