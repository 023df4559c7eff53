/* Any bytes as a TPM command and as a response. A command is taken for harmless only where its
 * bytes say so; said here a second time, in another way. */
#include "tests/fuzz/fuzz.h"

#include "backend/tpm_command.h"
#include "src/base/bytes.h"

static void harmless_only_without_sessions(const uint8_t *b, size_t n)
{
    PROMISE(n >= TPM_HEADER_BYTES && get_be16(b) == 0x8001 && get_be32(b + 2) == n);
    switch (get_be32(b + 6)) {
    case 0x169:           /* NV_ReadPublic */
    case 0x173:           /* ReadPublic */
    case 0x17a ... 0x17c: /* GetCapability, GetRandom, GetTestResult */
    case 0x17e:           /* PCR_Read */
    case 0x181:           /* ReadClock */
    case 0x189:           /* PolicyGetDigest */
        return;
    default:
        PROMISE(!"a command that is not known to be harmless");
    }
}

static void extends_only_by_one_password(const uint8_t *b, size_t n)
{
    PROMISE(n >= TPM_HEADER_BYTES + 4 + 4 + 9);
    PROMISE(get_be16(b) == 0x8002 && get_be32(b + 2) == n && get_be32(b + 6) == 0x182);
    PROMISE(get_be32(b + 18) == 0x40000009 && get_be16(b + 22) == 0);
    PROMISE(get_be32(b + 14) == 9u + get_be16(b + 25));
    PROMISE(tpm_command_extends_saved_pcr(b, n) == (get_be32(b + 10) < 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *b, size_t n)
{
    uint32_t code = 0;
    switch (tpm_command_effect(DEVICE_TPM20, b, n)) {
    case TPM_READS:
        harmless_only_without_sessions(b, n);
        break;
    case TPM_EXTENDS:
        extends_only_by_one_password(b, n);
        break;
    case TPM_MAY_STORE:
        break;
    }
    PROMISE(tpm_command_effect(DEVICE_TPM12, b, n) == TPM_MAY_STORE);
    if (tpm_command_is_shutdown(b, n))
        PROMISE(get_be32(b + 6) == 0x145 && get_be32(b + 2) == n);
    if (tpm_response_code(b, n, &code))
        PROMISE(n >= TPM_HEADER_BYTES && get_be32(b + 2) == n && get_be32(b + 6) == code);
    return 0;
}
