/* The language of the admin socket: QMP's dialect. Pure; touches nothing but its arguments.
 *
 * One JSON object is one message; it ends where its last bracket closes, whether or not a newline
 * follows. A client first says qmp_capabilities. What is not JSON, or no message, is answered by
 * GenericError and CommandNotFound, as QEMU does; every other error has the name of its class.
 */
#ifndef NVKEEP_SRC_ADMIN_MSG_H
#define NVKEEP_SRC_ADMIN_MSG_H

#include "src/serve/json_out.h"
#include "src/serve/key_helper.h"

enum { ADMIN_MESSAGE_MAX = 65536 };

/* --- where a message ends --- */

enum admin_found {
    ADMIN_MORE,
    ADMIN_MESSAGE,  /* *ret_n bytes from *ret_start */
    ADMIN_GARBAGE,  /* none begins here; *ret_n may be 0: blanks, or the rest of garbage */
    ADMIN_TOO_LONG, /* ADMIN_MESSAGE_MAX bytes and no end */
};
/* How far the bytes were looked at, and inside of what; starts as zeroes. */
struct admin_scan {
    size_t at, depth;
    bool in_text, escaped, skipping;
};
/* The first n bytes, which grew since the last call or begin anew after one that found something:
 * then *ret_start + *ret_n bytes are to be removed. */
enum admin_found admin_scan(struct admin_scan *s, const char *p, size_t n, size_t *ret_start,
                            size_t *ret_n);

/* --- requests --- */

enum admin_verb_kind {
    VERB_CAPABILITIES,
    VERB_COMMANDS,
    VERB_VERSION,
    VERB_ADD_KEY,
    VERB_QUIT,
    VERB_SESSION, /* `call` says which */
    VERB_KEYS,    /* `keys` says which */
};
struct admin_verb {
    const char *name;
    enum admin_verb_kind kind;
    enum admin_command call;
    const char *argument; /* the first one; NULL: none */
    const char *value;    /* what help calls it */
    bool optional;        /* the argument */
    bool returns_token;
    const char *help;
    const char *second, *second_value; /* another argument, always optional; NULL: none */
    enum key_task_kind keys;
    bool takes_key; /* a descriptor comes along (ctl: --key) */
};
extern const struct admin_verb admin_verbs[];
extern const size_t admin_n_verbs;
const struct admin_verb *admin_verb_find(const char *name); /* NULL */

struct admin_request {
    const struct admin_verb *verb; /* NULL: none was recognised */
    struct json_in *whole;         /* owned; NULL: it was no JSON */
    const char *argument, *second; /* in `whole`; NULL: not given */
};
/* negotiated: qmp_capabilities was said before. -1: *ret_class is what to call the error; *ret is
 * filled all the same, as far as it goes. Free it with admin_request_clear() in any case. */
int admin_request_decode(const char *p, size_t n, bool negotiated, struct admin_request *ret,
                         const char **ret_class, struct err *e) MUST_CHECK;
void admin_request_clear(struct admin_request *r);

/* --- what is sent: lines on the heap; NULL: no memory --- */

char *admin_greeting(void);
/* fill: adds the members of the return value; NULL: it has none. */
char *admin_return(const struct admin_request *r, void (*fill)(struct json_out *o, const void *ctx),
                   const void *ctx);
char *admin_error(const struct admin_request *r, const char *class, const char *text);
/* An event; what is 0 or NULL is not known, and left out. */
struct admin_news {
    const char *name;
    uint64_t generation, epoch;
    const struct err *error;
    const char *reason;
    const bool *sealed; /* NULL: not said */
};
char *admin_event(const struct admin_news *news);

/* Members of return values. */
void admin_fill_version(struct json_out *o, const void *unused);
void admin_fill_status(struct json_out *o, const void *status);  /* struct session_status */
void admin_fill_phase(struct json_out *o, const void *phase);    /* text */
void admin_fill_keys(struct json_out *o, const void *task);      /* struct key_task */
void admin_fill_token(struct json_out *o, const void *token);    /* text */
void admin_fill_snapshots(struct json_out *o, const void *list); /* struct snapshot_list */
/* The list of commands is no object, as in QMP. */
char *admin_commands(const struct admin_request *r);

#endif
