#include "src/cli/cli_table.h"

#include "src/cli/cli.h"

#define KIB UINT64_C(1024)

/* Of a second key, beside --key. */
#define KEY_SOURCES                                                                                \
    {                                                                                              \
        {"file", "PATH", "the bytes of a file, exactly (a final newline counts)"},                 \
            {"pwdfile", "PATH", "a file; one final newline is dropped"},                           \
            {"fd", "N", "an inherited descriptor, bytes exactly"},                                 \
            {"pwdfd", "N", "an inherited descriptor; one final newline is dropped"},               \
            {"credential", "NAME", "a systemd credential of this unit"},                           \
            {"recovery", "PATH", "a recovery key, as somebody typed it into a file"},              \
        {                                                                                          \
            "prompt", NULL, "ask on the terminal"                                                  \
        }                                                                                          \
    }

/* Of options with the grammar of swtpm's --key. */
#define SWTPM_KEY                                                                                  \
    {                                                                                              \
        {"file", "PATH", "a file with the key"},                                                   \
            {"fd", "N", "an inherited descriptor with the key"},                                   \
            {"pwdfile", "PATH", "a file with a passphrase, from which the key is made"},           \
            {"pwdfd", "N", "an inherited descriptor with a passphrase"},                           \
            {"credential", "NAME", "a systemd credential of this unit with the key"},              \
            {"format", "hex|binary", "how the key is written (default: hex)"},                     \
            {"mode", "aes-256-cbc|aes-128-cbc", "its length (default: aes-128-cbc)"},              \
        {                                                                                          \
            "kdf", "pbkdf2|sha512", "how it is made from a passphrase (default: pbkdf2)"           \
        }                                                                                          \
    }

