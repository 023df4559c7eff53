/* swtpm_ioctl's command line: one command to the control channel of a daemon, ours or swtpm's. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "src/compat/ioctl_command.h"
#include "src/serve/harden.h"

enum {
    LETTERS_END = 256,
    W_TCP,
    W_UNIX,
    W_DEVICE,
    W_STOP,
    W_SAVE,
    W_LOAD,
    W_INFO,
    W_LOCK,
    W_VERSION,
    W_HELP
};

static void usage(FILE *to)
{
    fputs("Usage: swtpm_ioctl COMMAND --unix PATH | --tcp [HOST]:[PORT]\n\n"
          "--tcp [HOST]:[PORT]  : the control channel's port (127.0.0.1:6546)\n"
          "--unix PATH          : the control channel's socket\n"
          "-c                   : capabilities\n"
          "-i                   : power the TPM on; a volatile state is resumed and deleted\n"
          "--stop               : power it off\n"
          "-s                   : shut it down: the daemon ends\n"
          "-e                   : the tpmEstablished bit\n"
          "-r LOCALITY          : reset the tpmEstablished bit\n"
          "-v                   : store the volatile state\n"
          "-C                   : cancel the running command\n"
          "-l LOCALITY          : set the locality, 0 to 4\n"
          "-h DATA              : hash DATA; -: standard input\n"
          "--save TYPE FILE     : write a state to FILE: permanent, volatile or savestate\n"
          "--load TYPE FILE     : give the daemon a state from FILE\n"
          "-g                   : which keys are in use\n"
          "-b BYTES             : set the buffer size; 0: only ask\n"
          "--info FLAGS         : what the TPM says about itself\n"
          "--lock-storage N     : lock the storage, with N retries of 10 ms\n"
          "--version, --help\n\n"
          "Every wait ends after 5 seconds (-i, -v, --load: 60).\n",
          to);
}

static const struct option words[] = {
    {"tcp", required_argument, NULL, W_TCP},
    {"unix", required_argument, NULL, W_UNIX},
    {"tpm-device", required_argument, NULL, W_DEVICE},
    {"stop", no_argument, NULL, W_STOP},
    {"save", required_argument, NULL, W_SAVE},
    {"load", required_argument, NULL, W_LOAD},
    {"info", required_argument, NULL, W_INFO},
    {"lock-storage", required_argument, NULL, W_LOCK},
    {"version", no_argument, NULL, W_VERSION},
    {"help", no_argument, NULL, W_HELP},
    {NULL, 0, NULL, 0},
};

static const struct {
    int word;
    enum ioctl_verb verb;
} verbs[] = {
    {'c', IOCTL_CAPABILITIES}, {'i', IOCTL_INIT},      {W_STOP, IOCTL_STOP}, {'s', IOCTL_SHUTDOWN},
    {'e', IOCTL_GET_BIT},      {'r', IOCTL_RESET_BIT}, {'v', IOCTL_STORE},   {'C', IOCTL_CANCEL},
    {'l', IOCTL_LOCALITY},     {'h', IOCTL_HASH},      {W_SAVE, IOCTL_SAVE}, {W_LOAD, IOCTL_LOAD},
    {'g', IOCTL_CONFIG},       {'b', IOCTL_BUFFER},    {W_INFO, IOCTL_INFO}, {W_LOCK, IOCTL_LOCK},
};

struct call {
    struct ioctl_command command;
    const char *unix_path, *tcp, *device;
    bool help, version;
};

static int refuse(const char *text)
{
    fprintf(stderr, "%s\n", text);
    return -1;
}

static int take(int c, struct call *call)
{
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (verbs[i].word != c)
            continue;
        if (call->command.verb != IOCTL_NONE)
            return refuse("Only one command may be given.");
        call->command.verb = verbs[i].verb;
        call->command.argument = optarg;
        return 0;
    }
    switch (c) {
    case W_UNIX:
        call->unix_path = optarg;
        return 0;
    case W_TCP:
        call->tcp = optarg;
        return 0;
    case W_DEVICE:
        call->device = optarg;
        return 0;
    case W_VERSION:
        call->version = true;
        return 0;
    case W_HELP:
        call->help = true;
        return 0;
    default:
        return refuse("No valid command.");
    }
}

static int parse(int argc, char **argv, struct call *call)
{
    int c;
    /* getopt_long_only, as swtpm's: -stop and -info are words, too. */
    while ((c = getopt_long_only(argc, argv, "cir:sevCl:h:gb:", words, NULL)) != -1)
        if (take(c, call) < 0)
            return -1;
    if (call->help || call->version)
        return 0;
    if (call->command.verb == IOCTL_NONE)
        return refuse("No valid command.");
    bool has_file = call->command.verb == IOCTL_SAVE || call->command.verb == IOCTL_LOAD;
    if (has_file && optind >= argc)
        return refuse("The name of a file is missing.");
    if (has_file)
        call->command.file = argv[optind++];
    /* What else there is, was the path of a device. */
    if (optind < argc)
        call->device = argv[optind];
    return 0;
}

static int run(const struct call *call, struct err *e)
{
    struct link link;
    struct ioctl_command command = call->command;
    if (ioctl_command_check(&command, e) < 0)
        return -1;
    if (!call->unix_path && !call->tcp)
        return err_set(e, ERR_UNSUPPORTED,
                       "Error: Missing --unix PATH or --tcp HOST:PORT; devices of CUSE are not "
                       "supported");
    if ((call->unix_path ? link_unix(call->unix_path, &link, e)
                         : link_tcp(call->tcp, "6546", &link, e)) < 0)
        return -1;
    int r = ioctl_command_run(&command, &link, e);
    link_close(&link);
    if (r == 0 && fflush(stdout) == EOF)
        return err_sys(e, ERR_STORAGE, errno, "cannot write to standard output");
    return r;
}

int main(int argc, char **argv)
{
    struct call call = {.command = {.verb = IOCTL_NONE}};
    struct err e = {0};
    if (harden_process() < 0) {
        fprintf(stderr, "cannot set up the process: %s\n", strerrordesc_np(errno));
        return 1;
    }
    if (parse(argc, argv, &call) < 0)
        return 1;
    if (call.help) {
        usage(stdout);
        return 0;
    }
    if (call.version) {
        printf("TPM emulator control tool version %s (nvkeep, in the place of swtpm)\n",
               NVKEEP_VERSION);
        return 0;
    }
    if (run(&call, &e) == 0)
        return 0;
    fprintf(stderr, "%s\n", e.text);
    return 1;
}
