/* What a TPM 2.0 says that it must still say after its power was cut: asked before and after.
 *
 * Left out is what a TPM may forget without an orderly shutdown: PCRs, loaded objects, locks until
 * the next startup, which hierarchies are enabled, contents of orderly indices (but an orderly
 * counter never goes back), the time that has passed.
 */
#ifndef NVKEEP_TESTS_TPM_FACTS_H
#define NVKEEP_TESTS_TPM_FACTS_H

#include "tests/support/tpm_run.h"

enum {
    NV_PLAIN = 0x01800001,
    NV_COUNTS = 0x01800002,
    NV_BITS = 0x01800003,
    NV_EXTENDED = 0x01800004,
    NV_ORDERLY = 0x01800005,
    NV_ORDERLY_COUNTS = 0x01800006,
    NV_GUARDED = 0x01800007, /* a password, protected against guessing */
    NV_LOCKABLE = 0x01800008,
    NV_NEW = 0x01800011,
    NV_NEW_ORDERLY = 0x01800012,
    NV_NEW_COUNTER = 0x01800013,
    NV_NEW_LARGE = 0x01800014,
    KEY_OLD = 0x81000001,
    KEY_NEW = 0x81000002,
    RH_ENDORSEMENT = 0x4000000b,

    CAP_HANDLES = 1,
    CAP_AUDIT_COMMANDS = 4,
    CAP_PCRS = 5,
    CAP_PROPERTIES = 6,
    CAP_AUTH_POLICIES = 9,
    PT_PERMANENT = 0x200,
    PT_STARTUP_CLEAR = 0x201,
    PT_LOCKOUT_COUNTER = 0x20e,

    FACT_BYTES = 1100,
    CLOCK_UPDATE_MS = 1 << 22, /* how much of it may get lost [TPM2 part 3, ClockSet] */
};

enum fact_rule { SAME, NOT_LESS, NOT_MUCH_LESS };
enum fact_kind {
    ASKS_CAPABILITY,
    ASKS_PUBLIC,
    ASKS_CONTENT,
    ASKS_OBJECT,
    ASKS_RESETS,
    ASKS_CLOCK,
    MAKES_PRIMARY
};

static const struct question {
    enum fact_kind kind;
    uint32_t what, property, n;
    enum fact_rule rule;
} questions[] = {
    {ASKS_CAPABILITY, CAP_HANDLES, 0x01000000, 20, SAME},
    {ASKS_CAPABILITY, CAP_HANDLES, 0x81000000, 20, SAME},
    {ASKS_CAPABILITY, CAP_AUDIT_COMMANDS, 0x11f, 20, SAME},
    {ASKS_CAPABILITY, CAP_PCRS, 0, 1, SAME},
    {ASKS_CAPABILITY, CAP_PROPERTIES, PT_PERMANENT, 1, SAME},
    {ASKS_CAPABILITY, CAP_PROPERTIES, PT_LOCKOUT_COUNTER, 1, NOT_LESS},
    {ASKS_CAPABILITY, CAP_PROPERTIES, PT_LOCKOUT_COUNTER + 1, 3, SAME},
    {ASKS_CAPABILITY, CAP_AUTH_POLICIES, RH_OWNER, 1, SAME},
    {ASKS_CAPABILITY, CAP_AUTH_POLICIES, RH_LOCKOUT, 1, SAME},
    {ASKS_CAPABILITY, CAP_AUTH_POLICIES, RH_ENDORSEMENT, 1, SAME},
    {ASKS_PUBLIC, NV_PLAIN, 0, 0, SAME},
    {ASKS_PUBLIC, NV_COUNTS, 0, 0, SAME},
    {ASKS_PUBLIC, NV_BITS, 0, 0, SAME},
    {ASKS_PUBLIC, NV_EXTENDED, 0, 0, SAME},
    {ASKS_PUBLIC, NV_LOCKABLE, 0, 0, SAME},
    {ASKS_PUBLIC, NV_NEW, 0, 0, SAME},
    {ASKS_PUBLIC, NV_NEW_LARGE, 0, 0, SAME},
    {ASKS_CONTENT, NV_PLAIN, 0, 64, SAME},
    {ASKS_CONTENT, NV_COUNTS, 0, 8, SAME},
    {ASKS_CONTENT, NV_BITS, 0, 8, SAME},
    {ASKS_CONTENT, NV_EXTENDED, 0, 32, SAME},
    {ASKS_CONTENT, NV_ORDERLY_COUNTS, 0, 8, NOT_LESS},
    {ASKS_CONTENT, NV_LOCKABLE, 0, 16, SAME},
    {ASKS_CONTENT, NV_NEW, 0, 64, SAME},
    {ASKS_CONTENT, NV_NEW_LARGE, 0, 900, SAME},
    {ASKS_OBJECT, KEY_OLD, 0, 0, SAME},
    {ASKS_OBJECT, KEY_NEW, 0, 0, SAME},
    {ASKS_RESETS, 0, 0, 0, NOT_LESS},
    {ASKS_CLOCK, 0, 0, 0, NOT_MUCH_LESS},
    {MAKES_PRIMARY, RH_ENDORSEMENT, 0, 0, SAME},
    {MAKES_PRIMARY, RH_PLATFORM, 0, 0, SAME},
};
enum { N_QUESTIONS = ARRAY_LEN(questions) };

