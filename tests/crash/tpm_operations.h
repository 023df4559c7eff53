/* The operations of test_tpm_crash.c: what changes the state of a TPM, one way each.
 *
 * Most are one command with one password session, and stand in a table as they go over the wire
 * [TPM2 part 3]; the others are a few steps of tpm_bench.h.
 */
#ifndef NVKEEP_TESTS_TPM_OPERATIONS_H
#define NVKEEP_TESTS_TPM_OPERATIONS_H

#include "tests/crash/tpm_bench.h"
#include "tests/crash/tpm_facts.h"

/* A command: handles, the session, then `head`, so many bytes that are others each time, `tail`. */
struct raw {
    uint32_t code;
    uint32_t handle[2]; /* 0: none */
    struct {
        const char *p;
        size_t n;
    } head;
    size_t n_fresh;
    struct {
        const char *p;
        size_t n;
    } tail;
};
enum { RC2_RETRY = 0x922, CC_PCR_ALLOCATE = 0x12b, CC_CLEAR = 0x126 };
#define TEXT(text)                                                                                 \
    {                                                                                              \
        (text), sizeof(text) - 1                                                                   \
    }

struct operation {
    const char *name;
    struct raw raw;
    void (*run)(struct bench *b); /* NULL: the command above */
    uint32_t rc;                  /* what the last command answers where nothing came before */
    bool stores;                  /* it makes libtpms store something then */
};

static inline void raw_build(const struct raw *raw, uint32_t fresh, struct tpm_cmd *ret)
{
    enum { ST_SESSIONS = 0x8002, RS_PW = 0x40000009, PASSWORD_BYTES = 9 };
    struct bytes_out o = bytes_out(ret->b, sizeof(ret->b));
    bytes_put_be16(&o, ST_SESSIONS);
    bytes_put_be32(&o, 0);
    bytes_put_be32(&o, raw->code);
    for (size_t i = 0; i < ARRAY_LEN(raw->handle); i++)
        if (raw->handle[i])
            bytes_put_be32(&o, raw->handle[i]);
    bytes_put_be32(&o, PASSWORD_BYTES);
    bytes_put_be32(&o, RS_PW);
    bytes_put_zero(&o, PASSWORD_BYTES - 4);
    bytes_put(&o, raw->head.p, raw->head.n);
    for (size_t i = 0; i < raw->n_fresh; i++)
        bytes_put_u8(&o, (uint8_t)(fresh * 13 + i * 5));
    bytes_put(&o, raw->tail.p, raw->tail.n);
    ret->n = o.n;
    put_be32(ret->b + 2, (uint32_t)o.n);
}

/* ---- TPM 2.0: more than one command, or none ---- */

static inline void op_define(struct bench *b)
{
    cmd2_nv_define(&b->c, NV_NEW, 64, NV2_ORDINARY, 0);
    (void)bench_send(b);
}

static inline void op_define_orderly(struct bench *b)
{
    cmd2_nv_define(&b->c, NV_NEW_ORDERLY, 32, NV2_ORDINARY, NV2_ORDERLY);
    (void)bench_send(b);
}

static inline void op_define_counter(struct bench *b)
{
    cmd2_nv_define(&b->c, NV_NEW_COUNTER, 8, NV2_COUNTER, 0);
    (void)bench_send(b);
}

static inline void op_define_and_fill(struct bench *b)
{
    uint8_t bytes[900];
    cmd2_nv_define(&b->c, NV_NEW_LARGE, sizeof(bytes), NV2_ORDINARY, 0);
    (void)bench_send(b);
    memset(bytes, (int)(b->n_fresh++ & 0xff), sizeof(bytes));
    cmd2_nv_write(&b->c, NV_NEW_LARGE, bytes, sizeof(bytes), 0);
    (void)bench_send(b);
}

static inline void op_guess(struct bench *b)
{
    cmd2_nv_read_auth(&b->c, NV_GUARDED, 16, "wrong");
    if (bench_send(b).rc == RC2_RETRY) /* it has just noted that something may be guessed */
        (void)bench_send(b);
}

