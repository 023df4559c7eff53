#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "src/base/fd.h"
#include "src/cli/cli.h"
#include "src/serve/admin_msg.h"

enum { QUOTED_BYTES = 120, LINE_MAX_BYTES = 1 << 20 };

/* A conversation with a daemon: one line after the other. */
struct talk {
    int fd; /* -1: none */
    char *buf;
    size_t n, used; /* what has arrived, and how much of it was taken */
};

static void talk_clear(struct talk *t)
{
    if (t->fd >= 0)
        close(t->fd);
    free(t->buf);
}

static int dial(const char *path, struct talk *t, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char buf[QUOTED_BYTES];
    if (strlen(path) >= sizeof(a.sun_path))
        return err_set(e, ERR_USAGE, "the path of a socket can have at most %zu bytes",
                       sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path));
    t->buf = malloc(LINE_MAX_BYTES);
    if (!t->buf)
        return err_nomem(e, "the conversation");
    t->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (t->fd < 0 || connect(t->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return err_sys(e, errno == EACCES || errno == ENOENT ? ERR_USAGE : ERR_STORAGE, errno,
                       "cannot reach a daemon at %s; was it started with --admin "
                       "type=unixio,path=%s?",
                       err_quote(buf, sizeof(buf), path, strlen(path)), buf);
    return 0;
}

static int hung_up(int os, struct err *e)
{
    if (os)
        return err_sys(e, ERR_STORAGE, os, "the daemon cannot be heard any more");
    return err_set(e, ERR_STORAGE, "the daemon hung up; its log may say why");
}

/* 1: *ret is the next line, parsed; 0: the daemon hung up between lines. */
static int next_line(struct talk *t, const char **ret_text, struct json_in **ret, struct err *e)
{
    memmove(t->buf, t->buf + t->used, t->n - t->used);
    t->n -= t->used;
    t->used = 0;
    char *end;
    while (!(end = memchr(t->buf, '\n', t->n))) {
        if (t->n == LINE_MAX_BYTES)
            return err_set(e, ERR_UNSUPPORTED, "the daemon's line is too long; is it nvkeep's?");
        ssize_t r = read(t->fd, t->buf + t->n, LINE_MAX_BYTES - t->n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno != ECONNRESET)
            return hung_up(errno, e);
        if (r <= 0)
            return 0;
        t->n += (size_t)r;
    }
    t->used = (size_t)(end - t->buf) + 1;
    *end = 0;
    *ret_text = t->buf;
    if (json_in_parse(t->buf, (size_t)(end - t->buf), ret, e) == 0)
        return 1;
    if (e->kind != ERR_STORAGE)
        return err_set(e, ERR_UNSUPPORTED, "what answers there does not speak QMP's dialect");
    return -1;
}

static int say(struct talk *t, const char *line, int fd, struct err *e)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec v = {(void *)(uintptr_t)line, strlen(line)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &fd, sizeof(fd));
    }
    ssize_t n;
    do
        n = sendmsg(t->fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n > 0 && (size_t)n < v.iov_len && fd_write_full(t->fd, line + n, v.iov_len - (size_t)n) < 0)
        n = -1;
    return n < 0 ? hung_up(errno, e) : 0;
}

/* The class that the daemon named, with its own words. */
static int refused(const struct json_in *error, struct err *e)
{
    const char *class = json_in_text(json_in_member(error, "class")) ?: "";
    const char *desc = json_in_text(json_in_member(error, "desc")) ?: "";
    char buf[sizeof(e->text)];
    err_quote(buf, sizeof(buf), desc, strlen(desc));
    for (unsigned k = ERR_USAGE; k < ERR_N_KINDS; k++)
        if (strcmp(err_class((enum err_kind)k)->name, class) == 0)
            return err_set(e, (enum err_kind)k, "%s", buf);
    return err_set(e, ERR_USAGE, "%s", buf);
}

/* The next answer; events in between are passed over. */
static int hear_answer(struct talk *t, struct json_in **ret, struct err *e)
{
    for (;;) {
        OWNED(json_in) v = NULL;
        const char *text;
        int r = next_line(t, &text, &v, e);
        if (r <= 0)
            return r < 0 ? -1 : hung_up(0, e);
        if (json_in_member(v, "error"))
            return refused(json_in_member(v, "error"), e);
        if (!json_in_member(v, "return") && !json_in_member(v, "QMP"))
            continue;
        *ret = MOVE(v);
        return 0;
    }
}

