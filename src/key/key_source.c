#include "src/key/key_source.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/key/key_prompt.h"
#include "src/key/recovery_key.h"
#include "src/serve/clock.h"

enum { FIRST_BYTES = 4096, QUOTED_BYTES = 200 };

/* In the order of enum key_source_kind. */
static const struct form {
    const char *name;
    bool trims; /* one trailing newline is dropped */
    enum { TAKES_NOTHING, TAKES_PATH, TAKES_FD, TAKES_NAME } takes;
} forms[KEY_SOURCE_N_KINDS] = {
    [KEY_SOURCE_FILE] = {"file", false, TAKES_PATH},
    [KEY_SOURCE_PWDFILE] = {"pwdfile", true, TAKES_PATH},
    [KEY_SOURCE_PWDFD] = {"pwdfd", true, TAKES_FD},
    [KEY_SOURCE_FD] = {"fd", false, TAKES_FD},
    [KEY_SOURCE_CREDENTIAL] = {"credential", false, TAKES_NAME},
    [KEY_SOURCE_RECOVERY] = {"recovery", false, TAKES_PATH},
    [KEY_SOURCE_PROMPT] = {"prompt", false, TAKES_NOTHING},
    [KEY_SOURCE_ADMIN] = {"admin", false, TAKES_NOTHING},
};

static const char *quoted(char buf[QUOTED_BYTES], const char *text)
{
    return err_quote(buf, QUOTED_BYTES, text, strlen(text));
}

/* What follows the last comma of a swtpm --key option. A path may contain commas; it may not
 * contain what somebody meant as a sub-option. */
static const char *swtpm_suboption(const char *value)
{
    static const char *const names[] = {"mode=", "format=", "kdf=", "remove=", "remove"};
    for (const char *c = strchr(value, ','); c; c = strchr(c + 1, ','))
        for (size_t i = 0; i < ARRAY_LEN(names); i++) {
            size_t n = strlen(names[i]);
            bool whole = names[i][n - 1] != '=';
            if (strncmp(c + 1, names[i], n) == 0 && (!whole || !c[1 + n] || c[1 + n] == ','))
                return c + 1;
        }
    return NULL;
}

static int refuse_suboption(const char *sub, struct err *e)
{
    char buf[QUOTED_BYTES];
    return err_set(e, ERR_USAGE,
                   "--key: \"%s\" is an option of swtpm's --key and has no meaning here: the image "
                   "itself says how it is encrypted, and key files are never removed; leave it out",
                   quoted(buf, sub));
}

static int parse_fd(const char *name, const char *value, int *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    char *end = NULL;
    errno = 0;
    long n = value[0] >= '0' && value[0] <= '9' ? strtol(value, &end, 10) : -1;
    if (n < 0 || errno || n > INT_MAX || *end)
        return err_set(e, ERR_USAGE, "--key: %s=%s: wanted the number of an open descriptor", name,
                       quoted(buf, value));
    *ret = (int)n;
    return 0;
}

static int check_name(const char *value, struct err *e)
{
    char buf[QUOTED_BYTES];
    if (strchr(value, '/') || strcmp(value, ".") == 0 || strcmp(value, "..") == 0)
        return err_set(e, ERR_USAGE,
                       "--key: credential=%s: wanted the name of a credential, not a path; use "
                       "file=PATH for a path",
                       quoted(buf, value));
    return 0;
}

