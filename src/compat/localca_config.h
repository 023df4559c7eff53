/* swtpm-localca.conf and swtpm-localca.options, from text to values. Pure but for the environment
 * that a configuration may name.
 */
#ifndef NVKEEP_COMPAT_LOCALCA_CONFIG_H
#define NVKEEP_COMPAT_LOCALCA_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "src/base/err.h"
#include "src/base/own.h"

enum { LOCALCA_ENV_MAX = 16 };

struct localca_config {
    char *state_dir, *signing_key, *issuer_cert, *cert_serial; /* owned; NULL: not there */
    char *signing_key_password, *pin;                          /* likewise; wiped when freed */
    /* "env:NAME = value", for PKCS #11 modules. */
    struct {
        char *name, *value;
    } env[LOCALCA_ENV_MAX];
    size_t n_env;
};

/* Lines "name = value # comment", from the first column on; the first of a name counts, others are
 * passed over. ${NAME} is what `lookup` says of it. ERR_USAGE: it says nothing, or there is no }.
 */
int localca_config_parse(const char *text, size_t n, const char *(*lookup)(const char *name),
                         struct localca_config *ret, struct err *e) MUST_CHECK;
void localca_config_clear(struct localca_config *c);

/* The words of an options file, by white space. */
enum { LOCALCA_WORDS_MAX = 64 };
struct localca_words {
    char *text; /* owned */
    char *word[LOCALCA_WORDS_MAX];
    size_t n;
};
/* ERR_USAGE: too many. */
int localca_words_parse(const char *text, size_t n, struct localca_words *ret,
                        struct err *e) MUST_CHECK;
void localca_words_clear(struct localca_words *w);

#endif
