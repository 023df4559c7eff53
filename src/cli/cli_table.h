/* The command line, as data: the one place where commands, options, their arguments and their help
 * texts are spelled.
 *
 * Parsing, --help, suggestions and completion read this table; a test compares the manual page with
 * it. All of it is constant.
 */
#ifndef NVKEEP_SRC_CLI_TABLE_H
#define NVKEEP_SRC_CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"

enum cli_option_id {
    OPT_KEY,
    OPT_NEW_KEY,
    OPT_TPM2,
    OPT_TPM12,
    OPT_INCOMING,
    OPT_NEXT_KEY,
    OPT_OLD_KEY,
    OPT_RECOVERY_KEY,
    OPT_SLOT,
    OPT_ITER_TIME,
    OPT_SIZE,
    OPT_CLUSTER_SIZE,
    OPT_CTRL,
    OPT_SERVER,
    OPT_ADMIN,
    OPT_MIGRATION,
    OPT_MIGRATION_KEY,
    OPT_MIGRATION_SEAL,
    OPT_FLAGS,
    OPT_LOCALITY,
    OPT_LOG,
    OPT_PID,
    OPT_DAEMON,
    OPT_TERMINATE,
    OPT_KEEP_LISTENING,
    OPT_FOLLOW,
    OPT_SOURCE_KEY,
    OPT_KEEP_KEY,
    OPT_IN_PLACE,
    OPT_DRY_RUN,
    OPT_TARGET_KEY,
    OPT_PLAINTEXT,
    OPT_YES,
    OPT_BACKUP,
    OPT_NO_BACKUP,
    OPT_JSON,
    OPT_HELP,
    N_OPTIONS
};

enum cli_arg_kind {
    ARG_NONE,    /* a switch */
    ARG_PATH,    /* any text but the empty one */
    ARG_KEY,     /* key_source_parse() */
    ARG_NUMBER,  /* decimal, least to most */
    ARG_SIZE,    /* the same with K, M or G (1024) behind it */
    ARG_SUBOPTS, /* name=value,name,... */
    ARG_WORDS,   /* one of sub[]: cli_word() */
};

enum { MAX_SUBOPTS = 12 };

/* One name of a comma-separated argument. */
struct cli_subopt {
    const char *name;
    const char *value; /* NULL: takes none */
    const char *help;
    bool optional; /* the value */
};

struct cli_option {
    const char *name; /* without dashes */
    char letter;      /* 0: no short form */
    enum cli_arg_kind kind;
    const char *value; /* what help and manual call the argument */
    const char *help;
    uint64_t least, most; /* ARG_NUMBER, ARG_SIZE */
    struct cli_subopt sub[MAX_SUBOPTS + 1];
};

struct cli_run;

struct cli_command {
    const char *name;
    const char *operand; /* NULL: takes none */
    const char *more;    /* what may follow it; NULL: nothing */
    const char *brief;
    const char *about;                     /* paragraphs of --help */
    enum cli_option_id options[N_OPTIONS]; /* in the order of --help */
    size_t n_options;
    enum cli_option_id required[4]; /* apart from the key, which has rules of its own */
    size_t n_required;
    bool wants_key;
    enum cli_option_id exclusive[7][2];
    size_t n_exclusive;
    int (*run)(struct cli_run *run, struct err *e);
};

extern const struct cli_option cli_options[N_OPTIONS];
extern const struct cli_command cli_commands[];
extern const size_t cli_n_commands;

bool cli_command_has(const struct cli_command *c, enum cli_option_id id);

#endif
