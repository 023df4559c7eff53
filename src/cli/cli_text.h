/* How the program spells things, for people and in JSON alike. */
#ifndef NVKEEP_SRC_CLI_TEXT_H
#define NVKEEP_SRC_CLI_TEXT_H

#include <stdio.h>

#include "crypto/ref_sector.h"

enum { UUID_TEXT_BYTES = 37 };

static inline void uuid_text(const uint8_t u[16], char ret[UUID_TEXT_BYTES])
{
    snprintf(ret, UUID_TEXT_BYTES,
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
             u[15]);
}

static inline const char *device_text(enum device_kind kind)
{
    return kind == DEVICE_TPM12 ? "TPM 1.2" : "TPM 2.0";
}

#endif
