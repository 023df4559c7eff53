#include "src/serve/ctrl_msg.h"

#include "src/base/bytes.h"

enum { CODE_BYTES = 4, PADDING_BYTES = 3 };

/* One row per command: its name, and the bytes of its body that are always there. */
static const struct {
    const char *name;
    size_t body_bytes;
} commands[CTRL_N_CODES] = {
    [CTRL_GET_CAPABILITY] = {"GET_CAPABILITY", 0},
    [CTRL_INIT] = {"INIT", 4},
    [CTRL_SHUTDOWN] = {"SHUTDOWN", 0},
    [CTRL_GET_TPMESTABLISHED] = {"GET_TPMESTABLISHED", 0},
    [CTRL_SET_LOCALITY] = {"SET_LOCALITY", 1},
    [CTRL_HASH_START] = {"HASH_START", 0},
    [CTRL_HASH_DATA] = {"HASH_DATA", 4},
    [CTRL_HASH_END] = {"HASH_END", 0},
    [CTRL_CANCEL_TPM_CMD] = {"CANCEL_TPM_CMD", 0},
    [CTRL_STORE_VOLATILE] = {"STORE_VOLATILE", 0},
    [CTRL_RESET_TPMESTABLISHED] = {"RESET_TPMESTABLISHED", 1},
    [CTRL_GET_STATEBLOB] = {"GET_STATEBLOB", 12},
    [CTRL_SET_STATEBLOB] = {"SET_STATEBLOB", 12},
    [CTRL_STOP] = {"STOP", 0},
    [CTRL_GET_CONFIG] = {"GET_CONFIG", 0},
    [CTRL_SET_DATAFD] = {"SET_DATAFD", 0},
    [CTRL_SET_BUFFERSIZE] = {"SET_BUFFERSIZE", 4},
    [CTRL_GET_INFO] = {"GET_INFO", 16},
    [CTRL_LOCK_STORAGE] = {"LOCK_STORAGE", 4},
};

static bool is_code(uint32_t v)
{
    return v < CTRL_N_CODES && commands[v].name;
}

const char *ctrl_code_name(enum ctrl_code code)
{
    return is_code(code) ? commands[code].name : "?";
}

/* Where padding is possible: if it is there, the fourth byte from here is the first of the next
 * code, zero, and no code ends in zero. */
static bool is_padding(const uint8_t *p, size_t n)
{
    return n > PADDING_BYTES && p[PADDING_BYTES] == 0;
}

static bool may_be_padded(uint32_t code)
{
    return code == CTRL_SET_LOCALITY || code == CTRL_RESET_TPMESTABLISHED;
}

static void read_body(struct bytes_in *in, struct ctrl_request *r)
{
    switch (r->code) {
    case CTRL_INIT:
        r->flags = bytes_be32(in);
        break;
    case CTRL_SET_LOCALITY:
    case CTRL_RESET_TPMESTABLISHED:
        r->locality = bytes_u8(in);
        break;
    case CTRL_HASH_DATA:
        r->bytes = bytes_be32(in);
        break;
    case CTRL_GET_STATEBLOB:
        r->flags = bytes_be32(in);
        r->kind = bytes_be32(in);
        r->offset = bytes_be32(in);
        break;
    case CTRL_SET_STATEBLOB:
        r->flags = bytes_be32(in);
        r->kind = bytes_be32(in);
        r->bytes = bytes_be32(in);
        break;
    case CTRL_SET_BUFFERSIZE:
        r->size = bytes_be32(in);
        break;
    case CTRL_GET_INFO:
        r->info = bytes_be64(in);
        r->offset = bytes_be32(in);
        bytes_skip(in, 4);
        break;
    case CTRL_LOCK_STORAGE:
        r->retries = bytes_be32(in);
        break;
    default:
        break;
    }
}

enum ctrl_decoded ctrl_request_decode(const uint8_t *p, size_t n, bool *padding,
                                      struct ctrl_request *ret, size_t *ret_bytes)
{
    /* Padding that came after its message waits for the next one. */
    size_t skipped = *padding && is_padding(p, n) ? PADDING_BYTES : 0;
    struct bytes_in in = bytes_in(p + skipped, n - skipped);
    struct ctrl_request r = {.code = (enum ctrl_code)bytes_be32(&in)};
    if (in.bad)
        return CTRL_MORE;
    if (!is_code(r.code))
        return CTRL_UNKNOWN;
    read_body(&in, &r);
    if (in.bad)
        return CTRL_MORE;
    if (r.code == CTRL_HASH_DATA) {
        if (r.bytes > CTRL_HASH_MAX_BYTES) {
            *ret = r;
            return CTRL_TOO_BIG;
        }
        r.data = bytes_take(&in, r.bytes);
        if (in.bad)
            return CTRL_MORE;
    }
    bool padded = may_be_padded(r.code);
    if (padded && (in.left == PADDING_BYTES || is_padding(in.at, in.left))) {
        bytes_skip(&in, PADDING_BYTES);
        padded = false;
    }
    *padding = padded;
    *ret = r;
    *ret_bytes = n - in.left;
    return CTRL_WHOLE;
}

size_t ctrl_reply_encode(enum ctrl_code code, const struct ctrl_reply *r,
                         uint8_t ret[CTRL_REPLY_MAX])
{
    struct bytes_out out = bytes_out(ret, CTRL_REPLY_MAX);
    bytes_put_be32(&out, r->result);
    switch (code) {
    case CTRL_GET_CAPABILITY:
        bytes_put_be32(&out, r->capabilities);
        break;
    case CTRL_GET_TPMESTABLISHED:
        bytes_put_u8(&out, r->established);
        bytes_put_zero(&out, 3);
        break;
    case CTRL_GET_CONFIG:
        bytes_put_be32(&out, r->config);
        break;
    case CTRL_SET_BUFFERSIZE:
        bytes_put_be32(&out, r->size);
        bytes_put_be32(&out, r->min_size);
        bytes_put_be32(&out, r->max_size);
        break;
    case CTRL_GET_STATEBLOB:
        bytes_put_be32(&out, r->state_flags);
        bytes_put_be32(&out, r->total);
        bytes_put_be32(&out, r->bytes);
        break;
    case CTRL_GET_INFO:
        bytes_put_be32(&out, r->total);
        bytes_put_be32(&out, r->bytes);
        break;
    default:
        break;
    }
    return out.n;
}