const struct cli_option cli_options[N_OPTIONS] = {
    [OPT_KEY] = {"key", 0, ARG_KEY, "SOURCE", "where the passphrase comes from",
                 .sub = {{"file", "PATH", "the bytes of a file, exactly (a final newline counts)"},
                         {"pwdfile", "PATH", "a file; one final newline is dropped"},
                         {"fd", "N", "an inherited descriptor, bytes exactly"},
                         {"pwdfd", "N", "an inherited descriptor; one final newline is dropped"},
                         {"credential", "NAME", "a systemd credential of this unit"},
                         {"recovery", "PATH", "a recovery key, as somebody typed it into a file"},
                         {"prompt", NULL, "ask on the terminal"},
                         {"admin", NULL, "serve: wait until it comes through the admin socket"}}},
    [OPT_NEW_KEY] = {"new-key", 0, ARG_PATH, "FILE",
                     "make a random key, write it to FILE (which must not exist) and use it"},
    [OPT_TPM2] = {"tpm2", 0, ARG_NONE, NULL, "a TPM 2.0 (default)"},
    [OPT_TPM12] = {"tpm12", 0, ARG_NONE, NULL, "a TPM 1.2"},
    [OPT_INCOMING] = {"incoming", 0, ARG_NONE, NULL,
                      "hold no TPM: a migration from another image will bring it"},
    [OPT_NEXT_KEY] = {"next-key", 0, ARG_KEY, "SOURCE", "add, rotate: the key to be added",
                      .sub = KEY_SOURCES},
    [OPT_OLD_KEY] = {"old-key", 0, ARG_KEY, "SOURCE", "remove: the key to be removed",
                     .sub = KEY_SOURCES},
    [OPT_RECOVERY_KEY] = {"recovery-key", 0, ARG_SUBOPTS, "WHERE",
                          "make a key to be written down and typed, and show it once",
                          .sub = {{"terminal", NULL, "on the terminal"},
                                  {"fd", "N", "to an inherited descriptor"}}},
    [OPT_SLOT] = {"slot", 0, ARG_NUMBER, "N",
                  "add, rotate: put the new key there (default: the first free slot); remove: what "
                  "is in there",
                  .least = 0, .most = 7},
    [OPT_ITER_TIME] =
        {"iter-time", 0, ARG_NUMBER, "MS",
         "how long one try of a passphrase shall take, in milliseconds (default: 2000, "
         "with --new-key 10)",
         .least = 1, .most = 600000},
    [OPT_SIZE] = {"size", 0, ARG_SIZE, "BYTES",
                  "size of the disk in the image, with K, M or G (default: 1M)", .least = 64 * KIB,
                  .most = KIB * KIB * KIB},
    [OPT_CLUSTER_SIZE] = {"cluster-size", 0, ARG_SIZE, "BYTES",
                          "cluster size of the image, a power of two (default: 64K)", .least = 512,
                          .most = 2 * KIB * KIB},
    [OPT_CTRL] = {"ctrl", 0, ARG_SUBOPTS, "SOCKET", "the control channel, for the emulator",
                  .sub = {{"type", "unixio|tcp", "what kind of socket"},
                          {"path", "PATH", "unixio: where to make the socket"},
                          {"mode", "OCTAL", "unixio: its permissions (default: 0770)"},
                          {"uid", "USER", "unixio: its owner, a name or a number"},
                          {"gid", "GROUP", "unixio: its group, a name or a number"},
                          {"port", "N", "tcp: the port"},
                          {"bindaddr", "ADDRESS", "tcp: numeric address (default: 127.0.0.1)"},
                          {"fd", "N", "an inherited listening socket"},
                          {"clientfd", "N", "an inherited connected socket"},
                          {"terminate", NULL, "end when the client hangs up"}}},
    [OPT_SERVER] = {"server", 0, ARG_SUBOPTS, "SOCKET",
                    "a data channel of its own, for clients that pass no descriptor",
                    .sub = {{"type", "unixio|tcp", "what kind of socket"},
                            {"path", "PATH", "unixio: where to make the socket"},
                            {"mode", "OCTAL", "unixio: its permissions (default: 0770)"},
                            {"uid", "USER", "unixio: its owner, a name or a number"},
                            {"gid", "GROUP", "unixio: its group, a name or a number"},
                            {"port", "N", "tcp: the port"},
                            {"bindaddr", "ADDRESS", "tcp: numeric address (default: 127.0.0.1)"},
                            {"fd", "N", "an inherited connected socket; end when it is closed"},
                            {"disconnect", NULL, "one command for each connection"}}},
    [OPT_ADMIN] = {"admin", 0, ARG_SUBOPTS, "SOCKET",
                   "a socket for management, in QMP's dialect (see nvkeep ctl)",
                   .sub = {{"type", "unixio", "what kind of socket"},
                           {"path", "PATH", "where to make the socket"},
                           {"mode", "OCTAL", "its permissions (default: 0600)"},
                           {"uid", "USER", "its owner, a name or a number"},
                           {"gid", "GROUP", "its group, a name or a number"},
                           {"fd", "N", "an inherited listening socket"}}},
    [OPT_MIGRATION] =
        {"migration", 0, ARG_SUBOPTS, "HOW", "what to expect of a migration",
         .sub = {{"incoming", NULL, "the state comes from another host; wait for it"},
                 {"release-lock-outgoing", NULL,
                  "let go of the image when the state was given away (always so)"},
                 {"storage", "shared|copied",
                  "incoming: copied: the image may not be whole before the guest stops "
                  "(default: shared)"},
                 {"rewind", NULL, "incoming: accept a state older than the image (saved VMs)"},
                 {"require-prepare", "SECONDS",
                  "give the state away only within SECONDS (default: 60) of a prepared "
                  "hand-over",
                  true}}},
    [OPT_MIGRATION_KEY] =
        {"migration-key", 0, ARG_SUBOPTS, "SOURCE", "a key that both hosts have, as for swtpm",
         .sub = {{"file", "PATH", "a file with the key"},
                 {"fd", "N", "an inherited descriptor with the key"},
                 {"pwdfile", "PATH", "a file with a passphrase, from which the key is made"},
                 {"pwdfd", "N", "an inherited descriptor with a passphrase"},
                 {"credential", "NAME", "a systemd credential of this unit with the key"},
                 {"format", "hex|binary", "how the key is written (default: hex)"},
                 {"mode", "aes-256-cbc|aes-128-cbc", "its length (default: aes-128-cbc)"},
                 {"kdf", "pbkdf2|sha512", "how it is made from a passphrase (default: pbkdf2)"},
                 {"remove", "BOOL", "remove the file once the daemon is ready", true}}},
    [OPT_MIGRATION_SEAL] = {"migration-seal", 0, ARG_WORDS, "POLICY",
                            "whether what travels is sealed",
                            .sub = {{"auto", NULL,
                                     "sealed; plain is accepted unless there is a migration key"},
                                    {"off", NULL, "as swtpm sends it"},
                                    {"required", NULL, "sealed; nothing else is accepted"}}},
    [OPT_FLAGS] = {"flags", 0, ARG_SUBOPTS, "FLAGS",
                   "what happens without being told on the control channel",
                   .sub = {{"not-need-init", NULL, "power the TPM on at start"},
                           {"startup-clear", NULL, "the same, and send TPM2_Startup(CLEAR)"},
                           {"startup-state", NULL, "the same, and send TPM2_Startup(STATE)"},
                           {"startup-deactivated", NULL, "the same for TPM 1.2, deactivated"},
                           {"startup-none", NULL, "send no startup command (default)"},
                           {"disable-auto-shutdown", NULL,
                            "send no TPM2_Shutdown for a guest that forgot it"}}},
    [OPT_LOCALITY] = {"locality", 0, ARG_SUBOPTS, "RULES", "which localities can be chosen",
                      .sub = {{"reject-locality-4", NULL, "refuse locality 4"},
                              {"allow-set-locality", NULL,
                               "clients of the data channel may choose theirs"}}},
    [OPT_LOG] = {"log", 0, ARG_SUBOPTS, "WHERE", "write a log",
                 .sub = {{"file", "PATH", "append to a file"},
                         {"fd", "N", "write to an inherited descriptor"},
                         {"level", "N",
                          "0: errors; 1: also start, stop, claims (default); 5: also "
                          "control commands"},
                         {"prefix", "TEXT", "put TEXT in front of each line"},
                         {"truncate", NULL, "empty the file first"}}},
    [OPT_PID] = {"pid", 0, ARG_SUBOPTS, "WHERE", "write the process id once the daemon is ready",
                 .sub = {{"file", "PATH", "to a file, removed at the end"},
                         {"fd", "N", "to an inherited descriptor"}}},
    [OPT_DAEMON] = {"daemon", 'd', ARG_NONE, NULL,
                    "go to the background once the image is open; the exit code tells"},
    [OPT_TERMINATE] = {"terminate", 't', ARG_NONE, NULL, "end when the data connection is lost"},
    [OPT_KEEP_LISTENING] = {"keep-listening", 0, ARG_NONE, NULL,
                            "when the emulator shuts down, wait for the next one"},
    [OPT_FOLLOW] = {"follow", 'f', ARG_NONE, NULL,
                    "events: go on after the first one, until the daemon ends"},
    [OPT_SOURCE_KEY] = {"source-key", 0, ARG_SUBOPTS, "KEY",
                        "the key of an encrypted state, as swtpm was given it with --key",
                        .sub = SWTPM_KEY},
    [OPT_KEEP_KEY] =
        {"keep-key", 0, ARG_NONE, NULL,
         "the image opens with the source's key, as what stands in for swtpm takes it"},
    [OPT_IN_PLACE] = {"in-place", 0, ARG_NONE, NULL,
                      "convert every state below DIR to the image that is looked for in its place"},
    [OPT_DRY_RUN] =
        {"dry-run", 0, ARG_NONE, NULL,
         "with --in-place: read everything, change nothing, and say what would be done"},
    [OPT_TARGET_KEY] = {"target-key", 0, ARG_SUBOPTS, "KEY",
                        "encrypt the state with this key, which swtpm is to be given with --key",
                        .sub = SWTPM_KEY},
    [OPT_PLAINTEXT] = {"plaintext", 0, ARG_NONE, NULL, "write the state in clear"},
    [OPT_YES] = {"yes", 0, ARG_NONE, NULL, "do it; without it, only say what would be done"},
    [OPT_BACKUP] = {"backup", 0, ARG_PATH, "FILE",
                    "copy the whole image to FILE (which must not exist) before it is written"},
    [OPT_NO_BACKUP] = {"no-backup", 0, ARG_NONE, NULL,
                       "there is a copy already, or none is wanted"},
    [OPT_JSON] = {"json", 0, ARG_NONE, NULL, "report as a JSON object on standard output"},
    [OPT_HELP] = {"help", 'h', ARG_NONE, NULL, "this text"},
};

