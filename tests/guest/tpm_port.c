#include "tpm_port.h"

enum {
    BASE = 0xfed40000,
    INTERFACE_ID = 0x30, /* low nibble: 1 CRB; 0 or 15 TIS */

    TIS_ACCESS = 0x00,
    TIS_STS = 0x18,
    TIS_FIFO = 0x24,
    TIS_DID_VID = 0xf00,
    ACCESS_REQUEST = 0x02,
    ACCESS_ACTIVE = 0x20,
    STS_RETRY = 0x02,
    STS_EXPECT = 0x08,
    STS_DATA = 0x10,
    STS_GO = 0x20,
    STS_READY = 0x40,
    STS_VALID = 0x80,

    CRB_LOC_CTRL = 0x08,
    CRB_LOC_STS = 0x0c,
    CRB_ID_HIGH = 0x34,
    CRB_REQ = 0x40,
    CRB_STS = 0x44,
    CRB_CANCEL = 0x48,
    CRB_START = 0x4c,
    CRB_CMD_SIZE = 0x58,
    CRB_CMD_ADDRESS = 0x5c,
    CRB_RSP_ADDRESS = 0x68,
    REQ_READY = 1,
    REQ_IDLE = 2,

    READY_MS = 5000,     /* the interface answers at once; the daemon may not */
    COMMAND_MS = 120000, /* an RSA key takes its time, and TCG is slow */
    HEADER = 10,
};

static volatile uint32_t *reg32(const struct tpm_port *p, uint32_t at)
{
    return (volatile uint32_t *)(uintptr_t)(BASE + (p->locality << 12) + at);
}

static volatile uint8_t *reg8(const struct tpm_port *p, uint32_t at)
{
    return (volatile uint8_t *)(uintptr_t)(BASE + (p->locality << 12) + at);
}

/* Waits for (register & mask) == want. */
static bool settles(const volatile uint32_t *reg, uint32_t mask, uint32_t want, uint32_t ms)
{
    uint32_t from = now_ms();
    while ((*reg & mask) != want) {
        if (now_ms() - from > ms)
            return false;
        for (int i = 0; i < 20; i++)
            relax();
    }
    return true;
}

static bool take(struct tpm_port *p)
{
    if (p->crb) {
        *reg32(p, CRB_LOC_CTRL) = 1;
        return settles(reg32(p, CRB_LOC_STS), 1, 1, READY_MS);
    }
    *reg8(p, TIS_ACCESS) = ACCESS_REQUEST;
    uint32_t from = now_ms();
    while (!(*reg8(p, TIS_ACCESS) & ACCESS_ACTIVE))
        if (now_ms() - from > READY_MS)
            return false;
    return true;
}

static void give_back(struct tpm_port *p)
{
    if (p->crb)
        *reg32(p, CRB_LOC_CTRL) = 2;
    else
        *reg8(p, TIS_ACCESS) = ACCESS_ACTIVE;
}

const char *tpm_port_find(struct tpm_port *ret)
{
    struct tpm_port p = {0};
    uint32_t id = *reg32(&p, INTERFACE_ID);
    if (*reg32(&p, TIS_DID_VID) == 0xffffffff && id == 0xffffffff)
        return "no TPM at fed40000";
    p.crb = (id & 15) == 1;
    p.id = p.crb ? *reg32(&p, CRB_ID_HIGH) : *reg32(&p, TIS_DID_VID);
    if (!take(&p))
        return "locality 0 is not granted";
    p.family2 = p.crb || (*reg32(&p, TIS_STS) >> 26 & 3) == 1;
    *ret = p;
    return NULL;
}

