#include "src/make/manufacture_command.h"

#include <string.h>

enum {
    TAG_NO_SESSIONS = 0x8001,
    TAG_SESSIONS = 0x8002,
    CC_EVICT_CONTROL = 0x120,
    CC_NV_DEFINE = 0x12a,
    CC_PCR_ALLOCATE = 0x12b,
    CC_CREATE_PRIMARY = 0x131,
    CC_NV_WRITE = 0x137,
    CC_NV_WRITE_LOCK = 0x138,
    CC_FLUSH_CONTEXT = 0x165,
    CC_READ_PUBLIC = 0x173,
    CC_GET_CAPABILITY = 0x17a,
    CAP_HANDLES = 1,
    CAP_PCRS = 5,

    RH_OWNER = 0x40000001,
    RS_PW = 0x40000009,
    RH_ENDORSEMENT = 0x4000000b,
    RH_PLATFORM = 0x4000000c,

    ALG_RSA = 0x0001,
    ALG_SHA256 = 0x000b,
    ALG_SHA384 = 0x000c,
    ALG_AES = 0x0006,
    ALG_NULL = 0x0010,
    ALG_ECC = 0x0023,
    ALG_CFB = 0x0043,
    CURVE_P384 = 0x0004,

    /* TPMA_OBJECT */
    FIXED_TPM = 1 << 1,
    FIXED_PARENT = 1 << 4,
    SENSITIVE_ORIGIN = 1 << 5,
    USER_WITH_AUTH = 1 << 6,
    ADMIN_WITH_POLICY = 1 << 7,
    NO_DA = 1 << 10,
    RESTRICTED = 1 << 16,
    DECRYPT = 1 << 17,
    SIGN = 1 << 18,
    FIXED = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN,
    STORAGE = FIXED | USER_WITH_AUTH | NO_DA | RESTRICTED | DECRYPT,
    EK_LOW = FIXED | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT,
    EK_HIGH = EK_LOW | USER_WITH_AUTH,

    /* TPMA_NV: PPWRITE, WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE */
    NV_OF_PLATFORM = 1 << 0 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 30,

    PCR_SELECT_BYTES = 3,
};

/* Persistent handles that belong to the endorsement hierarchy [TCG registry of reserved handles].
 */
#define ENDORSEMENT_FIRST UINT32_C(0x81010000)
#define ENDORSEMENT_LAST  UINT32_C(0x8101ffff)

/* PolicyA: PolicySecret(endorsement) alone [EKCP B.3.2]. */
static const uint8_t policy_a_sha256[32] = {
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa};
/* PolicyB: that, or what the owner has written into an NV index [EKCP B.6.4]. */
static const uint8_t policy_b_sha384[48] = {
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
    0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
    0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12};

struct made_key_row {
    struct made_key_facts facts;
    uint32_t hierarchy;
    uint16_t name_alg;
    uint32_t attributes;
    const uint8_t *policy;
    uint16_t policy_bytes, aes_bits;
    uint16_t rsa_bits;     /* 0: ECC P-384 */
    uint16_t unique_bytes; /* zeroes, in each field of the unique part */
};

static const struct made_key_row rows[N_MADE_KEYS] = {
    [KEY_EK_RSA2048] = {{"RSA 2048 EK", "rsa2048", NULL, 0x81010001, 0x01c00002, 0x01c00004},
                        RH_ENDORSEMENT,
                        ALG_SHA256,
                        EK_LOW,
                        policy_a_sha256,
                        sizeof(policy_a_sha256),
                        128,
                        2048,
                        256},
    [KEY_EK_RSA3072] = {{"RSA 3072 EK", "rsa3072", NULL, 0x8101001c, 0x01c0001c, 0x01c0001d},
                        RH_ENDORSEMENT,
                        ALG_SHA384,
                        EK_HIGH,
                        policy_b_sha384,
                        sizeof(policy_b_sha384),
                        256,
                        3072,
                        0},
    [KEY_EK_P384] = {{"ECC EK", "secp384r1", "secp384r1", 0x81010016, 0x01c00016, 0x01c00017},
                     RH_ENDORSEMENT,
                     ALG_SHA384,
                     EK_HIGH,
                     policy_b_sha384,
                     sizeof(policy_b_sha384),
                     256,
                     0,
                     0},
    [KEY_SPK_RSA2048] = {{"storage primary key", "rsa2048", NULL, 0x81000001, 0, 0},
                         RH_OWNER,
                         ALG_SHA256,
                         STORAGE,
                         NULL,
                         0,
                         128,
                         2048,
                         256},
    [KEY_SPK_RSA3072] = {{"storage primary key", "rsa3072", NULL, 0x81000001, 0, 0},
                         RH_OWNER,
                         ALG_SHA384,
                         STORAGE,
                         NULL,
                         0,
                         256,
                         3072,
                         384},
    [KEY_SPK_P384] = {{"storage primary key", "secp384r1", "secp384r1", 0x81000001, 0, 0},
                      RH_OWNER,
                      ALG_SHA384,
                      STORAGE,
                      NULL,
                      0,
                      256,
                      0,
                      48},
};

