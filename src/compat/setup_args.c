#include "src/compat/setup_args.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* What an option does. */
enum act { SET, TEXT, ACTION, IGNORED, RSA_SIZE, CIPHER, UNSUPPORTED };

struct row {
    const char *name;
    int has_arg;
    enum act act;
    size_t at;  /* SET: a bool; TEXT: a text */
    size_t set; /* TEXT: a bool that is set too, 0: none */
    enum setup_action action;
};

#define AT(field) offsetof(struct setup_args, field)
static const struct row rows[] = {
    {"runas", 1, TEXT, AT(run_as), 0, 0},
    {"tpm-state", 1, TEXT, AT(state), 0, 0},
    {"tpmstate", 1, TEXT, AT(state), 0, 0},
    {"tpm", 1, IGNORED, 0, 0, 0},
    {"swtpm_ioctl", 1, IGNORED, 0, 0, 0},
    {"tcsd-system-ps-file", 1, IGNORED, 0, 0, 0},
    {"display", 0, IGNORED, 0, 0, 0},
    {"tpm2", 0, SET, AT(tpm2), 0, 0},
    {"createek", 0, SET, AT(create_ek), 0, 0},
    {"create-spk", 0, SET, AT(create_spk), 0, 0},
    {"ecc", 0, SET, AT(ecc), 0, 0},
    {"create-ek-cert", 0, SET, AT(ek_certificate), 0, 0},
    {"create-platform-cert", 0, SET, AT(platform_certificate), 0, 0},
    {"lock-nvram", 0, SET, AT(lock_nvram), 0, 0},
    {"allow-signing", 0, SET, AT(allow_signing), 0, 0},
    {"decryption", 0, SET, AT(decryption), 0, 0},
    {"overwrite", 0, SET, AT(overwrite), 0, 0},
    {"not-overwrite", 0, SET, AT(not_overwrite), 0, 0},
    {"reconfigure", 0, SET, AT(reconfigure), 0, 0},
    {"take-ownership", 0, SET, AT(take_ownership), 0, 0},
    {"owner-well-known", 0, SET, AT(owner_well_known), 0, 0},
    {"srk-well-known", 0, SET, AT(srk_well_known), 0, 0},
    {"ownerpass", 1, TEXT, AT(owner_password), 0, 0},
    {"srkpass", 1, TEXT, AT(srk_password), 0, 0},
    {"config", 1, TEXT, AT(config), 0, 0},
    {"logfile", 1, TEXT, AT(log_file), 0, 0},
    {"vmid", 1, TEXT, AT(vm_id), 0, 0},
    {"pcr-banks", 1, TEXT, AT(pcr_banks), 0, 0},
    {"write-ek-cert-files", 1, TEXT, AT(certificate_dir), 0, 0},
    {"keyfile", 1, TEXT, AT(key_file), 0, 0},
    {"keyfile-fd", 1, TEXT, AT(key_file), AT(key_is_fd), 0},
    {"pwdfile", 1, TEXT, AT(password_file), 0, 0},
    {"pwdfile-fd", 1, TEXT, AT(password_file), AT(password_is_fd), 0},
    {"cipher", 1, CIPHER, 0, 0, 0},
    {"rsa-keysize", 1, RSA_SIZE, 0, 0, 0},
    {"profile", 1, UNSUPPORTED, 0, 0, 0},
    {"profile-name", 1, UNSUPPORTED, 0, 0, 0},
    {"profile-file", 1, UNSUPPORTED, 0, 0, 0},
    {"profile-remove-disabled", 1, UNSUPPORTED, 0, 0, 0},
    {"create-config-files", 2, ACTION, 0, 0, SETUP_CONFIG_FILES},
    {"print-capabilities", 0, ACTION, 0, 0, SETUP_CAPABILITIES},
    {"version", 0, ACTION, 0, 0, SETUP_VERSION},
    {"help", 0, ACTION, 0, 0, SETUP_HELP},
};

