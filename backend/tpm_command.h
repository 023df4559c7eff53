/* TPM commands and responses as bytes, as far as the TPM's keeper must understand them. Pure.
 *
 * The one question of weight is whether a command can make libtpms store something, because then
 * the way back must be prepared before it runs. The answer errs towards "yes": a command is taken
 * for harmless only where it is on a short list and carries no session (a session may fail, and a
 * failed one may be counted against dictionary attacks, in NV).
 * [TPM2 = TPM 2.0 library specification, part 3]
 */
#ifndef NVKEEP_BACKEND_TPM_COMMAND_H
#define NVKEEP_BACKEND_TPM_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/ref_sector.h"

enum { TPM_HEADER_BYTES = 10 };

enum tpm_effect {
    TPM_MAY_STORE = 0,
    TPM_READS,   /* never stores */
    TPM_EXTENDS, /* TPM2_PCR_Extend by an (empty or other) password: stores only where it ends the
                    orderly state that a TPM2_Shutdown began */
};

/* Any bytes, any length. */
enum tpm_effect tpm_command_effect(enum device_kind kind, const uint8_t *cmd, size_t n);

/* TPM2_Shutdown? */
bool tpm_command_is_shutdown(const uint8_t *cmd, size_t n);

/* TPM2_ClockSet? What it sets has to be durable [TPM2 29.3], and libtpms stores nothing for it. */
bool tpm_command_is_clock_set(const uint8_t *cmd, size_t n);

/* For a command of TPM_EXTENDS: does it touch a PCR that TPM2_Shutdown(STATE) saves? Such a one
 * ends the orderly state where it succeeds. */
bool tpm_command_extends_saved_pcr(const uint8_t *cmd, size_t n);

/* A response without parameters. */
void tpm_response_error(enum device_kind kind, uint32_t rc, uint8_t ret[TPM_HEADER_BYTES]);

/* The code of a response that is whole: its size field is n, at least a header. */
bool tpm_response_code(const uint8_t *resp, size_t n, uint32_t *ret);

/* Did the TPM refuse because a password (or a session's HMAC) was wrong? */
bool tpm_response_is_auth_failure(enum device_kind kind, uint32_t code);

/* Commands of our own. Return their length. */
enum { TPM_SHORT_COMMAND_BYTES = 12 };
size_t tpm_command_startup(enum device_kind kind, uint16_t type,
                           uint8_t ret[TPM_SHORT_COMMAND_BYTES]);
size_t tpm_command_shutdown(uint16_t type, uint8_t ret[TPM_SHORT_COMMAND_BYTES]);

/* What is said for the TPM where it cannot speak itself. */
enum tpm_refusal {
    TPM_REFUSES_OFF,      /* not powered on: 0x101, or 9 */
    TPM_REFUSES_SIZE,     /* longer than the buffer: 0x142, or 0x19 */
    TPM_REFUSES_LOCALITY, /* above 4: 0x907, or 0x3d */
    TPM_REFUSES_STORAGE,  /* could not be made durable: 0x923, or 0x800 */
    TPM_REFUSES_FAILURE,  /* no sensible response came: 0x101, or 9 */
};
uint32_t tpm_refusal_code(enum device_kind kind, enum tpm_refusal why);

#endif
