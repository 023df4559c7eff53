#include "src/compat/cert_args.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>

#include "src/base/own.h"

/* What an option does. */
enum act { SET, TEXT, HEX, TYPE, EXPONENT, SERIAL, DAYS, LEVEL, REVISION, IGNORED, ACTION };

struct row {
    const char *name;
    int has_arg;
    enum act act;
    size_t at; /* SET: a bool; TEXT: a text; HEX: a number */
    enum cert_action action;
};

#define AT(field) offsetof(struct cert_args, field)
static const struct row rows[] = {
    {"pubkey", 1, TEXT, AT(pubkey_file), 0},
    {"modulus", 1, HEX, AT(modulus), 0},
    {"ecc-x", 1, HEX, AT(x), 0},
    {"ecc-y", 1, HEX, AT(y), 0},
    {"ecc-curveid", 1, TEXT, AT(curve), 0},
    {"exponent", 1, EXPONENT, 0, 0},
    {"signkey", 1, TEXT, AT(signkey), 0},
    {"signkey-password", 1, TEXT, AT(signkey_password), 0},
    {"signkey-pwd", 1, TEXT, AT(signkey_pwd), 0},
    {"parentkey-password", 1, IGNORED, 0, 0},
    {"parentkey-passord", 1, IGNORED, 0, 0}, /* as swtpm_cert 0.7 spells it */
    {"parentkey-pwd", 1, IGNORED, 0, 0},
    {"issuercert", 1, TEXT, AT(issuer_file), 0},
    {"out-cert", 1, TEXT, AT(out_file), 0},
    {"subject", 1, TEXT, AT(subject), 0},
    {"days", 1, DAYS, 0, 0},
    {"serial", 1, SERIAL, 0, 0},
    {"type", 1, TYPE, 0, 0},
    {"tpm-manufacturer", 1, TEXT, AT(tpm.manufacturer), 0},
    {"tpm-model", 1, TEXT, AT(tpm.model), 0},
    {"tpm-version", 1, TEXT, AT(tpm.version), 0},
    {"platform-manufacturer", 1, TEXT, AT(platform.manufacturer), 0},
    {"platform-model", 1, TEXT, AT(platform.model), 0},
    {"platform-version", 1, TEXT, AT(platform.version), 0},
    {"tpm-spec-family", 1, TEXT, AT(specification.family), 0},
    {"tpm-spec-level", 1, LEVEL, 0, 0},
    {"tpm-spec-revision", 1, REVISION, 0, 0},
    {"tpm-assertions", 0, SET, AT(assertions), 0},
    {"pem", 0, SET, AT(pem), 0},
    {"add-header", 0, SET, AT(header), 0},
    {"tpm2", 0, SET, AT(tpm2), 0},
    {"allow-signing", 0, SET, AT(allow_signing), 0},
    {"decryption", 0, SET, AT(decryption), 0},
    {"print-capabilities", 0, ACTION, 0, CERT_CAPABILITIES},
    {"version", 0, ACTION, 0, CERT_VERSION},
    {"help", 0, ACTION, 0, CERT_HELP},
};

/* --- values --- */

/* base 0: also 0x10001. */
static bool read_number(const char *text, int base, uint64_t most, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, base);
    if (errno != 0 || end == text || *end || strchr(text, '-') || v > most)
        return false;
    *ret = v;
    return true;
}

static int take_type(struct cert_args *a, const char *value, struct err *e)
{
    char buf[100];
    a->type = strcasecmp(value, "platform") == 0 ? CERT_PLATFORM : CERT_EK;
    if (a->type == CERT_PLATFORM || strcasecmp(value, "ek") == 0)
        return 0;
    return err_set(e, ERR_USAGE, "Unknown certificate type '%s'.",
                   err_quote(buf, sizeof(buf), value, strlen(value)));
}

static int take_exponent(struct cert_args *a, const char *value, struct err *e)
{
    uint64_t v = 0;
    if (!read_number(value, 0, UINT64_MAX, &v) || v == 0)
        return err_set(e, ERR_USAGE, "Exponent is wrong and cannot be 0.");
    if (v > UINT32_MAX)
        return err_set(e, ERR_USAGE, "Exponent must fit into 32bits.");
    a->exponent = (uint32_t)v;
    return 0;
}

static int take_serial(struct cert_args *a, const char *value, struct err *e)
{
    return read_number(value, 10, INT64_MAX, &a->serial) && a->serial > 0
               ? 0
               : err_set(e, ERR_USAGE, "Serial number is invalid.");
}