#define OPTIONS(...)                                                                               \
    .options = {__VA_ARGS__},                                                                      \
    .n_options = sizeof((enum cli_option_id[]){__VA_ARGS__}) / sizeof(enum cli_option_id)

const struct cli_command cli_commands[] = {
    {
        .name = "create",
        .operand = "IMAGE",
        .brief = "make a new TPM in a new encrypted image",
        .about =
            "Makes a new TPM and the image that keeps its state: a qcow2 file with LUKS inside\n"
            "(AES-256-XTS), which qemu-img opens with the same passphrase. The file appears whole\n"
            "or not at all, and an existing file is never touched.\n"
            "\n"
            "Without --key and --new-key the passphrase is asked on the terminal. It must be\n"
            "something qemu-img could use: valid UTF-8 without NUL.\n"
            "\n"
            "A passphrase that a person chose is made slow to guess (--iter-time). A key made by\n"
            "--new-key holds 256 random bits; slowing it down would add nothing.",
        OPTIONS(OPT_KEY, OPT_NEW_KEY, OPT_TPM2, OPT_TPM12, OPT_INCOMING, OPT_ITER_TIME, OPT_SIZE,
                OPT_CLUSTER_SIZE, OPT_JSON, OPT_HELP),
        .exclusive = {{OPT_KEY, OPT_NEW_KEY}, {OPT_TPM2, OPT_TPM12}},
        .n_exclusive = 2,
        .wants_key = true,
        .run = cmd_create,
    },
    {
        .name = "serve",
        .operand = "IMAGE",
        .brief = "serve the TPM of an image to an emulator",
        .about =
            "Serves the TPM on a control channel and a data channel, as QEMU's tpmdev "
            "\"emulator\"\n"
            "and the tools for swtpm know them. The image is opened, the passphrase checked and\n"
            "the state verified before anything is answered. A wrong or missing key, or a damaged\n"
            "image, ends the program with the exit code of its class.\n"
            "\n"
            "Runs until the emulator shuts it down (unless --keep-listening is given), SIGTERM\n"
            "arrives, or (with --terminate) the data connection is lost.\n"
            "Never asks for a passphrase unless told so by --key prompt. Without --log, errors go\n"
            "to standard error.",
        OPTIONS(OPT_KEY, OPT_CTRL, OPT_SERVER, OPT_ADMIN, OPT_MIGRATION, OPT_MIGRATION_KEY,
                OPT_MIGRATION_SEAL, OPT_TPM2, OPT_TPM12, OPT_FLAGS, OPT_LOCALITY, OPT_LOG, OPT_PID,
                OPT_DAEMON, OPT_TERMINATE, OPT_KEEP_LISTENING, OPT_JSON, OPT_HELP),
        .required = {OPT_CTRL},
        .n_required = 1,
        .exclusive = {{OPT_TPM2, OPT_TPM12}, {OPT_TERMINATE, OPT_KEEP_LISTENING}},
        .n_exclusive = 2,
        .wants_key = true,
        .run = cmd_serve,
    },
    {
        .name = "info",
        .operand = "IMAGE",
        .brief = "show what an image is (needs no key)",
        .about = "Shows what can be seen from outside: format, encryption, key slots, sizes, whose "
                 "image\n"
                 "it is, and whether serve would open it, given the key. With --key also what is "
                 "inside:\n"
                 "the kind of TPM, how often its state changed, how full the log is, and the "
                 "fingerprints of\n"
                 "its endorsement keys.\n"
                 "\n"
                 "Never writes and takes no lock: usable while the image is being served.",
        OPTIONS(OPT_KEY, OPT_JSON, OPT_HELP),
        .run = cmd_info,
    },
    {
        .name = "verify-key",
        .operand = "IMAGE",
        .brief = "tell whether a passphrase opens an image",
        .about =
            "Checks the passphrase against the image and verifies that the image holds a TPM. The\n"
            "exit code answers: 0, or 11 for a wrong key (see nvkeep help exit-codes).\n"
            "\n"
            "Never writes and takes no lock: usable while the image is being served.",
        OPTIONS(OPT_KEY, OPT_JSON, OPT_HELP),
        .wants_key = true,
        .run = cmd_verify_key,
    },
    {
        .name = "check",
        .operand = "IMAGE",
        .brief = "check all of an image: its metadata and every record",
        .about =
            "Verifies the TPM's state record by record, counts every reference inside the qcow2\n"
            "file and compares it with the reference counts. Exit code 0: nothing is damaged.\n"
            "Clusters that are allocated and not used (leaks) cost space, not safety: they are\n"
            "reported, and the exit code stays 0.\n"
            "\n"
            "Never writes and takes no lock. What a running daemon writes meanwhile is not damage.",
        OPTIONS(OPT_KEY, OPT_JSON, OPT_HELP),
        .wants_key = true,
        .run = cmd_check,
    },
    {
        .name = "recover",
        .operand = "IMAGE",
        .brief = "go back to the newest state that a damaged image still has",
        .about =
            "For an image that is refused as STATE_CORRUPT because records of the TPM's state are\n"
            "damaged. Says what is damaged, which state is the newest that still verifies, and "
            "how\n"
            "many changes are lost with those behind it. Without --yes nothing is written; the "
            "exit\n"
            "code is 0 if there is a state to go back to.\n"
            "\n"
            "With --yes that state becomes the newest one, and the image opens again. To the "
            "guest\n"
            "it is as if the changes since then never happened. A copy of the image is made first\n"
            "(--backup), or declined (--no-backup).\n"
            "\n"
            "Needs the image for itself: LOCKED while it is being served. Opening an image never\n"
            "goes back by itself.",
        OPTIONS(OPT_KEY, OPT_YES, OPT_BACKUP, OPT_NO_BACKUP, OPT_JSON, OPT_HELP),
        .exclusive = {{OPT_BACKUP, OPT_NO_BACKUP}},
        .n_exclusive = 1,
        .wants_key = true,
        .run = cmd_recover,
    },
    {
        .name = "snapshot",
        .operand = "ACTION",
        .more = "IMAGE [NAME]",
        .brief = "list, create, apply and delete snapshots of the TPM's state",
        .about =
            "Snapshots in the image itself, as qemu-img snapshot shows them: either program "
            "lists,\n"
            "applies and deletes what the other one made.\n"
            "\n"
            "  list    what is there; needs no key and no NAME\n"
            "  create  keep the state as it is now\n"
            "  apply   go back to that of a snapshot; what came after it is lost\n"
            "  delete  let go of one\n"
            "\n"
            "NAME is a name or, of a snapshot that is there, its id. Each action happens whole or\n"
            "not at all, also where the power fails.\n"
            "\n"
            "Needs the image for itself: LOCKED while it is being served (list does not). For an\n"
            "image that is being served there are commands of nvkeep ctl. After qemu-img snapshot\n"
            "-a the image is refused as STATE_ROLLED_BACK until nvkeep adopt was asked to go on\n"
            "with it.",
        OPTIONS(OPT_KEY, OPT_JSON, OPT_HELP),
        .run = cmd_snapshot,
    },
    {
        .name = "adopt",
        .operand = "IMAGE",
        .brief = "go on with an older state that another program has put into an image",
        .about =
            "For an image that is refused as STATE_ROLLED_BACK: another program, such as qemu-img\n"
            "snapshot -a, has put an older state in the place of the TPM's newest one. Says what\n"
            "is there. Without --yes nothing is written.\n"
            "\n"
            "With --yes that state is the newest one from now on, and the image opens again. What\n"
            "the guest did with its TPM after that state is lost: counters go back, too.\n"
            "\n"
            "Needs the image for itself: LOCKED while it is being served.",
        OPTIONS(OPT_KEY, OPT_YES, OPT_JSON, OPT_HELP),
        .wants_key = true,
        .run = cmd_adopt,
    },
    {
        .name = "import",
        .operand = "SOURCE",
        .more = "IMAGE",
        .brief = "take a TPM over from swtpm into a new encrypted image",
        .about =
            "Makes a new image that holds the TPM of a swtpm, with all that it is known by: its\n"
            "seeds, keys, NV indices and counters. SOURCE is swtpm's state: dir://PATH,\n"
            "file://PATH (a linear store), or the path of either. It is only read, and locked\n"
            "meanwhile: LOCKED while a swtpm runs on it.\n"
            "\n"
            "An encrypted state is opened with --source-key and authenticated; libtpms must be\n"
            "able to start from it. Only then the image is made, whole or not at all. Keys and\n"
            "passphrases of the image are those of create.\n"
            "\n"
            "The source still holds the same TPM afterwards: run one of the two.\n"
            "\n"
            "    nvkeep import --in-place DIR...\n"
            "\n"
            "does it for all machines below each DIR (libvirt: /var/lib/libvirt/swtpm), so that\n"
            "they go on with nvkeep in swtpm's place: the image is tpm2-00.qcow2 (TPM 1.2:\n"
            "tpm-00.qcow2) next to the state, with its owner and mode, and the state stays beside\n"
            "it as tpm2-00.permall.before-nvkeep. A DIR that is a file is a linear store, and the\n"
            "image takes its name. What cannot be taken over is left as it is, with the reason;\n"
            "the exit code is then that of the first. Can be repeated, and interrupted.\n"
            "\n"
            "--source-key opens the encrypted states, and their images afterwards; a % in its "
            "path\n"
            "is the machine's name (libvirt: its UUID): pwdfile=KEYS/%,mode=aes-256-cbc. The "
            "image\n"
            "of one in clear gets a random key in a file next to it (tpm2-00.key, mode 0600).",
        OPTIONS(OPT_KEY, OPT_NEW_KEY, OPT_SOURCE_KEY, OPT_KEEP_KEY, OPT_IN_PLACE, OPT_DRY_RUN,
                OPT_TPM2, OPT_TPM12, OPT_ITER_TIME, OPT_SIZE, OPT_CLUSTER_SIZE, OPT_JSON, OPT_HELP),
        .exclusive = {{OPT_KEY, OPT_NEW_KEY},
                      {OPT_TPM2, OPT_TPM12},
                      {OPT_IN_PLACE, OPT_KEY},
                      {OPT_IN_PLACE, OPT_NEW_KEY},
                      {OPT_KEY, OPT_KEEP_KEY},
                      {OPT_NEW_KEY, OPT_KEEP_KEY},
                      {OPT_IN_PLACE, OPT_KEEP_KEY}},
        .n_exclusive = 7,
        .wants_key = true,
        .run = cmd_import,
    },
    {
        .name = "export",
        .operand = "IMAGE",
        .more = "TARGET",
        .brief = "give the TPM of an image back to swtpm",
        .about =
            "Writes the TPM of an image as a state that swtpm starts from. TARGET is dir://PATH "
            "or\n"
            "a path (a directory, made if it is not there; an empty one is replaced), or\n"
            "file://PATH (a linear store). It appears whole or not at all, and nothing that\n"
            "exists is replaced. Modes are 0700 and 0600.\n"
            "\n"
            "The state is encrypted with --target-key, or in clear only with --plaintext. The\n"
            "image is not changed. Needs it for itself: LOCKED while it is being served.",
        OPTIONS(OPT_KEY, OPT_TARGET_KEY, OPT_PLAINTEXT, OPT_JSON, OPT_HELP),
        .exclusive = {{OPT_TARGET_KEY, OPT_PLAINTEXT}},
        .n_exclusive = 1,
        .wants_key = true,
        .run = cmd_export,
    },
    {
        .name = "key",
        .operand = "ACTION",
        .more = "IMAGE",
        .brief = "list, add, remove and rotate the keys of an image",
        .about =
            "An image has eight key slots; what is in any of them opens it. The key of the state\n"
            "itself stays what it is.\n"
            "\n"
            "  list    which slots hold keys; with --key, which of them this key opens\n"
            "  add     one more key (--next-key, --new-key, --recovery-key)\n"
            "  remove  the key in --slot, or --old-key wherever it is\n"
            "  rotate  put a new key (--next-key, --new-key) in the place of --key\n"
            "\n"
            "--key is always a key that the image has. A new key is written, read back and tried\n"
            "before it counts; an old one is disabled before its material is overwritten. Where\n"
            "the power fails in between, one of them opens the image; the same command again does\n"
            "what is left. To remove a key, --key must be one that stays: the last cannot go.\n"
            "\n"
            "Needs the image for itself: LOCKED while it is being served (list does not). For the\n"
            "keys of an image that is being served there are commands of nvkeep ctl.",
        OPTIONS(OPT_KEY, OPT_NEXT_KEY, OPT_NEW_KEY, OPT_RECOVERY_KEY, OPT_OLD_KEY, OPT_SLOT,
                OPT_ITER_TIME, OPT_JSON, OPT_HELP),
        .exclusive = {{OPT_NEXT_KEY, OPT_NEW_KEY},
                      {OPT_OLD_KEY, OPT_SLOT},
                      {OPT_RECOVERY_KEY, OPT_NEXT_KEY},
                      {OPT_RECOVERY_KEY, OPT_NEW_KEY}},
        .n_exclusive = 4,
        .run = cmd_key,
    },
    {
        .name = "ctl",
        .operand = "SOCKET",
        .more = "COMMAND [NAME=VALUE...]",
        .brief = "talk to a daemon on its admin socket",
        .about = "Gives one command to the daemon that was started with --admin "
                 "type=unixio,path=SOCKET\n"
                 "and shows its answer. The exit code is that of the answer's class.",
        OPTIONS(OPT_KEY, OPT_FOLLOW, OPT_JSON, OPT_HELP),
        .run = cmd_ctl,
    },
};

const size_t cli_n_commands = ARRAY_LEN(cli_commands);

bool cli_command_has(const struct cli_command *c, enum cli_option_id id)
{
    for (size_t i = 0; i < c->n_options; i++)
        if (c->options[i] == id)
            return true;
    return false;
}