static int greet(struct talk *t, struct err *e)
{
    OWNED(json_in) greeting = NULL;
    OWNED(json_in) empty = NULL;
    if (hear_answer(t, &greeting, e) < 0)
        return -1;
    if (!json_in_member(greeting, "QMP"))
        return err_set(e, ERR_UNSUPPORTED, "what answers there does not speak QMP's dialect");
    if (say(t, "{\"execute\": \"qmp_capabilities\"}\r\n", -1, e) < 0)
        return -1;
    return hear_answer(t, &empty, e);
}

/* --- commands --- */

static const char *nth_verb(const void *ctx, size_t i)
{
    (void)ctx;
    return i < admin_n_verbs ? admin_verbs[i].name : i == admin_n_verbs ? "events" : NULL;
}

static int find_verb(const char *name, const struct admin_verb **ret, struct err *e)
{
    char buf[QUOTED_BYTES];
    const struct admin_verb *v = admin_verb_find(name);
    if (v && v->kind != VERB_CAPABILITIES) {
        *ret = v;
        return 0;
    }
    const char *like = cli_suggest(name, nth_verb, NULL);
    return err_set(e, ERR_USAGE, "unknown command \"%s\"%s%s%s; see nvkeep ctl --help",
                   err_quote(buf, sizeof(buf), name, strlen(name)), like ? "; did you mean \"" : "",
                   like ? like : "", like ? "\"?" : "");
}

/* The value of "NAME=VALUE"; NULL: it is another one. */
static const char *value_of(const char *word, const char *name)
{
    size_t n = name ? strlen(name) : 0;
    return name && strncmp(word, name, n) == 0 && word[n] == '=' ? word + n + 1 : NULL;
}

/* NAME=VALUE words, as far as the verb knows them. */
static int read_words(const struct cli_args *a, const struct admin_verb *v, const char *ret[2],
                      struct err *e)
{
    char buf[QUOTED_BYTES];
    for (size_t i = 1; i < a->n_more; i++) {
        const char *w = a->more[i], *first = value_of(w, v->argument);
        const char *value = first ?: value_of(w, v->second);
        const char **to = first ? &ret[0] : &ret[1];
        if (!value)
            return err_set(e, ERR_USAGE, "%s: unexpected \"%s\"%s%s%s", v->name,
                           err_quote(buf, sizeof(buf), w, strcspn(w, "=")),
                           v->argument ? "; it takes " : "", v->argument ?: "",
                           v->argument ? "=" : "");
        if (*to)
            return err_set(e, ERR_USAGE, "%s: %s= is given twice", v->name,
                           first ? v->argument : v->second);
        *to = value;
    }
    if (v->argument && !v->optional && !ret[0])
        return err_set(e, ERR_USAGE, "%s: missing: %s=%s", v->name, v->argument, v->value);
    return 0;
}

static char *command_line(const struct admin_verb *v, const char *const value[2])
{
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    json_out_text(o, "execute", v->name);
    if (value[0] || value[1])
        json_out_object(o, "arguments");
    if (value[0])
        json_out_text(o, v->argument, value[0]);
    if (value[1])
        json_out_text(o, v->second, value[1]);
    if (value[0] || value[1])
        json_out_end(o);
    return json_out_line(o);
}

/* The key goes through a pipe, whose pages are never swapped out. */
static int say_with_key(struct talk *t, const char *line, const struct cli_args *a, struct err *e)
{
    OWNED(secret) key = NULL;
    size_t n = 0;
    int ends[2];
    if (key_source_read(&a->key, a->image, &key, &n, e) < 0)
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot make a pipe for the key");
    OWNED_FD from = ends[0];
    OWNED_FD to = ends[1];
    if (say(t, line, from, e) < 0)
        return -1;
    close(MOVE_FD(from));
    /* A daemon that does not want it has closed its end, and says why. */
    (void)!fd_write_full(to, secret_peek(key), n);
    return 0;
}

