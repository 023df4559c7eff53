/* swtpm_cert, for those who call it by that name: the certificate of a TPM's endorsement key, or of
 * the platform that the TPM is in.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/cert_issue.h"
#include "src/compat/cert_password.h"
#include "src/serve/harden.h"

#define VERSION_LINE "TPM certificate tool, of nvkeep " NVKEEP_VERSION "\n"

static void usage(FILE *to)
{
    fputs(VERSION_LINE
          "\n"
          "Usage: swtpm_cert [options]\n"
          "\n"
          "Create TPM certificates without the EK's private key.\n"
          "\n"
          "--pubkey <file>          : PEM file with the public key (EK)\n"
          "--modulus <hex digits>   : the modulus of an RSA key; --exponent <number>\n"
          "--ecc-x <hex digits>, --ecc-y <hex digits>\n"
          "                         : the point of an ECC key; --ecc-curveid <secp256r1|\n"
          "                           secp384r1|secp521r1>, default: secp256r1\n"
          "--signkey <key>          : who signs: a PEM file, a pkcs11: URI, or program:<path>,\n"
          "                           a program that signs (see nvkeep-compat(7))\n"
          "--signkey-password <password>\n"
          "--signkey-pwd <[pass:]<password>|file:<file>|fd:<fd>|env:<variable>>\n"
          "--issuercert <file>      : PEM file with the certificate of who signs\n"
          "--out-cert <file>        : default: standard output\n"
          "--pem                    : PEM instead of DER\n"
          "--add-header             : the header of a certificate in a TPM 1.2's NV\n"
          "--serial <number>        : default: 1\n"
          "--days <number>          : -1: for ever; default: 365\n"
          "--subject <name>         : such as C=US,ST=NY,L=NewYork; TPM 2.0 alone\n"
          "--type <ek|platform>     : default: ek\n"
          "--tpm2                   : of a TPM 2.0; without it of a TPM 1.2\n"
          "--allow-signing          : the EK signs\n"
          "--decryption             : with --allow-signing: the EK decrypts, too\n"
          "--tpm-manufacturer, --tpm-model, --tpm-version <text>\n"
          "--platform-manufacturer, --platform-model, --platform-version <text>\n"
          "--tpm-spec-family <text>, --tpm-spec-level, --tpm-spec-revision <number>\n"
          "--tpm-assertions         : TPM security assertions, too\n"
          "--print-capabilities, --version, --help\n"
          "\n"
          "SWTPM_PKCS11_PIN in the environment: the PIN of a PKCS #11 token\n"
          "\n"
          "--parentkey-password and --parentkey-pwd are accepted and do nothing.\n",
          to);
}

/* swtpm_cert has no other way to be told a token's PIN than this. */
static int get_password(const struct cert_args *a, struct secret **ret, struct err *e)
{
    const char *pin = getenv("SWTPM_PKCS11_PIN");
    if (a->signkey_pwd)
        return cert_password_named(a->signkey_pwd, ret, e);
    if (a->signkey_password)
        return cert_password(a->signkey_password, ret, e);
    return pin && strncmp(a->signkey, "pkcs11:", 7) == 0 ? cert_password(pin, ret, e) : 0;
}

static int issue(const struct cert_args *a, struct err *e)
{
    uint8_t cert[CERT_BYTES];
    size_t n = 0;
    OWNED(secret) password = NULL;
    if (get_password(a, &password, e) < 0)
        return -1;
    const struct cert_by by = {.password = password};
    return cert_issue(a, &by, cert, &n, e) < 0 ? -1 : cert_write(a->out_file, cert, n, e);
}

static int act(const struct cert_args *a, bool *ret_usage, struct err *e)
{
    switch (a->action) {
    case CERT_HELP:
        usage(stdout);
        return 0;
    case CERT_VERSION:
        printf(VERSION_LINE);
        return 0;
    case CERT_CAPABILITIES:
        printf("{ \"type\": \"swtpm_cert\", \"features\": [ \"cmdarg-signkey-pwd\", "
               "\"cmdarg-parentkey-pwd\" ], \"version\": \"" NVKEEP_VERSION "\" }\n");
        return 0;
    case CERT_ISSUE:
        break;
    }
    return cert_args_check(a, ret_usage, e) < 0 ? -1 : issue(a, e);
}

int main(int argc, char **argv)
{
    struct cert_args args;
    struct err e;
    bool wants_usage = false;
    if (harden_process() < 0) {
        fprintf(stderr, "swtpm_cert: cannot set up the process: %s\n", strerrordesc_np(errno));
        return EXIT_FAILURE;
    }
    int r = cert_args_parse(argc, argv, &args, &wants_usage, &e);
    if (r == 0)
        r = act(&args, &wants_usage, &e);
    if (r == 0 && fflush(stdout) == 0)
        return EXIT_SUCCESS;
    if (r < 0)
        fprintf(stderr, "%s\n", e.text);
    if (wants_usage)
        usage(stderr);
    return EXIT_FAILURE;
}