const struct made_key_facts *made_key_facts(enum made_key key)
{
    return &rows[key].facts;
}

/* --- the pieces of a command --- */

static struct bytes_out begin(uint8_t *ret, uint16_t tag, uint32_t code)
{
    struct bytes_out out = bytes_out(ret, MADE_COMMAND_BYTES);
    bytes_put_be16(&out, tag);
    bytes_put_be32(&out, 0);
    bytes_put_be32(&out, code);
    return out;
}

static size_t end(struct bytes_out *out)
{
    put_be32(out->start + 2, (uint32_t)out->n);
    return out->n;
}

/* A password session with an empty password. */
static void put_password(struct bytes_out *out)
{
    enum { SESSION_BYTES = 9 };
    bytes_put_be32(out, SESSION_BYTES);
    bytes_put_be32(out, RS_PW);
    bytes_put_be16(out, 0); /* nonce */
    bytes_put_u8(out, 0);   /* attributes */
    bytes_put_be16(out, 0); /* password */
}

static void put_tpm2b(struct bytes_out *out, const void *p, size_t n)
{
    bytes_put_be16(out, (uint16_t)n);
    if (n > 0)
        bytes_put(out, p, n);
}

static void put_zero_tpm2b(struct bytes_out *out, size_t n)
{
    bytes_put_be16(out, (uint16_t)n);
    bytes_put_zero(out, n);
}

/* --- keys --- */

static uint32_t attributes(const struct made_key_row *row, enum ek_use use)
{
    static const uint32_t uses[] = {
        [EK_STANDARD] = 0, [EK_SIGNS] = SIGN, [EK_SIGNS_AND_DECRYPTS] = SIGN | DECRYPT};
    if (use == EK_STANDARD || row->hierarchy != RH_ENDORSEMENT)
        return row->attributes;
    return (row->attributes & ~(uint32_t)(RESTRICTED | DECRYPT)) | uses[use];
}

static void put_parameters(struct bytes_out *out, const struct made_key_row *row, bool restricted)
{
    bytes_put_be16(out, restricted ? ALG_AES : ALG_NULL);
    if (restricted) {
        bytes_put_be16(out, row->aes_bits);
        bytes_put_be16(out, ALG_CFB);
    }
    bytes_put_be16(out, ALG_NULL); /* scheme */
    if (row->rsa_bits) {
        bytes_put_be16(out, row->rsa_bits);
        bytes_put_be32(out, 0); /* the usual exponent */
        return;
    }
    bytes_put_be16(out, CURVE_P384);
    bytes_put_be16(out, ALG_NULL); /* key derivation */
}

static void put_template(struct bytes_out *out, enum made_key key, enum ek_use use)
{
    const struct made_key_row *row = &rows[key];
    const uint32_t has = attributes(row, use);
    bytes_put_be16(out, row->rsa_bits ? ALG_RSA : ALG_ECC);
    bytes_put_be16(out, row->name_alg);
    bytes_put_be32(out, has);
    put_tpm2b(out, row->policy, row->policy_bytes);
    put_parameters(out, row, has & RESTRICTED);
    put_zero_tpm2b(out, row->unique_bytes);
    if (!row->rsa_bits)
        put_zero_tpm2b(out, row->unique_bytes);
}

size_t made_key_template(enum made_key key, enum ek_use use, uint8_t ret[MADE_TEMPLATE_BYTES])
{
    struct bytes_out out = bytes_out(ret, MADE_TEMPLATE_BYTES);
    put_template(&out, key, use);
    return out.n;
}

