/* swtpm's sub-options: "name=value,name,...", where nothing is escaped, an empty word counts for
 * nothing and a boolean is a bare name, =true or =1. Pure.
 */
#ifndef NVKEEP_COMPAT_EMULATOR_WORDS_H
#define NVKEEP_COMPAT_EMULATOR_WORDS_H

#include <stdbool.h>

#include "src/base/err.h"

/* The same in the grammar of our own options: a boolean that is true is a bare name, one that is
 * not is left out. first: put in front (a type that swtpm takes for granted); NULL: nothing.
 * The caller's; NULL: no memory. */
char *words_for_us(const char *text, const char *const booleans[], const char *first);

/* One word after the other: false at the end. The value is "" for a bare name. */
struct words {
    char *rest;
};
bool words_next(struct words *w, const char **ret_name, const char **ret_value);
bool words_true(const char *value);
bool words_have(const char *text, const char *name);

#endif