int key_source_parse(const char *arg, struct key_source *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    struct key_source src = {.fd = -1};
    size_t name_bytes = strcspn(arg, "=,");
    for (unsigned k = KEY_SOURCE_FILE; k < KEY_SOURCE_N_KINDS; k++)
        if (strlen(forms[k].name) == name_bytes && memcmp(forms[k].name, arg, name_bytes) == 0)
            src.kind = (enum key_source_kind)k;
    if (src.kind == KEY_SOURCE_NONE)
        return err_set(
            e, ERR_USAGE,
            "--key: wanted file=PATH, pwdfile=PATH, pwdfd=N, fd=N, credential=NAME, "
            "recovery=PATH or prompt; a key itself is never taken from the command line");

    const struct form *form = &forms[src.kind];
    const char *sub = swtpm_suboption(arg);
    if (sub)
        return refuse_suboption(sub, e);
    if (form->takes == TAKES_NOTHING) {
        if (arg[name_bytes])
            return err_set(e, ERR_USAGE, "--key: \"%s\" takes no value", form->name);
        *ret = src;
        return 0;
    }
    if (arg[name_bytes] != '=' || !arg[name_bytes + 1])
        return err_set(e, ERR_USAGE, "--key: \"%s\" needs a value: %s=%s", form->name, form->name,
                       form->takes == TAKES_PATH ? "PATH"
                       : form->takes == TAKES_FD ? "N"
                                                 : "NAME");
    src.value = arg + name_bytes + 1;
    if (form->takes == TAKES_FD && parse_fd(form->name, src.value, &src.fd, e) < 0)
        return -1;
    if (form->takes == TAKES_NAME && check_name(src.value, e) < 0)
        return -1;
    if (strlen(src.value) >= PATH_MAX)
        return err_set(e, ERR_USAGE, "--key: %s=%s: the path is longer than %d bytes", form->name,
                       quoted(buf, src.value), PATH_MAX - 1);
    *ret = src;
    return 0;
}

/* A key file, or a pipe. Opened without waiting, so that a pipe whose writer never comes can be
 * interrupted in poll(). */
static int open_path(const char *path, int *ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return err_sys(e, err_kind_of_path(errno), errno, "cannot open the key file %s",
                       quoted(buf, path));
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot look at the key file %s", quoted(buf, path));
    if (S_ISDIR(st.st_mode))
        return err_set(e, ERR_USAGE, "the key file %s is a directory; name the file in it",
                       quoted(buf, path));
    *ret = MOVE_FD(fd);
    return 0;
}

static int open_credential(const char *name, int *ret, struct err *e)
{
    char buf[QUOTED_BYTES], path[PATH_MAX];
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    if (!dir || !*dir)
        return err_set(e, ERR_USAGE,
                       "credential=%s: CREDENTIALS_DIRECTORY is not set; it is set by systemd for "
                       "a unit with LoadCredential= or SetCredential=",
                       quoted(buf, name));
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof(path))
        return err_set(e, ERR_USAGE, "credential=%s: the path of the credential is too long",
                       quoted(buf, name));
    return open_path(path, ret, e);
}

/* The next bytes; 0 at the end. Waits in poll() alone, whether or not the descriptor blocks: a pipe
 * that nobody opened for writing yet would read as empty. until: now_ms(), or -1. */
static ssize_t read_some(int fd, uint8_t *to, size_t room, int64_t until)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until < 0 ? -1 : until - now_ms();
        int n = poll(&p, 1, until >= 0 && left < 0 ? 0 : (int)left);
        if (n == 0)
            errno = ETIMEDOUT;
        ssize_t r = n > 0 ? read(fd, to, room) : -1;
        if (r >= 0 || (errno != EAGAIN && errno != EINTR))
            return r;
    }
}

/* A secret cannot grow: what does not fit moves to a larger one, and the smaller one is wiped. */
static int grow(struct secret **s, size_t used, struct err *e)
{
    OWNED(secret) larger = NULL;
    size_t want = secret_size(*s) * 4;
    if (want > KEY_MAX_BYTES + 1)
        want = KEY_MAX_BYTES + 1;
    if (secret_new(want, &larger, e) < 0)
        return -1;
    memcpy(secret_bytes(larger), secret_peek(*s), used);
    secret_free(*s);
    *s = MOVE(larger);
    return 0;
}

