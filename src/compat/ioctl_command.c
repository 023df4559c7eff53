#include "src/compat/ioctl_command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "crypto/secret.h"
#include "src/base/bytes.h"
#include "src/base/fd.h"
#include "src/serve/ctrl_msg.h"

enum {
    HEAD_MAX = 24,
    BLOB_HEAD_BYTES = 16,
    BLOB_FLAGS_AT = 4,
    STATE_MAX_BYTES = 1 << 20,
    HASH_PIECE = 1024,
    LOCALITY_MAX = 4,
    QUOTED_BYTES = 200
};

static int bad_result(const char *what, uint32_t result, struct err *e)
{
    return err_set(e, ERR_STORAGE, "TPM result from PTM_%s: 0x%x", what, result);
}

/* A request whose body is these words, and its whole reply of fixed length. */
static int ask(struct link *l, enum ctrl_code code, const uint32_t *body, size_t n_words,
               const char *what, uint8_t *reply, size_t n, struct err *e)
{
    uint8_t head[HEAD_MAX];
    struct bytes_out out = bytes_out(head, sizeof(head));
    bytes_put_be32(&out, code);
    for (size_t i = 0; i < n_words; i++)
        bytes_put_be32(&out, body[i]);
    /* A refusal may have nothing but its result. */
    if (link_exchange(l, head, out.n, NULL, 0, reply, 4, e) < 0)
        return -1;
    if (get_be32(reply) != 0)
        return bad_result(what, get_be32(reply), e);
    return n > 4 ? link_receive(l, reply + 4, n - 4, e) : 0;
}

static int plain(struct link *l, enum ctrl_code code, const char *what, struct err *e)
{
    uint8_t reply[4];
    return ask(l, code, NULL, 0, what, reply, sizeof(reply), e);
}

static int with_word(struct link *l, enum ctrl_code code, uint32_t word, const char *what,
                     struct err *e)
{
    uint8_t reply[4];
    return ask(l, code, &word, 1, what, reply, sizeof(reply), e);
}

/* One byte, as swtpm_ioctl sends it. */
static int with_locality(struct link *l, enum ctrl_code code, uint64_t n, const char *what,
                         struct err *e)
{
    uint8_t head[5], reply[4];
    put_be32(head, code);
    head[4] = (uint8_t)n;
    if (link_exchange(l, head, sizeof(head), NULL, 0, reply, sizeof(reply), e) < 0)
        return -1;
    return get_be32(reply) ? bad_result(what, get_be32(reply), e) : 0;
}

/* --- what only asks --- */

static int capabilities(struct link *l, struct err *e)
{
    uint8_t reply[8];
    if (ask(l, CTRL_GET_CAPABILITY, NULL, 0, "GET_CAPABILITY", reply, sizeof(reply), e) < 0)
        return -1;
    printf("ptm capability is 0x%x\n", get_be32(reply + 4));
    return 0;
}

static int config(struct link *l, struct err *e)
{
    uint8_t reply[8];
    if (ask(l, CTRL_GET_CONFIG, NULL, 0, "GET_CONFIG", reply, sizeof(reply), e) < 0)
        return -1;
    printf("ptm configuration flags: 0x%x\n", get_be32(reply + 4));
    return 0;
}

static int get_bit(struct link *l, struct err *e)
{
    uint8_t reply[8];
    if (ask(l, CTRL_GET_TPMESTABLISHED, NULL, 0, "GET_TPMESTABLISHED", reply, sizeof(reply), e) < 0)
        return -1;
    printf("tpmEstablished is %d\n", reply[4]);
    return 0;
}

static int buffer(struct link *l, uint32_t size, struct err *e)
{
    uint8_t reply[16];
    if (ask(l, CTRL_SET_BUFFERSIZE, &size, 1, "SET_BUFFERSIZE", reply, sizeof(reply), e) < 0)
        return -1;
    printf("TPM buffersize: %u\nminimum size  : %u\nmaximum size  : %u\n", get_be32(reply + 4),
           get_be32(reply + 8), get_be32(reply + 12));
    return 0;
}

