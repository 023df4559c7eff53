/* RSA with a public key of 2048 bits and the exponent 65537, and nothing else of it: what an
 * owner's password is sent to a TPM 1.2 under [PKCS #1 v2.0, 7.1: OAEP with SHA-1 and MGF1].
 */
#ifndef NVKEEP_SRC_RSA_PUBLIC_H
#define NVKEEP_SRC_RSA_PUBLIC_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"

enum { RSA_PUBLIC_BYTES = 256, OAEP_MAX_BYTES = RSA_PUBLIC_BYTES - 2 * 20 - 2 };

/* ret = in ^ 65537 mod modulus; big-endian. in < modulus. */
void rsa_public(const uint8_t modulus[RSA_PUBLIC_BYTES], const uint8_t in[RSA_PUBLIC_BYTES],
                uint8_t ret[RSA_PUBLIC_BYTES]);

/* label: what the receiver expects, "TCPA". n <= OAEP_MAX_BYTES. ERR_STORAGE: no random bytes. */
int rsa_oaep_encrypt(const uint8_t modulus[RSA_PUBLIC_BYTES], const char *label, const void *p,
                     size_t n, uint8_t ret[RSA_PUBLIC_BYTES], struct err *e) MUST_CHECK;

#endif
