/* Any bytes from a client of the admin socket, which arrive in one piece or byte by byte: the same
 * messages come out, each is understood or refused by name, and every answer is one line of JSON.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "src/serve/admin_msg.h"

enum { MAX_MESSAGES = 64 };

struct seen {
    struct {
        size_t at, n;
        bool understood;
    } message[MAX_MESSAGES];
    size_t n;
    bool too_long;
};

static void check_line(char *taken)
{
    OWNED_HEAP char *line = taken;
    OWNED(json_in) back = NULL;
    struct err e;
    PROMISE(line);
    size_t n = strlen(line);
    PROMISE(n > 2 && memcmp(line + n - 2, "\r\n", 2) == 0);
    PROMISE(strcspn(line, "\r\n") == n - 2);
    PROMISE(json_in_parse(line, n, &back, &e) == 0);
    PROMISE(json_in_is_object(back));
}

static bool is_class(const char *name)
{
    return !strcmp(name, "GenericError") || !strcmp(name, "CommandNotFound") ||
           !strcmp(name, err_class(ERR_USAGE)->name);
}

/* True: a request that the daemon would carry out. */
static bool decode(const char *p, size_t n, bool negotiated)
{
    struct admin_request r;
    const char *class;
    struct err e = {0};
    bool good = admin_request_decode(p, n, negotiated, &r, &class, &e) == 0;
    if (good) {
        PROMISE(r.verb && r.whole);
        PROMISE(r.argument || !r.verb->argument || r.verb->optional);
        check_line(r.verb->kind == VERB_COMMANDS ? admin_commands(&r)
                                                 : admin_return(&r, admin_fill_version, NULL));
    } else {
        PROMISE(is_class(class) && e.kind == ERR_USAGE && e.text[0]);
        check_line(admin_error(&r, class, e.text));
    }
    admin_request_clear(&r);
    return good;
}

/* step 0: all that is there at once. */
static void read_all(const char *p, size_t n, size_t step, struct seen *ret)
{
    size_t at = 0, have = step ? 0 : n;
    struct admin_scan scan = {0};
    *ret = (struct seen){0};
    while (ret->n < MAX_MESSAGES && !ret->too_long) {
        size_t start = 0, found = 0;
        PROMISE(at <= have);
        enum admin_found what = admin_scan(&scan, p + at, have - at, &start, &found);
        if (what == ADMIN_MORE) {
            if (have == n)
                return;
            have = have + step < n ? have + step : n;
            continue;
        }
        ret->too_long = what == ADMIN_TOO_LONG;
        if (ret->too_long)
            return;
        PROMISE(start + found <= have - at);
        if (what == ADMIN_MESSAGE) {
            PROMISE(found > 0 && found <= ADMIN_MESSAGE_MAX);
            ret->message[ret->n].at = at + start;
            ret->message[ret->n].n = found;
            ret->message[ret->n++].understood = decode(p + at + start, found, true);
            (void)decode(p + at + start, found, false);
        }
        at += start + found;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct seen whole, pieces;
    if (n == 0)
        return 0;
    read_all((const char *)bytes, n, 0, &whole);
    read_all((const char *)bytes, n, 1, &pieces);
    PROMISE(whole.n == pieces.n && whole.too_long == pieces.too_long);
    for (size_t i = 0; i < whole.n; i++) {
        PROMISE(whole.message[i].at == pieces.message[i].at);
        PROMISE(whole.message[i].n == pieces.message[i].n);
        PROMISE(whole.message[i].understood == pieces.message[i].understood);
    }
    return 0;
}
