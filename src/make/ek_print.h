/* The fingerprint of an endorsement key: SHA-256 of its SubjectPublicKeyInfo, DER, as it stands in
 * the key's certificate [RFC 5280 4.1; RFC 3279 2.3.1, 2.3.5]. Pure.
 */
#ifndef NVKEEP_SRC_EK_PRINT_H
#define NVKEEP_SRC_EK_PRINT_H

#include "crypto/prim.h"
#include "src/make/manufacture_command.h"

enum { KEY_INFO_BYTES = 2 * EK_PUBLIC_MAX_BYTES + 100, EK_ALGORITHM_BYTES = 24 };

struct ek_key {
    struct ek_public public;
    uint32_t exponent; /* RSA */
    uint16_t curve;    /* ECC: TPM_ECC_CURVE */
};

/* "RSA 2048", "ECC P-384"; false: a kind of key that has no name here. */
bool ek_algorithm(const struct ek_key *k, char ret[EK_ALGORITHM_BYTES]);
/* false: likewise. */
bool ek_key_info(const struct ek_key *k, uint8_t ret[KEY_INFO_BYTES], size_t *ret_bytes);
bool ek_fingerprint(const struct ek_key *k, uint8_t ret[SHA256_BYTES]);

/* A TPMT_PUBLIC, alone or followed by other things. false: no asymmetric key. */
bool ek_key_decode(struct bytes_in *in, struct ek_key *ret);

#endif
