/* An error: one value, owned by the caller, set once where the trouble was discovered.
 *
 * Functions return 0, or -1 with *e filled. Further up, err_prefix() may add what the reader lacks;
 * nobody logs and returns. At each edge of the program err_class() gives the one row that holds the
 * stable name, exit code, control channel code and JSON spelling of the class.
 *
 * `e` may never be NULL. An err holds no pointers and needs no release. Its text never contains
 * secrets; bytes that came from outside are put in with err_quote().
 */
#ifndef NVKEEP_BASE_ERR_H
#define NVKEEP_BASE_ERR_H

#include <stdint.h>

#include "src/base/own.h"

/* The result classes of the product. A failure belongs to exactly one. */
enum err_kind {
    ERR_NONE = 0,
    ERR_USAGE,             /* the call itself is wrong: option, path, argument, limit */
    ERR_KEY_MISSING,       /* encrypted, and no key was given (or the source delivered nothing) */
    ERR_KEY_WRONG,         /* no key slot opens with this key */
    ERR_KEY_UNEXPECTED,    /* a key was given for an image that is not encrypted */
    ERR_STATE_EMPTY,       /* sound, and nothing has been written here yet */
    ERR_STATE_CORRUPT,     /* ours, and damaged */
    ERR_STATE_FOREIGN,     /* sound, but not ours, or not this instance's */
    ERR_STATE_ROLLED_BACK, /* an older state has been put in place of a newer one */
    ERR_FENCED,            /* another owner has taken over */
    ERR_LOCKED,            /* somebody else holds the image (or the socket) now */
    ERR_UNSUPPORTED,       /* well-formed, but needs something we do not implement */
    ERR_STORAGE,           /* the system refused: I/O error, no space, no memory */
    ERR_N_KINDS
};

struct err {
    enum err_kind kind;
    int os; /* errno where one was behind it, else 0 */
    char text[600];
};

/* One row per class; the only place where a class is spelled. */
struct err_class {
    const char *name;  /* "KEY_WRONG": log, terminal and JSON alike */
    int exit_code;     /* of the program */
    uint32_t ctrl;     /* TPM result on the control channel; QEMU prints a text for some of them */
    const char *brief; /* for --help and the manual */
};

const struct err_class *err_class(enum err_kind kind);

/* Sets *e and returns -1, so that `return err_set(e, ...)` leaves early. */
int err_set(struct err *e, enum err_kind kind, const char *fmt, ...) PRINTF_LIKE(3, 4) NONNULL;

/* The same for a failed system call: ": <strerror(os)>" is appended, os is remembered. */
int err_sys(struct err *e, enum err_kind kind, int os, const char *fmt, ...)
    PRINTF_LIKE(4, 5) NONNULL;

/* Whose fault it is that a path somebody named cannot be used: USAGE where the name or the
 * permissions are wrong, STORAGE where the system fails on a right one. */
enum err_kind err_kind_of_path(int os);

/* Memory could not be had; ERR_STORAGE with ENOMEM. */
int err_nomem(struct err *e, const char *what) NONNULL;

/* Puts "<prefix>: " in front of the text that is there. Returns -1. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3) NONNULL;

/* They all return -1, and the compiler is to know it: so it sees what is assigned behind them. */
static inline int err_failed(int r)
{
    (void)r;
    return -1;
}
#define err_set(...)    err_failed(err_set(__VA_ARGS__))
#define err_sys(...)    err_failed(err_sys(__VA_ARGS__))
#define err_nomem(...)  err_failed(err_nomem(__VA_ARGS__))
#define err_prefix(...) err_failed(err_prefix(__VA_ARGS__))

/* Copies bytes of foreign origin into `buf` (always terminated) with everything but printable ASCII
 * escaped as \xNN; what does not fit ends in "...". Returns buf. */
char *err_quote(char *buf, size_t buf_bytes, const void *text, size_t text_bytes);

#endif
