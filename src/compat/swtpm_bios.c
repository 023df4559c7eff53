/* swtpm_bios' command line: what a BIOS says to a TPM after power-on, to a daemon of ours, of
 * swtpm's, or to a device. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/bios_steps.h"
#include "src/serve/harden.h"

enum { EXIT_REFUSED = 128, EXIT_NEEDS_RESET = 129, EXIT_UNREACHABLE = 255, PLACE_BYTES = 300 };

static void usage(FILE *to)
{
    fprintf(to,
            "Usage: swtpm_bios [OPTIONS]\n\n"
            "Starts a TPM as a BIOS does: TPM_Startup, then physical presence, enable and "
            "activate.\n\n"
            "--tpm-device DEVICE  : a device (default: $TPM_DEVICE, else /dev/tpm0)\n"
            "--tcp [HOST]:[PORT]  : a TPM on a port (127.0.0.1:6545)\n"
            "--unix PATH          : a TPM on a unix socket\n"
            "--tpm2               : it is a TPM 2.0\n"
            "-c, -s, -d           : startup clear (default), state or deactivated (TPM 1.2)\n"
            "-n                   : no startup\n"
            "-o                   : only the startup\n"
            "-cs                  : also TPM_ContinueSelfTest, TPM2_IncrementalSelfTest\n"
            "-ea                  : make sure that a TPM 1.2 is active; exit code %d: it has to be "
            "reset\n"
            "-u                   : give up physical presence; TPM 2.0: a random password for the "
            "platform\n"
            "-v, -h               : version; this text\n\n"
            "Exit codes: 0, %d: the TPM refused a command, %d: it cannot be reached. A wait ends "
            "after %d seconds.\n",
            EXIT_NEEDS_RESET, EXIT_REFUSED, EXIT_UNREACHABLE, BIOS_SECONDS);
}

enum { W_DEVICE = 1, W_TCP, W_UNIX, W_TPM2, W_SELF_TEST, W_ACTIVATE };

static const struct option words[] = {
    {"tpm-device", required_argument, NULL, W_DEVICE},
    {"tcp", required_argument, NULL, W_TCP},
    {"unix", required_argument, NULL, W_UNIX},
    {"tpm2", no_argument, NULL, W_TPM2},
    {"c", no_argument, NULL, 'c'},
    {"s", no_argument, NULL, 's'},
    {"d", no_argument, NULL, 'd'},
    {"n", no_argument, NULL, 'n'},
    {"o", no_argument, NULL, 'o'},
    {"cs", no_argument, NULL, W_SELF_TEST},
    {"ea", no_argument, NULL, W_ACTIVATE},
    {"u", no_argument, NULL, 'u'},
    {"v", no_argument, NULL, 'v'},
    {"h", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* What was not named is taken from the environment that the TSS of TPM 1.2 knows. */
static void take_environment(struct bios_target *to, char place[PLACE_BYTES])
{
    const char *host = getenv("TCSD_TCP_DEVICE_HOSTNAME"), *port = getenv("TCSD_TCP_DEVICE_PORT");
    if (!to->device)
        to->device = getenv("TPM_DEVICE") ?: "/dev/tpm0";
    if (to->tcp || to->unix_path || !getenv("TCSD_USE_TCP_DEVICE"))
        return;
    snprintf(place, PLACE_BYTES, "%s:%s", host ?: "localhost", port ?: "6545");
    to->tcp = place;
}

static int parse(int argc, char **argv, struct bios *b, char *ret_asked)
{
    int c;
    while ((c = getopt_long_only(argc, argv, "", words, NULL)) != -1) {
        switch (c) {
        case W_DEVICE:
            b->to.device = optarg;
            break;
        case W_TCP:
            b->to.tcp = optarg;
            break;
        case W_UNIX:
            b->to.unix_path = optarg;
            break;
        case W_TPM2:
            b->tpm2 = true;
            break;
        case 'c':
        case 's':
        case 'd':
        case 'n':
            b->startup = c == 'c'   ? BIOS_CLEAR
                         : c == 's' ? BIOS_STATE
                         : c == 'd' ? BIOS_DEACTIVATED
                                    : BIOS_NO_STARTUP;
            break;
        case 'o':
            b->startup_only = true;
            break;
        case W_SELF_TEST:
            b->self_test = true;
            break;
        case W_ACTIVATE:
            b->activate = true;
            break;
        case 'u':
            b->give_up_presence = true;
            break;
        case 'v':
        case 'h':
            *ret_asked = (char)c;
            return 0;
        default:
            return -1;
        }
    }
    return 0;
}

static int run(const struct bios *b)
{
    struct err e = {0};
    unsigned refused;
    bool needs_reset;
    if (bios_run(b, &refused, &needs_reset, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return EXIT_UNREACHABLE;
    }
    if (needs_reset) {
        puts("TPM requires a reset");
        return EXIT_NEEDS_RESET;
    }
    return refused ? EXIT_REFUSED : 0;
}

int main(int argc, char **argv)
{
    struct bios b = {.startup = BIOS_CLEAR};
    char place[PLACE_BYTES], asked = 0;
    if (harden_process() < 0) {
        fprintf(stderr, "cannot set up the process: %s\n", strerrordesc_np(errno));
        return EXIT_UNREACHABLE;
    }
    if (parse(argc, argv, &b, &asked) < 0) {
        usage(stdout);
        return 1;
    }
    take_environment(&b.to, place);
    if (asked == 'h')
        usage(stdout);
    if (asked == 'v')
        printf("TPM emulator BIOS emulator version %s (nvkeep, in the place of swtpm)\n",
               NVKEEP_VERSION);
    return asked ? 0 : run(&b);
}
