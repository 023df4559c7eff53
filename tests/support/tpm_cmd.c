#include "tpm_cmd.h"

#include <stdbool.h>
#include <string.h>

enum {
    ST_NO_SESSIONS = 0x8001,
    ST_SESSIONS = 0x8002,
    RS_PW = 0x40000009,
    RH_NULL = 0x40000007,
    TAG1_COMMAND = 0x00c1,
};

/* --- building --- */

static struct bytes_out begin(struct tpm_cmd *c, uint16_t tag, uint32_t code)
{
    struct bytes_out o = bytes_out(c->b, sizeof(c->b));
    bytes_put_be16(&o, tag);
    bytes_put_be32(&o, 0); /* by end() */
    bytes_put_be32(&o, code);
    return o;
}

static void end(struct tpm_cmd *c, struct bytes_out *o)
{
    c->n = o->bad ? 0 : o->n;
    put_be32(c->b + 2, (uint32_t)c->n);
}

/* One password session. */
static void put_password(struct bytes_out *o, const char *password)
{
    size_t n = strlen(password);
    bytes_put_be32(o, (uint32_t)(9 + n));
    bytes_put_be32(o, RS_PW);
    bytes_put_be16(o, 0); /* nonce */
    bytes_put_u8(o, 1);   /* continue */
    bytes_put_be16(o, (uint16_t)n);
    bytes_put(o, password, n);
}

static void put_2b(struct bytes_out *o, const void *p, uint16_t n)
{
    bytes_put_be16(o, n);
    bytes_put(o, p, n);
}

static void put_pcr_select(struct bytes_out *o, uint32_t pcr)
{
    uint8_t map[3] = {0};
    map[pcr / 8 % 3] = (uint8_t)(1u << pcr % 8);
    bytes_put_be32(o, 1);
    bytes_put_be16(o, ALG_SHA256);
    bytes_put_u8(o, sizeof(map));
    bytes_put(o, map, sizeof(map));
}

struct tpm_rsp rsp_of(const uint8_t *resp, size_t n)
{
    struct bytes_in in = bytes_in(resp, n);
    struct tpm_rsp r = {0};
    r.tag = bytes_be16(&in);
    r.size = bytes_be32(&in);
    r.rc = bytes_be32(&in);
    if (in.bad || r.size != n)
        r.rc = UINT32_MAX;
    r.body = in;
    return r;
}

/* --- TPM 2.0 --- */

void cmd2_startup(struct tpm_cmd *c, uint16_t type)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x144);
    bytes_put_be16(&o, type);
    end(c, &o);
}

void cmd2_shutdown(struct tpm_cmd *c, uint16_t type)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x145);
    bytes_put_be16(&o, type);
    end(c, &o);
}

void cmd2_self_test(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x143);
    bytes_put_u8(&o, 1);
    end(c, &o);
}

void cmd2_get_random(struct tpm_cmd *c, uint16_t n)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x17b);
    bytes_put_be16(&o, n);
    end(c, &o);
}

void cmd2_get_capability(struct tpm_cmd *c, uint32_t capability, uint32_t property, uint32_t count)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x17a);
    bytes_put_be32(&o, capability);
    bytes_put_be32(&o, property);
    bytes_put_be32(&o, count);
    end(c, &o);
}

void cmd2_read_clock(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x181);
    end(c, &o);
}

void cmd2_pcr_extend(struct tpm_cmd *c, uint32_t pcr, const uint8_t sha256[32])
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x182);
    bytes_put_be32(&o, pcr);
    put_password(&o, "");
    bytes_put_be32(&o, 1);
    bytes_put_be16(&o, ALG_SHA256);
    bytes_put(&o, sha256, 32);
    end(c, &o);
}

void cmd2_pcr_read(struct tpm_cmd *c, uint32_t pcr)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x17e);
    put_pcr_select(&o, pcr);
    end(c, &o);
}

const uint8_t *rsp2_pcr(struct tpm_rsp r)
{
    bytes_skip(&r.body, 4 + 4 + 2); /* update counter, one selection, its hash */
    bytes_skip(&r.body, bytes_u8(&r.body));
    uint32_t n_digests = bytes_be32(&r.body);
    uint16_t n = bytes_be16(&r.body);
    const uint8_t *p = bytes_take(&r.body, 32);
    return r.rc == 0 && n_digests == 1 && n == 32 ? p : NULL;
}

