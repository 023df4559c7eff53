/* A guest's commands, sent through the data channel to a running TPM.
 * Class: data
 *
 * Input: a byte of options, then items {u8 what, u16 length, bytes}. Whatever is sent, the answer
 * is well formed and not the one of a TPM that has failed; a command that cannot store does not,
 * one that fails has stored nothing, and at the end the file holds what was acknowledged, which
 * libtpms can be started from.
 */
#include "tests/fuzz/items.h"
#include "tests/fuzz/peer_rig.h"

#include <poll.h>

#include "backend/tpm_command.h"
#include "src/serve/data_channel.h"

enum { MAX_COMMANDS = 48 };
const unsigned fuzz_replays = 35;

/* What an item is, by the low bits of its first byte. */
enum {
    ITEM_COMMAND,   /* its size field is made right */
    ITEM_FRAMED,    /* the same behind a frame; the first byte is the locality */
    ITEM_RAW,       /* as it is */
    ITEM_FULL_DISK, /* ITEM_COMMAND, while nothing can be written */
    ITEM_POWER,     /* off and on, with startup or without */
    ITEM_CUT,       /* ITEM_COMMAND that is never finished */
    ITEM_KINDS = 6,
};

static int emulator = -1; /* the other end of the data connection */
static struct data_channel *channel;

/* --- before each input --- */

static void run_own(const struct tpm_cmd *c)
{
    uint8_t resp[TPM_BUFFER_BYTES];
    size_t n;
    RIG_MUST(tpm_process(rig.s->tpm, 0, c->b, c->n, resp, &n, &rig.e));
    PROMISE(rsp_of(resp, n).rc == 0);
}

/* A TPM that has been used: two indices, a counter, a persistent key. */
static void furnish(void)
{
    static uint8_t bytes[64];
    struct tpm_cmd c;
    cmd2_nv_define(&c, 0x01800001, 64, NV2_ORDINARY, 0);
    run_own(&c);
    cmd2_nv_write(&c, 0x01800001, bytes, sizeof(bytes), 0);
    run_own(&c);
    cmd2_nv_define(&c, 0x01800002, 8, NV2_COUNTER, 0);
    run_own(&c);
    cmd2_nv_increment(&c, 0x01800002);
    run_own(&c);
    cmd2_nv_define_auth(&c, 0x01800003, 32, 0, "secret");
    run_own(&c);
    cmd2_create_primary(&c);
    run_own(&c);
    cmd2_evict(&c, 0x80000000, 0x81000001);
    run_own(&c);
    cmd2_flush(&c, 0x80000000);
    run_own(&c);
    cmd2_shutdown(&c, SU_CLEAR);
    run_own(&c);
}

static void end_process(void)
{
    data_channel_free(channel);
    close(emulator);
    rig_end();
}

static void begin_process(void)
{
    static const struct custody_rules rules;
    rig_make_image();
    rig_open_reader();
    rig_session(SERVE_NOT_NEED_INIT | SERVE_STARTUP_CLEAR | SERVE_ALLOW_SET_LOCALITY, false, &rules,
                NULL);
    PROMISE(atexit(end_process) == 0);
    furnish();
    rig_keep();
}

static void connect_emulator(void)
{
    int ends[2];
    PROMISE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    if (emulator >= 0)
        close(emulator);
    emulator = ends[0];
    data_channel_free(channel);
    RIG_MUST(data_channel_new(false, &channel, &rig.e));
    PROMISE(data_channel_adopt(channel, &ends[1]) == CTRL_OK);
}

static void power_on(bool started)
{
    RIG_MUST(tpm_power_on(rig.s->tpm, false, &rig.e));
    if (started)
        RIG_MUST(tpm_startup(rig.s->tpm, STARTUP_CLEAR, &rig.e));
}

/* Everything as after furnish(), whatever the input before has done. */
static void begin_input(bool started)
{
    tpm_power_off(rig.s->tpm);
    struct store *store = tpm_lend_store(rig.s->tpm);
    custody_release(rig.s->custody, &store, false);
    rig_put_back();
    RIG_MUST(custody_claim(rig.s->custody, &store, &rig.e));
    RIG_MUST(tpm_take_store(rig.s->tpm, &store, &rig.e));
    rig.s->locality = 0;
    connect_emulator();
    power_on(started);
}

/* --- commands --- */

struct sent {
    const uint8_t *cmd; /* as the TPM gets it */
    size_t n;
    bool is_command; /* as far as its length goes */
    bool framed;
    bool full;
};

