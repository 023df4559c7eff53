/* Commands on the data channel, found in a stream of bytes. Pure.
 *
 * A command is as long as its own size field says: one that arrives in pieces is waited for, two
 * that arrive together are two. The bytes are the guest's to choose (an emulator forwards what the
 * guest wrote, and never more than its buffer holds, whatever the size field claims), so a size
 * that cannot be right is never waited for: everything that has arrived is then one bad command,
 * which gets one answer.
 *
 * A TPM 2.0 can also be addressed in the framing of the TCG's simulator:
 *
 *     u32 8, u8 locality, u32 size, command     ->     u32 size, response, u32 0
 */
#ifndef NVKEEP_SRC_DATA_FRAME_H
#define NVKEEP_SRC_DATA_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DATA_HEADER_BYTES = 10, /* of a TPM command or response */
    DATA_FRAME_BYTES = 9,   /* before a framed command */
    DATA_FRAME_EXTRA = 8,   /* around a framed response */
};

struct data_frame {
    bool framed;
    uint8_t locality;         /* of a framed command */
    size_t offset, cmd_bytes; /* where the command lies, and how long it is */
    size_t bytes;             /* used up, the frame included */
};

enum data_found {
    DATA_MORE, /* not all of it is there yet */
    DATA_COMMAND,
    DATA_BAD, /* the same fields; what lies at offset is not a command */
};

/* max: the longest command the TPM takes. *ret is set unless DATA_MORE. */
enum data_found data_frame_decode(const uint8_t *p, size_t n, size_t max, bool framing,
                                  struct data_frame *ret);

/* What arrived so far and will not become more: one bad command. */
struct data_frame data_frame_cut(const uint8_t *p, size_t n, bool framing);

/* The request to change the locality that vtpm-proxy sends as a command of its own; true where it
 * is one, well-formed. */
bool data_is_set_locality(const uint8_t *cmd, size_t n, uint8_t *ret_locality);
/* A response without parameters of a TPM 2.0. */
void data_response(uint32_t rc, uint8_t ret[DATA_HEADER_BYTES]);

#endif