static int read_all(int fd, const char *what, int limit_ms, struct secret **ret, size_t *ret_bytes,
                    struct err *e)
{
    OWNED(secret) s = NULL;
    size_t n = 0;
    int64_t until = limit_ms ? now_ms() + limit_ms : -1;
    if (secret_new(FIRST_BYTES, &s, e) < 0)
        return -1;
    for (;;) {
        if (n == secret_size(s) && grow(&s, n, e) < 0)
            return -1;
        ssize_t r = read_some(fd, secret_bytes(s) + n, secret_size(s) - n, until);
        if (r < 0 && errno == ETIMEDOUT)
            return err_sys(e, ERR_KEY_MISSING, errno,
                           "the key from %s did not come within %d seconds", what, limit_ms / 1000);
        if (r < 0)
            return err_sys(e, errno == EBADF ? ERR_USAGE : ERR_STORAGE, errno,
                           "cannot read the key from %s", what);
        if (r == 0)
            break;
        n += (size_t)r;
        if (n > KEY_MAX_BYTES)
            return err_set(e, ERR_USAGE,
                           "the key from %s is longer than %d bytes; this is not a key file", what,
                           KEY_MAX_BYTES);
    }
    *ret = MOVE(s);
    *ret_bytes = n;
    return 0;
}

/* An inherited descriptor is used up by reading; 0 to 2 must stay open all the same. */
static void close_inherited(int fd)
{
    if (fd > STDERR_FILENO) {
        close(fd);
        return;
    }
    OWNED_FD null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0)
        (void)dup2(null, fd);
}

/* The descriptor to read from; `owned` is set where it was opened here. */
static int open_source(const struct key_source *src, int *ret_owned, int *ret_fd, struct err *e)
{
    if (src->kind == KEY_SOURCE_FILE || src->kind == KEY_SOURCE_PWDFILE ||
        src->kind == KEY_SOURCE_RECOVERY) {
        if (open_path(src->value, ret_owned, e) < 0)
            return -1;
        *ret_fd = *ret_owned;
        return 0;
    }
    if (src->kind == KEY_SOURCE_CREDENTIAL) {
        if (open_credential(src->value, ret_owned, e) < 0)
            return -1;
        *ret_fd = *ret_owned;
        return 0;
    }
    int flags = fcntl(src->fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY)
        return err_set(e, ERR_USAGE,
                       "--key: descriptor %d is not open for reading; was it passed on to nvkeep?",
                       src->fd);
    *ret_fd = src->fd;
    return 0;
}

int key_source_read(const struct key_source *src, const char *image, struct secret **ret,
                    size_t *ret_bytes, struct err *e)
{
    if (src->kind == KEY_SOURCE_PROMPT)
        return key_prompt(image, ret, ret_bytes, e);
    if (src->kind == KEY_SOURCE_ADMIN)
        return err_set(e, ERR_USAGE, "--key admin: a key that comes later cannot be read now");
    if (src->kind == KEY_SOURCE_NONE || src->kind >= KEY_SOURCE_N_KINDS)
        return err_set(e, ERR_KEY_MISSING, "no key was given; name its source with --key");

    char buf[QUOTED_BYTES], what[QUOTED_BYTES + 32];
    OWNED(secret) key = NULL;
    OWNED_FD owned = -1;
    int fd = -1;
    size_t n = 0;
    snprintf(what, sizeof(what), "%s=%s", forms[src->kind].name, quoted(buf, src->value));
    if (open_source(src, &owned, &fd, e) < 0)
        return -1;
    int r = read_all(fd, what, src->limit_ms, &key, &n, e);
    if (owned < 0)
        close_inherited(fd);
    if (r < 0)
        return -1;
    if (forms[src->kind].trims && n > 0 && secret_peek(key)[n - 1] == '\n')
        n--;
    if (n == 0)
        return err_set(e, ERR_KEY_MISSING, "%s is empty; it must hold the passphrase", what);
    if (src->kind == KEY_SOURCE_RECOVERY) {
        *ret_bytes = RECOVERY_TEXT_BYTES;
        return recovery_key_read(secret_peek(key), n, ret, e);
    }
    *ret = MOVE(key);
    *ret_bytes = n;
    return 0;
}
