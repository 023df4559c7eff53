#include "src/compat/cert_attributes.h"

#include <string.h>

#include "crypto/der.h"

#define TCG_TPM_MANUFACTURER  "2.23.133.2.1"
#define TCG_TPM_MODEL         "2.23.133.2.2"
#define TCG_TPM_VERSION       "2.23.133.2.3"
#define TCG_TPM_SPECIFICATION "2.23.133.2.16"
#define TCG_TPM_ASSERTIONS    "2.23.133.2.18"
#define TCG_KP_EK             "2.23.133.8.1"
#define TCG_KP_PLATFORM       "2.23.133.8.2"

/* manufacturer, model, version */
static const char *const tpm_oids[] = {TCG_TPM_MANUFACTURER, TCG_TPM_MODEL, TCG_TPM_VERSION};
static const char *const platform_oids[][3] = {
    [FAMILY_TPM12] = {"2.23.133.2.4", "2.23.133.2.5", "2.23.133.2.6"},
    [FAMILY_TPM20] = {"2.23.133.5.1.1", "2.23.133.5.1.4", "2.23.133.5.1.5"},
};

/* --- the name --- */

static int check_text(const char *text, const char *what, struct err *e)
{
    size_t n = strlen(text);
    return n > 0 && n <= ATTRIBUTE_TEXT_BYTES
               ? 0
               : err_set(e, ERR_USAGE, "%s has %s", what,
                         n == 0 ? "no characters" : "too many characters");
}

static int check_make(const struct cert_make *m, struct err *e)
{
    return check_text(m->manufacturer, "the manufacturer's name", e) < 0 ||
                   check_text(m->model, "the model's name", e) < 0 ||
                   check_text(m->version, "the version", e) < 0
               ? -1
               : 0;
}

static void put_make(struct der *d, const struct cert_make *m, const char *const oids[3])
{
    const char *const texts[] = {m->manufacturer, m->model, m->version};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        der_add(d, "directoryName");
        der_add(d, "directoryName.?LAST");
        der_put_oid(d, "directoryName.?LAST.?LAST.type", oids[i]);
        der_put_bytes(d, "directoryName.?LAST.?LAST.value", (const uint8_t *)texts[i],
                      strlen(texts[i]));
    }
}

int attributes_subject_name(const struct cert_make *tpm, const struct cert_make *platform,
                            enum cert_family family, uint8_t ret[ATTRIBUTES_BYTES],
                            size_t *ret_bytes, struct err *e)
{
    OWNED(der) d = NULL;
    if ((tpm && check_make(tpm, e) < 0) || (platform && check_make(platform, e) < 0) ||
        der_new("TCG.SubjectAltName", "subject's name", &d, e) < 0)
        return -1;
    if (tpm)
        put_make(d, tpm, tpm_oids);
    if (platform)
        put_make(d, platform, platform_oids[family]);
    return der_encode(d, ret, ATTRIBUTES_BYTES, ret_bytes, e);
}

/* --- attributes --- */

static int encode_specification(const struct tpm_specification *s, uint8_t ret[ATTRIBUTES_BYTES],
                                size_t *ret_bytes, struct err *e)
{
    OWNED(der) d = NULL;
    if (check_text(s->family, "the specification's family", e) < 0 ||
        der_new("TCG.TPMSpecification", "TPM specification", &d, e) < 0)
        return -1;
    der_put_bytes(d, "family", (const uint8_t *)s->family, strlen(s->family));
    der_put_u64(d, "level", s->level);
    der_put_u64(d, "revision", s->revision);
    return der_encode(d, ret, ATTRIBUTES_BYTES, ret_bytes, e);
}

static int encode_assertions(uint8_t ret[ATTRIBUTES_BYTES], size_t *ret_bytes, struct err *e)
{
    enum { INTERNAL = 0, PLATFORM_MANUFACTURER = 1 };
    OWNED(der) d = NULL;
    if (der_new("TCG.TPMSecurityAssertions", "TPM assertions", &d, e) < 0)
        return -1;
    der_put_bool(d, "fieldUpgradable", true);
    der_put_u64(d, "ekGenerationType", INTERNAL);
    der_put_u64(d, "ekGenerationLocation", PLATFORM_MANUFACTURER);
    der_put_u64(d, "ekCertificateGenerationLocation", PLATFORM_MANUFACTURER);
    return der_encode(d, ret, ATTRIBUTES_BYTES, ret_bytes, e);
}

static void put_attribute(struct der *d, const char *oid, const uint8_t *value, size_t n)
{
    der_add(d, "");
    der_put_oid(d, "?LAST.type", oid);
    der_add(d, "?LAST.values");
    der_put_bytes(d, "?LAST.values.?LAST", value, n);
}

int attributes_directory(const struct tpm_specification *s, bool assertions,
                         uint8_t ret[ATTRIBUTES_BYTES], size_t *ret_bytes, struct err *e)
{
    uint8_t value[ATTRIBUTES_BYTES];
    size_t n;
    OWNED(der) d = NULL;
    if (encode_specification(s, value, &n, e) < 0 ||
        der_new("TCG.DirectoryAttributes", "directory attributes", &d, e) < 0)
        return -1;
    put_attribute(d, TCG_TPM_SPECIFICATION, value, n);
    if (assertions) {
        if (encode_assertions(value, &n, e) < 0)
            return -1;
        put_attribute(d, TCG_TPM_ASSERTIONS, value, n);
    }
    return der_encode(d, ret, ATTRIBUTES_BYTES, ret_bytes, e);
}

int attributes_purpose(enum cert_purpose p, uint8_t ret[ATTRIBUTES_BYTES], size_t *ret_bytes,
                       struct err *e)
{
    OWNED(der) d = NULL;
    if (der_new("TCG.KeyPurposes", "key purposes", &d, e) < 0)
        return -1;
    der_add(d, "");
    der_put_oid(d, "?LAST", p == PURPOSE_EK ? TCG_KP_EK : TCG_KP_PLATFORM);
    return der_encode(d, ret, ATTRIBUTES_BYTES, ret_bytes, e);
}
