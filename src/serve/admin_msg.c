#include "src/serve/admin_msg.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "src/cli/cli_text.h"

/* --- where a message ends --- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* One byte of a message. True: it was the last. */
static bool take_byte(struct admin_scan *s, char c)
{
    if (s->in_text) {
        if (s->escaped)
            s->escaped = false;
        else if (c == '\\')
            s->escaped = true;
        else if (c == '"')
            s->in_text = false;
        return false;
    }
    if (c == '"')
        s->in_text = true;
    else if (c == '{' || c == '[')
        s->depth++;
    else if (c == '}' || c == ']')
        s->depth--;
    return s->depth == 0;
}

static enum admin_found found(struct admin_scan *s, enum admin_found what, size_t start, size_t end,
                              size_t *ret_start, size_t *ret_n)
{
    *s = (struct admin_scan){0};
    *ret_start = start;
    *ret_n = end - start;
    return what;
}

/* Behind garbage the next line, or the next object, is a new beginning. What of it arrives later is
 * no news. */
static enum admin_found skip(struct admin_scan *s, const char *p, size_t n, size_t *ret_start,
                             size_t *ret_n)
{
    bool again = s->skipping;
    size_t at = 0;
    while (at < n && p[at] != '\n' && ((at == 0 && !again) || p[at] != '{'))
        at++;
    found(s, ADMIN_GARBAGE, again ? at : 0, at, ret_start, ret_n);
    s->skipping = at == n;
    return ADMIN_GARBAGE;
}

enum admin_found admin_scan(struct admin_scan *s, const char *p, size_t n, size_t *ret_start,
                            size_t *ret_n)
{
    size_t start = 0;
    if (n == 0)
        return ADMIN_MORE;
    if (s->skipping)
        return skip(s, p, n, ret_start, ret_n);
    while (s->at == 0 && start < n && is_blank(p[start]))
        start++;
    if (start > 0)
        return found(s, ADMIN_GARBAGE, start, start, ret_start, ret_n);
    if (s->at == 0 && p[0] != '{' && p[0] != '[')
        return skip(s, p, n, ret_start, ret_n);
    while (s->at < n && s->at < ADMIN_MESSAGE_MAX) {
        char c = p[s->at++];
        /* No text goes over the end of a line: here is where a broken one ends. */
        if ((s->in_text && (c == '\n' || c == '\r')) || take_byte(s, c))
            return found(s, ADMIN_MESSAGE, 0, s->at, ret_start, ret_n);
    }
    return s->at == ADMIN_MESSAGE_MAX ? ADMIN_TOO_LONG : ADMIN_MORE;
}

/* --- requests --- */