static inline void op_primary(struct bench *b)
{
    cmd2_create_primary(&b->c);
    (void)bench_send(b);
}

static inline void op_keep_key(struct bench *b)
{
    cmd2_create_signer(&b->c);
    struct tpm_rsp r = bench_send(b);
    if (r.rc != 0)
        return;
    uint32_t key = rsp2_handle(r);
    cmd2_evict(&b->c, key, KEY_NEW);
    (void)bench_send(b);
    struct tpm_cmd flush;
    cmd2_flush(&flush, key);
    (void)tpm_run(&b->run, &flush);
}

static inline void op_extend(struct bench *b)
{
    uint8_t digest[32];
    memset(digest, (int)(b->n_fresh++ & 0xff), sizeof(digest));
    cmd2_pcr_extend(&b->c, 3, digest);
    (void)bench_send(b);
}

static inline void op_shutdown_clear(struct bench *b)
{
    cmd2_shutdown(&b->c, SU_CLEAR);
    (void)bench_send(b);
}

static inline void op_shutdown_state(struct bench *b)
{
    cmd2_shutdown(&b->c, SU_STATE);
    (void)bench_send(b);
}

static inline void op_power_cycle(struct bench *b)
{
    tpm_power_off(b->run.t);
    bench_power_on(b, false);
    bench_startup(b, SU_CLEAR);
    (void)bench_send(b);
}

static inline void op_resume(struct bench *b)
{
    op_shutdown_state(b);
    tpm_power_off(b->run.t);
    bench_power_on(b, false);
    bench_startup(b, SU_STATE);
    (void)bench_send(b);
}

static inline void op_store_volatile(struct bench *b)
{
    struct err e = {0};
    step_begin(&b->s);
    if (tpm_store_volatile(b->run.t, &e) < 0)
        bench_fail(b, "storing the volatile state failed", &e);
    step_done(&b->s, tpm_store(b->run.t));
}

static inline void op_measured_launch(struct bench *b)
{
    step_begin(&b->s);
    if (tpm_hash_start(b->run.t) != 0 || tpm_hash_data(b->run.t, (const uint8_t *)"loader", 6) ||
        tpm_hash_end(b->run.t) != 0)
        bench_fail(b, "a measured launch failed", &(struct err){0});
    step_done(&b->s, tpm_store(b->run.t));
}

static inline void op_refused_write(struct bench *b, unsigned nth)
{
    static const struct raw raw = {0x137, {NV_PLAIN, NV_PLAIN}, TEXT("\0\x30"), 48, TEXT("\0\0")};
    raw_build(&raw, b->n_fresh++, &b->c);
    power_fail(b->s.t.im.power, nth, false, EIO, 0);
    struct tpm_rsp r = bench_send(b);
    power_fail(b->s.t.im.power, 0, false, 0, 0);
    if (r.rc == 0)
        bench_fail(b, "a failed write was acknowledged", &(struct err){0});
}

static inline void op_write_fails(struct bench *b)
{
    op_refused_write(b, 1);
}

static inline void op_flush_fails(struct bench *b)
{
    op_refused_write(b, 2);
}

static inline void bench_origin(uint8_t mark, uint8_t ret[ORIGIN_BYTES])
{
    struct store_origin o = {.how = ORIGIN_HANDED_OVER, .used = true, .clock = 1000, .at = 1};
    memset(o.set, mark, sizeof(o.set));
    memcpy(o.lineage, "another instance", sizeof(o.lineage));
    memcpy(o.image, o.lineage, sizeof(o.image));
    o.from.generation = o.from.epoch = 1;
    origin_encode(&o, ret);
}

/* The store is let go, claimed again, and marked as taken back; the TPM stays as it was. */
static inline void op_taken_back(struct bench *b)
{
    uint8_t origin[ORIGIN_BYTES];
    struct err e = {0};
    store_free(tpm_lend_store(b->run.t));
    struct store *s = kept_disk_open(&e);
    bench_origin((uint8_t)++b->n_fresh, origin);
    if (!s || tpm_take_store(b->run.t, &s, &e) < 0)
        die("taking back", &e);
    step_begin(&b->s);
    if (tpm_commit_origin(b->run.t, origin, &e) < 0)
        bench_fail(b, "taking back failed", &e);
    step_done(&b->s, tpm_store(b->run.t));
}

