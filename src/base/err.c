#include "src/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct err_class classes[ERR_N_KINDS] = {
    [ERR_NONE] = {"OK", 0, 0x00, "done"},
    [ERR_USAGE] = {"USAGE", 2, 0x03, "the command line or a call is wrong; nothing was opened"},
    [ERR_KEY_MISSING] = {"KEY_MISSING", 10, 0x0d, "the image is encrypted and no key was given"},
    [ERR_KEY_WRONG] = {"KEY_WRONG", 11, 0x21, "no key slot opens with this key"},
    [ERR_KEY_UNEXPECTED] = {"KEY_UNEXPECTED", 12, 0x28, "a key for an image without encryption"},
    [ERR_STATE_EMPTY] = {"STATE_EMPTY", 20, 0x800, "nothing has been written to this image yet"},
    [ERR_STATE_CORRUPT] = {"STATE_CORRUPT", 21, 0x101, "the state or the image is damaged"},
    [ERR_STATE_FOREIGN] = {"STATE_FOREIGN", 22, 0x1e, "sound, but not nvkeep's, or another one's"},
    [ERR_STATE_ROLLED_BACK] = {"STATE_ROLLED_BACK", 23, 0x2b, "an older state was put in place"},
    [ERR_FENCED] = {"FENCED", 30, 0x0a, "another owner has taken over"},
    [ERR_LOCKED] = {"LOCKED", 31, 0x09, "somebody else is using it now"},
    [ERR_UNSUPPORTED] = {"UNSUPPORTED", 40, 0x2e, "needs a feature that is not implemented"},
    [ERR_STORAGE] = {"STORAGE_ERROR", 41, 0x1f, "the system refused: I/O, space, memory"},
};

const struct err_class *err_class(enum err_kind kind)
{
    return &classes[(unsigned)kind < ERR_N_KINDS ? kind : ERR_STORAGE];
}

int(err_set)(struct err *e, enum err_kind kind, const char *fmt, ...)
{
    va_list ap;
    e->kind = kind;
    e->os = 0;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    return -1;
}

int(err_sys)(struct err *e, enum err_kind kind, int os, const char *fmt, ...)
{
    va_list ap;
    e->kind = kind;
    e->os = os;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    size_t n = strlen(e->text);
    snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerrordesc_np(os) ?: "unknown error");
    return -1;
}

enum err_kind err_kind_of_path(int os)
{
    static const int named_wrong[] = {EACCES, EPERM,  EROFS, ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG,
                                      EISDIR, EEXIST, ENXIO, ENODEV, ETXTBSY, EINVAL};
    for (size_t i = 0; i < ARRAY_LEN(named_wrong); i++)
        if (named_wrong[i] == os)
            return ERR_USAGE;
    return ERR_STORAGE;
}

int(err_nomem)(struct err *e, const char *what)
{
    return err_sys(e, ERR_STORAGE, ENOMEM, "no memory for %s", what);
}

int(err_prefix)(struct err *e, const char *fmt, ...)
{
    char old[sizeof(e->text)];
    va_list ap;
    memcpy(old, e->text, sizeof(old));
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(e->text))
        snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %s", old);
    return -1;
}

char *err_quote(char *buf, size_t buf_bytes, const void *text, size_t text_bytes)
{
    const unsigned char *p = text;
    size_t at = 0;
    if (buf_bytes == 0)
        return buf;
    for (size_t i = 0; i < text_bytes; i++) {
        char one[5];
        int n = p[i] >= 0x20 && p[i] < 0x7f && p[i] != '\\'
                    ? snprintf(one, sizeof(one), "%c", p[i])
                    : snprintf(one, sizeof(one), "\\x%02x", p[i]);
        if (at + (size_t)n + 4 > buf_bytes) {
            if (buf_bytes > 4)
                at += (size_t)snprintf(buf + at, buf_bytes - at, "...");
            break;
        }
        memcpy(buf + at, one, (size_t)n);
        at += (size_t)n;
    }
    buf[at] = 0;
    return buf;
}
