#include "src/compat/bios_steps.h"

#include <stdio.h>
#include <string.h>

#include "crypto/prim.h"
#include "crypto/secret.h"
#include "src/base/bytes.h"

enum {
    TAG_12 = 0x00c1,
    TAG_20 = 0x8001,
    TAG_20_SESSIONS = 0x8002,
    HEADER_BYTES = 10,
    PASSWORD_BYTES = 20,
    FLAGS_AT = HEADER_BYTES + 6, /* behind a size and a tag */
    FLAG_DEACTIVATED = 2,
};

/* TSC_PhysicalPresence */
enum { PP_COMMAND_ENABLE = 0x20, PP_PRESENT = 0x08, PP_NOT_PRESENT_LOCK = 0x14 };

struct run {
    const struct bios *b;
    unsigned refused;
    bool needs_reset;
    uint8_t response[BIOS_RESPONSE_MAX];
    size_t n;
};

/* what: for the message. Returns 1 where the TPM refused it. */
static int say(struct run *r, uint16_t tag, uint32_t code, const void *body, size_t n,
               const char *what, struct err *e)
{
    OWNED(secret) command = NULL; /* one of them holds a password */
    if (secret_new(HEADER_BYTES + n, &command, e) < 0)
        return -1;
    uint8_t *p = secret_bytes(command);
    put_be16(p, tag);
    put_be32(p + 2, (uint32_t)(HEADER_BYTES + n));
    put_be32(p + 6, code);
    memcpy(p + HEADER_BYTES, body, n);
    if (bios_exchange(&r->b->to, p, HEADER_BYTES + n, r->response, &r->n, e) < 0)
        return -1;
    uint32_t result = get_be32(r->response + 6);
    if (result == 0)
        return 0;
    fprintf(stderr, "%s returned error code 0x%08x\n", what, result);
    r->refused++;
    return 1;
}

static int say_word(struct run *r, uint16_t tag, uint32_t code, uint16_t word, const char *what,
                    struct err *e)
{
    uint8_t body[2];
    put_be16(body, word);
    return say(r, tag, code, body, sizeof(body), what, e);
}

/* ---- TPM 1.2 ---- */

static int presence(struct run *r, uint16_t what, const char *name, struct err *e)
{
    return say_word(r, TAG_12, 0x4000000a, what, name, e);
}

static int look_at_flags(struct run *r, struct err *e)
{
    static const uint8_t permanent_flags[] = {0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 1, 8};
    int refused =
        say(r, TAG_12, 0x65, permanent_flags, sizeof(permanent_flags), "TPM_GetCapability()", e);
    r->needs_reset = refused == 0 && r->n > FLAGS_AT + FLAG_DEACTIVATED &&
                     r->response[FLAGS_AT + FLAG_DEACTIVATED];
    return refused;
}

static int enable(struct run *r, struct err *e)
{
    static const uint8_t no[] = {0};
    if (presence(r, PP_COMMAND_ENABLE, "TSC_PhysicalPresence(CMD_ENABLE)", e) < 0 ||
        presence(r, PP_PRESENT, "TSC_PhysicalPresence(PRESENT)", e) < 0 ||
        (r->b->activate && look_at_flags(r, e) < 0) ||
        say(r, TAG_12, 0x6f, "", 0, "TPM_PhysicalEnable", e) < 0)
        return -1;
    return say(r, TAG_12, 0x72, no, sizeof(no), "TPM_PhysicalSetDeactivated", e);
}

static int run12(struct run *r, struct err *e)
{
    const struct bios *b = r->b;
    uint16_t kind = (uint16_t)(b->startup + 1); /* TPM_ST_CLEAR, _STATE, _DEACTIVATED */
    char what[40];
    snprintf(what, sizeof(what), "TPM_Startup(0x%02x)", kind);
    if (b->startup != BIOS_NO_STARTUP && say_word(r, TAG_12, 0x99, kind, what, e) < 0)
        return -1;
    if (!b->startup_only && b->startup != BIOS_DEACTIVATED && enable(r, e) < 0)
        return -1;
    if (r->needs_reset)
        return 0;
    if (b->self_test && say(r, TAG_12, 0x53, "", 0, "TPM_ContinueSelfTest", e) < 0)
        return -1;
    if (b->give_up_presence &&
        (presence(r, PP_COMMAND_ENABLE, "TSC_PhysicalPresence(CMD_ENABLE)", e) < 0 ||
         presence(r, PP_NOT_PRESENT_LOCK, "TSC_PhysicalPresence(NOT_PRESENT|LOCK)", e) < 0))
        return -1;
    return 0;
}

/* ---- TPM 2.0 ---- */

/* A password that nobody knows. */
static int lock_platform(struct run *r, struct err *e)
{
    /* TPM_RH_PLATFORM; 9 bytes: TPM_RS_PW, no nonce, continue, no password */
    static const uint8_t head[] = {0x40, 0, 0, 0x0c, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0};
    OWNED(secret) body = NULL;
    size_t n = sizeof(head) + 2 + PASSWORD_BYTES;
    if (secret_new(n, &body, e) < 0)
        return -1;
    uint8_t *p = secret_bytes(body);
    memcpy(p, head, sizeof(head));
    put_be16(p + sizeof(head), PASSWORD_BYTES);
    if (random_bytes(p + sizeof(head) + 2, PASSWORD_BYTES, e) < 0)
        return -1;
    return say(r, TAG_20_SESSIONS, 0x129, p, n, "TPM2_HierarchyChangeAuth", e);
}

static int run20(struct run *r, struct err *e)
{
    static const uint8_t sha1[] = {0, 0, 0, 1, 0, 4};
    const struct bios *b = r->b;
    if ((b->startup == BIOS_CLEAR || b->startup == BIOS_STATE) &&
        say_word(r, TAG_20, 0x144, b->startup == BIOS_STATE, "TPM2_Startup", e) < 0)
        return -1;
    if (b->self_test &&
        say(r, TAG_20, 0x142, sha1, sizeof(sha1), "TPM2_IncrementalSelfTest", e) < 0)
        return -1;
    return b->give_up_presence ? lock_platform(r, e) : 0;
}

int bios_run(const struct bios *b, unsigned *ret_refused, bool *ret_needs_reset, struct err *e)
{
    struct run r = {.b = b};
    if ((b->tpm2 ? run20 : run12)(&r, e) < 0)
        return -1;
    *ret_refused = r.refused;
    *ret_needs_reset = r.needs_reset;
    return 0;
}
