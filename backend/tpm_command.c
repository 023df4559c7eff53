#include "backend/tpm_command.h"

#include "src/base/bytes.h"

enum {
    TAG_TPM12_COMMAND = 0x00c1,
    TAG_TPM12_RESPONSE = 0x00c4,
    TAG_NO_SESSIONS = 0x8001,
    TAG_SESSIONS = 0x8002,

    CC_CLOCK_SET = 0x128,
    CC_STARTUP = 0x144,
    CC_SHUTDOWN = 0x145,
    CC_PCR_EXTEND = 0x182,
    ORD_STARTUP = 0x99,

    RS_PW = 0x40000009, /* the password session */
    N_SAVED_PCRS = 16,  /* 0 to 15, the static ones [PC Client profile 4.6] */
};

/* None of these touches NV, whatever its parameters, nor needs memory that may be lacking, which
 * libtpms takes for the end of the TPM (so do SelfTest, TestParms and Hash) [TPM2 10, 16, 22.4, 23,
 * 29, 30]. */
static const uint32_t reads[] = {
    0x17c, /* GetTestResult */
    0x17b, /* GetRandom */
    0x17a, /* GetCapability */
    0x17e, /* PCR_Read */
    0x181, /* ReadClock */
    0x173, /* ReadPublic */
    0x169, /* NV_ReadPublic */
    0x189, /* PolicyGetDigest */
};

static bool in_list(const uint32_t *list, size_t n, uint32_t code)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == code)
            return true;
    return false;
}

struct header {
    uint16_t tag;
    uint32_t code;
    struct bytes_in rest;
};

/* Only a command whose size field is right gets as far as being executed. */
static bool parse(const uint8_t *cmd, size_t n, struct header *ret)
{
    struct bytes_in in = bytes_in(cmd, n);
    uint16_t tag = bytes_be16(&in);
    uint32_t size = bytes_be32(&in);
    uint32_t code = bytes_be32(&in);
    if (in.bad || size != n)
        return false;
    *ret = (struct header){tag, code, in};
    return true;
}

/* The session area: one session, and that is a password. Sessions of other kinds may be bound to
 * something that is protected against dictionary attacks. */
static bool authorized_by_password(struct bytes_in in)
{
    bytes_skip(&in, 4); /* the handle */
    uint32_t auth_bytes = bytes_be32(&in);
    uint32_t session = bytes_be32(&in);
    uint16_t nonce_bytes = bytes_be16(&in);
    bytes_skip(&in, 1);
    uint16_t password_bytes = bytes_be16(&in);
    return !in.bad && session == RS_PW && nonce_bytes == 0 && auth_bytes == 9u + password_bytes;
}

enum tpm_effect tpm_command_effect(enum device_kind kind, const uint8_t *cmd, size_t n)
{
    struct header h;
    /* TPM 1.2 drops its saved state at the first command after TPM_SaveState, whatever that is; and
     * preparing the way back costs it next to nothing. */
    if (kind != DEVICE_TPM20 || !parse(cmd, n, &h))
        return TPM_MAY_STORE;
    if (h.tag == TAG_NO_SESSIONS && in_list(reads, ARRAY_LEN(reads), h.code))
        return TPM_READS;
    if (h.tag == TAG_SESSIONS && h.code == CC_PCR_EXTEND && authorized_by_password(h.rest))
        return TPM_EXTENDS;
    return TPM_MAY_STORE;
}

bool tpm_command_is_shutdown(const uint8_t *cmd, size_t n)
{
    struct header h;
    return parse(cmd, n, &h) && h.code == CC_SHUTDOWN;
}

bool tpm_command_is_clock_set(const uint8_t *cmd, size_t n)
{
    struct header h;
    return parse(cmd, n, &h) && h.code == CC_CLOCK_SET;
}

bool tpm_command_extends_saved_pcr(const uint8_t *cmd, size_t n)
{
    struct header h;
    if (!parse(cmd, n, &h) || h.code != CC_PCR_EXTEND)
        return false;
    uint32_t pcr = bytes_be32(&h.rest);
    return !h.rest.bad && pcr < N_SAVED_PCRS;
}

void tpm_response_error(enum device_kind kind, uint32_t rc, uint8_t ret[TPM_HEADER_BYTES])
{
    put_be16(ret, kind == DEVICE_TPM20 ? TAG_NO_SESSIONS : TAG_TPM12_RESPONSE);
    put_be32(ret + 2, TPM_HEADER_BYTES);
    put_be32(ret + 6, rc);
}

bool tpm_response_code(const uint8_t *resp, size_t n, uint32_t *ret)
{
    if (n < TPM_HEADER_BYTES || get_be32(resp + 2) != n)
        return false;
    *ret = get_be32(resp + 6);
    return true;
}

bool tpm_response_is_auth_failure(enum device_kind kind, uint32_t code)
{
    /* TPM_RC_AUTH_FAIL, whichever session it speaks of [TPM2 part 2, 6.6.2]. TPM 1.2 counts in its
     * volatile state alone. */
    return kind == DEVICE_TPM20 && (code & 0xff) == 0x8e;
}

static size_t short_command(uint16_t tag, uint32_t code, uint16_t argument,
                            uint8_t ret[TPM_SHORT_COMMAND_BYTES])
{
    put_be16(ret, tag);
    put_be32(ret + 2, TPM_SHORT_COMMAND_BYTES);
    put_be32(ret + 6, code);
    put_be16(ret + 10, argument);
    return TPM_SHORT_COMMAND_BYTES;
}

size_t tpm_command_startup(enum device_kind kind, uint16_t type,
                           uint8_t ret[TPM_SHORT_COMMAND_BYTES])
{
    if (kind == DEVICE_TPM20)
        return short_command(TAG_NO_SESSIONS, CC_STARTUP, type, ret);
    return short_command(TAG_TPM12_COMMAND, ORD_STARTUP, type, ret);
}

size_t tpm_command_shutdown(uint16_t type, uint8_t ret[TPM_SHORT_COMMAND_BYTES])
{
    return short_command(TAG_NO_SESSIONS, CC_SHUTDOWN, type, ret);
}

uint32_t tpm_refusal_code(enum device_kind kind, enum tpm_refusal why)
{
    static const uint32_t codes[][2] = {
        [TPM_REFUSES_OFF] = {0x101, 0x09},      /* TPM_RC_FAILURE, TPM_FAIL */
        [TPM_REFUSES_SIZE] = {0x142, 0x19},     /* TPM_RC_COMMAND_SIZE, TPM_BAD_PARAM_SIZE */
        [TPM_REFUSES_LOCALITY] = {0x907, 0x3d}, /* TPM_RC_LOCALITY, TPM_BAD_LOCALITY */
        [TPM_REFUSES_STORAGE] = {0x923, 0x800}, /* TPM_RC_NV_UNAVAILABLE, TPM_RETRY */
        [TPM_REFUSES_FAILURE] = {0x101, 0x09},
    };
    return codes[why][kind != DEVICE_TPM20];
}
