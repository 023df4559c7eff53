/* What the certificate of a TPM says in TCG's terms, as DER for X.509 extensions. Pure.
 *
 * [EKCP: TCG EK Credential Profile 2.4, 3.1 and 3.2; PCP: TCG Platform Certificate Profile 1.1;
 * CP12: TCG Credential Profiles for TPM family 1.2]
 */
#ifndef NVKEEP_COMPAT_CERT_ATTRIBUTES_H
#define NVKEEP_COMPAT_CERT_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"

enum { ATTRIBUTES_BYTES = 4096, ATTRIBUTE_TEXT_BYTES = 512 };

/* Of a TPM, or of a platform. */
struct cert_make {
    const char *manufacturer, *model, *version; /* UTF-8, at most ATTRIBUTE_TEXT_BYTES each */
};

enum cert_family { FAMILY_TPM12, FAMILY_TPM20 };

/* The directory name of a subject alternative name: of the TPM, of the platform, or of both; NULL:
 * not that. The platform's attributes have other numbers for a TPM 1.2. */
int attributes_subject_name(const struct cert_make *tpm, const struct cert_make *platform,
                            enum cert_family family, uint8_t ret[ATTRIBUTES_BYTES],
                            size_t *ret_bytes, struct err *e) MUST_CHECK;

struct tpm_specification {
    const char *family;
    uint32_t level, revision;
};
/* Subject directory attributes: the specification, and where `assertions` is set what is true of a
 * TPM made by software: it can be upgraded, and its EK was made inside it, by who made the
 * platform, as was its certificate. */
int attributes_directory(const struct tpm_specification *s, bool assertions,
                         uint8_t ret[ATTRIBUTES_BYTES], size_t *ret_bytes,
                         struct err *e) MUST_CHECK;

enum cert_purpose { PURPOSE_EK, PURPOSE_PLATFORM };
/* Extended key usage. */
int attributes_purpose(enum cert_purpose p, uint8_t ret[ATTRIBUTES_BYTES], size_t *ret_bytes,
                       struct err *e) MUST_CHECK;

#endif
