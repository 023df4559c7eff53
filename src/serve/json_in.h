/* JSON that came from outside, to be looked at.
 *
 * Parsing takes one whole value, without names given twice in an object. What a value holds is
 * borrowed from it and lives as long as the whole.
 */
#ifndef NVKEEP_SRC_JSON_IN_H
#define NVKEEP_SRC_JSON_IN_H

#include <stdbool.h>
#include <stdio.h>

#include "src/base/err.h"

/* Draws the seed of jansson's tables, while files can still be opened. */
void json_prepare(void);

struct json_in;

/* ERR_USAGE says where it is wrong; ERR_STORAGE: no memory. */
int json_in_parse(const char *text, size_t n, struct json_in **ret, struct err *e) MUST_CHECK;
void json_in_free(struct json_in *v);
DEFINE_OWNED(json_in);

bool json_in_is_object(const struct json_in *v);
bool json_in_is_empty(const struct json_in *v); /* an object or array without members */
/* NULL: v is no object, or has no such member. */
const struct json_in *json_in_member(const struct json_in *v, const char *name);
const char *json_in_name(const struct json_in *v, size_t i); /* of its i-th member; NULL */
/* NULL: v is NULL or no text. */
const char *json_in_text(const struct json_in *v);
uint64_t json_in_number(const struct json_in *v); /* 0 where it is none */

/* For people: "name: value", one member on each line; what is inside a member gets its name in
 * front. ERR_STORAGE: no memory, and not all of it was shown. */
int json_in_print(const struct json_in *v, FILE *to, struct err *e) MUST_CHECK;

#endif
