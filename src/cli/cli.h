/* From argv to a command that runs, and from its outcome to text, JSON and an exit code.
 *
 *     argv --cli_parse--> cli_args --cli_main--> command --> 0, or *e --> one line and an exit code
 *
 * Everything is parsed and checked before any file is opened. Exit code 0 means that the work was
 * done and its report was written.
 */
#ifndef NVKEEP_SRC_CLI_H
#define NVKEEP_SRC_CLI_H

#include "src/cli/cli_table.h"
#include "src/cli/progress.h"
#include "src/key/key_source.h"
#include "src/serve/json_out.h"

enum { CLI_MORE_MAX = 255, CTL_MORE_MAX = 8 };

struct cli_args {
    const struct cli_command *command;
    const char *image;          /* the operand; of ctl: the socket */
    char *text[N_OPTIONS];      /* NULL: not given; a switch that was given: "" */
    uint64_t number[N_OPTIONS]; /* ARG_NUMBER, ARG_SIZE */
    struct key_source key;
    struct key_source second_key;   /* --next-key, --old-key */
    const char *more[CLI_MORE_MAX]; /* what follows the operand */
    size_t n_more;
};

/* What a command is given, and what it leaves beside its result. */
struct cli_run {
    const struct cli_args *args;
    struct json_out *json;  /* NULL without --json; otherwise facts go here and not to stdout */
    bool reported;          /* out: standard output has it all already */
    bool failure_reported;  /* out: the same where it failed */
    int signal;             /* out: the signal that interrupted it; the program ends by it */
    const char *made[2];    /* out: new files, removed when the report of them cannot be written */
    const char *made_state; /* out: the same for a new state of swtpm's */
    bool made_state_inside; /* a directory that was there; it stays, empty */
};

/* The whole program. Returns the exit code. */
int cli_main(int argc, char **arguments);

/* argv[1] is the command. Refuses, by name: unknown, repeated and contradicting options, missing
 * and superfluous arguments; all missing things in one error. ERR_USAGE; ERR_KEY_MISSING never. */
int cli_parse(int argc, char **argv, struct cli_args *ret, struct err *e) MUST_CHECK;

/* Splits "name=value,name,..." of an option into ret[i], the value of its sub-option i (NULL: not
 * given; "" for a bare name). A doubled comma is a comma in the value. Changes text. ERR_USAGE. */
int cli_subopts(const struct cli_option *opt, char *text, char *ret[MAX_SUBOPTS],
                struct err *e) MUST_CHECK;

/* Which of the option's words it is. ERR_USAGE. */
int cli_word(const struct cli_option *opt, const char *text, size_t *ret, struct err *e) MUST_CHECK;

/* Decimal, hexadecimal is refused. `what` is for the message: "--log: level". ERR_USAGE. */
int cli_number(const char *what, const char *text, uint64_t least, uint64_t most, uint64_t *ret,
               struct err *e) MUST_CHECK;
int cli_size(const char *what, const char *text, uint64_t least, uint64_t most, uint64_t *ret,
             struct err *e) MUST_CHECK;

/* --recovery-key: where to show it; -1: on the terminal, or it was not given. ERR_USAGE. */
int cli_recovery_fd(const struct cli_args *a, int *ret, struct err *e) MUST_CHECK;

/* The name most like `text`, or NULL when none is. Names are those of next(i), up to NULL. */
const char *cli_suggest(const char *text, const char *(*next)(const void *ctx, size_t i),
                        const void *ctx);

void cli_help(FILE *to);
void cli_help_command(FILE *to, const struct cli_command *c);
void cli_help_exit_codes(FILE *to);
/* Names only, one on each line, for completion. */
void cli_help_words(FILE *to, const struct cli_command *c);

/* The key for a command on an existing image: from --key, or asked where `may_ask` and a person is
 * there. Before it is asked for, or said to be missing, the image is looked at: what cannot be
 * opened anyway is refused as such. ERR_KEY_MISSING. */
int cli_key_missing(const char *image, struct err *e); /* returns -1 */
int cli_key(const struct cli_args *args, bool may_ask, struct secret **ret, size_t *ret_bytes,
            struct err *e) MUST_CHECK;

int cmd_create(struct cli_run *run, struct err *e);
int cmd_serve(struct cli_run *run, struct err *e);
int cmd_info(struct cli_run *run, struct err *e);
int cmd_verify_key(struct cli_run *run, struct err *e);
int cmd_check(struct cli_run *run, struct err *e);
int cmd_recover(struct cli_run *run, struct err *e);
int cmd_snapshot(struct cli_run *run, struct err *e);
int cmd_adopt(struct cli_run *run, struct err *e);
int cmd_import(struct cli_run *run, struct err *e);
int cmd_import_in_place(struct cli_run *run, struct err *e);
int cmd_export(struct cli_run *run, struct err *e);
int cmd_key(struct cli_run *run, struct err *e);
int cmd_ctl(struct cli_run *run, struct err *e);

#endif
