#include "src/key/swtpm_key.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

enum { QUOTED_BYTES = 200 };

enum option {
    OPT_FILE,
    OPT_FD,
    OPT_PWDFILE,
    OPT_PWDFD,
    OPT_CREDENTIAL,
    OPT_FORMAT,
    OPT_MODE,
    OPT_KDF,
    OPT_REMOVE,
    N_OPTS
};
static const char *const names[N_OPTS] = {
    [OPT_FILE] = "file",
    [OPT_FD] = "fd",
    [OPT_PWDFILE] = "pwdfile",
    [OPT_PWDFD] = "pwdfd",
    [OPT_CREDENTIAL] = "credential",
    [OPT_FORMAT] = "format",
    [OPT_MODE] = "mode",
    [OPT_KDF] = "kdf",
    [OPT_REMOVE] = "remove",
};

/* Part of the argument; p is NULL where it is not there, and n is 0 for a bare name. */
struct word {
    const char *p;
    size_t n;
};

static bool is(struct word w, const char *text)
{
    return w.n == strlen(text) && !memcmp(w.p, text, w.n);
}

static int refuse(struct err *e, const char *name, struct word value, const char *wanted)
{
    char buf[QUOTED_BYTES];
    return err_set(e, ERR_USAGE, "%s=%s: wanted %s", name,
                   err_quote(buf, sizeof(buf), value.p, value.n), wanted);
}

/* ---- the parts ---- */

static int take_part(struct word part, struct word ret[N_OPTS], struct err *e)
{
    char buf[QUOTED_BYTES];
    const char *equals = memchr(part.p, '=', part.n);
    struct word name = {part.p, equals ? (size_t)(equals - part.p) : part.n};
    struct word value = {part.p + part.n, 0};
    if (equals)
        value = (struct word){equals + 1, part.n - name.n - 1};
    for (unsigned i = 0; i < N_OPTS; i++) {
        if (!is(name, names[i]))
            continue;
        if (ret[i].p)
            return err_set(e, ERR_USAGE, "%s is given twice", names[i]);
        if (value.n == 0 && (equals || i != OPT_REMOVE))
            return err_set(e, ERR_USAGE, "\"%s\" needs a value", names[i]);
        ret[i] = value;
        return 0;
    }
    return err_set(e, ERR_USAGE,
                   "\"%s\" is unknown; known are file=, fd=, pwdfile=, pwdfd=, "
                   "credential=, format=, mode=, kdf= and remove",
                   err_quote(buf, sizeof(buf), name.p, name.n));
}

static int split(const char *arg, struct word ret[N_OPTS], struct err *e)
{
    for (;;) {
        size_t n = strcspn(arg, ",");
        if (take_part((struct word){arg, n}, ret, e) < 0)
            return -1;
        if (!arg[n])
            return 0;
        arg += n + 1;
    }
}

/* ---- what they say ---- */

static int parse_fd(const char *name, struct word value, int *ret, struct err *e)
{
    long n = 0;
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9' || n > INT_MAX / 10 - 1)
            return refuse(e, name, value, "the number of an open descriptor");
        n = n * 10 + (value.p[i] - '0');
    }
    *ret = (int)n;
    return 0;
}