static int take_cipher(struct setup_args *a, const char *value, struct err *e)
{
    char buf[100];
    a->aes256 = strcmp(value, "aes-256-cbc") == 0;
    if (a->aes256 || strcmp(value, "aes-128-cbc") == 0 || strcmp(value, "aes-cbc") == 0)
        return 0;
    return err_set(e, ERR_USAGE, "Unsupported cipher %s.",
                   err_quote(buf, sizeof(buf), value, strlen(value)));
}

static int take_rsa_size(struct setup_args *a, const char *value, struct err *e)
{
    char buf[100];
    a->rsa3072 = strcmp(value, "3072") == 0 || strcmp(value, "max") == 0;
    if (a->rsa3072 || strcmp(value, "2048") == 0)
        return 0;
    return err_set(e, ERR_USAGE, "Unsupported RSA key size %s.",
                   err_quote(buf, sizeof(buf), value, strlen(value)));
}

static int take(struct setup_args *a, const struct row *r, const char *value, struct err *e)
{
    char *base = (char *)a;
    switch (r->act) {
    case SET:
        *(bool *)(base + r->at) = true;
        return 0;
    case TEXT:
        *(const char **)(base + r->at) = value;
        if (r->set)
            *(bool *)(base + r->set) = true;
        return 0;
    case ACTION:
        a->action = r->action;
        if (r->action == SETUP_CONFIG_FILES)
            a->config_files = value;
        return 0;
    case IGNORED:
        return 0;
    case RSA_SIZE:
        return take_rsa_size(a, value, e);
    case CIPHER:
        return take_cipher(a, value, e);
    case UNSUPPORTED:
        break;
    }
    return err_set(e, ERR_UNSUPPORTED, "--%s: there are no profiles in the libtpms that is used",
                   r->name);
}

/* The words that it has always used for these. */
static int check(struct setup_args *a, struct err *e)
{
    if (a->action != SETUP_STATE)
        return 0;
    if (!a->state)
        return err_set(e, ERR_USAGE, "--tpm-state must be provided");
    if (a->ecc && !a->tpm2)
        return err_set(e, ERR_USAGE, "--ecc requires --tpm2.");
    if (a->create_spk && !a->tpm2)
        return err_set(e, ERR_USAGE, "--create-spk requires --tpm2.");
    if (a->reconfigure && !a->tpm2)
        return err_set(e, ERR_USAGE, "--reconfigure requires --tpm2.");
    if (a->take_ownership && a->tpm2)
        return err_set(e, ERR_USAGE, "Taking ownership is not supported for TPM 2.");
    if (a->key_file && a->password_file)
        return err_set(e, ERR_USAGE, "a key and a passphrase were given; give one of them");
    a->create_ek |= a->ek_certificate || a->platform_certificate || a->take_ownership;
    return 0;
}

int setup_args_parse(int argc, char **argv, struct setup_args *ret, bool *ret_usage, struct err *e)
{
    struct option options[ARRAY_LEN(rows) + 1] = {{0}};
    struct setup_args a = {0};
    int c, i = 0;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++)
        options[k] = (struct option){rows[k].name, rows[k].has_arg, NULL, 0};
    optind = 1;
    *ret_usage = false;
    while ((c = getopt_long(argc, argv, "h?", options, &i)) != -1) {
        if (c == 'h') {
            a.action = SETUP_HELP;
        } else if (c != 0) {
            *ret_usage = true;
            return err_set(e, ERR_USAGE, "an option is not understood");
        } else {
            /* "--create-config-files skip-if-exist": the words may stand apart. */
            if (rows[i].has_arg == 2 && !optarg && optind < argc && argv[optind][0] != '-')
                optarg = argv[optind++];
            if (take(&a, &rows[i], optarg, e) < 0)
                return -1;
        }
    }
    if (check(&a, e) < 0)
        return -1;
    *ret = a;
    return 0;
}
