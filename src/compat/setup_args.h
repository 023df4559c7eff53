/* swtpm_setup's command line, from argv to what is to be done. Nothing is opened here. */
#ifndef NVKEEP_COMPAT_SETUP_ARGS_H
#define NVKEEP_COMPAT_SETUP_ARGS_H

#include <stdbool.h>

#include "src/base/err.h"

enum setup_action {
    SETUP_STATE, /* make a TPM, or reconfigure one */
    SETUP_HELP,
    SETUP_VERSION,
    SETUP_CAPABILITIES,
    SETUP_CONFIG_FILES,
};

struct setup_args {
    enum setup_action action;
    bool tpm2, create_ek, create_spk, ecc, ek_certificate, platform_certificate, lock_nvram;
    bool allow_signing, decryption, overwrite, not_overwrite, reconfigure;
    bool take_ownership, owner_well_known, srk_well_known;
    bool rsa3072;
    const char *run_as, *state, *config, *log_file, *vm_id, *pcr_banks, *certificate_dir;
    const char *owner_password, *srk_password;
    const char *key_file, *password_file; /* paths, or numbers of descriptors: */
    bool key_is_fd, password_is_fd;
    bool aes256;              /* of --cipher: the length of a key */
    const char *config_files; /* words; NULL: none were given */
};

/* ERR_USAGE. *ret_usage: the caller is to be shown the usage. */
int setup_args_parse(int argc, char **argv, struct setup_args *ret, bool *ret_usage,
                     struct err *e) MUST_CHECK;

#endif