/* A whole set, as a migration brings it; resumed at once. */
static inline void op_incoming(struct bench *b)
{
    uint8_t origin[ORIGIN_BYTES];
    struct err e = {0};
    tpm_power_off(b->run.t);
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (b->set[kind - 1] &&
            tpm_stage(b->run.t, (enum blob_kind)kind, secret_peek(b->set[kind - 1]),
                      b->n_set[kind - 1], &e) < 0)
            die("an incoming state", &e);
    bench_origin((uint8_t)++b->n_fresh, origin);
    tpm_set_origin(b->run.t, origin);
    bench_power_on(b, true);
}

/* ---- TPM 2.0 ---- */

static const struct operation operations2[] = {
    {"power cycle", .run = op_power_cycle, .stores = true},
    {"Shutdown(CLEAR)", .run = op_shutdown_clear, .stores = true},
    {"Shutdown(STATE)", .run = op_shutdown_state, .stores = true},
    {"saved and resumed", .run = op_resume, .stores = true},
    {"volatile state stored", .run = op_store_volatile, .stores = true},
    {"taken back", .run = op_taken_back, .stores = true},
    {"incoming state", .run = op_incoming, .stores = true},
    {"measured launch", .run = op_measured_launch},
    {"a write that fails", .run = op_write_fails, .rc = RC2_NV_UNAVAILABLE},
    {"a flush that fails", .run = op_flush_fails, .rc = RC2_NV_UNAVAILABLE},
    {"NV_DefineSpace", .run = op_define, .stores = true},
    {"NV_DefineSpace orderly", .run = op_define_orderly, .stores = true},
    {"NV_DefineSpace counter", .run = op_define_counter, .stores = true},
    {"NV_DefineSpace and NV_Write of 900 bytes", .run = op_define_and_fill, .stores = true},
    {"a wrong password", .run = op_guess, .rc = 0x98e, .stores = true},
    {"CreatePrimary", .run = op_primary},
    {"EvictControl, to keep", .run = op_keep_key, .stores = true},
    {"PCR_Extend", .run = op_extend},
    {"NV_Write", {0x137, {NV_PLAIN, NV_PLAIN}, TEXT("\0\x30"), 48, TEXT("\0\0")}, .stores = true},
    {"NV_Write orderly", {0x137, {NV_ORDERLY, NV_ORDERLY}, TEXT("\0\x10"), 16, TEXT("\0\0")}},
    {"NV_Increment", {0x134, {NV_COUNTS, NV_COUNTS}}, .stores = true},
    {"NV_Increment orderly", {0x134, {NV_ORDERLY_COUNTS, NV_ORDERLY_COUNTS}}, .stores = true},
    {"NV_Extend", {0x136, {NV_EXTENDED, NV_EXTENDED}, TEXT("\0\x10"), 16}, .stores = true},
    {"NV_SetBits", {0x135, {NV_BITS, NV_BITS}, .n_fresh = 8}, .stores = true},
    {"NV_WriteLock", {0x138, {NV_LOCKABLE, NV_LOCKABLE}}, .stores = true},
    {"NV_ReadLock", {0x14f, {NV_LOCKABLE, NV_LOCKABLE}}, .stores = true},
    {"NV_GlobalWriteLock", {0x132, {RH_OWNER}}, .stores = true},
    {"NV_UndefineSpace", {0x122, {RH_OWNER, NV_PLAIN}}, .stores = true},
    {"EvictControl, to remove", {0x120, {RH_OWNER, KEY_OLD}, TEXT("\x81\0\0\1")}, .stores = true},
    {"DictionaryAttackParameters",
     {0x13a, {RH_LOCKOUT}, TEXT("\0\0\0\x20\0\1"), 2, TEXT("\0\0\x10\0")},
     .stores = true},
    {"DictionaryAttackLockReset", {0x139, {RH_LOCKOUT}}},
    {"HierarchyChangeAuth owner", {0x129, {RH_OWNER}, TEXT("\0\1o")}, .stores = true},
    {"HierarchyChangeAuth lockout", {0x129, {RH_LOCKOUT}, TEXT("\0\1l")}, .stores = true},
    {"HierarchyControl", {0x121, {RH_PLATFORM}, TEXT("\x40\0\0\1\0")}},
    {"SetPrimaryPolicy", {0x12e, {RH_OWNER}, TEXT("\0\x20"), 32, TEXT("\0\x0b")}, .stores = true},
    {"ClockSet", {0x128, {RH_OWNER}, TEXT("\0\0\0\1\0\0\0\0")}, .stores = true},
    {"ClockRateAdjust", {0x130, {RH_OWNER}, TEXT("\1")}},
    {"PCR_Allocate",
     {CC_PCR_ALLOCATE, {RH_PLATFORM}, TEXT("\0\0\0\2\0\x0b\3\xff\xff\xff\0\4\3\0\0\0")},
     .stores = true},
    {"PCR_SetAuthPolicy",
     {0x12c, {RH_PLATFORM}, TEXT("\0\x20"), 32, TEXT("\0\x0b\0\0\0\x14")},
     .stores = true},
    {"PCR_SetAuthValue", {0x183, {20}, TEXT("\0\4"), 4}},
    {"Clear", {CC_CLEAR, {RH_LOCKOUT}}, .stores = true},
    {"ClearControl", {0x127, {RH_LOCKOUT}, TEXT("\1")}, .stores = true},
    {"ChangeEPS", {0x124, {RH_PLATFORM}}, .stores = true},
    {"ChangePPS", {0x125, {RH_PLATFORM}}, .stores = true},
    {"SetCommandCodeAuditStatus",
     {0x140, {RH_OWNER}, TEXT("\0\x10\0\0\0\1\0\0\1\x7b\0\0\0\0")},
     .stores = true},
    {"SetAlgorithmSet", {0x13f, {RH_PLATFORM}, TEXT("\0\0\0\1")}, .stores = true},
};

