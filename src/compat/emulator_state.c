#include "src/compat/emulator_state.h"

#include <string.h>

#include "src/compat/emulator_words.h"

enum { QUOTED_BYTES = 300 };

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* --- the argument --- */

struct place {
    const char *dir, *file;
};

static int take_uri(const char *uri, struct place *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (strncmp(uri, "dir://", 6) == 0 && uri[6])
        ret->dir = uri + 6;
    else if (strncmp(uri, "file://", 7) == 0 && uri[7])
        ret->file = uri + 7;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "--tpmstate: backend-uri: wanted dir://DIR or file://PATH, found \"%s\"",
                       quoted(buf, uri));
    return 0;
}

static int take_mode(const char *text, mode_t *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    char *end = NULL;
    unsigned long m = strtoul(text, &end, 8);
    if (text[0] < '0' || text[0] > '7' || *end || m > 0777)
        return err_set(e, ERR_USAGE,
                       "--tpmstate: mode: wanted octal permissions such as 0600, found \"%s\"",
                       quoted(buf, text));
    *ret = (mode_t)m;
    return 0;
}

/* The image is always locked while it is used, nothing is acknowledged before it is durable, and
 * the state before the newest one is always kept: lock, fsync and backup need nothing to be done.
 */
static int take_word(const char *name, const char *value, struct place *place, mode_t *mode,
                     struct err *e)
{
    char buf[QUOTED_BYTES], found[QUOTED_BYTES];
    if (strcmp(name, "dir") == 0 && *value)
        place->dir = value;
    else if (strcmp(name, "backend-uri") == 0)
        return take_uri(value, place, e);
    else if (strcmp(name, "mode") == 0)
        return take_mode(value, mode, e);
    else if (strcmp(name, "lock") != 0 && strcmp(name, "fsync") != 0 && strcmp(name, "backup") != 0)
        return err_set(e, ERR_USAGE, "Error parsing tpmstate options: Unknown option '%s%s%s'",
                       quoted(buf, name), *value ? "=" : "", quoted(found, value));
    return 0;
}

int emulator_state_parse(const char *text, enum device_kind device, struct compat_place *ret,
                         mode_t *ret_mode, struct err *e)
{
    OWNED_HEAP char *copy = strdup(text ?: "");
    struct place at = {NULL, NULL};
    mode_t mode = 0;
    const char *name, *value;
    if (!copy)
        return err_nomem(e, "an option");
    for (struct words w = {copy}; words_next(&w, &name, &value);)
        if (take_word(name, value, &at, &mode, e) < 0)
            return -1;
    if (!at.dir && !at.file)
        at.dir = getenv("TPM_PATH");
    if ((!at.dir || !*at.dir) && !at.file)
        return err_set(e, ERR_USAGE,
                       "Error: no place for the TPM's state: give --tpmstate dir=DIR or "
                       "backend-uri=file://PATH");
    if (at.dir && at.file)
        return err_set(e, ERR_USAGE, "--tpmstate: dir and file:// are two places; give one");
    if (compat_place_name(at.dir, at.file, device, ret, e) < 0)
        return err_prefix(e, "--tpmstate");
    *ret_mode = mode;
    return 0;
}
