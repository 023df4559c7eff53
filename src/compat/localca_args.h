/* swtpm_localca's command line. Nothing is opened here. */
#ifndef NVKEEP_COMPAT_LOCALCA_ARGS_H
#define NVKEEP_COMPAT_LOCALCA_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/err.h"

enum { LOCALCA_PASSED_MAX = 12 };

struct localca_args {
    bool help, tpm2, allow_signing, decryption;
    const char *type, *ek, *dir, *vm_id, *options_file, *config_file, *log_file;
    /* What is passed on as it is: options of swtpm_cert's, each with its value. */
    const char *spec[LOCALCA_PASSED_MAX], *tpm[LOCALCA_PASSED_MAX];
};

/* ERR_USAGE; an option that is not understood was complained of. */
int localca_args_parse(int argc, char *const *argv, struct localca_args *ret,
                       struct err *e) MUST_CHECK;

/* "x=HEX,y=HEX[,id=CURVE]", changed into three texts; false: it is no point, but a modulus. */
struct localca_point {
    char *x, *y, *curve; /* in the text; curve: NULL: not named */
};
bool localca_point(char *text, struct localca_point *ret);

#endif
