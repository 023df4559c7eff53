/* swtpm's command line, from argv to what serve() takes. Nothing is opened here, but inherited
 * descriptors are looked at.
 */
#ifndef NVKEEP_COMPAT_EMULATOR_ARGS_H
#define NVKEEP_COMPAT_EMULATOR_ARGS_H

#include "src/compat/compat_image.h"
#include "src/serve/serve_plan.h"

enum emulator_action {
    ACTION_SERVE,
    ACTION_HELP,
    ACTION_CAPABILITIES,
    ACTION_STATES,
    ACTION_INFO,
};

enum { EMULATOR_TEXTS = 10 };

struct emulator_args {
    bool chardev; /* else socket */
    enum emulator_action action;
    bool daemon;
    const char *run_as, *chroot; /* NULL: stay */
    const char *device;          /* chardev: its path; NULL: none */
    int device_fd;               /* chardev: inherited; -1: none */
    uint64_t info;               /* ACTION_INFO */
    bool has_state;              /* --tpmstate (or TPM_PATH) */
    struct compat_image image;   /* its place, key and mode */
    enum compat_found found;     /* there, when it started */
    char *advice;                /* owned; after a refusal: how to go on; NULL: nobody knows */
    struct serve_plan plan;
    char *text[EMULATOR_TEXTS]; /* owned: what the plan's texts point into */
    size_t n_texts;
};

/* argv[0] is the interface: socket or chardev. ret may be cleared after a failure, too. ERR_USAGE,
 * ERR_UNSUPPORTED. *ret_usage: the caller is to be shown the usage. */
int emulator_args_parse(int argc, char **argv, struct emulator_args *ret, bool *ret_usage,
                        struct err *e) MUST_CHECK;
void emulator_args_clear(struct emulator_args *a);
void emulator_usage(FILE *to, bool chardev);

#endif
