/* swtpm_cert's command line, from argv to what is to be certified. Nothing is opened here. */
#ifndef NVKEEP_COMPAT_CERT_ARGS_H
#define NVKEEP_COMPAT_CERT_ARGS_H

#include <stdbool.h>

#include "src/compat/cert_attributes.h"
#include "src/compat/cert_hex.h"

enum cert_action { CERT_ISSUE, CERT_HELP, CERT_VERSION, CERT_CAPABILITIES };
enum cert_type { CERT_EK, CERT_PLATFORM };

struct cert_args {
    enum cert_action action;
    enum cert_type type;
    /* The public key, in one of three ways. */
    const char *pubkey_file;
    struct hex_number modulus, x, y;
    const char *curve;
    uint32_t exponent;
    /* Who signs. Keys: a file, a PKCS #11 URI, "program:PATH"; pwd: "pass:", "file:" and so on,
     * or a password as it is. */
    const char *signkey, *signkey_password, *signkey_pwd, *issuer_file;
    const char *out_file; /* NULL: standard output */
    const char *subject;
    int64_t days;
    uint64_t serial;
    bool pem, header, tpm2, allow_signing, decryption, assertions;
    struct cert_make tpm, platform;
    struct tpm_specification specification;
    bool has_level, has_revision;
};

/* ERR_USAGE. *ret_usage: the caller is to be shown the usage. */
int cert_args_parse(int argc, char *const *argv, struct cert_args *ret, bool *ret_usage,
                    struct err *e) MUST_CHECK;
/* What has to be there and is not; in swtpm_cert's words. */
int cert_args_check(const struct cert_args *a, bool *ret_usage, struct err *e) MUST_CHECK;

#endif