/* TPMA_NV: OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD. */
static const uint32_t nv_access = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18;

static void nv_define(struct tpm_cmd *c, uint32_t index, uint16_t size, uint32_t attributes,
                      const char *password)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x12a);
    bytes_put_be32(&o, RH_OWNER);
    put_password(&o, "");
    put_2b(&o, password, (uint16_t)strlen(password));
    bytes_put_be16(&o, 14); /* TPM2B_NV_PUBLIC */
    bytes_put_be32(&o, index);
    bytes_put_be16(&o, ALG_SHA256);
    bytes_put_be32(&o, attributes | nv_access);
    bytes_put_be16(&o, 0); /* policy */
    bytes_put_be16(&o, size);
    end(c, &o);
}

void cmd2_nv_define(struct tpm_cmd *c, uint32_t index, uint16_t size, enum nv2_kind kind,
                    uint32_t attributes)
{
    nv_define(c, index, size, attributes | NV2_NO_DA | (uint32_t)kind << 4, "");
}

void cmd2_nv_define_auth(struct tpm_cmd *c, uint32_t index, uint16_t size, uint32_t attributes,
                         const char *password)
{
    nv_define(c, index, size, attributes, password);
}

void cmd2_nv_undefine(struct tpm_cmd *c, uint32_t index)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x122);
    bytes_put_be32(&o, RH_OWNER);
    bytes_put_be32(&o, index);
    put_password(&o, "");
    end(c, &o);
}

void cmd2_nv_write(struct tpm_cmd *c, uint32_t index, const void *p, uint16_t n, uint16_t at)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x137);
    bytes_put_be32(&o, RH_OWNER);
    bytes_put_be32(&o, index);
    put_password(&o, "");
    put_2b(&o, p, n);
    bytes_put_be16(&o, at);
    end(c, &o);
}

void cmd2_nv_increment(struct tpm_cmd *c, uint32_t index)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x134);
    bytes_put_be32(&o, RH_OWNER);
    bytes_put_be32(&o, index);
    put_password(&o, "");
    end(c, &o);
}

static void nv_read(struct tpm_cmd *c, uint32_t by, const char *password, uint32_t index,
                    uint16_t n, uint16_t at)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x14e);
    bytes_put_be32(&o, by);
    bytes_put_be32(&o, index);
    put_password(&o, password);
    bytes_put_be16(&o, n);
    bytes_put_be16(&o, at);
    end(c, &o);
}

void cmd2_nv_read(struct tpm_cmd *c, uint32_t index, uint16_t n, uint16_t at)
{
    nv_read(c, RH_OWNER, "", index, n, at);
}

void cmd2_nv_read_auth(struct tpm_cmd *c, uint32_t index, uint16_t n, const char *password)
{
    nv_read(c, index, password, index, n, 0);
}

const uint8_t *rsp2_nv(struct tpm_rsp r, uint16_t n)
{
    bytes_skip(&r.body, 4); /* parameter size */
    uint16_t have = bytes_be16(&r.body);
    const uint8_t *p = bytes_take(&r.body, n);
    return r.rc == 0 && have == n ? p : NULL;
}

static void create_ecc(struct tpm_cmd *c, bool signer)
{
    /* FIXEDTPM, FIXEDPARENT, SENSITIVEDATAORIGIN, USERWITHAUTH, NODA; RESTRICTED DECRYPT or SIGN */
    uint32_t attributes = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
    struct bytes_out o = begin(c, ST_SESSIONS, 0x131);
    bytes_put_be32(&o, RH_OWNER);
    put_password(&o, "");
    bytes_put_be16(&o, 4); /* TPM2B_SENSITIVE_CREATE: no password, no data */
    bytes_put_be32(&o, 0);
    bytes_put_be16(&o, signer ? 24 : 26); /* TPM2B_PUBLIC */
    bytes_put_be16(&o, 0x0023);           /* ECC */
    bytes_put_be16(&o, ALG_SHA256);
    bytes_put_be32(&o, attributes | (signer ? 1 << 18 : 1 << 16 | 1 << 17));
    bytes_put_be16(&o, 0); /* policy */
    if (signer) {
        bytes_put_be16(&o, 0x0010); /* no symmetric cipher */
        bytes_put_be16(&o, 0x0018); /* ECDSA */
        bytes_put_be16(&o, ALG_SHA256);
    } else {
        bytes_put_be16(&o, 0x0006); /* AES-128-CFB */
        bytes_put_be16(&o, 128);
        bytes_put_be16(&o, 0x0043);
        bytes_put_be16(&o, 0x0010); /* no scheme */
    }
    bytes_put_be16(&o, 0x0003); /* P-256 */
    bytes_put_be16(&o, 0x0010); /* no KDF */
    bytes_put_be32(&o, 0);      /* unique: empty x and y */
    bytes_put_be16(&o, 0);      /* outside info */
    bytes_put_be32(&o, 0);      /* creation PCRs */
    end(c, &o);
}