static int show(struct cli_run *run, const struct admin_verb *v, const struct json_in *value,
                struct err *e)
{
    if (!run->json)
        return json_in_print(v->returns_token ? json_in_member(value, "token") : value, stdout, e);
    json_out_value(run->json, "return", value);
    return 0;
}

static int run_verb(struct cli_run *run, struct talk *t, struct err *e)
{
    const struct cli_args *a = run->args;
    const struct admin_verb *v;
    const char *value[2] = {NULL, NULL};
    OWNED(json_in) answer = NULL;
    if (find_verb(a->more[0], &v, e) < 0 || read_words(a, v, value, e) < 0)
        return -1;
    if (a->text[OPT_FOLLOW])
        return err_set(e, ERR_USAGE, "--follow belongs to events");
    if (v->takes_key && a->key.kind == KEY_SOURCE_NONE)
        return err_set(e, ERR_KEY_MISSING, "%s: name the key's source with --key", v->name);
    if (!v->takes_key && a->key.kind != KEY_SOURCE_NONE)
        return err_set(e, ERR_USAGE, "%s: takes no --key", v->name);
    OWNED_HEAP char *line = command_line(v, value);
    if (!line)
        return err_nomem(e, "the command");
    if (dial(a->image, t, e) < 0 || greet(t, e) < 0)
        return -1;
    int r = v->takes_key ? say_with_key(t, line, a, e) : say(t, line, -1, e);
    if (r < 0 || hear_answer(t, &answer, e) < 0)
        return -1;
    return show(run, v, json_in_member(answer, "return"), e);
}

/* --- events --- */

/* "1732200000.123456 CLAIMED generation: 5" and so on. */
static void show_event(const struct json_in *v)
{
    const struct json_in *time = json_in_member(v, "timestamp"), *data = json_in_member(v, "data");
    char buf[QUOTED_BYTES];
    const char *name = json_in_text(json_in_member(v, "event")), *member;
    printf("%" PRIu64 ".%06" PRIu64 " %s", json_in_number(json_in_member(time, "seconds")),
           json_in_number(json_in_member(time, "microseconds")),
           err_quote(buf, sizeof(buf), name, strlen(name)));
    for (size_t i = 0; (member = json_in_name(data, i)); i++) {
        const struct json_in *value = json_in_member(data, member);
        const char *text = json_in_text(value);
        char quoted[sizeof(((struct err *)0)->text)];
        printf(" %s=", err_quote(buf, sizeof(buf), member, strlen(member)));
        if (text)
            printf("%s", err_quote(quoted, sizeof(quoted), text, strlen(text)));
        else
            printf("%" PRIu64, json_in_number(value));
    }
    putchar('\n');
}

static int watch_events(struct cli_run *run, struct talk *t, struct err *e)
{
    const struct cli_args *a = run->args;
    if (a->n_more > 1)
        return err_set(e, ERR_USAGE, "events: takes no arguments but --follow");
    if (a->key.kind != KEY_SOURCE_NONE)
        return err_set(e, ERR_USAGE, "events: takes no --key");
    if (dial(a->image, t, e) < 0 || greet(t, e) < 0)
        return -1;
    run->reported = true;
    for (;;) {
        OWNED(json_in) v = NULL;
        const char *text;
        int r = next_line(t, &text, &v, e);
        if (r < 0)
            return -1;
        if (r == 0) /* the daemon has ended: with --follow all was seen */
            return a->text[OPT_FOLLOW] ? 0 : hung_up(0, e);
        if (!json_in_text(json_in_member(v, "event")))
            continue;
        if (run->json)
            printf("%.*s\n", (int)strcspn(text, "\r"), text);
        else
            show_event(v);
        if (fflush(stdout) == EOF)
            return err_sys(e, ERR_STORAGE, errno, "cannot write to standard output");
        if (!a->text[OPT_FOLLOW])
            return 0;
    }
}

int cmd_ctl(struct cli_run *run, struct err *e)
{
    struct talk t = {.fd = -1};
    int r =
        strcmp(run->args->more[0], "events") == 0 ? watch_events(run, &t, e) : run_verb(run, &t, e);
    talk_clear(&t);
    return r;
}