size_t command_create_primary(enum made_key key, enum ek_use use, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_CREATE_PRIMARY);
    bytes_put_be32(&out, rows[key].hierarchy);
    put_password(&out);
    bytes_put_be16(&out, 4); /* sensitive part: */
    bytes_put_be16(&out, 0); /* no password */
    bytes_put_be16(&out, 0); /* no data */
    const size_t at = out.n;
    bytes_put_be16(&out, 0);
    put_template(&out, key, use);
    put_be16(ret + at, (uint16_t)(out.n - at - 2));
    bytes_put_be16(&out, 0); /* outside info */
    bytes_put_be32(&out, 0); /* no PCRs */
    return end(&out);
}

size_t command_make_persistent(enum made_key key, uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_EVICT_CONTROL);
    bytes_put_be32(&out, RH_OWNER);
    bytes_put_be32(&out, handle);
    put_password(&out);
    bytes_put_be32(&out, rows[key].facts.persistent);
    return end(&out);
}

size_t command_flush(uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_NO_SESSIONS, CC_FLUSH_CONTEXT);
    bytes_put_be32(&out, handle);
    return end(&out);
}

/* --- NV --- */

size_t command_nv_define(uint32_t index, uint16_t bytes, uint8_t ret[MADE_COMMAND_BYTES])
{
    enum { NV_PUBLIC_BYTES = 14 };
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_NV_DEFINE);
    bytes_put_be32(&out, RH_PLATFORM);
    put_password(&out);
    bytes_put_be16(&out, 0); /* no password */
    bytes_put_be16(&out, NV_PUBLIC_BYTES);
    bytes_put_be32(&out, index);
    bytes_put_be16(&out, ALG_SHA256);
    bytes_put_be32(&out, NV_OF_PLATFORM);
    bytes_put_be16(&out, 0); /* no policy */
    bytes_put_be16(&out, bytes);
    return end(&out);
}

size_t command_nv_write(uint32_t index, uint16_t at, const void *p, size_t n,
                        uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_NV_WRITE);
    bytes_put_be32(&out, RH_PLATFORM);
    bytes_put_be32(&out, index);
    put_password(&out);
    put_tpm2b(&out, p, n);
    bytes_put_be16(&out, at);
    return end(&out);
}

size_t command_nv_lock(uint32_t index, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_NV_WRITE_LOCK);
    bytes_put_be32(&out, RH_PLATFORM);
    bytes_put_be32(&out, index);
    put_password(&out);
    return end(&out);
}

/* --- PCR banks --- */

static const struct {
    uint16_t alg;
    const char *name;
} banks[] = {{0x0004, "sha1"},     {ALG_SHA256, "sha256"}, {ALG_SHA384, "sha384"},
             {0x000d, "sha512"},   {0x0012, "sm3-256"},    {0x0027, "sha3-256"},
             {0x0028, "sha3-384"}, {0x0029, "sha3-512"}};

const char *pcr_bank_name(uint16_t alg)
{
    for (size_t i = 0; i < ARRAY_LEN(banks); i++)
        if (banks[i].alg == alg)
            return banks[i].name;
    return "?";
}

uint16_t pcr_bank_of_name(const char *name, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(banks); i++)
        if (strlen(banks[i].name) == n && memcmp(banks[i].name, name, n) == 0)
            return banks[i].alg;
    return 0;
}

bool pcr_banks_have(const struct pcr_banks *b, uint16_t alg)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->alg[i] == alg)
            return true;
    return false;
}

size_t command_get_banks(uint8_t ret[MADE_COMMAND_BYTES])
{
    enum { MOST = 64 };
    struct bytes_out out = begin(ret, TAG_NO_SESSIONS, CC_GET_CAPABILITY);
    bytes_put_be32(&out, CAP_PCRS);
    bytes_put_be32(&out, 0);
    bytes_put_be32(&out, MOST);
    return end(&out);
}

size_t command_read_public(uint32_t handle, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_NO_SESSIONS, CC_READ_PUBLIC);
    bytes_put_be32(&out, handle);
    return end(&out);
}

size_t command_get_endorsement_handles(uint32_t most, uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_NO_SESSIONS, CC_GET_CAPABILITY);
    bytes_put_be32(&out, CAP_HANDLES);
    bytes_put_be32(&out, ENDORSEMENT_FIRST);
    bytes_put_be32(&out, most);
    return end(&out);
}

