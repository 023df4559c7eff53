/* Any bytes as a stream of TPM commands. The first byte chooses the kind of TPM and its buffer.
 * Whatever is found lies inside the input and uses something up; what is a command stays the same
 * command when it arrives in pieces. */
#include "tests/fuzz/fuzz.h"

#include "src/serve/data_frame.h"

static void inside(const struct data_frame *f, size_t n)
{
    PROMISE(f->bytes > 0 && f->bytes <= n);
    PROMISE(f->offset <= f->bytes && f->cmd_bytes == f->bytes - f->offset);
    PROMISE(f->framed || f->offset == 0);
}

static void same_in_pieces(const uint8_t *p, size_t n, size_t max, bool framing,
                           const struct data_frame *f)
{
    struct data_frame g;
    for (size_t part = 0; part < f->bytes; part++)
        PROMISE(data_frame_decode(p, part, max, framing, &g) == DATA_MORE);
    PROMISE(data_frame_decode(p, n, max, framing, &g) == DATA_COMMAND);
    PROMISE(g.framed == f->framed && g.locality == f->locality && g.offset == f->offset &&
            g.cmd_bytes == f->cmd_bytes && g.bytes == f->bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t locality;
    if (n == 0)
        return 0;
    bool framing = bytes[0] & 1;
    size_t max = bytes[0] & 2 ? 4096 : 2808;
    const uint8_t *p = bytes + 1;
    n--;
    while (n > 0) {
        struct data_frame f = {0};
        enum data_found found = data_frame_decode(p, n, max, framing, &f);
        if (found == DATA_MORE) {
            PROMISE(n < max + DATA_FRAME_BYTES);
            f = data_frame_cut(p, n, framing);
        }
        inside(&f, n);
        if (found == DATA_COMMAND) {
            PROMISE(f.cmd_bytes >= DATA_HEADER_BYTES && f.cmd_bytes <= max);
            same_in_pieces(p, n, max, framing, &f);
        }
        if (data_is_set_locality(p + f.offset, f.cmd_bytes, &locality))
            PROMISE(f.cmd_bytes == 11);
        p += f.bytes;
        n -= f.bytes;
    }
    return 0;
}