struct fact {
    uint32_t rc;
    size_t n;
    uint8_t bytes[FACT_BYTES];
};
struct facts {
    bool hidden; /* the owner's hierarchy is off: next to nothing can be asked until the next start
                  */
    bool with_primaries;
    bool allocated; /* the SHA-1 bank goes with the next start */
    bool resumed;   /* which is not this one */
    struct fact fact[N_QUESTIONS];
};

/* ---- asking ---- */

static inline void keep_bytes(struct fact *f, const uint8_t *p, size_t n)
{
    f->n = p && n <= sizeof(f->bytes) ? n : 0;
    if (f->n > 0)
        memcpy(f->bytes, p, f->n);
}

/* TPMS_NV_PUBLIC without what the next startup changes: locks that are not for ever. */
static inline void keep_public(struct fact *f, struct bytes_in in)
{
    enum { WRITELOCKED = 1 << 11, WRITEDEFINE = 1 << 13, READLOCKED = 1 << 28 };
    uint16_t n = bytes_be16(&in);
    const uint8_t *p = bytes_take(&in, n);
    keep_bytes(f, p, n);
    if (f->n < 10)
        return;
    uint32_t attributes = get_be32(f->bytes + 6) & ~(uint32_t)READLOCKED;
    if (!(attributes & WRITEDEFINE))
        attributes &= ~(uint32_t)WRITELOCKED;
    put_be32(f->bytes + 6, attributes);
}

/* By its own empty password: whoever the owner is. */
static inline void cmd2_nv_read_own(struct tpm_cmd *c, uint32_t index, uint16_t n)
{
    cmd2_nv_read_auth(c, index, n, "");
}

static inline void cmd2_nv_read_public(struct tpm_cmd *c, uint32_t index)
{
    cmd2_read_public(c, index);
    put_be32(c->b + 6, 0x169);
}

/* As cmd2_create_primary(), in another hierarchy. */
static inline void cmd2_create_primary_in(struct tpm_cmd *c, uint32_t hierarchy)
{
    cmd2_create_primary(c);
    put_be32(c->b + 10, hierarchy);
}

static inline void ask_primary(struct tpm_run *r, uint32_t hierarchy, struct fact *f)
{
    struct tpm_cmd c;
    cmd2_create_primary_in(&c, hierarchy);
    struct tpm_rsp rsp = tpm_run(r, &c);
    f->rc = rsp.rc;
    if (rsp.rc != 0)
        return;
    uint32_t handle = bytes_be32(&rsp.body);
    bytes_skip(&rsp.body, 4);
    uint16_t n = bytes_be16(&rsp.body);
    keep_bytes(f, bytes_take(&rsp.body, n), n);
    cmd2_flush(&c, handle);
    (void)tpm_run(r, &c);
}