static void put_selection(struct bytes_out *out, uint16_t alg, uint8_t bits)
{
    bytes_put_be16(out, alg);
    bytes_put_u8(out, PCR_SELECT_BYTES);
    for (int i = 0; i < PCR_SELECT_BYTES; i++)
        bytes_put_u8(out, bits);
}

size_t command_pcr_allocate(const struct pcr_banks *all, const struct pcr_banks *on,
                            uint8_t ret[MADE_COMMAND_BYTES])
{
    struct bytes_out out = begin(ret, TAG_SESSIONS, CC_PCR_ALLOCATE);
    bytes_put_be32(&out, RH_PLATFORM);
    put_password(&out);
    bytes_put_be32(&out, (uint32_t)all->n);
    for (size_t i = 0; i < all->n; i++)
        put_selection(&out, all->alg[i], pcr_banks_have(on, all->alg[i]) ? 0xff : 0);
    return end(&out);
}

/* --- responses --- */

static struct bytes_in body(const uint8_t *resp, size_t n)
{
    enum { HEADER_BYTES = 10 };
    struct bytes_in in = bytes_in(resp, n);
    bytes_skip(&in, HEADER_BYTES);
    return in;
}

static void take_part(struct bytes_in *in, uint8_t ret[EK_PUBLIC_MAX_BYTES], size_t *ret_bytes)
{
    uint16_t n = bytes_be16(in);
    const uint8_t *p = bytes_take(in, n);
    in->bad |= n == 0 || n > EK_PUBLIC_MAX_BYTES;
    if (in->bad)
        return;
    memcpy(ret, p, n);
    *ret_bytes = n;
}

bool response_created(const uint8_t *resp, size_t n, enum made_key key, uint32_t *ret_handle,
                      struct ek_public *ret)
{
    uint8_t asked[MADE_TEMPLATE_BYTES];
    struct bytes_out out = bytes_out(asked, sizeof(asked));
    struct ek_public public = {.is_ecc = rows[key].rsa_bits == 0};
    struct bytes_in in = body(resp, n);
    uint32_t handle = bytes_be32(&in);
    bytes_skip(&in, 4 + 2); /* sizes of the parameters, and of the public area */
    bool is_ecc = bytes_be16(&in) == ALG_ECC;
    bytes_skip(&in, 2); /* name algorithm */
    bool restricted = bytes_be32(&in) & RESTRICTED;
    bytes_skip(&in, bytes_be16(&in));
    put_parameters(&out, &rows[key], restricted);
    const uint8_t *parameters = bytes_take(&in, out.n);
    take_part(&in, public.n_or_x, &public.n_or_x_bytes);
    if (public.is_ecc)
        take_part(&in, public.y, &public.y_bytes);
    if (in.bad || is_ecc != public.is_ecc || memcmp(parameters, asked, out.n) != 0)
        return false;
    *ret_handle = handle;
    *ret = public;
    return true;
}

bool response_banks(const uint8_t *resp, size_t n, struct pcr_banks *ret)
{
    enum { CAPABILITY_BYTES = 5 };
    struct pcr_banks all = {0};
    struct bytes_in in = body(resp, n);
    bytes_skip(&in, CAPABILITY_BYTES);
    uint32_t count = bytes_be32(&in);
    if (in.bad || count == 0 || count > PCR_BANKS_MAX)
        return false;
    for (; all.n < count; all.n++) {
        all.alg[all.n] = bytes_be16(&in);
        bytes_skip(&in, bytes_u8(&in));
    }
    if (!bytes_done(&in))
        return false;
    *ret = all;
    return true;
}

size_t response_endorsement_handles(const uint8_t *resp, size_t n, uint32_t *ret, size_t most)
{
    enum { CAPABILITY_BYTES = 5 };
    struct bytes_in in = body(resp, n);
    bytes_skip(&in, CAPABILITY_BYTES);
    const uint32_t count = bytes_be32(&in);
    size_t found = 0;
    for (uint32_t i = 0; i < count && found < most && !in.bad; i++) {
        const uint32_t handle = bytes_be32(&in);
        if (!in.bad && handle >= ENDORSEMENT_FIRST && handle <= ENDORSEMENT_LAST)
            ret[found++] = handle;
    }
    return found;
}

bool response_allocated(const uint8_t *resp, size_t n)
{
    struct bytes_in in = body(resp, n);
    bytes_skip(&in, 4);
    return bytes_u8(&in) == 1;
}