const struct admin_verb admin_verbs[] = {
    {"qmp_capabilities", VERB_CAPABILITIES, 0, "enable", NULL, true, false,
     "begin to talk; ctl does it by itself"},
    {"query-status", VERB_SESSION, ADMIN_QUERY_STATUS, NULL, NULL, false, false,
     "what the daemon is doing, and the state it has"},
    {"query-commands", VERB_COMMANDS, 0, NULL, NULL, false, false, "the names of all commands"},
    {"query-version", VERB_VERSION, 0, NULL, NULL, false, false, "the daemon's version"},
    {"add-key", VERB_ADD_KEY, 0, "newline", "keep|strip", true, false,
     "give a waiting daemon its key (ctl: --key SOURCE)", .takes_key = true},
    {"key-list", VERB_KEYS, 0, NULL, NULL, false, false, "the image's key slots",
     .keys = KEY_TASK_LIST},
    {"key-test", VERB_KEYS, 0, NULL, NULL, false, false, "which of them --key opens",
     .keys = KEY_TASK_TEST, .takes_key = true},
    {"key-add", VERB_KEYS, 0, "slot", "N", true, false, "add --key to the image",
     .second = "iter-time", .second_value = "MS", .keys = KEY_TASK_ADD, .takes_key = true},
    {"key-remove", VERB_KEYS, 0, "slot", "N", false, false,
     "remove what is in a slot; --key is one that stays", .keys = KEY_TASK_REMOVE,
     .takes_key = true},
    {"key-rotate", VERB_KEYS, 0, "slot", "N", false, false,
     "put --key in the place of what is in a slot", .second = "iter-time", .second_value = "MS",
     .keys = KEY_TASK_ROTATE, .takes_key = true},
    {"migrate-prepare", VERB_SESSION, ADMIN_MIGRATE_PREPARE, NULL, NULL, false, false,
     "would the hand-over work? changes nothing"},
    {"prepare-outgoing", VERB_SESSION, ADMIN_PREPARE_OUTGOING, NULL, NULL, false, true,
     "source: begin a prepared hand-over; returns a token for prepare-incoming"},
    {"prepare-incoming", VERB_SESSION, ADMIN_PREPARE_INCOMING, "token", "TOKEN", false, true,
     "destination: check everything; returns a token for commit-outgoing"},
    {"commit-outgoing", VERB_SESSION, ADMIN_COMMIT_OUTGOING, "token", "TOKEN", false, false,
     "source: allow the state to leave, for some time"},
    {"migrate-abort", VERB_SESSION, ADMIN_MIGRATE_ABORT, NULL, NULL, false, false,
     "take that back; forget what was handed in"},
    {"snapshot-list", VERB_SESSION, ADMIN_SNAPSHOT_LIST, NULL, NULL, false, false,
     "the snapshots in the image"},
    {"snapshot-create", VERB_SESSION, ADMIN_SNAPSHOT_CREATE, "name", "NAME", false, false,
     "keep the TPM's state as it is now"},
    {"snapshot-apply", VERB_SESSION, ADMIN_SNAPSHOT_APPLY, "name", "NAME", false, false,
     "while the TPM is off: go back to the state of a snapshot"},
    {"snapshot-delete", VERB_SESSION, ADMIN_SNAPSHOT_DELETE, "name", "NAME", false, false,
     "let go of a snapshot"},
    {"quit", VERB_QUIT, 0, NULL, NULL, false, false, "end the daemon"},
};
const size_t admin_n_verbs = ARRAY_LEN(admin_verbs);

const struct admin_verb *admin_verb_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(admin_verbs); i++)
        if (strcmp(admin_verbs[i].name, name) == 0)
            return &admin_verbs[i];
    return NULL;
}

static int check_members(const struct json_in *v, struct err *e)
{
    const char *name;
    char buf[100];
    if (!json_in_is_object(v))
        return err_set(e, ERR_USAGE, "QMP input must be a JSON object");
    for (size_t i = 0; (name = json_in_name(v, i)); i++)
        if (strcmp(name, "execute") != 0 && strcmp(name, "arguments") != 0 &&
            strcmp(name, "id") != 0)
            return err_set(e, ERR_USAGE, "QMP input member '%s' is unexpected",
                           err_quote(buf, sizeof(buf), name, strlen(name)));
    if (!json_in_member(v, "execute"))
        return err_set(e, ERR_USAGE, "QMP input lacks member 'execute'");
    if (!json_in_text(json_in_member(v, "execute")))
        return err_set(e, ERR_USAGE, "QMP input member 'execute' must be a string");
    if (json_in_member(v, "arguments") && !json_in_is_object(json_in_member(v, "arguments")))
        return err_set(e, ERR_USAGE, "QMP input member 'arguments' must be an object");
    return 0;
}

static int find_verb(const char *name, bool negotiated, const struct admin_verb **ret,
                     struct err *e)
{
    char buf[100];
    const struct admin_verb *v = admin_verb_find(name);
    if (!negotiated && (!v || v->kind != VERB_CAPABILITIES))
        return err_set(e, ERR_USAGE,
                       "Expecting capabilities negotiation with 'qmp_capabilities' before command "
                       "'%s'",
                       err_quote(buf, sizeof(buf), name, strlen(name)));
    if (negotiated && v && v->kind == VERB_CAPABILITIES)
        return err_set(e, ERR_USAGE,
                       "Capabilities negotiation is already complete, command ignored");
    if (!v)
        return err_set(e, ERR_USAGE, "The command %s has not been found",
                       err_quote(buf, sizeof(buf), name, strlen(name)));
    *ret = v;
    return 0;
}