static int parse_source(const struct word w[N_OPTS], struct swtpm_key_source *s, struct err *e)
{
    static const enum key_source_kind kinds[] = {
        [OPT_FILE] = KEY_SOURCE_FILE,
        [OPT_FD] = KEY_SOURCE_FD,
        [OPT_PWDFILE] = KEY_SOURCE_FILE,
        [OPT_PWDFD] = KEY_SOURCE_FD,
        [OPT_CREDENTIAL] = KEY_SOURCE_CREDENTIAL,
    };
    unsigned found = N_OPTS;
    for (unsigned i = OPT_FILE; i <= OPT_CREDENTIAL; i++) {
        if (w[i].p && found != N_OPTS)
            return err_set(e, ERR_USAGE, "%s= and %s= are two sources; give one", names[found],
                           names[i]);
        if (w[i].p)
            found = i;
    }
    if (found == N_OPTS)
        return err_set(e, ERR_USAGE,
                       "wanted file=PATH, fd=N, pwdfile=PATH, pwdfd=N or "
                       "credential=NAME; a key itself is never taken from the command line");
    s->kind = kinds[found];
    s->passphrase =
        found == OPT_PWDFILE || found == OPT_PWDFD || (found == OPT_CREDENTIAL && w[OPT_KDF].p);
    if (w[found].n >= sizeof(s->value))
        return err_set(e, ERR_USAGE, "%s= is longer than %zu bytes", names[found],
                       sizeof(s->value) - 1);
    memcpy(s->value, w[found].p, w[found].n);
    struct word v = w[found];
    if (s->kind == KEY_SOURCE_FD)
        return parse_fd(names[found], v, &s->fd, e);
    if (s->kind == KEY_SOURCE_CREDENTIAL &&
        (memchr(v.p, '/', v.n) || is(v, ".") || is(v, "..") || w[OPT_REMOVE].p))
        return refuse(e, "credential", v,
                      "the name of a credential, not a path, and nothing to remove");
    return 0;
}

/* Where an option has no meaning, somebody meant another one. */
static int check_meaning(const struct word w[N_OPTS], const struct swtpm_key_source *s,
                         struct err *e)
{
    if (w[OPT_FORMAT].p && s->passphrase)
        return err_set(e, ERR_USAGE,
                       "format= says how a key is written, and a passphrase is "
                       "given; leave it out, or use file= or fd=");
    if (w[OPT_KDF].p && !s->passphrase)
        return err_set(e, ERR_USAGE,
                       "kdf= makes a key of a passphrase, and a key is given; "
                       "leave it out, or use pwdfile= or pwdfd=");
    return 0;
}

static int parse_words(const struct word w[N_OPTS], struct swtpm_key_source *s, struct err *e)
{
    struct word format = w[OPT_FORMAT], mode = w[OPT_MODE], kdf = w[OPT_KDF], r = w[OPT_REMOVE];
    s->form = format.p && is(format, "binary") ? MIGRATION_KEY_BINARY : MIGRATION_KEY_HEX;
    if (format.p && !is(format, "binary") && !is(format, "hex"))
        return refuse(e, "format", format, "hex or binary");
    s->bits = mode.p && is(mode, "aes-256-cbc") ? 256 : 128;
    if (mode.p && !is(mode, "aes-256-cbc") && !is(mode, "aes-128-cbc") && !is(mode, "aes-cbc"))
        return refuse(e, "mode", mode, "aes-cbc, aes-128-cbc or aes-256-cbc");
    s->kdf = kdf.p && is(kdf, "sha512") ? MIGRATION_KDF_SHA512 : MIGRATION_KDF_PBKDF2;
    if (kdf.p && !is(kdf, "sha512") && !is(kdf, "pbkdf2"))
        return refuse(e, "kdf", kdf, "pbkdf2 or sha512");
    s->remove = r.p && (r.n == 0 || is(r, "true") || is(r, "1"));
    if (r.p && !s->remove && !is(r, "false") && !is(r, "0"))
        return refuse(e, "remove", r, "true or false");
    return 0;
}

int swtpm_key_parse(const char *option, const char *arg, struct swtpm_key_source *ret,
                    struct err *e)
{
    struct swtpm_key_source s = {.fd = -1};
    struct word w[N_OPTS] = {0};
    if (split(arg, w, e) < 0 || parse_source(w, &s, e) < 0 || check_meaning(w, &s, e) < 0 ||
        parse_words(w, &s, e) < 0)
        return err_prefix(e, "--%s", option);
    *ret = s;
    return 0;
}

/* ---- reading ---- */

