/* What a manufacturer does to a new TPM: endorsement keys, their certificates and templates in NV,
 * a storage key, PCR banks, locks; of a TPM 1.2 also its owner.
 *
 *     manufacture --> tpm_blobs          a new TPM
 *     tpm_blobs --reconfigure--> tpm_blobs   an existing one with other PCR banks
 *
 * All of it happens in memory (tpm_workbench.h) by TPM commands (manufacture_command.h,
 * manufacture_tpm12.h). Nothing is stored here: the caller commits the blobs at once, or not.
 */
#ifndef NVKEEP_SRC_MANUFACTURE_H
#define NVKEEP_SRC_MANUFACTURE_H

#include "backend/tpm_workbench.h"
#include "src/make/manufacture_command.h"

enum { TPM12_AUTH_BYTES = 20, CERTIFICATE_MAX_BYTES = 2000 };

enum certificate_kind { CERTIFICATE_EK, CERTIFICATE_PLATFORM };

/* What a signer is told. */
struct certificate_request {
    enum certificate_kind what;
    enum device_kind device;
    enum made_key key; /* of a TPM 1.2: KEY_EK_RSA2048 */
    enum ek_use use;
    const struct ek_public *ek;
    const char *info; /* what libtpms says about itself, JSON: TPMSpecification, TPMAttributes */
};

/* Whom manufacturing asks and tells. */
struct manufacture_calls {
    /* Signs; at most CERTIFICATE_MAX_BYTES, DER. */
    int (*certify)(void *ctx, const struct certificate_request *request, uint8_t *ret,
                   size_t *ret_bytes, struct err *e);
    /* One step is done; a sentence. NULL: nobody listens. */
    void (*tell)(void *ctx, const char *text);
    void *ctx;
};

struct manufacture {
    enum device_kind device;
    bool ek, spk;                              /* spk: TPM 2.0 alone */
    bool ek_certificate, platform_certificate; /* with ek */
    bool lock_nvram;
    /* TPM 2.0 */
    bool rsa3072; /* instead of 2048, for EK and storage key */
    bool spk_is_ecc;
    enum ek_use use;
    struct pcr_banks banks; /* none: all stay as libtpms made them */
    /* TPM 1.2, with ek */
    bool take_ownership;
    uint8_t owner_auth[TPM12_AUTH_BYTES], srk_auth[TPM12_AUTH_BYTES];
    struct manufacture_calls calls;
};

/* ERR_UNSUPPORTED: none of the PCR banks is there; ERR_STORAGE: the TPM refused a command. What
 * certify() says passes through. */
int manufacture(const struct manufacture *what, struct tpm_blobs *ret, struct err *e) MUST_CHECK;

/* TPM 2.0 alone. */
int manufacture_reconfigure(const struct tpm_blobs *from, const struct pcr_banks *banks,
                            const struct manufacture_calls *calls, struct tpm_blobs *ret,
                            struct err *e) MUST_CHECK;

#endif