static int take_days(struct cert_args *a, const char *value, struct err *e)
{
    enum { MOST = 3650000 }; /* ten thousand years: beyond what a certificate can say */
    uint64_t v = 0;
    if (value[0] == '-' && read_number(value + 1, 10, MOST, &v)) {
        a->days = -1;
        return 0;
    }
    if (!read_number(value, 10, MOST, &v))
        return err_set(e, ERR_USAGE, "--days must be a number of days, or -1.");
    a->days = (int64_t)v;
    return 0;
}

static int take_specified(const char *option, const char *value, uint32_t *ret, bool *ret_has,
                          struct err *e)
{
    uint64_t v = 0;
    if (!read_number(value, 0, INT32_MAX, &v))
        return err_set(e, ERR_USAGE, "--%s must pass a positive number.", option);
    *ret = (uint32_t)v;
    *ret_has = true;
    return 0;
}

static int take(struct cert_args *a, const struct row *r, const char *value, struct err *e)
{
    char *base = (char *)a;
    switch (r->act) {
    case SET:
        *(bool *)(base + r->at) = true;
        return 0;
    case TEXT:
        *(const char **)(base + r->at) = value;
        return 0;
    case HEX:
        return hex_read(value, strlen(value), (struct hex_number *)(base + r->at), e);
    case TYPE:
        return take_type(a, value, e);
    case EXPONENT:
        return take_exponent(a, value, e);
    case SERIAL:
        return take_serial(a, value, e);
    case DAYS:
        return take_days(a, value, e);
    case LEVEL:
        return take_specified(r->name, value, &a->specification.level, &a->has_level, e);
    case REVISION:
        return take_specified(r->name, value, &a->specification.revision, &a->has_revision, e);
    case ACTION:
        a->action = r->action;
        return 0;
    case IGNORED:
        break;
    }
    return 0;
}

/* --- the whole --- */

static int check_key(const struct cert_args *a, bool *ret_usage, struct err *e)
{
    if (a->modulus.n && (a->x.n || a->y.n))
        return err_set(e, ERR_USAGE, "RSA modulus and ECC parameters cannot both be given.");
    if (!a->x.n != !a->y.n)
        return err_set(e, ERR_USAGE, "ECC x and y parameters must both be given.");
    if (a->pubkey_file || a->modulus.n || a->x.n)
        return 0;
    *ret_usage = true;
    return err_set(e, ERR_USAGE, "Missing public EK file and modulus or ECC parameters.");
}

static bool is_whole(const struct cert_make *m)
{
    return m->manufacturer && m->model && m->version;
}

int cert_args_check(const struct cert_args *a, bool *ret_usage, struct err *e)
{
    if (check_key(a, ret_usage, e) < 0)
        return -1;
    if (!a->issuer_file)
        return err_set(e, ERR_USAGE, "The issuer certificate name is required.");
    if (!is_whole(&a->tpm))
        return err_set(e, ERR_USAGE,
                       "--tpm-manufacturer and --tpm-model and --tpm version must all be provided");
    if (a->type == CERT_PLATFORM && !is_whole(&a->platform))
        return err_set(e, ERR_USAGE,
                       "--platform-manufacturer and --platform-model and --platform version must "
                       "all be provided");
    if (a->type == CERT_EK && !(a->specification.family && a->has_level && a->has_revision))
        return err_set(e, ERR_USAGE,
                       "--tpm-spec-family and --tpm-spec-level and --tpm-spec-revision must all be "
                       "provided");
    if (a->signkey)
        return 0;
    *ret_usage = true;
    return err_set(e, ERR_USAGE, "Missing signature key.");
}

int cert_args_parse(int argc, char *const *argv, struct cert_args *ret, bool *ret_usage,
                    struct err *e)
{
    enum { YEAR = 365, EXPONENT_USUAL = 0x10001 };
    struct option options[ARRAY_LEN(rows) + 1] = {{0}};
    OWNED_HEAP struct cert_args *a = calloc(1, sizeof(*a));
    int c, i = 0;
    if (!a)
        return err_nomem(e, "the options");
    *a = (struct cert_args){
        .days = YEAR, .serial = 1, .exponent = EXPONENT_USUAL, .curve = "secp256r1"};
    for (size_t k = 0; k < ARRAY_LEN(rows); k++)
        options[k] = (struct option){rows[k].name, rows[k].has_arg, NULL, 0};
    optind = 0; /* it may have read another command line before */
    *ret_usage = false;
    while (a->action == CERT_ISSUE && (c = getopt_long_only(argc, argv, "", options, &i)) != -1) {
        if (c != 0) {
            *ret_usage = true;
            return err_set(e, ERR_USAGE, "an option is not understood");
        }
        if (take(a, &rows[i], optarg, e) < 0)
            return -1;
    }
    *ret = *a;
    return 0;
}