/* In pieces; the NUL at the end counts. */
static int info(struct link *l, uint64_t flags, struct err *e)
{
    uint32_t total = 1;
    for (uint32_t at = 0; at < total;) {
        const uint32_t body[] = {(uint32_t)(flags >> 32), (uint32_t)flags, at, 0};
        uint8_t reply[12];
        char text[CTRL_INFO_MAX_BYTES];
        if (ask(l, CTRL_GET_INFO, body, ARRAY_LEN(body), "GET_INFO", reply, sizeof(reply), e) < 0)
            return -1;
        total = get_be32(reply + 4);
        uint32_t n = get_be32(reply + 8);
        if (n == 0 || n > sizeof(text) || n > total - at)
            return err_set(e, ERR_STORAGE, "PTM_GET_INFO: a piece of %u bytes cannot be", n);
        if (link_receive(l, text, n, e) < 0)
            return -1;
        at += n;
        fwrite(text, 1, at == total ? n - 1 : n, stdout);
    }
    putchar('\n');
    return 0;
}

/* --- hashing --- */

static int hash_piece(struct link *l, const uint8_t *p, size_t n, struct err *e)
{
    uint8_t head[8], reply[4];
    put_be32(head, CTRL_HASH_DATA);
    put_be32(head + 4, (uint32_t)n);
    if (link_exchange(l, head, sizeof(head), p, n, reply, sizeof(reply), e) < 0)
        return -1;
    return get_be32(reply) ? bad_result("HASH_DATA", get_be32(reply), e) : 0;
}

static int hash_input(struct link *l, struct err *e)
{
    uint8_t piece[HASH_PIECE];
    for (;;) {
        ssize_t n = fd_read_full(STDIN_FILENO, piece, sizeof(piece));
        if (n < 0)
            return err_sys(e, ERR_STORAGE, errno, "Could not read from standard input");
        if (n == 0)
            return 0;
        if (hash_piece(l, piece, (size_t)n, e) < 0)
            return -1;
    }
}

static int hash(struct link *l, const char *text, struct err *e)
{
    const uint8_t *p = (const uint8_t *)text;
    if (plain(l, CTRL_HASH_START, "HASH_START", e) < 0)
        return -1;
    if (strcmp(text, "-") == 0) {
        if (hash_input(l, e) < 0)
            return -1;
    } else {
        for (size_t left = strlen(text), n; left > 0; p += n, left -= n) {
            n = left < HASH_PIECE ? left : HASH_PIECE;
            if (hash_piece(l, p, n, e) < 0)
                return -1;
        }
    }
    return plain(l, CTRL_HASH_END, "HASH_END", e);
}

/* --- states --- */

enum { FILE_LIMIT_S = 10 };

