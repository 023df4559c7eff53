#include "src/compat/setup_key.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "src/key/key_source.h"
#include "src/key/migration_key_source.h"

bool setup_key_given(const struct setup_args *a)
{
    return a->key_file || a->password_file;
}

static int number_of(const char *text, int *ret, struct err *e)
{
    char *end = NULL;
    char buf[60];
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || v > 1 << 20)
        return err_set(e, ERR_USAGE, "wanted the number of a descriptor, found \"%s\"",
                       err_quote(buf, sizeof(buf), text, strlen(text)));
    *ret = (int)v;
    return 0;
}

/* Digits without 0x and what follows them, in lower case. By arithmetic: they are the key. */
static int digits_of(const struct secret *text, size_t n, unsigned bits, struct secret **ret,
                     struct err *e)
{
    OWNED(migration_key) checked = NULL;
    OWNED(secret) digits = NULL;
    const uint8_t *p = secret_peek(text);
    if (migration_key_parse(MIGRATION_KEY_HEX, bits, text, n, &checked, e) < 0 ||
        secret_new(bits / 4, &digits, e) < 0)
        return -1;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X'))
        p += 2;
    for (size_t i = 0; i < bits / 4; i++)
        secret_bytes(digits)[i] = (uint8_t)(p[i] | (p[i] >> 1 & 0x20)); /* letters have 0x40 */
    *ret = MOVE(digits);
    return 0;
}

enum { LIMIT_S = 10 };

static void give_up(int signal_number)
{
    static const char text[] = "the key did not come within 10 seconds\n";
    (void)signal_number;
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(EXIT_FAILURE);
}

static int read_in_time(const struct key_source *from, struct secret **ret, size_t *ret_bytes,
                        struct err *e)
{
    const struct sigaction act = {.sa_handler = give_up};
    if (sigaction(SIGALRM, &act, NULL) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot limit how long the key may take");
    (void)alarm(LIMIT_S);
    int r = key_source_read(from, "", ret, ret_bytes, e);
    (void)alarm(0);
    return r;
}

int setup_key_read(const struct setup_args *a, struct secret **ret, size_t *ret_bytes,
                   struct err *e)
{
    const char *where = a->key_file ? a->key_file : a->password_file;
    const bool is_fd = a->key_file ? a->key_is_fd : a->password_is_fd;
    const unsigned bits = a->aes256 ? 256 : 128;
    struct key_source from = {.kind = is_fd ? KEY_SOURCE_FD : KEY_SOURCE_FILE, .value = where};
    OWNED(secret) text = NULL;
    OWNED(secret) digits = NULL;
    size_t n = 0;
    if ((is_fd && number_of(where, &from.fd, e) < 0) || read_in_time(&from, &text, &n, e) < 0)
        return -1;
    if (!a->key_file) {
        *ret = MOVE(text);
        *ret_bytes = n;
        return 0;
    }
    if (digits_of(text, n, bits, &digits, e) < 0)
        return -1;
    *ret = MOVE(digits);
    *ret_bytes = bits / 4;
    return 0;
}