void cmd2_create_primary(struct tpm_cmd *c)
{
    create_ecc(c, false);
}

void cmd2_create_signer(struct tpm_cmd *c)
{
    create_ecc(c, true);
}

void cmd2_create_primary_rsa(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x131);
    bytes_put_be32(&o, RH_OWNER);
    put_password(&o, "");
    bytes_put_be16(&o, 4); /* TPM2B_SENSITIVE_CREATE: no password, no data */
    bytes_put_be32(&o, 0);
    bytes_put_be16(&o, 26);     /* TPM2B_PUBLIC */
    bytes_put_be16(&o, 0x0001); /* RSA */
    bytes_put_be16(&o, ALG_SHA256);
    bytes_put_be32(&o, 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 17);
    bytes_put_be16(&o, 0);      /* policy */
    bytes_put_be16(&o, 0x0006); /* AES-128-CFB */
    bytes_put_be16(&o, 128);
    bytes_put_be16(&o, 0x0043);
    bytes_put_be16(&o, 0x0010); /* no scheme */
    bytes_put_be16(&o, 2048);
    bytes_put_be32(&o, 0); /* the usual exponent */
    bytes_put_be16(&o, 0); /* unique */
    bytes_put_be16(&o, 0); /* outside info */
    bytes_put_be32(&o, 0); /* creation PCRs */
    end(c, &o);
}

void cmd2_sign(struct tpm_cmd *c, uint32_t key, const uint8_t sha256[32])
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x15d);
    bytes_put_be32(&o, key);
    put_password(&o, "");
    put_2b(&o, sha256, 32);
    bytes_put_be16(&o, 0x0010); /* the key's own scheme */
    bytes_put_be16(&o, 0x8024); /* no hash check ticket */
    bytes_put_be32(&o, RH_NULL);
    bytes_put_be16(&o, 0);
    end(c, &o);
}

void cmd2_read_public(struct tpm_cmd *c, uint32_t object)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x173);
    bytes_put_be32(&o, object);
    end(c, &o);
}

void cmd2_flush(struct tpm_cmd *c, uint32_t handle)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x165);
    bytes_put_be32(&o, handle);
    end(c, &o);
}

void cmd2_evict(struct tpm_cmd *c, uint32_t object, uint32_t persistent)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x120);
    bytes_put_be32(&o, RH_OWNER);
    bytes_put_be32(&o, object);
    put_password(&o, "");
    bytes_put_be32(&o, persistent);
    end(c, &o);
}

void cmd2_start_session(struct tpm_cmd *c)
{
    static const uint8_t nonce[16] = {1};
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x176);
    bytes_put_be32(&o, RH_NULL); /* not salted */
    bytes_put_be32(&o, RH_NULL); /* not bound */
    put_2b(&o, nonce, sizeof(nonce));
    bytes_put_be16(&o, 0);      /* salt */
    bytes_put_u8(&o, 1);        /* policy session */
    bytes_put_be16(&o, 0x0010); /* no symmetric cipher */
    bytes_put_be16(&o, ALG_SHA256);
    end(c, &o);
}

void cmd2_policy_pcr(struct tpm_cmd *c, uint32_t session, uint32_t pcr)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x17f);
    bytes_put_be32(&o, session);
    bytes_put_be16(&o, 0); /* whatever the PCR holds now */
    put_pcr_select(&o, pcr);
    end(c, &o);
}

