/* The commands that make a TPM 1.2 what a manufacturer delivers, as bytes. Pure, but for the random
 * bytes of an encryption. [TPM12 = TPM Main 1.2, part 3; PC12 = PC Client Implementation 1.2]
 */
#ifndef NVKEEP_SRC_MANUFACTURE_TPM12_H
#define NVKEEP_SRC_MANUFACTURE_TPM12_H

#include "src/base/err.h"
#include "src/make/manufacture_command.h"

enum {
    TPM12_RSA_BYTES = 256,
    TPM12_DIGEST_BYTES = 20,
    TPM12_EK_CERTIFICATE_INDEX = 0x1000f000,
    TPM12_PLATFORM_CERTIFICATE_INDEX = 0x1000f002,
    TPM12_NV_LOCK_INDEX = -1, /* TPM_NV_INDEX_LOCK */
    TPM12_NV_HEADER_BYTES = 7,
};

/* presence: bits of TPM_PHYSICAL_PRESENCE. */
enum { TPM12_PRESENCE_BY_COMMAND = 0x0020, TPM12_PRESENT = 0x0008 };
size_t command12_presence(uint16_t presence, uint8_t ret[MADE_COMMAND_BYTES]);
size_t command12_enable(uint8_t ret[MADE_COMMAND_BYTES]);
size_t command12_activate(uint8_t ret[MADE_COMMAND_BYTES]);
size_t command12_create_ek(uint8_t ret[MADE_COMMAND_BYTES]);
size_t command12_read_ek(uint8_t ret[MADE_COMMAND_BYTES]);
/* Index TPM12_NV_LOCK_INDEX with 0 bytes: from now on NV asks for its authorizations. Others: what
 * the owner may read and write. */
size_t command12_nv_define(uint32_t index, uint32_t bytes, uint8_t ret[MADE_COMMAND_BYTES]);
size_t command12_nv_write(uint32_t index, uint32_t at, const void *p, size_t n,
                          uint8_t ret[MADE_COMMAND_BYTES]);
/* What goes before a certificate in NV [PC12 7.4.5: TCG_PCCLIENT_STORED_CERT]. */
void nv12_certificate_header(size_t certificate_bytes, uint8_t ret[TPM12_NV_HEADER_BYTES]);

/* A session, for one command. */
struct session12 {
    uint32_t handle;
    uint8_t nonce[TPM12_DIGEST_BYTES];
};
size_t command12_oiap(uint8_t ret[MADE_COMMAND_BYTES]);
bool response12_oiap(const uint8_t *resp, size_t n, struct session12 *ret);

/* Both passwords (hashed already) are encrypted to the EK. */
int command12_take_ownership(const struct session12 *session, const struct ek_public *ek,
                             const uint8_t owner[TPM12_DIGEST_BYTES],
                             const uint8_t srk[TPM12_DIGEST_BYTES], uint8_t ret[MADE_COMMAND_BYTES],
                             size_t *ret_bytes, struct err *e) MUST_CHECK;

/* Of command12_create_ek() and command12_read_ek(). */
bool response12_ek(const uint8_t *resp, size_t n, struct ek_public *ret);

#endif