/* Indices of every kind, a key, a password that can be guessed. */
static inline void prepare2(struct bench *b)
{
    enum { GLOBALLOCK = 1 << 15, WRITE_STCLEAR = 1 << 14, READ_STCLEAR = (int)(1U << 31) };
    static const struct raw first[] = {
        {0x137, {NV_PLAIN, NV_PLAIN}, TEXT("\0\x40"), 64, TEXT("\0\0")},
        {0x134, {NV_COUNTS, NV_COUNTS}},
        {0x135, {NV_BITS, NV_BITS}, TEXT("\0\0\0\0\0\0\0\1")},
        {0x136, {NV_EXTENDED, NV_EXTENDED}, TEXT("\0\x10"), 16},
        {0x137, {NV_ORDERLY, NV_ORDERLY}, TEXT("\0\x20"), 32, TEXT("\0\0")},
        {0x134, {NV_ORDERLY_COUNTS, NV_ORDERLY_COUNTS}},
        {0x137, {NV_LOCKABLE, NV_LOCKABLE}, TEXT("\0\x10"), 16, TEXT("\0\0")},
        {0x137, {RH_OWNER, NV_GUARDED}, TEXT("\0\x10"), 16, TEXT("\0\0")},
        {0x13a, {RH_LOCKOUT}, TEXT("\0\0\0\x20\0\0\x10\0\0\0\x10\0")},
    };
    struct tpm_cmd *c = &b->c;
    bench_startup(b, SU_CLEAR);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_PLAIN, 64, NV2_ORDINARY, 0);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_COUNTS, 8, NV2_COUNTER, 0);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_BITS, 8, (enum nv2_kind)2, 0);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_EXTENDED, 32, (enum nv2_kind)4, 0);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_ORDERLY, 32, NV2_ORDINARY, NV2_ORDERLY);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_ORDERLY_COUNTS, 8, NV2_COUNTER, NV2_ORDERLY);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define(c, NV_LOCKABLE, 16, NV2_ORDINARY,
                   GLOBALLOCK | WRITE_STCLEAR | (uint32_t)READ_STCLEAR);
    (void)TPM_OK(&b->run, c);
    cmd2_nv_define_auth(c, NV_GUARDED, 16, 0, "guess me");
    (void)TPM_OK(&b->run, c);
    for (size_t i = 0; i < ARRAY_LEN(first); i++) {
        raw_build(&first[i], b->n_fresh++, c);
        (void)TPM_OK(&b->run, c);
    }
    cmd2_create_signer(c);
    uint32_t key = rsp2_handle(TPM_OK(&b->run, c));
    cmd2_evict(c, key, KEY_OLD);
    (void)TPM_OK(&b->run, c);
    cmd2_flush(c, key);
    (void)TPM_OK(&b->run, c);
}