static void give_up(int signal_number)
{
    static const char text[] = "swtpm_ioctl: the file was not ready within 10 seconds\n";
    (void)signal_number;
    (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
    _exit(EXIT_FAILURE);
}

/* A named pipe may have nobody at its other end. */
static int limit_file(struct err *e)
{
    const struct sigaction act = {.sa_handler = give_up};
    if (sigaction(SIGALRM, &act, NULL) < 0)
        return err_sys(e, ERR_STORAGE, errno, "cannot limit how long the file may take");
    (void)alarm(FILE_LIMIT_S);
    return 0;
}

static int state_kind(const char *text, uint64_t *ret, struct err *e)
{
    static const char *const names[] = {"permanent", "volatile", "savestate"};
    char quoted[QUOTED_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = i + 1;
            return 0;
        }
    return err_set(e, ERR_USAGE, "Unknown TPM state type '%s'",
                   err_quote(quoted, sizeof(quoted), text, strlen(text)));
}

/* One reply has all that is left from an offset on: on sockets, all of it. */
static int get_state(struct link *l, uint32_t kind, struct secret **ret, size_t *ret_n,
                     struct err *e)
{
    const uint32_t body[] = {CTRL_STATE_DECRYPTED, kind, 0};
    uint8_t reply[BLOB_HEAD_BYTES];
    OWNED(secret) blob = NULL;
    *ret_n = 0;
    int r =
        ask(l, CTRL_GET_STATEBLOB, body, ARRAY_LEN(body), "GET_STATEBLOB", reply, sizeof(reply), e);
    if (r < 0 && e->kind == ERR_STORAGE && get_be32(reply) == CTRL_NO_SUCH_STATE)
        return 0;
    if (r < 0)
        return -1;
    uint32_t total = get_be32(reply + 8), n = get_be32(reply + 12);
    if (n != total || n > STATE_MAX_BYTES)
        return err_set(e, ERR_STORAGE, "PTM_GET_STATEBLOB: %u of %u bytes cannot be", n, total);
    if (n == 0)
        return 0;
    if (secret_new(n, &blob, e) < 0 || link_receive(l, secret_bytes(blob), n, e) < 0)
        return -1;
    *ret = MOVE(blob);
    *ret_n = n;
    return 0;
}

static int save(struct link *l, const struct ioctl_command *c, struct err *e)
{
    OWNED(secret) blob = NULL;
    size_t n;
    char quoted[QUOTED_BYTES];
    if (get_state(l, (uint32_t)c->number, &blob, &n, e) < 0 || limit_file(e) < 0)
        return -1;
    OWNED_FD fd = open(c->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0 || (n > 0 && fd_write_full(fd, secret_peek(blob), n) < 0))
        return err_sys(e, ERR_STORAGE, errno, "Could not write the state to '%s'",
                       err_quote(quoted, sizeof(quoted), c->file, strlen(c->file)));
    (void)alarm(0);
    return 0;
}

static int read_state(const char *path, struct secret **ret, size_t *ret_n, struct err *e)
{
    char quoted[QUOTED_BYTES];
    OWNED(secret) blob = NULL;
    err_quote(quoted, sizeof(quoted), path, strlen(path));
    if (limit_file(e) < 0)
        return -1;
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return err_sys(e, ERR_USAGE, errno, "Could not open file '%s' for reading", quoted);
    if (secret_new(STATE_MAX_BYTES + 1, &blob, e) < 0)
        return -1;
    ssize_t n = fd_read_full(fd, secret_bytes(blob), STATE_MAX_BYTES + 1);
    (void)alarm(0);
    if (n < 0)
        return err_sys(e, ERR_STORAGE, errno, "Could not read file '%s'", quoted);
    if (n > STATE_MAX_BYTES)
        return err_set(e, ERR_USAGE, "'%s' has more than %d bytes; it is no state", quoted,
                       STATE_MAX_BYTES);
    *ret = MOVE(blob);
    *ret_n = (size_t)n;
    return 0;
}

static int load(struct link *l, const struct ioctl_command *c, struct err *e)
{
    OWNED(secret) blob = NULL;
    uint8_t head[16], reply[4];
    size_t n;
    if (read_state(c->file, &blob, &n, e) < 0)
        return -1;
    /* Under the key of swtpm's state, says its header; under a migration key is another bit. */
    bool encrypted = n >= BLOB_FLAGS_AT + 2 && get_be16(secret_peek(blob) + BLOB_FLAGS_AT) & 1;
    put_be32(head, CTRL_SET_STATEBLOB);
    put_be32(head + 4, encrypted ? CTRL_STATE_ENCRYPTED : 0);
    put_be32(head + 8, (uint32_t)c->number);
    put_be32(head + 12, (uint32_t)n);
    if (link_exchange(l, head, sizeof(head), secret_peek(blob), n, reply, sizeof(reply), e) < 0)
        return -1;
    return get_be32(reply) ? bad_result("SET_STATEBLOB", get_be32(reply), e) : 0;
}

/* --- all --- */

static int number(const char *text, uint64_t most, const char *refusal, uint64_t *ret,
                  struct err *e)
{
    char *end = NULL;
    char quoted[QUOTED_BYTES];
    errno = 0;
    unsigned long long n = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end || errno || n > most)
        return err_set(e, ERR_USAGE, "%s %s.", refusal,
                       err_quote(quoted, sizeof(quoted), text, strlen(text)));
    *ret = n;
    return 0;
}

