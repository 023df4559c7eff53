/* swtpm_setup, for those who call it by that name: libvirt, scripts. It makes the TPM in
 * an image of nvkeep's, in this process.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/compat/compat_user.h"
#include "src/compat/setup_make.h"
#include "src/compat/setup_state.h"
#include "src/serve/harden.h"
#include "src/serve/json_in.h"

static void usage(FILE *to)
{
    fprintf(
        to,
        "TPM emulator setup tool, of nvkeep " NVKEEP_VERSION "\n"
        "Usage: swtpm_setup [options]\n"
        "\n"
        "--tpm-state <dir>|dir://<dir>|file://<path>\n"
        "                 : where the TPM's state is: <dir>/tpm2-00.qcow2 (TPM 1.2:\n"
        "                   tpm-00.qcow2), or the image <path>\n"
        "--tpm2           : a TPM 2.0; without it a TPM 1.2\n"
        "--createek       : create the EK; of a TPM 2.0 an RSA and an ECC EK\n"
        "--allow-signing  : an EK that signs; not a standard EK\n"
        "--decryption     : with --allow-signing: an EK that decrypts, too\n"
        "--rsa-keysize <2048|3072|max>\n"
        "--create-spk     : create the storage primary key\n"
        "--ecc            : make that an ECC key\n"
        "--create-ek-cert : certificates for the EKs; implies --createek\n"
        "--create-platform-cert\n"
        "                 : a platform certificate; implies --createek\n"
        "--write-ek-cert-files <dir>\n"
        "--lock-nvram     : lock what was written to NV\n"
        "--vmid <id>      : for the certificates\n"
        "--take-ownership : TPM 1.2; implies --createek; --ownerpass <password>,\n"
        "                   --owner-well-known, --srkpass <password>, --srk-well-known\n"
        "--pcr-banks <banks>\n"
        "                 : such as sha1,sha256; '-': leave all active; default: sha256\n"
        "--reconfigure    : set the PCR banks of a TPM that is there\n"
        "--overwrite      : make a new TPM in place of one that is there, if nobody uses it\n"
        "--not-overwrite  : leave a TPM that is there alone, and end well\n"
        "--pwdfile <file>, --pwdfile-fd <fd>\n"
        "                 : the passphrase of the image\n"
        "--keyfile <file>, --keyfile-fd <fd>\n"
        "                 : the key of the image, in hexadecimal digits; without either a random\n"
        "                   key is made in a file next to the image\n"
        "--cipher <aes-128-cbc|aes-256-cbc>\n"
        "                 : how long the key is; the image is encrypted with AES-256-XTS\n"
        "--config <file>  : default: $XDG_CONFIG_HOME/swtpm_setup.conf, or /etc's\n"
        "--create-config-files [overwrite][,root][,skip-if-exist]\n"
        "--logfile <file> : default: standard output and standard error\n"
        "--runas <user>\n"
        "--print-capabilities, --version, --help\n"
        "\n"
        "--tpm, --swtpm_ioctl, --tcsd-system-ps-file and --display are accepted and do nothing:\n"
        "no other program is run.\n"
        "\n"
        "The owner of the machine decides in %s.\n",
        compat_policy_path());
}

static void print_capabilities(void)
{
    static const char *const features[] = {
        "tpm-1.2",
        "tpm-2.0",
        "cmdarg-keyfile-fd",
        "cmdarg-pwdfile-fd",
        "tpm12-not-need-root",
        "cmdarg-write-ek-cert-files",
        "cmdarg-create-config-files",
        "cmdarg-reconfigure-pcr-banks",
        "tpm2-rsa-keysize-2048",
        "tpm2-rsa-keysize-3072",
    };
    printf("{ \"type\": \"swtpm_setup\", \"features\": [ ");
    for (size_t i = 0; i < ARRAY_LEN(features); i++)
        printf("%s\"%s\"", i ? ", " : "", features[i]);
    printf(" ], \"version\": \"" NVKEEP_VERSION "\" }\n");
}

static int check_certificate_dir(const char *dir, struct err *e)
{
    char buf[200];
    struct stat st;
    if (!dir || (stat(dir, &st) == 0 && S_ISDIR(st.st_mode) && access(dir, W_OK) == 0))
        return 0;
    return err_set(e, ERR_USAGE,
                   "cannot access directory %s. Make sure it exists and is a directory.",
                   err_quote(buf, sizeof(buf), dir, strlen(dir)));
}

static int make(const struct setup_args *args, struct setup_log *log, mode_t callers_umask,
                char **ret_advice, struct err *e)
{
    struct setup_config config = {0};
    struct compat_policy policy;
    /* First, while it can be read for certain: it is the machine's, not the user's. */
    if (compat_policy_read(&policy, e) < 0 ||
        (args->run_as && compat_run_as(args->run_as, e) < 0) ||
        (args->log_file &&
         (setup_state_check_log(args, e) < 0 || setup_log_open(args->log_file, log, e) < 0)) ||
        check_certificate_dir(args->certificate_dir, e) < 0 ||
        setup_config_read(args->config, &config, e) < 0)
        return -1;
    int r = setup_make(args, &config, &policy, log, callers_umask, ret_advice, e);
    setup_config_clear(&config);
    return r;
}

static int act(const struct setup_args *args, struct setup_log *log, mode_t callers_umask,
               char **ret_advice, struct err *e)
{
    switch (args->action) {
    case SETUP_HELP:
        usage(stdout);
        return 0;
    case SETUP_VERSION:
        printf("TPM emulator setup tool, of nvkeep " NVKEEP_VERSION "\n");
        return 0;
    case SETUP_CAPABILITIES:
        print_capabilities();
        return 0;
    case SETUP_CONFIG_FILES:
        return setup_config_create(args->config_files, log, e);
    case SETUP_STATE:
        break;
    }
    return make(args, log, callers_umask, ret_advice, e);
}

static int complain_of_stdout(const struct setup_log *log, int os)
{
    setup_complain(log, "cannot write to standard output: %s", strerrordesc_np(os));
    return -1;
}

int main(int argc, char **argv)
{
    struct setup_args args = {0};
    struct setup_log log = {-1};
    OWNED_HEAP char *advice = NULL;
    struct err e;
    bool wants_usage = false;
    mode_t callers_umask = umask(077);
    if (harden_process() < 0) {
        fprintf(stderr, "swtpm_setup: cannot set up the process: %s\n", strerrordesc_np(errno));
        return EXIT_FAILURE;
    }
    json_prepare();
    if (setup_args_parse(argc, argv, &args, &wants_usage, &e) < 0) {
        if (wants_usage)
            usage(stderr);
        else
            fprintf(stderr, "%s\n", e.text);
        return EXIT_FAILURE;
    }
    int r = act(&args, &log, callers_umask, &advice, &e);
    if (r < 0)
        setup_complain(&log, "%s%s%s", e.text, advice ? "; " : "", advice ?: "");
    else if (fflush(stdout) != 0)
        r = complain_of_stdout(&log, errno);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