static void check_response(const struct sent *c, const uint8_t *p, size_t n, uint64_t before)
{
    enum tpm_effect effect = tpm_command_effect(DEVICE_TPM20, c->cmd, c->n);
    bool stored = rig_generation() != before;
    if (c->framed) {
        PROMISE(n > DATA_FRAME_EXTRA && get_be32(p) == n - DATA_FRAME_EXTRA);
        PROMISE(get_be32(p + n - 4) == 0);
        p += 4;
        n -= DATA_FRAME_EXTRA;
    }
    PROMISE(n >= DATA_HEADER_BYTES && n <= TPM_BUFFER_BYTES && get_be32(p + 2) == n);
    uint32_t rc = get_be32(p + 6);
    PROMISE(rc != RC2_FAILURE);
    PROMISE(get_be16(p) == 0x8001 || (rc == 0 && get_be16(p) == 0x8002) || get_be16(p) == 0x00c4);
    PROMISE(rc == 0 || n == DATA_HEADER_BYTES);
    PROMISE(!stored || (c->is_command && effect == TPM_MAY_STORE) || effect == TPM_EXTENDS);
    /* RETRY: the first use of something that is protected against guessing is counted before. */
    enum { RC2_RETRY = 0x922 };
    PROMISE(!stored || rc == 0 || rc == RC2_RETRY ||
            tpm_response_is_auth_failure(DEVICE_TPM20, rc));
    PROMISE(!stored || !c->full);
    PROMISE(c->full || rc != RC2_NV_UNAVAILABLE);
}

/* Sends something and takes the one answer that there must be. */
static void exchange(const struct sent *c, const uint8_t *p, size_t n)
{
    uint8_t answer[2 * TPM_BUFFER_BYTES];
    uint64_t before = rig_generation();
    size_t got = 0;
    if (n == 0)
        return;
    PROMISE(send(emulator, p, n, MSG_NOSIGNAL) == (ssize_t)n);
    rig_full(c->full);
    for (int i = 0; i < 4 && got == 0; i++) {
        ssize_t r;
        PROMISE(data_channel_run(channel, rig.s, i == 0 ? POLLIN : POLLOUT) == DATA_NOTHING);
        while ((r = recv(emulator, answer + got, sizeof(answer) - got, 0)) > 0)
            got += (size_t)r;
    }
    rig_full(false);
    PROMISE(got > 0);
    check_response(c, answer, got, before);
}

/* A command that is not finished before its sender hangs up. Ends the connection. */
static void exchange_cut(const uint8_t *p, size_t n)
{
    uint64_t before = rig_generation();
    PROMISE(send(emulator, p, n, MSG_NOSIGNAL) == (ssize_t)n);
    shutdown(emulator, SHUT_WR);
    for (int i = 0; i < 4; i++)
        if (data_channel_run(channel, rig.s, i ? 0 : POLLIN) == DATA_LOST)
            break;
    PROMISE(rig_generation() == before);
    connect_emulator();
}

static void run_command(const struct item *item, unsigned what)
{
    static uint8_t out[DATA_FRAME_BYTES + TPM_BUFFER_BYTES];
    uint8_t *cmd = out + DATA_FRAME_BYTES;
    const uint8_t *p = item->p;
    size_t n = item->n, skip = what == ITEM_FRAMED && n > 0;
    uint8_t locality = skip ? p[0] : 0;
    p += skip;
    n -= skip;
    if (n > session_command_max(rig.s))
        n = session_command_max(rig.s);
    if (n < DATA_HEADER_BYTES)
        return;
    memcpy(cmd, p, n);
    put_be32(cmd + 2, (uint32_t)n);
    struct sent c = {cmd, n, true, what == ITEM_FRAMED, what == ITEM_FULL_DISK};
    if (get_be32(cmd) == 8) /* would be a frame */
        return;
    if (what == ITEM_CUT) {
        exchange_cut(cmd, n - 1 - item->what % (n - 1));
        return;
    }
    put_be32(out, 8);
    out[4] = locality;
    put_be32(out + 5, (uint32_t)n);
    exchange(&c, c.framed ? out : cmd, c.framed ? n + DATA_FRAME_BYTES : n);
}

/* As many commands as are in it; only what is whole has an answer. */
static void run_raw(const struct item *item)
{
    struct bytes_in in = bytes_in(item->p, item->n);
    for (int i = 0; i < 8 && in.left > 0; i++) {
        struct data_frame f;
        enum data_found found =
            data_frame_decode(in.at, in.left, session_command_max(rig.s), true, &f);
        if (found == DATA_MORE)
            return;
        const uint8_t *p = bytes_take(&in, f.bytes);
        struct sent c = {p + f.offset, f.cmd_bytes, found == DATA_COMMAND, f.framed, false};
        exchange(&c, p, f.bytes);
    }
}

static void power_cycle(const struct item *item)
{
    bool started = item->n == 0 || item->p[0] & 1;
    if (item->n > 0 && item->p[0] & 2)
        (void)!tpm_orderly_shutdown(rig.s->tpm, &rig.e);
    tpm_power_off(rig.s->tpm);
    power_on(started);
}

static void run_item(const struct item *item)
{
    unsigned what = item->what % ITEM_KINDS;
    if (what == ITEM_RAW)
        run_raw(item);
    else if (what == ITEM_POWER)
        power_cycle(item);
    else
        run_command(item, what);
}

/* --- what is worth sending --- */

