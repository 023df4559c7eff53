#include "src/json_out.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <string.h>

enum { MAX_DEPTH = 5, ESCAPED_BYTES = 4096 };

struct json_out {
    json_t *at[MAX_DEPTH]; /* at[0] owns; the others are borrowed from it */
    unsigned depth;
    bool bad;
};

struct json_out *json_out_new(void)
{
    struct json_out *o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->at[0] = json_object();
    if (o->at[0])
        return o;
    free(o);
    return NULL;
}

void json_out_free(struct json_out *o)
{
    if (!o)
        return;
    json_decref(o->at[0]);
    free(o);
}

/* Takes the value, whatever happens. */
static bool add(struct json_out *o, const char *name, json_t *value)
{
    json_t *into = o->at[o->depth];
    int r = json_is_array(into) ? json_array_append_new(into, value)
                                : json_object_set_new(into, name, value);
    if (r < 0)
        o->bad = true;
    return r == 0;
}

void json_out_text(struct json_out *o, const char *name, const char *value)
{
    if (!o)
        return;
    json_t *text = json_string(value);
    if (!text) {
        /* Not UTF-8: a path can be anything. */
        OWNED_HEAP char *escaped = malloc(ESCAPED_BYTES);
        if (escaped)
            text = json_string(err_quote(escaped, ESCAPED_BYTES, value, strlen(value)));
    }
    (void)add(o, name, text);
}

void json_out_number(struct json_out *o, const char *name, uint64_t value)
{
    if (o)
        (void)add(o, name, json_integer((json_int_t)value));
}

void json_out_bool(struct json_out *o, const char *name, bool value)
{
    if (o)
        (void)add(o, name, json_boolean(value));
}

/* A level is entered even when it could not be made, so that begin and end stay paired. */
static void enter(struct json_out *o, const char *name, json_t *inner)
{
    assert(o->depth + 1 < MAX_DEPTH);
    json_t *next = add(o, name, inner) ? inner : o->at[o->depth];
    o->at[++o->depth] = next;
}

void json_out_object(struct json_out *o, const char *name)
{
    if (o)
        enter(o, name, json_object());
}

void json_out_array(struct json_out *o, const char *name)
{
    if (o)
        enter(o, name, json_array());
}

void json_out_end(struct json_out *o)
{
    if (!o)
        return;
    assert(o->depth > 0);
    o->depth--;
}

int json_out_print(const struct json_out *o, FILE *to, struct err *e)
{
    if (o->bad)
        return err_nomem(e, "the JSON report");
    errno = 0;
    if (json_dumpf(o->at[0], to, JSON_INDENT(2)) < 0 || fputc('\n', to) == EOF)
        return err_sys(e, ERR_STORAGE, errno ?: EIO, "cannot write the JSON report");
    return 0;
}