static int read_text(const struct admin_verb *verb, const struct json_in *arguments,
                     const char *name, const char **ret, struct err *e)
{
    const struct json_in *v = json_in_member(arguments, name);
    if (v && !json_in_text(v))
        return err_set(e, ERR_USAGE, "%s: \"%s\" must be a text", verb->name, name);
    *ret = json_in_text(v);
    return 0;
}

static bool is_named(const char *argument, const char *name)
{
    return argument && strcmp(argument, name) == 0;
}

static int read_arguments(const struct admin_verb *verb, const struct json_in *arguments,
                          struct admin_request *ret, struct err *e)
{
    char buf[100];
    const char *name;
    for (size_t i = 0; (name = json_in_name(arguments, i)); i++)
        if (!is_named(verb->argument, name) && !is_named(verb->second, name))
            return err_set(e, ERR_USAGE, "%s: unexpected argument \"%s\"", verb->name,
                           err_quote(buf, sizeof(buf), name, strlen(name)));
    if (!verb->argument)
        return 0;
    const struct json_in *v = json_in_member(arguments, verb->argument);
    if (!v && !verb->optional)
        return err_set(e, ERR_USAGE, "%s: the argument \"%s\" is missing", verb->name,
                       verb->argument);
    if (verb->kind == VERB_CAPABILITIES) /* there are none that could be enabled */
        return !v || json_in_is_empty(v)
                   ? 0
                   : err_set(e, ERR_USAGE, "there is no capability to enable");
    if (read_text(verb, arguments, verb->argument, &ret->argument, e) < 0)
        return -1;
    return verb->second ? read_text(verb, arguments, verb->second, &ret->second, e) : 0;
}

int admin_request_decode(const char *p, size_t n, bool negotiated, struct admin_request *ret,
                         const char **ret_class, struct err *e)
{
    *ret = (struct admin_request){0};
    *ret_class = "GenericError";
    if (json_in_parse(p, n, &ret->whole, e) < 0) {
        if (e->kind == ERR_STORAGE)
            *ret_class = err_class(ERR_STORAGE)->name;
        return -1;
    }
    if (check_members(ret->whole, e) < 0)
        return -1;
    *ret_class = "CommandNotFound";
    if (find_verb(json_in_text(json_in_member(ret->whole, "execute")), negotiated, &ret->verb, e) <
        0)
        return -1;
    *ret_class = err_class(ERR_USAGE)->name;
    return read_arguments(ret->verb, json_in_member(ret->whole, "arguments"), ret, e);
}

void admin_request_clear(struct admin_request *r)
{
    json_in_free(MOVE(r->whole));
    *r = (struct admin_request){0};
}

/* --- what is sent --- */

static char *with_id(struct json_out *o, const struct admin_request *r)
{
    const struct json_in *id = json_in_member(r->whole, "id");
    if (id)
        json_out_value(o, "id", id);
    return json_out_line(o);
}

char *admin_return(const struct admin_request *r, void (*fill)(struct json_out *o, const void *ctx),
                   const void *ctx)
{
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    json_out_object(o, "return");
    if (fill)
        fill(o, ctx);
    json_out_end(o);
    return with_id(o, r);
}

char *admin_commands(const struct admin_request *r)
{
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    json_out_array(o, "return");
    for (size_t i = 0; i < ARRAY_LEN(admin_verbs); i++) {
        json_out_object(o, NULL);
        json_out_text(o, "name", admin_verbs[i].name);
        json_out_end(o);
    }
    json_out_end(o);
    return with_id(o, r);
}

char *admin_error(const struct admin_request *r, const char *class, const char *text)
{
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    json_out_object(o, "error");
    json_out_text(o, "class", class);
    json_out_text(o, "desc", text);
    json_out_end(o);
    return with_id(o, r);
}

char *admin_event(const struct admin_news *news)
{
    const struct err *e = news->error;
    struct timespec t = {0};
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    clock_gettime(CLOCK_REALTIME, &t);
    json_out_object(o, "timestamp");
    json_out_number(o, "seconds", (uint64_t)t.tv_sec);
    json_out_number(o, "microseconds", (uint64_t)t.tv_nsec / 1000);
    json_out_end(o);
    json_out_text(o, "event", news->name);
    json_out_object(o, "data");
    if (news->generation)
        json_out_number(o, "generation", news->generation);
    if (news->epoch)
        json_out_number(o, "epoch", news->epoch);
    if (news->sealed)
        json_out_bool(o, "sealed", *news->sealed);
    if (news->reason)
        json_out_text(o, "reason", news->reason);
    if (e && e->kind != ERR_NONE) {
        json_out_text(o, "class", err_class(e->kind)->name);
        json_out_text(o, "desc", e->text);
    }
    json_out_end(o);
    return json_out_line(o);
}