static void make_command(unsigned which, struct tpm_cmd *c)
{
    static const uint8_t bytes[64] = {1, 2, 3};
    switch (which) {
    case 0:
        cmd2_startup(c, SU_CLEAR);
        break;
    case 1:
        cmd2_startup(c, SU_STATE);
        break;
    case 2:
        cmd2_shutdown(c, SU_CLEAR);
        break;
    case 3:
        cmd2_shutdown(c, SU_STATE);
        break;
    case 4:
        cmd2_get_random(c, 16);
        break;
    case 5:
        cmd2_get_capability(c, 1, 0x01000000, 8);
        break;
    case 6:
        cmd2_read_clock(c);
        break;
    case 7:
        cmd2_pcr_extend(c, 3, bytes);
        break;
    case 8:
        cmd2_pcr_extend(c, 16, bytes);
        break;
    case 9:
        cmd2_pcr_read(c, 3);
        break;
    case 10:
        cmd2_nv_define(c, 0x01800004, 16, NV2_ORDINARY, 0);
        break;
    case 11:
        cmd2_nv_define(c, 0x01800005, 8, NV2_COUNTER, NV2_ORDERLY);
        break;
    case 12:
        cmd2_nv_write(c, 0x01800001, bytes, 16, 8);
        break;
    case 13:
        cmd2_nv_increment(c, 0x01800002);
        break;
    case 14:
        cmd2_nv_read(c, 0x01800001, 32, 0);
        break;
    case 15:
        cmd2_nv_read_auth(c, 0x01800003, 32, "secret");
        break;
    case 16:
        cmd2_nv_read_auth(c, 0x01800003, 32, "guess");
        break;
    case 17:
        cmd2_nv_undefine(c, 0x01800001);
        break;
    case 18:
        cmd2_create_primary(c);
        break;
    case 19:
        cmd2_create_signer(c);
        break;
    case 20:
        cmd2_sign(c, 0x80000000, bytes);
        break;
    case 21:
        cmd2_read_public(c, 0x81000001);
        break;
    case 22:
        cmd2_flush(c, 0x80000000);
        break;
    case 23:
        cmd2_evict(c, 0x80000000, 0x81000002);
        break;
    case 24:
        cmd2_evict(c, 0x81000001, 0x81000001);
        break;
    case 25:
        cmd2_start_session(c);
        break;
    case 26:
        cmd2_policy_pcr(c, 0x03000000, 3);
        break;
    case 27:
        cmd2_policy_get_digest(c, 0x03000000);
        break;
    case 28:
        cmd2_clear(c);
        break;
    case 29:
        cmd2_da_reset(c);
        break;
    default:
        cmd2_nv_increment(c, 0x01800005);
        break;
    }
}

static size_t items_template(unsigned which, uint8_t *ret_what, uint8_t ret[ITEM_MAX_BYTES])
{
    enum { COMMANDS = 31 };
    struct tpm_cmd c;
    make_command(which % COMMANDS, &c);
    *ret_what = which / COMMANDS % 8 ? ITEM_COMMAND : (uint8_t)(which / COMMANDS / 8);
    memcpy(ret, c.b, c.n);
    return c.n;
}

/* --- the end --- */

/* What a guest would find again: its indices, its keys, what the first index holds. */
struct belongings {
    uint8_t resp[3][TPM_BUFFER_BYTES];
    size_t n[3];
};

static void take_stock(struct belongings *ret)
{
    enum { TPM_CAP_HANDLES = 1, NV_INDICES = 0x01000000, PERSISTENT = 0x81000000u, ALL = 254 };
    struct tpm_cmd c[3];
    cmd2_get_capability(&c[0], TPM_CAP_HANDLES, NV_INDICES, ALL);
    cmd2_get_capability(&c[1], TPM_CAP_HANDLES, PERSISTENT, ALL);
    cmd2_nv_read(&c[2], 0x01800001, 64, 0);
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        RIG_MUST(tpm_process(rig.s->tpm, 0, c[i].b, c[i].n, ret->resp[i], &ret->n[i], &rig.e));
}

static void check_kept(const struct belongings *a, const struct belongings *b)
{
    for (size_t i = 0; i < ARRAY_LEN(a->n); i++)
        if (get_be32(a->resp[i] + 6) == 0 && get_be32(b->resp[i] + 6) == 0)
            PROMISE(a->n[i] == b->n[i] && memcmp(a->resp[i], b->resp[i], a->n[i]) == 0);
}

/* What was acknowledged is there after the power was cut. */
static void check_end(void)
{
    static struct belongings held, found;
    take_stock(&held);
    rig_is_durable();
    tpm_power_off(rig.s->tpm);
    power_on(true);
    take_stock(&found);
    check_kept(&held, &found);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    struct item item;
    if (!rig.s)
        begin_process();
    if (n == 0)
        return 0;
    begin_input(bytes_u8(&in) & 1);
    for (int i = 0; i < MAX_COMMANDS && item_next(&in, &item); i++)
        run_item(&item);
    check_end();
    return 0;
}