/* ---- TPM 1.2 ---- */

enum { NV1_OLD = 0x00010001, NV1_NEW = 0x00010002 };

static inline void op1_define(struct bench *b)
{
    cmd1_nv_define(&b->c, NV1_NEW, 64);
    (void)bench_send(b);
}

static inline void op1_undefine(struct bench *b)
{
    cmd1_nv_define(&b->c, NV1_OLD, 0);
    (void)bench_send(b);
}

static inline void op1_write(struct bench *b)
{
    uint8_t bytes[32];
    memset(bytes, (int)(b->n_fresh++ & 0xff), sizeof(bytes));
    cmd1_nv_write(&b->c, NV1_OLD, bytes, sizeof(bytes), 0);
    (void)bench_send(b);
}

static inline void op1_write_fails(struct bench *b)
{
    power_fail(b->s.t.im.power, 2, false, EIO, 0);
    op1_write(b);
    power_fail(b->s.t.im.power, 0, false, 0, 0);
}

static inline void op1_save(struct bench *b)
{
    cmd1_save_state(&b->c);
    (void)bench_send(b);
}

static inline void op1_extend(struct bench *b)
{
    uint8_t digest[20];
    memset(digest, (int)(b->n_fresh++ & 0xff), sizeof(digest));
    cmd1_extend(&b->c, 3, digest);
    (void)bench_send(b);
}

static inline void op1_power_cycle(struct bench *b)
{
    tpm_power_off(b->run.t);
    bench_power_on(b, false);
    bench_startup(b, ST_CLEAR);
    (void)bench_send(b);
}

static inline void op1_resume(struct bench *b)
{
    op1_save(b);
    tpm_power_off(b->run.t);
    bench_power_on(b, false);
    bench_startup(b, ST_STATE);
    (void)bench_send(b);
}

static const struct operation operations1[] = {
    {"power cycle", .run = op1_power_cycle},
    {"SaveState", .run = op1_save, .stores = true},
    {"saved and resumed", .run = op1_resume, .stores = true},
    {"volatile state stored", .run = op_store_volatile, .stores = true},
    {"taken back", .run = op_taken_back, .stores = true},
    {"NV_DefineSpace", .run = op1_define, .stores = true},
    {"NV_DefineSpace that removes", .run = op1_undefine, .stores = true},
    {"NV_WriteValue", .run = op1_write, .stores = true},
    {"a flush that fails", .run = op1_write_fails, .rc = RC1_RETRY},
    {"Extend", .run = op1_extend},
};

static inline void prepare1(struct bench *b)
{
    struct tpm_cmd *c = &b->c;
    bench_startup(b, ST_CLEAR);
    (void)TPM_OK(&b->run, c);
    cmd1_nv_define(c, NV1_OLD, 32);
    (void)TPM_OK(&b->run, c);
    cmd1_nv_write(c, NV1_OLD, "what a TPM 1.2 holds in an index", 32, 0);
    (void)TPM_OK(&b->run, c);
}

#endif