static int locality(const char *text, uint64_t *ret, struct err *e)
{
    uint64_t n;
    if (number(text, UINT32_MAX, "Could not get locality number from", &n, e) < 0)
        return -1;
    if (n > LOCALITY_MAX)
        return err_set(e, ERR_USAGE, "Locality outside valid range of [0..4].");
    *ret = n;
    return 0;
}

int ioctl_command_check(struct ioctl_command *c, struct err *e)
{
    switch (c->verb) {
    case IOCTL_RESET_BIT:
    case IOCTL_LOCALITY:
        return locality(c->argument, &c->number, e);
    case IOCTL_SAVE:
    case IOCTL_LOAD:
        return state_kind(c->argument, &c->number, e);
    case IOCTL_BUFFER:
        return number(c->argument, UINT32_MAX, "Could not get buffer size from", &c->number, e);
    case IOCTL_INFO:
        return number(c->argument, UINT64_MAX, "Could not get flags from", &c->number, e);
    case IOCTL_LOCK:
        return number(c->argument, UINT32_MAX, "Could not get retries from", &c->number, e);
    default:
        return 0;
    }
}

int ioctl_command_run(const struct ioctl_command *c, struct link *l, struct err *e)
{
    /* A daemon that is still stretching its passphrase lets these wait. */
    if (c->verb == IOCTL_INIT || c->verb == IOCTL_STORE || c->verb == IOCTL_LOAD)
        l->ms = LINK_LONG_MS;
    switch (c->verb) {
    case IOCTL_CAPABILITIES:
        return capabilities(l, e);
    case IOCTL_INIT:
        return with_word(l, CTRL_INIT, CTRL_INIT_DELETE_VOLATILE, "INIT", e);
    case IOCTL_STOP:
        return plain(l, CTRL_STOP, "STOP", e);
    case IOCTL_SHUTDOWN:
        return plain(l, CTRL_SHUTDOWN, "SHUTDOWN", e);
    case IOCTL_GET_BIT:
        return get_bit(l, e);
    case IOCTL_RESET_BIT:
        return with_locality(l, CTRL_RESET_TPMESTABLISHED, c->number, "RESET_TPMESTABLISHED", e);
    case IOCTL_STORE:
        return plain(l, CTRL_STORE_VOLATILE, "STORE_VOLATILE", e);
    case IOCTL_CANCEL:
        return plain(l, CTRL_CANCEL_TPM_CMD, "CANCEL_TPM_CMD", e);
    case IOCTL_LOCALITY:
        return with_locality(l, CTRL_SET_LOCALITY, c->number, "SET_LOCALITY", e);
    case IOCTL_HASH:
        return hash(l, c->argument, e);
    case IOCTL_SAVE:
        return save(l, c, e);
    case IOCTL_LOAD:
        return load(l, c, e);
    case IOCTL_CONFIG:
        return config(l, e);
    case IOCTL_BUFFER:
        return buffer(l, (uint32_t)c->number, e);
    case IOCTL_INFO:
        return info(l, c->number, e);
    case IOCTL_LOCK:
        return with_word(l, CTRL_LOCK_STORAGE, (uint32_t)c->number, "LOCK_STORAGE", e);
    default:
        return err_set(e, ERR_USAGE, "No valid command.");
    }
}
