#include "src/serve/data_frame.h"

#include "src/base/bytes.h"

enum {
    SEND_COMMAND = 8,
    SIZE_AT = 2, /* of the size field in a command */
    SIZE_END = 6,
    TAG_NO_SESSIONS = 0x8001,
    CC_SET_LOCALITY = 0x20001000,
};

/* No TPM command begins with these bytes: its tag is not zero. */
static bool is_framed(const uint8_t *p, size_t n)
{
    return n >= 4 && get_be32(p) == SEND_COMMAND;
}

struct data_frame data_frame_cut(const uint8_t *p, size_t n, bool framing)
{
    struct data_frame f = {.cmd_bytes = n, .bytes = n};
    if (!framing || !is_framed(p, n))
        return f;
    f.framed = true;
    f.locality = n > 4 ? p[4] : 0;
    f.offset = n < DATA_FRAME_BYTES ? n : DATA_FRAME_BYTES;
    f.cmd_bytes = n - f.offset;
    return f;
}

static enum data_found decode_framed(const uint8_t *p, size_t n, size_t max, struct data_frame *ret)
{
    if (n < DATA_FRAME_BYTES)
        return DATA_MORE;
    uint32_t size = get_be32(p + 5);
    if (size < DATA_HEADER_BYTES || size > max) {
        *ret = data_frame_cut(p, n, true);
        return DATA_BAD;
    }
    if (n - DATA_FRAME_BYTES < size)
        return DATA_MORE;
    *ret = (struct data_frame){true, p[4], DATA_FRAME_BYTES, size, DATA_FRAME_BYTES + size};
    return DATA_COMMAND;
}

enum data_found data_frame_decode(const uint8_t *p, size_t n, size_t max, bool framing,
                                  struct data_frame *ret)
{
    if (framing && is_framed(p, n))
        return decode_framed(p, n, max, ret);
    if (n < SIZE_END)
        return DATA_MORE;
    uint32_t size = get_be32(p + SIZE_AT);
    if (size < DATA_HEADER_BYTES || size > max) {
        *ret = data_frame_cut(p, n, framing);
        return DATA_BAD;
    }
    if (n < size)
        return DATA_MORE;
    *ret = (struct data_frame){.cmd_bytes = size, .bytes = size};
    return DATA_COMMAND;
}

bool data_is_set_locality(const uint8_t *cmd, size_t n, uint8_t *ret_locality)
{
    struct bytes_in in = bytes_in(cmd, n);
    uint16_t tag = bytes_be16(&in);
    uint32_t size = bytes_be32(&in);
    uint32_t code = bytes_be32(&in);
    uint8_t locality = bytes_u8(&in);
    if (!bytes_done(&in) || tag != TAG_NO_SESSIONS || size != n || code != CC_SET_LOCALITY)
        return false;
    *ret_locality = locality;
    return true;
}

void data_response(uint32_t rc, uint8_t ret[DATA_HEADER_BYTES])
{
    put_be16(ret, TAG_NO_SESSIONS);
    put_be32(ret + 2, DATA_HEADER_BYTES);
    put_be32(ret + 6, rc);
}