/* {"major": 0, "minor": 1, "micro": 0} */
static void add_version(struct json_out *o)
{
    static const char *const names[] = {"major", "minor", "micro"};
    const char *at = NVKEEP_VERSION;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *end;
        json_out_number(o, names[i], strtoul(at, &end, 10));
        at = *end == '.' ? end + 1 : end;
    }
}

void admin_fill_version(struct json_out *o, const void *unused)
{
    (void)unused;
    json_out_object(o, "nvkeep");
    add_version(o);
    json_out_end(o);
    json_out_text(o, "package", "");
}

char *admin_greeting(void)
{
    OWNED(json_out) o = json_out_new();
    if (!o)
        return NULL;
    json_out_object(o, "QMP");
    json_out_object(o, "version");
    admin_fill_version(o, NULL);
    json_out_end(o);
    json_out_array(o, "capabilities");
    json_out_end(o);
    json_out_end(o);
    return json_out_line(o);
}

void admin_fill_phase(struct json_out *o, const void *phase)
{
    json_out_text(o, "phase", phase);
}

void admin_fill_status(struct json_out *o, const void *status)
{
    const struct session_status *s = status;
    const char *name = handover_state_name(s->state);
    char phase[32], uuid[UUID_TEXT_BYTES];
    size_t n = 0;
    for (; n < sizeof(phase) - 1 && name[n]; n++) {
        phase[n] = (char)tolower((unsigned char)name[n]);
        if (name[n] == '_')
            phase[n] = '-';
    }
    phase[n] = 0;
    json_out_text(o, "phase", phase);
    json_out_bool(o, "on", s->is_on);
    json_out_bool(o, "armed", s->armed);
    if (!s->has_image)
        return;
    uuid_text(s->instance, uuid);
    json_out_text(o, "instance", uuid);
    json_out_text(o, "device", device_text(s->device));
    json_out_number(o, "generation", s->generation);
    json_out_number(o, "epoch", s->epoch);
}

static void add_slots(struct json_out *o, const char *name, unsigned slots)
{
    json_out_array(o, name);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (slots & 1u << i)
            json_out_number(o, NULL, i);
    json_out_end(o);
}

void admin_fill_keys(struct json_out *o, const void *task)
{
    const struct key_task *t = task;
    unsigned active = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        active |= t->header.slot[i].active ? 1u << i : 0;
    if (t->kind == KEY_TASK_TEST)
        add_slots(o, "opens", t->opens);
    if (t->kind == KEY_TASK_ADD || t->kind == KEY_TASK_ROTATE) {
        json_out_number(o, "slot", t->done.slot);
        json_out_bool(o, "was_there", t->done.was_there);
    }
    if (t->kind == KEY_TASK_REMOVE || t->kind == KEY_TASK_ROTATE)
        add_slots(o, "removed", t->done.removed);
    add_slots(o, "in_use", active);
}

/* Somebody's text: escaped, as everywhere. */
static void add_text(struct json_out *o, const char *name, const char *text)
{
    char buf[4 * SNAPSHOT_NAME_BYTES];
    json_out_text(o, name, err_quote(buf, sizeof(buf), text, strlen(text)));
}

void admin_fill_snapshots(struct json_out *o, const void *list)
{
    const struct snapshot_list *l = list;
    json_out_array(o, "snapshots");
    for (size_t i = 0; i < l->n; i++) {
        json_out_object(o, NULL);
        add_text(o, "id", l->at[i].id);
        add_text(o, "name", l->at[i].name);
        json_out_number(o, "seconds", l->at[i].seconds);
        json_out_number(o, "nanoseconds", l->at[i].nanoseconds);
        json_out_end(o);
    }
    json_out_end(o);
}

void admin_fill_token(struct json_out *o, const void *token)
{
    json_out_text(o, "token", token);
}
