#include "src/compat/localca_config.h"

#include <ctype.h>
#include <string.h>

#include "crypto/secret.h"

enum { VALUE_BYTES = 4096, NAME_BYTES = 128 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* --- one value --- */

struct line {
    const char *at, *end;
};

static void skip_blanks(struct line *l)
{
    while (l->at < l->end && is_blank(*l->at))
        l->at++;
}

/* Past "name =" and the white space after it; false: another line. */
static bool take_name(struct line *l, const char *name)
{
    struct line m = *l;
    const size_t n = strlen(name);
    if ((size_t)(m.end - m.at) < n || memcmp(m.at, name, n) != 0)
        return false;
    m.at += n;
    skip_blanks(&m);
    if (m.at == m.end || *m.at != '=')
        return false;
    m.at++;
    skip_blanks(&m);
    *l = m;
    return true;
}

/* Up to a comment, and without white space at the end. */
static struct line value_of(struct line l)
{
    const char *comment = memchr(l.at, '#', (size_t)(l.end - l.at));
    if (comment)
        l.end = comment;
    while (l.end > l.at && is_blank(l.end[-1]))
        l.end--;
    return l;
}

static int append(char ret[VALUE_BYTES], size_t *n, const char *part, size_t bytes, struct err *e)
{
    if (bytes >= VALUE_BYTES - *n)
        return err_set(e, ERR_USAGE, "a value of more than %d bytes", VALUE_BYTES - 1);
    memcpy(ret + *n, part, bytes);
    *n += bytes;
    ret[*n] = 0;
    return 0;
}

/* "${NAME}" at l->at: what the environment has for it. */
static int resolve(struct line *l, const char *(*lookup)(const char *), char ret[VALUE_BYTES],
                   size_t *ret_n, struct err *e)
{
    char name[NAME_BYTES], buf[2 * NAME_BYTES];
    const char *end = memchr(l->at, '}', (size_t)(l->end - l->at));
    const size_t n = end ? (size_t)(end - l->at - 2) : 0;
    if (n == 0 || n >= sizeof(name))
        return err_set(e, ERR_USAGE, "a ${...} without a name or without an end: %s",
                       err_quote(buf, sizeof(buf), l->at, (size_t)(l->end - l->at)));
    memcpy(name, l->at + 2, n);
    name[n] = 0;
    const char *value = lookup(name);
    if (!value)
        return err_set(e, ERR_USAGE, "${%s} is not in the environment",
                       err_quote(buf, sizeof(buf), name, n));
    l->at = end + 1;
    return append(ret, ret_n, value, strlen(value), e);
}

static int expand(struct line l, const char *(*lookup)(const char *), char ret[VALUE_BYTES],
                  struct err *e)
{
    size_t n = 0;
    ret[0] = 0;
    while (l.at < l.end) {
        const bool named = l.end - l.at > 1 && l.at[0] == '$' && l.at[1] == '{';
        if (named ? resolve(&l, lookup, ret, &n, e) < 0 : append(ret, &n, l.at++, 1, e) < 0)
            return -1;
    }
    return 0;
}

static int keep(const char *value, char **to, struct err *e)
{
    *to = strdup(value);
    return *to ? 0 : err_nomem(e, "the configuration");
}

/* --- the file --- */

/* "env:NAME = value": to the end of the line, as it is. */
static int take_env(struct localca_config *c, struct line l, struct err *e)
{
    char name[NAME_BYTES], value[VALUE_BYTES];
    size_t n = 0;
    l.at += strlen("env:");
    while (l.at < l.end && (isalnum((unsigned char)*l.at) || *l.at == '_') && n < NAME_BYTES - 1)
        name[n++] = *l.at++;
    name[n] = 0;
    if (n == 0 || isdigit((unsigned char)name[0]) || !take_name(&l, ""))
        return 0;
    if ((size_t)(l.end - l.at) >= sizeof(value))
        return err_set(e, ERR_USAGE, "a value of more than %d bytes", VALUE_BYTES - 1);
    memcpy(value, l.at, (size_t)(l.end - l.at));
    value[l.end - l.at] = 0;
    if (c->n_env == LOCALCA_ENV_MAX)
        return err_set(e, ERR_USAGE, "more than %d lines with env:", LOCALCA_ENV_MAX);
    c->n_env++;
    return keep(name, &c->env[c->n_env - 1].name, e) < 0 ||
                   keep(value, &c->env[c->n_env - 1].value, e) < 0
               ? -1
               : 0;
}

static int take_line(struct localca_config *c, struct line l, const char *(*lookup)(const char *),
                     struct err *e)
{
    const struct {
        const char *name;
        char **to;
    } known[] = {{"statedir", &c->state_dir},
                 {"signingkey", &c->signing_key},
                 {"signingkey_password", &c->signing_key_password},
                 {"issuercert", &c->issuer_cert},
                 {"certserial", &c->cert_serial},
                 {"SWTPM_PKCS11_PIN", &c->pin}};
    char value[VALUE_BYTES];
    if (l.end - l.at >= 4 && memcmp(l.at, "env:", 4) == 0)
        return take_env(c, l, e);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (*known[i].to || !take_name(&l, known[i].name))
            continue;
        int r = expand(value_of(l), lookup, value, e) < 0 ? err_prefix(e, "%s", known[i].name)
                : *value                                  ? keep(value, known[i].to, e)
                                                          : 0;
        wipe(value, sizeof(value));
        return r;
    }
    return 0;
}

int localca_config_parse(const char *text, size_t n, const char *(*lookup)(const char *name),
                         struct localca_config *ret, struct err *e)
{
    struct localca_config c = {0};
    const char *end = text + n;
    if (memchr(text, 0, n))
        return err_set(e, ERR_USAGE, "the configuration is no text");
    for (const char *at = text; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const struct line l = {at, stop ? stop : end};
        if (take_line(&c, l, lookup, e) < 0) {
            localca_config_clear(&c);
            return -1;
        }
        at = stop ? stop + 1 : end;
    }
    *ret = c;
    return 0;
}

static void drop_secret(char *text)
{
    if (text)
        wipe(text, strlen(text));
    free(text);
}

void localca_config_clear(struct localca_config *c)
{
    free(c->state_dir);
    free(c->signing_key);
    free(c->issuer_cert);
    free(c->cert_serial);
    drop_secret(c->signing_key_password);
    drop_secret(c->pin);
    for (size_t i = 0; i < c->n_env; i++) {
        free(c->env[i].name);
        drop_secret(c->env[i].value);
    }
    *c = (struct localca_config){0};
}

/* --- options --- */

int localca_words_parse(const char *text, size_t n, struct localca_words *ret, struct err *e)
{
    struct localca_words w = {.text = calloc(1, n + 1)};
    if (!w.text)
        return err_nomem(e, "the options file");
    memcpy(w.text, text, n);
    for (char *at = w.text;; at++) {
        while (is_blank(*at) || *at == '\n')
            *at++ = 0;
        if (!*at)
            break;
        if (w.n == LOCALCA_WORDS_MAX) {
            free(w.text);
            return err_set(e, ERR_USAGE, "more than %d words in the options file",
                           LOCALCA_WORDS_MAX);
        }
        w.word[w.n++] = at;
        at += strcspn(at, " \t\r\v\f\n");
        if (!*at)
            break;
        *at = 0;
    }
    *ret = w;
    return 0;
}

void localca_words_clear(struct localca_words *w)
{
    free(w->text);
    *w = (struct localca_words){0};
}
