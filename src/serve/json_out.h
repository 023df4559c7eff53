/* One JSON object, made step by step: a report on standard output, or a line on a socket. json.c is
 * the only file that sees jansson.
 *
 * Values are added in the order in which they shall appear. An object goes bad once (no memory) and
 * stays bad; json_out_print() tells. Text that is not UTF-8 is escaped as \xNN.
 */
#ifndef NVKEEP_SRC_JSON_OUT_H
#define NVKEEP_SRC_JSON_OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "src/serve/json_in.h"

struct json_out;

struct json_out *json_out_new(void); /* NULL: no memory */
void json_out_free(struct json_out *o);
DEFINE_OWNED(json_out);

/* o may be NULL everywhere here: nothing happens. */
void json_out_text(struct json_out *o, const char *name, const char *value);
void json_out_number(struct json_out *o, const char *name, uint64_t value);
void json_out_bool(struct json_out *o, const char *name, bool value);

/* What follows goes into a new object or array of that name, until json_out_end(). In an array
 * `name` is NULL. At most four deep. */
void json_out_object(struct json_out *o, const char *name);
void json_out_array(struct json_out *o, const char *name);
void json_out_end(struct json_out *o);

/* What was read elsewhere, as it is. */
void json_out_value(struct json_out *o, const char *name, const struct json_in *value);

/* All of it in one line that ends in CR LF. On the heap; NULL where it went bad. */
char *json_out_line(const struct json_out *o);
/* ERR_STORAGE where it went bad or could not be written. */
int json_out_print(const struct json_out *o, FILE *to, struct err *e) MUST_CHECK;

#endif
