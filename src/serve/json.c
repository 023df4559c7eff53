#include "src/serve/json_out.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
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

static json_t *real(const struct json_in *v)
{
    return (json_t *)(uintptr_t)v;
}

void json_out_value(struct json_out *o, const char *name, const struct json_in *value)
{
    if (o)
        (void)add(o, name, json_deep_copy(real(value)));
}

char *json_out_line(const struct json_out *o)
{
    OWNED_HEAP char *text = o->bad ? NULL : json_dumps(o->at[0], JSON_ENSURE_ASCII);
    char *line = NULL;
    if (!text || asprintf(&line, "%s\r\n", text) < 0)
        return NULL;
    return line;
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

/* --- reading --- */

void json_prepare(void)
{
    json_object_seed(0);
}

/* NULL: *why. A lack of memory leaves ENOMEM in errno: jansson does not always say so, and even
 * goes on with the texts cut short. */
static json_t *load(const char *text, size_t n, json_error_t *why)
{
    errno = 0;
    return json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, why);
}

int json_in_parse(const char *text, size_t n, struct json_in **ret, struct err *e)
{
    json_error_t why;
    char buf[160];
    json_t *v = load(text, n, &why);
    /* So does malloc() at times where it succeeds, but not again for what was just given back. */
    if (errno == ENOMEM) {
        json_decref(v);
        v = load(text, n, &why);
    }
    if (errno == ENOMEM) {
        json_decref(v);
        return err_nomem(e, "what came as JSON");
    }
    if (!v)
        return err_set(e, ERR_USAGE, "JSON parse error at byte %d: %s", why.position,
                       err_quote(buf, sizeof(buf), why.text, strlen(why.text)));
    *ret = (struct json_in *)v;
    return 0;
}

void json_in_free(struct json_in *v)
{
    json_decref(real(v));
}

bool json_in_is_object(const struct json_in *v)
{
    return v && json_is_object(real(v));
}

bool json_in_is_empty(const struct json_in *v)
{
    json_t *j = real(v);
    return v && (json_is_object(j) || json_is_array(j)) && json_object_size(j) == 0 &&
           json_array_size(j) == 0;
}

const struct json_in *json_in_member(const struct json_in *v, const char *name)
{
    return v ? (const struct json_in *)json_object_get(real(v), name) : NULL;
}

const char *json_in_name(const struct json_in *v, size_t i)
{
    void *at = v ? json_object_iter(real(v)) : NULL;
    while (at && i-- > 0)
        at = json_object_iter_next(real(v), at);
    return at ? json_object_iter_key(at) : NULL;
}

const char *json_in_text(const struct json_in *v)
{
    return v ? json_string_value(real(v)) : NULL;
}

uint64_t json_in_number(const struct json_in *v)
{
    return v ? (uint64_t)json_integer_value(real(v)) : 0;
}

/* Text is shown without what a terminal could take for a command: JSON's escapes leave DEL alone.
 */
static int print_plain(json_t *v, FILE *to)
{
    OWNED_HEAP char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (!text)
        return -1;
    size_t n = strlen(text);
    size_t quote = json_is_string(v) && n >= 2 ? 1 : 0;
    for (size_t i = quote; i < n - quote; i++)
        fprintf(to, text[i] == 0x7f ? "\\u007f" : "%c", text[i]);
    fputc('\n', to);
    return 0;
}

/* -1: no memory. */
static int print_member(const char *path, json_t *v, FILE *to)
{
    enum { PATH_BYTES = 200 };
    char inner[PATH_BYTES];
    const char *name;
    json_t *member;
    size_t i;
    if (json_is_object(v)) {
        json_object_foreach(v, name, member)
        {
            snprintf(inner, sizeof(inner), "%s%s%s", path, *path ? "." : "", name);
            if (print_member(inner, member, to) < 0)
                return -1;
        }
        return 0;
    }
    if (json_is_array(v)) {
        json_array_foreach(v, i, member)
        {
            if (print_member(path, member, to) < 0)
                return -1;
        }
        return 0;
    }
    char quoted[4 * PATH_BYTES + 8];
    fprintf(to, "%s%s", err_quote(quoted, sizeof(quoted), path, strlen(path)), *path ? ": " : "");
    return print_plain(v, to);
}

int json_in_print(const struct json_in *v, FILE *to, struct err *e)
{
    if (print_member("", real(v), to) < 0)
        return err_nomem(e, "showing the answer");
    return 0;
}
