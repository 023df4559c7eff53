/* Messages of the control channel, as bytes and as numbers. Pure.
 *
 * The wire format is swtpm's: a request is a big-endian u32 code and a body, a reply is its result
 * without the code. A reply has the full length of its kind whatever the result is: QEMU 7.2 reads
 * a fixed number of bytes and waits for ever for what is missing. A state blob and the bytes that a
 * SET_STATEBLOB carries are not in these structs; they travel behind the header.
 *
 * A stream has no message boundaries, and clients disagree about the length of two messages: the
 * body of SET_LOCALITY and RESET_TPMESTABLISHED is one byte (tpm2-tools) or that byte and three of
 * padding with any content (QEMU, swtpm_ioctl). Every code is below 256 and begins with three zero
 * bytes, which tells where the next message begins; see ctrl_request_decode().
 */
#ifndef NVKEEP_SRC_CTRL_MSG_H
#define NVKEEP_SRC_CTRL_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ctrl_code {
    CTRL_GET_CAPABILITY = 0x01,
    CTRL_INIT = 0x02,
    CTRL_SHUTDOWN = 0x03,
    CTRL_GET_TPMESTABLISHED = 0x04,
    CTRL_SET_LOCALITY = 0x05,
    CTRL_HASH_START = 0x06,
    CTRL_HASH_DATA = 0x07,
    CTRL_HASH_END = 0x08,
    CTRL_CANCEL_TPM_CMD = 0x09,
    CTRL_STORE_VOLATILE = 0x0a,
    CTRL_RESET_TPMESTABLISHED = 0x0b,
    CTRL_GET_STATEBLOB = 0x0c,
    CTRL_SET_STATEBLOB = 0x0d,
    CTRL_STOP = 0x0e,
    CTRL_GET_CONFIG = 0x0f,
    CTRL_SET_DATAFD = 0x10,
    CTRL_SET_BUFFERSIZE = 0x11,
    CTRL_GET_INFO = 0x12,
    CTRL_LOCK_STORAGE = 0x13,
    CTRL_N_CODES
};

/* Bits of GET_CAPABILITY. */
enum {
    CTRL_CAP_INIT = 1 << 0,
    CTRL_CAP_SHUTDOWN = 1 << 1,
    CTRL_CAP_GET_TPMESTABLISHED = 1 << 2,
    CTRL_CAP_SET_LOCALITY = 1 << 3,
    CTRL_CAP_HASHING = 1 << 4,
    CTRL_CAP_CANCEL_TPM_CMD = 1 << 5,
    CTRL_CAP_STORE_VOLATILE = 1 << 6,
    CTRL_CAP_RESET_TPMESTABLISHED = 1 << 7,
    CTRL_CAP_GET_STATEBLOB = 1 << 8,
    CTRL_CAP_SET_STATEBLOB = 1 << 9,
    CTRL_CAP_STOP = 1 << 10,
    CTRL_CAP_GET_CONFIG = 1 << 11,
    CTRL_CAP_SET_DATAFD = 1 << 12,
    CTRL_CAP_SET_BUFFERSIZE = 1 << 13,
    CTRL_CAP_GET_INFO = 1 << 14,
    CTRL_CAP_SEND_COMMAND_HEADER = 1 << 15, /* the framing of data_frame.h */
    CTRL_CAP_LOCK_STORAGE = 1 << 16,
};

/* Results; the names are those of the TPM 1.2 family. */
enum {
    CTRL_OK = 0x00,
    CTRL_BAD_PARAMETER = 0x03,
    CTRL_FAIL = 0x09,
    CTRL_BAD_ORDINAL = 0x0a,
    CTRL_KEY_NOT_FOUND = 0x0d,
    CTRL_SIZE = 0x17,
    CTRL_IO_ERROR = 0x1f,
    CTRL_BAD_LOCALITY = 0x3d,
    CTRL_NO_SUCH_STATE = 0x800,
};

enum { CTRL_INIT_DELETE_VOLATILE = 1 };                      /* flags of INIT */
enum { CTRL_STATE_DECRYPTED = 1, CTRL_STATE_ENCRYPTED = 2 }; /* flags of the state blobs */
enum { CTRL_CONFIG_STATE_KEY = 1, CTRL_CONFIG_MIGRATION_KEY = 2 };

enum {
    CTRL_HASH_MAX_BYTES = 4096, /* of one HASH_DATA */
    CTRL_INFO_MAX_BYTES = 3072, /* of one GET_INFO reply */
    CTRL_REQUEST_MAX = 8 + CTRL_HASH_MAX_BYTES,
    CTRL_REPLY_MAX = 16, /* of the head of a reply */
};

struct ctrl_request {
    enum ctrl_code code;
    uint32_t flags;      /* INIT, GET_STATEBLOB, SET_STATEBLOB */
    uint8_t locality;    /* SET_LOCALITY, RESET_TPMESTABLISHED */
    uint32_t kind;       /* GET_STATEBLOB, SET_STATEBLOB */
    uint32_t offset;     /* GET_STATEBLOB, GET_INFO */
    uint32_t bytes;      /* SET_STATEBLOB: follow the header; HASH_DATA */
    const uint8_t *data; /* HASH_DATA: points into what was decoded */
    uint32_t size;       /* SET_BUFFERSIZE; 0: a question */
    uint64_t info;       /* GET_INFO */
    uint32_t retries;    /* LOCK_STORAGE */
};

enum ctrl_decoded {
    CTRL_MORE,    /* not all of it is there yet */
    CTRL_WHOLE,   /* *ret is filled, *ret_bytes belong to it (of SET_STATEBLOB: the header) */
    CTRL_UNKNOWN, /* no such command: how long it is cannot be known */
    CTRL_TOO_BIG, /* a known command with an unreasonable length; *ret_code says which */
};

/* What is at p. padding: in, whether the message before may still be followed by its padding (which
 * is then skipped); out, the same for the next one. Both outputs are set for CTRL_WHOLE;
 * ret->code also for CTRL_TOO_BIG. */
enum ctrl_decoded ctrl_request_decode(const uint8_t *p, size_t n, bool *padding,
                                      struct ctrl_request *ret, size_t *ret_bytes);

struct ctrl_reply {
    uint32_t result;
    uint32_t capabilities;              /* GET_CAPABILITY */
    bool established;                   /* GET_TPMESTABLISHED */
    uint32_t config;                    /* GET_CONFIG */
    uint32_t size, min_size, max_size;  /* SET_BUFFERSIZE */
    uint32_t state_flags, total, bytes; /* GET_STATEBLOB, GET_INFO: `bytes` follow the head */
};

/* Length of the head of a reply to `code`: 4, 8, 12 or 16. */
size_t ctrl_reply_encode(enum ctrl_code code, const struct ctrl_reply *r,
                         uint8_t ret[CTRL_REPLY_MAX]);

/* For the log: "SET_DATAFD"; "?" for what is not a code. */
const char *ctrl_code_name(enum ctrl_code code);

#endif