void cmd2_policy_get_digest(struct tpm_cmd *c, uint32_t session)
{
    struct bytes_out o = begin(c, ST_NO_SESSIONS, 0x189);
    bytes_put_be32(&o, session);
    end(c, &o);
}

static void by_lockout(struct tpm_cmd *c, uint32_t code)
{
    struct bytes_out o = begin(c, ST_SESSIONS, code);
    bytes_put_be32(&o, RH_LOCKOUT);
    put_password(&o, "");
    end(c, &o);
}

void cmd2_clear(struct tpm_cmd *c)
{
    by_lockout(c, 0x126);
}

void cmd2_da_reset(struct tpm_cmd *c)
{
    by_lockout(c, 0x139);
}

void cmd2_clock_set(struct tpm_cmd *c, uint64_t ms)
{
    struct bytes_out o = begin(c, ST_SESSIONS, 0x128);
    bytes_put_be32(&o, RH_OWNER);
    put_password(&o, "");
    bytes_put_be64(&o, ms);
    end(c, &o);
}

uint32_t rsp2_handle(struct tpm_rsp r)
{
    return bytes_be32(&r.body);
}

/* --- TPM 1.2 --- */

void cmd1_startup(struct tpm_cmd *c, uint16_t type)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x99);
    bytes_put_be16(&o, type);
    end(c, &o);
}

void cmd1_save_state(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x98);
    end(c, &o);
}

void cmd1_continue_self_test(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x53);
    end(c, &o);
}

void cmd1_get_random(struct tpm_cmd *c, uint32_t n)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x46);
    bytes_put_be32(&o, n);
    end(c, &o);
}

void cmd1_extend(struct tpm_cmd *c, uint32_t pcr, const uint8_t sha1[20])
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x14);
    bytes_put_be32(&o, pcr);
    bytes_put(&o, sha1, 20);
    end(c, &o);
}

void cmd1_pcr_read(struct tpm_cmd *c, uint32_t pcr)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x15);
    bytes_put_be32(&o, pcr);
    end(c, &o);
}

const uint8_t *rsp1_pcr(struct tpm_rsp r)
{
    const uint8_t *p = bytes_take(&r.body, 20);
    return r.rc == 0 ? p : NULL;
}

/* TPM_PCR_INFO_SHORT: no PCR, any locality. */
static void put_pcr_info(struct bytes_out *o)
{
    bytes_put_be16(o, 3);
    bytes_put_zero(o, 3);
    bytes_put_u8(o, 0x1f);
    bytes_put_zero(o, 20);
}

void cmd1_nv_define(struct tpm_cmd *c, uint32_t index, uint32_t size)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0xcc);
    bytes_put_be16(&o, 0x0018); /* TPM_TAG_NV_DATA_PUBLIC */
    bytes_put_be32(&o, index);
    put_pcr_info(&o);
    put_pcr_info(&o);
    bytes_put_be16(&o, 0x0017);                /* TPM_TAG_NV_ATTRIBUTES */
    bytes_put_be32(&o, size > 0 ? 1 << 1 : 0); /* owner may write, anyone read */
    bytes_put_zero(&o, 3);
    bytes_put_be32(&o, size);
    bytes_put_zero(&o, 20); /* encrypted password */
    end(c, &o);
}

void cmd1_nv_write(struct tpm_cmd *c, uint32_t index, const void *p, uint32_t n, uint32_t at)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0xcd);
    bytes_put_be32(&o, index);
    bytes_put_be32(&o, at);
    bytes_put_be32(&o, n);
    bytes_put(&o, p, n);
    end(c, &o);
}

void cmd1_nv_read(struct tpm_cmd *c, uint32_t index, uint32_t n, uint32_t at)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0xcf);
    bytes_put_be32(&o, index);
    bytes_put_be32(&o, at);
    bytes_put_be32(&o, n);
    end(c, &o);
}

const uint8_t *rsp1_nv(struct tpm_rsp r, uint32_t n)
{
    uint32_t have = bytes_be32(&r.body);
    const uint8_t *p = bytes_take(&r.body, n);
    return r.rc == 0 && have == n ? p : NULL;
}

void cmd1_oiap(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x0a);
    end(c, &o);
}

void cmd1_physical_enable(struct tpm_cmd *c)
{
    struct bytes_out o = begin(c, TAG1_COMMAND, 0x6f);
    end(c, &o);
}