static int check_fd(int fd, struct err *e)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_WRONLY
               ? 0
               : err_set(e, ERR_USAGE,
                         "descriptor %d is not open for reading; was it passed on to nvkeep?", fd);
}

int swtpm_key_read(const char *option, const struct swtpm_key_source *s, struct secret **ret,
                   size_t *ret_bytes, struct err *e)
{
    struct key_source from = {
        .kind = s->kind, .value = s->value, .fd = s->fd, .limit_ms = s->limit_ms};
    assert(s->kind != KEY_SOURCE_PROMPT);
    if (s->kind == KEY_SOURCE_FD && check_fd(s->fd, e) < 0)
        return err_prefix(e, "--%s", option);
    if (key_source_read(&from, "", ret, ret_bytes, e) == 0)
        return 0;
    if (e->kind == ERR_KEY_MISSING && e->os != ETIMEDOUT)
        err_set(e, ERR_KEY_MISSING, "the key's source is empty");
    return err_prefix(e, "--%s", option);
}

int swtpm_key_cipher(const char *option, const struct swtpm_key_source *s,
                     const struct secret *text, size_t n, struct migration_key **ret, struct err *e)
{
    int r = s->passphrase ? migration_key_derive(s->kdf, s->bits, text, n, ret, e)
                          : migration_key_parse(s->form, s->bits, text, n, ret, e);
    return r < 0 ? err_prefix(e, "--%s", option) : 0;
}

int swtpm_key_read_cipher(const char *option, const struct swtpm_key_source *s,
                          struct migration_key **ret, struct err *e)
{
    OWNED(secret) text = NULL;
    size_t n = 0;
    return swtpm_key_read(option, s, &text, &n, e) < 0
               ? -1
               : swtpm_key_cipher(option, s, text, n, ret, e);
}

/* As arithmetic: neither a branch nor an address may depend on the key. */
static uint8_t hex_digit(uint32_t v)
{
    return (uint8_t)('0' + v + ('a' - '9' - 1) * ((9 - v) >> 31));
}

/* Digits by the same rules as migration_key_parse(), which has seen them: lower case, without 0x
 * and what follows them. */
static void normalise_hex(const uint8_t *p, unsigned bits, uint8_t *ret)
{
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X'))
        p += 2;
    for (size_t i = 0; i < bits / 4; i++)
        ret[i] = (uint8_t)(p[i] | (p[i] >> 1 & 0x20)); /* letters have 0x40 */
}

static int digits_of(const struct swtpm_key_source *s, const struct secret *text, size_t n,
                     struct secret **ret, struct err *e)
{
    OWNED(migration_key) checked = NULL;
    OWNED(secret) digits = NULL;
    const uint8_t *p = secret_peek(text);
    if (migration_key_parse(s->form, s->bits, text, n, &checked, e) < 0 ||
        secret_new(s->bits / 4, &digits, e) < 0)
        return -1;
    uint8_t *to = secret_bytes(digits);
    if (s->form == MIGRATION_KEY_HEX)
        normalise_hex(p, s->bits, to);
    for (size_t i = 0; s->form == MIGRATION_KEY_BINARY && i < s->bits / 8; i++) {
        to[2 * i] = hex_digit(p[i] >> 4);
        to[2 * i + 1] = hex_digit(p[i] & 0xf);
    }
    *ret = MOVE(digits);
    return 0;
}

int swtpm_key_passphrase(const char *option, const struct swtpm_key_source *s, struct secret **text,
                         size_t *n, struct err *e)
{
    OWNED(secret) digits = NULL;
    if (s->passphrase)
        return 0;
    if (digits_of(s, *text, *n, &digits, e) < 0)
        return err_prefix(e, "--%s", option);
    secret_free(*text);
    *text = MOVE(digits);
    *n = s->bits / 4;
    return 0;
}

const char *swtpm_key_to_remove(const struct swtpm_key_source *s)
{
    return s->remove && s->kind == KEY_SOURCE_FILE ? s->value : NULL;
}