const char *tpm_port_locality(struct tpm_port *p, uint32_t locality)
{
    if (locality > 4)
        return "there are localities 0 to 4";
    if (p->crb && locality != 0)
        return "this CRB has locality 0 only";
    struct tpm_port next = *p;
    next.locality = locality;
    give_back(p);
    if (!take(&next)) {
        if (!take(p))
            return "lost the locality it had";
        return "not granted";
    }
    *p = next;
    return NULL;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The command runs: waits for its end, asks for an early one if that was wanted. */
static bool finishes(const struct tpm_port *p, uint32_t at, uint32_t mask, uint32_t want,
                     uint32_t abort_ms)
{
    if (abort_ms && !settles(reg32(p, at), mask, want, abort_ms)) {
        if (p->crb)
            *reg32(p, CRB_CANCEL) = 1;
        else
            *reg32(p, TIS_STS) = STS_READY;
    }
    return settles(reg32(p, at), mask, want, COMMAND_MS);
}

static const char *run_crb(struct tpm_port *p, const uint8_t *cmd, size_t n, uint32_t abort_ms,
                           uint8_t *resp, size_t *ret_bytes)
{
    if (n > *reg32(p, CRB_CMD_SIZE))
        return "longer than the command buffer";
    *reg32(p, CRB_REQ) = REQ_READY;
    if (!settles(reg32(p, CRB_REQ), REQ_READY, 0, READY_MS))
        return "does not get ready";
    volatile uint8_t *in = (volatile uint8_t *)(uintptr_t)*reg32(p, CRB_CMD_ADDRESS);
    for (size_t i = 0; i < n; i++)
        in[i] = cmd[i];
    *reg32(p, CRB_CANCEL) = 0;
    *reg32(p, CRB_START) = 1;
    if (!finishes(p, CRB_START, 1, 0, abort_ms))
        return "no response";
    if (*reg32(p, CRB_STS) & 1)
        return "the interface reports an error";
    const volatile uint8_t *out = (volatile uint8_t *)(uintptr_t)*reg32(p, CRB_RSP_ADDRESS);
    for (size_t i = 0; i < HEADER; i++)
        resp[i] = out[i];
    uint32_t total = be32(resp + 2);
    if (total < HEADER || total > TPM_MAX_BYTES)
        return "a response of impossible size";
    for (size_t i = HEADER; i < total; i++)
        resp[i] = out[i];
    *reg32(p, CRB_REQ) = REQ_IDLE;
    *ret_bytes = total;
    return NULL;
}

static uint32_t burst(const struct tpm_port *p)
{
    uint32_t from = now_ms(), n;
    while ((n = *reg32(p, TIS_STS) >> 8 & 0xffff) == 0)
        if (now_ms() - from > READY_MS)
            return 0;
    return n;
}

static const char *tis_send(struct tpm_port *p, const uint8_t *cmd, size_t n)
{
    *reg32(p, TIS_STS) = STS_READY;
    if (!settles(reg32(p, TIS_STS), STS_READY, STS_READY, READY_MS))
        return "does not get ready";
    for (size_t i = 0; i < n;) {
        uint32_t room = burst(p);
        if (room == 0)
            return "takes no more of the command";
        for (; i < n && room; i++, room--)
            *reg8(p, TIS_FIFO) = cmd[i];
    }
    if (!settles(reg32(p, TIS_STS), STS_VALID | STS_EXPECT, STS_VALID, READY_MS))
        return "expects more than the command has";
    return NULL;
}

static const char *tis_receive(struct tpm_port *p, uint8_t *resp, size_t *ret_bytes)
{
    uint32_t total = HEADER;
    for (uint32_t i = 0; i < total;) {
        if (!(*reg32(p, TIS_STS) & STS_DATA))
            return "a response cut short";
        for (uint32_t room = burst(p); i < total && room; i++, room--) {
            resp[i] = *reg8(p, TIS_FIFO);
            if (i == HEADER - 1)
                total = be32(resp + 2);
            if (total < HEADER || total > TPM_MAX_BYTES)
                return "a response of impossible size";
        }
    }
    *ret_bytes = total;
    return NULL;
}

static const char *run_tis(struct tpm_port *p, const uint8_t *cmd, size_t n, uint32_t abort_ms,
                           uint8_t *resp, size_t *ret_bytes)
{
    const char *wrong = tis_send(p, cmd, n);
    if (wrong)
        return wrong;
    *reg32(p, TIS_STS) = STS_GO;
    uint32_t done = STS_VALID | STS_DATA;
    if (abort_ms && !settles(reg32(p, TIS_STS), done, done, abort_ms)) {
        /* An aborted command leaves no response in the FIFO; the interface is ready again. */
        *reg32(p, TIS_STS) = STS_READY;
        if (!settles(reg32(p, TIS_STS), STS_READY, STS_READY, COMMAND_MS))
            return "does not give up";
        return "aborted";
    }
    if (!settles(reg32(p, TIS_STS), done, done, COMMAND_MS))
        return "no response";
    return tis_receive(p, resp, ret_bytes);
}

const char *tpm_port_run(struct tpm_port *p, const uint8_t *cmd, size_t n, uint32_t abort_ms,
                         uint8_t *resp, size_t *ret_bytes)
{
    if (p->crb)
        return run_crb(p, cmd, n, abort_ms, resp, ret_bytes);
    const char *wrong = run_tis(p, cmd, n, abort_ms, resp, ret_bytes);
    *reg32(p, TIS_STS) = STS_READY;
    return wrong;
}
