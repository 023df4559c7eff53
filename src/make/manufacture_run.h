/* What the two families of manufacturing share; nobody else includes this. */
#ifndef NVKEEP_SRC_MANUFACTURE_RUN_H
#define NVKEEP_SRC_MANUFACTURE_RUN_H

#include "src/make/manufacture.h"

struct manufacture_run {
    const struct manufacture *what;
    struct tpm_workbench *bench;
    char *info;
    uint8_t cmd[MADE_COMMAND_BYTES];
    size_t cmd_bytes;
    uint8_t resp[TPM_BUFFER_BYTES];
    size_t resp_bytes;
};

/* Runs r->cmd, which has to succeed; `doing` is for the message. */
int manufacture_send(struct manufacture_run *r, const char *doing, struct err *e) MUST_CHECK;
void manufacture_tell(const struct manufacture_run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
int manufacture_certify(struct manufacture_run *r, enum certificate_kind what, enum made_key key,
                        const struct ek_public *ek, uint8_t ret[CERTIFICATE_MAX_BYTES],
                        size_t *ret_bytes, struct err *e) MUST_CHECK;

/* Enabled, physically present, and with everything that is asked for; started up. */
int manufacture_tpm12(struct manufacture_run *r, struct err *e) MUST_CHECK;

#endif