static inline void ask(struct tpm_run *r, const struct question *q, struct fact *f)
{
    struct tpm_cmd c;
    if (q->kind == MAKES_PRIMARY) {
        ask_primary(r, q->what, f);
        return;
    }
    if (q->kind == ASKS_CAPABILITY)
        cmd2_get_capability(&c, q->what, q->property, q->n);
    else if (q->kind == ASKS_PUBLIC)
        cmd2_nv_read_public(&c, q->what);
    else if (q->kind == ASKS_CONTENT)
        cmd2_nv_read_own(&c, q->what, (uint16_t)q->n);
    else if (q->kind == ASKS_OBJECT)
        cmd2_read_public(&c, q->what);
    else
        cmd2_read_clock(&c);
    struct tpm_rsp rsp = tpm_run(r, &c);
    f->rc = rsp.rc;
    if (rsp.rc != 0)
        return;
    if (q->kind == ASKS_PUBLIC)
        keep_public(f, rsp.body);
    else if (q->kind == ASKS_CONTENT)
        keep_bytes(f, rsp2_nv(rsp, (uint16_t)q->n), q->n);
    else if (q->kind == ASKS_CLOCK) /* behind time */
        keep_bytes(f, rsp.body.at + 8, 8);
    else if (q->kind == ASKS_RESETS) /* behind time and clock: resetCount */
        keep_bytes(f, rsp.body.at + 16, 4);
    else
        keep_bytes(f, rsp.body.at, rsp.body.left);
    /* inLockout passes with time */
    if (q->kind == ASKS_CAPABILITY && q->property == PT_PERMANENT && f->n == 17)
        f->bytes[15] &= (uint8_t)~2;
}

static inline bool owner_is_on(struct tpm_run *r)
{
    enum { PH = 1, SH = 2, EH = 4 };
    struct tpm_cmd c;
    cmd2_get_capability(&c, CAP_PROPERTIES, PT_STARTUP_CLEAR, 1);
    struct tpm_rsp rsp = tpm_run(r, &c);
    bytes_skip(&rsp.body, 13);
    return rsp.rc == 0 && bytes_be32(&rsp.body) & SH;
}

static inline void take_facts(struct tpm_run *r, bool with_primaries, struct facts *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->hidden = !owner_is_on(r);
    ret->with_primaries = with_primaries;
    for (size_t i = 0; i < N_QUESTIONS; i++)
        if (with_primaries || questions[i].kind != MAKES_PRIMARY)
            ask(r, &questions[i], &ret->fact[i]);
}

/* ---- comparing ---- */

/* Behind more, capability, count, algorithm and size: the PCRs of the first bank. */
static inline bool first_bank_is_off(const struct fact *f)
{
    static const uint8_t head[] = {0x00, 0x04, 3, 0, 0, 0};
    return f->rc == 0 && f->n >= 9 + sizeof(head) && memcmp(f->bytes + 9, head, sizeof(head)) == 0;
}

static inline bool fact_holds(const struct question *q, const struct fact *was,
                              const struct fact *is)
{
    bool may_be_locked = q->kind == ASKS_CONTENT || q->kind == MAKES_PRIMARY;
    if (was->rc != 0)
        return may_be_locked || is->rc == was->rc;
    if (is->rc != 0 || is->n != was->n)
        return false;
    if (q->rule == NOT_MUCH_LESS)
        return get_be64(is->bytes) + CLOCK_UPDATE_MS > get_be64(was->bytes);
    int d = memcmp(is->bytes, was->bytes, is->n);
    return q->rule == SAME ? d == 0 : d >= 0;
}

/* The first question whose answer has got lost; N_QUESTIONS: none. */
static inline size_t lost_fact(const struct facts *was, const struct facts *is)
{
    if (was->hidden || is->hidden)
        return N_QUESTIONS;
    for (size_t i = 0; i < N_QUESTIONS; i++) {
        bool asked =
            questions[i].kind != MAKES_PRIMARY || (was->with_primaries && is->with_primaries);
        if (was->allocated && !is->resumed && questions[i].what == CAP_PCRS &&
            questions[i].kind == ASKS_CAPABILITY) {
            if (!first_bank_is_off(&is->fact[i]))
                return i;
            continue;
        }
        if (asked && !fact_holds(&questions[i], &was->fact[i], &is->fact[i]))
            return i;
    }
    return N_QUESTIONS;
}

#endif
