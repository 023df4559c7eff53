/* TPM commands for the tests: bytes out, numbers in. Pure; how a command travels is the test's.
 *
 *     struct tpm_cmd c;
 *     cmd2_nv_write(&c, 0x01800001, "hello", 5, 0);
 *     send(c.b, c.n) ... struct tpm_rsp r = rsp_of(resp, resp_bytes); r.rc == 0
 *
 * Every authorization is a password session with an empty password. A command is whole: its size
 * field is right. cmd2_ is TPM 2.0 [TPM2 part 3], cmd1_ is TPM 1.2.
 */
#ifndef NVKEEP_TESTS_TPM_CMD_H
#define NVKEEP_TESTS_TPM_CMD_H

#include "src/base/bytes.h"

struct tpm_cmd {
    uint8_t b[4096];
    size_t n;
};

/* What a response says: its code, and the parameters after header, handle and parameter size. */
struct tpm_rsp {
    uint16_t tag;
    uint32_t size, rc;
    struct bytes_in body; /* everything after the 10 bytes of the header */
};
struct tpm_rsp rsp_of(const uint8_t *resp, size_t n);

enum {
    RC2_INITIALIZE = 0x100,
    RC2_FAILURE = 0x101,
    RC2_COMMAND_SIZE = 0x142,
    RC2_COMMAND_CODE = 0x143,
    RC2_NV_UNAVAILABLE = 0x923,
    RC2_LOCALITY = 0x907,
    RC2_CANCELED = 0x909,
    SU_CLEAR = 0,
    SU_STATE = 1,
    RH_OWNER = 0x40000001,
    RH_LOCKOUT = 0x4000000a,
    RH_PLATFORM = 0x4000000c,
    ALG_SHA1 = 0x0004,
    ALG_SHA256 = 0x000b,
};
enum nv2_kind { NV2_ORDINARY = 0, NV2_COUNTER = 1 };
enum { /* to be or'ed into attributes */
       NV2_ORDERLY = 1 << 26,
       NV2_NO_DA = 1 << 25,
};

void cmd2_startup(struct tpm_cmd *c, uint16_t type);
void cmd2_shutdown(struct tpm_cmd *c, uint16_t type);
void cmd2_self_test(struct tpm_cmd *c);
void cmd2_get_random(struct tpm_cmd *c, uint16_t n);
void cmd2_get_capability(struct tpm_cmd *c, uint32_t capability, uint32_t property, uint32_t count);
void cmd2_read_clock(struct tpm_cmd *c);
void cmd2_pcr_extend(struct tpm_cmd *c, uint32_t pcr, const uint8_t sha256[32]);
void cmd2_pcr_read(struct tpm_cmd *c, uint32_t pcr); /* the SHA-256 bank */
/* Of a PCR_Read response: the digest, or NULL where there is none. */
const uint8_t *rsp2_pcr(struct tpm_rsp r);

/* Index read and written with its own (empty) password or the owner's; attributes: 0 or NV2_*. */
void cmd2_nv_define(struct tpm_cmd *c, uint32_t index, uint16_t size, enum nv2_kind kind,
                    uint32_t attributes);
/* The same with a password of the index, DA protected unless NV2_NO_DA. */
void cmd2_nv_define_auth(struct tpm_cmd *c, uint32_t index, uint16_t size, uint32_t attributes,
                         const char *password);
void cmd2_nv_undefine(struct tpm_cmd *c, uint32_t index);
void cmd2_nv_write(struct tpm_cmd *c, uint32_t index, const void *p, uint16_t n, uint16_t at);
void cmd2_nv_increment(struct tpm_cmd *c, uint32_t index);
void cmd2_nv_read(struct tpm_cmd *c, uint32_t index, uint16_t n, uint16_t at);
void cmd2_nv_read_auth(struct tpm_cmd *c, uint32_t index, uint16_t n, const char *password);
/* Of an NV_Read response: the bytes, or NULL where there are not exactly n. */
const uint8_t *rsp2_nv(struct tpm_rsp r, uint16_t n);

/* An ECC P-256 storage key under the owner; the handle is rsp2_handle(). */
void cmd2_create_primary(struct tpm_cmd *c);
/* An RSA 2048 storage key: tens of milliseconds of work. */
void cmd2_create_primary_rsa(struct tpm_cmd *c);
/* An ECC P-256 signing key (ECDSA, SHA-256) under the owner. */
void cmd2_create_signer(struct tpm_cmd *c);
void cmd2_sign(struct tpm_cmd *c, uint32_t key, const uint8_t sha256[32]);
void cmd2_read_public(struct tpm_cmd *c, uint32_t object);
void cmd2_flush(struct tpm_cmd *c, uint32_t handle);
void cmd2_evict(struct tpm_cmd *c, uint32_t object, uint32_t persistent);
/* A policy session, unbound, unsalted. */
void cmd2_start_session(struct tpm_cmd *c);
void cmd2_policy_pcr(struct tpm_cmd *c, uint32_t session, uint32_t pcr);
void cmd2_policy_get_digest(struct tpm_cmd *c, uint32_t session);
void cmd2_clear(struct tpm_cmd *c); /* by lockout */
void cmd2_da_reset(struct tpm_cmd *c);
void cmd2_clock_set(struct tpm_cmd *c, uint64_t ms); /* by the owner */
uint32_t rsp2_handle(struct tpm_rsp r);

enum {
    RC1_BAD_ORDINAL = 0x0a,
    RC1_FAIL = 9,
    RC1_INVALID_POSTINIT = 0x26,
    RC1_RETRY = 0x800,
    ST_CLEAR = 1,
    ST_STATE = 2,
    ST_DEACTIVATED = 3,
};
void cmd1_startup(struct tpm_cmd *c, uint16_t type);
void cmd1_save_state(struct tpm_cmd *c);
void cmd1_continue_self_test(struct tpm_cmd *c);
void cmd1_get_random(struct tpm_cmd *c, uint32_t n);
void cmd1_extend(struct tpm_cmd *c, uint32_t pcr, const uint8_t sha1[20]);
void cmd1_pcr_read(struct tpm_cmd *c, uint32_t pcr);
const uint8_t *rsp1_pcr(struct tpm_rsp r);
/* While the NV area is not locked (a fresh TPM), without authorization. */
void cmd1_nv_define(struct tpm_cmd *c, uint32_t index, uint32_t size);
void cmd1_nv_write(struct tpm_cmd *c, uint32_t index, const void *p, uint32_t n, uint32_t at);
void cmd1_nv_read(struct tpm_cmd *c, uint32_t index, uint32_t n, uint32_t at);
const uint8_t *rsp1_nv(struct tpm_rsp r, uint32_t n);
void cmd1_oiap(struct tpm_cmd *c); /* starts a session; its handle is the first word */
void cmd1_physical_enable(struct tpm_cmd *c);

#endif
