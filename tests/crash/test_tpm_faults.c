/* Faults between libtpms and the store, in one process: every allocation and every system call of
 * our own fails, once and for good, while a TPM is made, opened, tried, started and used; libtpms
 * is out of memory where it gives its state. Whatever fails: the class is right, nothing is leaked,
 * a command that was refused had no effect and works when it is sent again, and what was answered
 * is there after the power is cut.
 *
 *     test_tpm_faults           the most common error of each call
 *     test_tpm_faults --long    every error that each call can give
 */
#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>

#include "tests/crash/fault_loop.h"
#include "tests/support/tpm_run.h"

/* ---- libtpms without memory: where ours would have none ---- */

TPM_RESULT __real_TPMLIB_GetState(enum TPMLIB_StateType st, unsigned char **p, uint32_t *n);
TPM_RESULT __wrap_TPMLIB_GetState(enum TPMLIB_StateType st, unsigned char **p, uint32_t *n);
char *__real_TPMLIB_GetInfo(enum TPMLIB_InfoFlags what);
char *__wrap_TPMLIB_GetInfo(enum TPMLIB_InfoFlags what);

/* One more allocation, which no compiler leaves out. */
static bool has_memory(void)
{
    static void *volatile kept;
    kept = malloc(1);
    bool has = kept != NULL;
    free(kept);
    return has;
}

TPM_RESULT __wrap_TPMLIB_GetState(enum TPMLIB_StateType st, unsigned char **p, uint32_t *n)
{
    return has_memory() ? __real_TPMLIB_GetState(st, p, n) : TPM_FAIL;
}

char *__wrap_TPMLIB_GetInfo(enum TPMLIB_InfoFlags what)
{
    return has_memory() ? __real_TPMLIB_GetInfo(what) : NULL;
}

/* ---- the image of a new TPM ---- */

static uint8_t *fresh;
static size_t fresh_bytes;

static void make_fresh(void)
{
    struct err e;
    struct tpm_blobs blobs = {{NULL}, {0}};
    if (tpm_manufacture(DEVICE_TPM20, &blobs, &e) < 0)
        die("a TPM", &e);
    const struct state_change first = {
        {{BLOB_SET, secret_peek(blobs.blob[BLOB_PERMANENT - 1]), blobs.n[BLOB_PERMANENT - 1]}}};
    const struct image_create what = {.path = path,
                                      .device = DEVICE_TPM20,
                                      .size = 1 << 19,
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    if (image_create(&what, pass, sizeof(passphrase) - 1, NULL, NULL, &e) < 0)
        die("the image", &e);
    tpm_blobs_clear(&blobs);
    fresh_bytes = (size_t)facts_of_file().st.st_size;
    fresh = malloc(fresh_bytes);
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!fresh || pread(fd, fresh, fresh_bytes, 0) != (ssize_t)fresh_bytes)
        die(path, &(struct err){.text = "cannot be read"});
}

static void put_fresh(void)
{
    OWNED_FD fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, fresh, fresh_bytes, 0) != (ssize_t)fresh_bytes)
        die(path, &(struct err){.text = "cannot be written"});
}

/* ---- making one ---- */

static enum device_kind kind;

static bool try_manufacture(void)
{
    struct err e = {0};
    struct tpm_blobs blobs = {{NULL}, {0}};
    struct resources before = in_use();
    int r = tpm_manufacture(kind, &blobs, &e);
    fault_disarm();
    if (r < 0)
        check_class("manufacture", &e);
    tpm_blobs_clear(&blobs);
    check_leaks("manufacture", before, &e);
    return r == 0;
}

static struct store *store;
static struct tpm_run run;

static void prepare_store(void)
{
    struct err e;
    put_fresh();
    if (open_image(&store, &e) < 0)
        die("the image", &e);
}

static void prepare_tpm(void)
{
    struct err e;
    prepare_store();
    if (tpm_new(&store, &run.t, &e) < 0)
        die("the TPM", &e);
}

static void close_all(void)
{
    tpm_free(MOVE(run.t));
    store_free(MOVE(store));
}

static bool try_new(void)
{
    struct err e = {0};
    struct resources before = in_use();
    char *info = NULL;
    int r = tpm_new(&store, &run.t, &e);
    if (r < 0 && !store)
        violation("open", "the store did not stay with its owner", &e);
    if (r == 0 && tpm_info(run.t, 1, &info, &e) < 0) {
        r = -1;
        store = tpm_lend_store(run.t);
        tpm_free(MOVE(run.t));
    }
    fault_disarm();
    free(info);
    if (r < 0)
        check_class("open", &e);
    if (r < 0)
        check_leaks("open", before, &e);
    close_all();
    return r == 0;
}

/* A daemon that waits, and asks whether the state in an image will do. */
static bool try_waiting(void)
{
    struct err e = {0};
    OWNED(image_file) f = NULL;
    OWNED(image) i = NULL;
    OWNED(store_look) look = NULL;
    struct resources before = in_use();
    int r = tpm_new_waiting(DEVICE_TPM20, &run.t, &e);
    if (r == 0 && (image_file_open(path, &f, &e) < 0 ||
                   image_unlock(&f, pass, sizeof(passphrase) - 1, NULL, &i, &e) < 0 ||
                   image_look(i, &look, &e) < 0))
        r = -1;
    if (r == 0)
        r = tpm_try(run.t, look, &e);
    fault_disarm();
    if (r < 0)
        check_class("wait", &e);
    if (look && tpm_try(run.t, look, &e) < 0)
        violation("wait", "the state cannot be tried again", &e);
    tpm_free(MOVE(run.t));
    store_look_free(MOVE(look));
    image_free(MOVE(i));
    image_file_free(MOVE(f));
    check_leaks("wait", before, &e);
    return r == 0;
}

/* ---- using it ---- */

enum { INDEX = 0x01800001, N_INDICES = 5, INDEX_BYTES = 1024, CLOCK_MS = 1000000000 };

static bool spoiled; /* a step failed, and there are no more faults */

/* After a step that failed. True: it is to be tried once more. */
static bool again(const char *what, const struct err *e)
{
    if (spoiled)
        die(what, e);
    check_class(what, e);
    fault_disarm();
    return spoiled = true;
}

static const uint8_t *content_of(unsigned i)
{
    static uint8_t content[INDEX_BYTES];
    for (size_t k = 0; k < sizeof(content); k++)
        content[k] = (uint8_t)(k * k >> 5 ^ k * 29 ^ i * 111);
    return content;
}

static bool start(void)
{
    struct err e = {0};
    while (tpm_power_on(run.t, false, &e) < 0)
        if (!again("power on", &e))
            return false;
    while (tpm_startup(run.t, STARTUP_CLEAR, &e) < 0)
        if (!again("start up", &e))
            return false;
    return true;
}

static bool cut; /* the power was, so the PCRs are new */

static void open_anew(void)
{
    struct err e = {0};
    cut = true;
    close_all();
    if (open_image(&store, &e) < 0 || tpm_new(&store, &run.t, &e) < 0 || !start())
        die("after the power was cut", &e);
}

/* While the fault lasts, whoever asks is refused. True: the way back is still to be taken. */
static bool ask_meanwhile(const char *what)
{
    struct err e = {0};
    OWNED(secret) state = NULL;
    size_t n;
    bool stuck = tpm_settle(run.t, &e) < 0;
    if (stuck)
        check_class(what, &e);
    if (tpm_export(run.t, BLOB_VOLATILE, &state, &n, &e) < 0)
        check_class(what, &e);
    return stuck;
}

/* On the way back libtpms is given one of its states, and not the other. */
static void ask_without_one_state(const char *what)
{
    for (unsigned nth = 1; nth <= 2; nth++) {
        struct err e;
        fault_arm(nth, false, 0);
        if (tpm_settle(run.t, &e) == 0)
            violation(what, "goes on without one of its states", &e);
    }
    fault_disarm();
}

/* Done, or refused and then done: had it happened although it was refused, a definition would be
 * refused now for another reason. What was done in spite of a fault is not lost with the power. */
static void send(const char *what, const struct tpm_cmd *c)
{
    int os;
    struct tpm_rsp rsp = tpm_run(&run, c);
    for (unsigned i = 0; i < 2 && run.result < 0; i++) {
        if (rsp.rc != RC2_NV_UNAVAILABLE)
            violation(what, "another answer", &run.e);
        bool stuck = ask_meanwhile(what);
        if (i > 0 && again(what, &run.e) && stuck)
            ask_without_one_state(what);
        rsp = tpm_run(&run, c);
    }
    if (run.result < 0 || rsp.rc != 0)
        violation(what, "not done when sent again", &run.e);
    if (spoiled || !fault_hit(&os))
        return;
    fault_disarm();
    spoiled = true;
    open_anew();
}

static void read_pcr(uint8_t ret[32])
{
    struct tpm_cmd c;
    cmd2_pcr_read(&c, 5);
    const uint8_t *p = rsp2_pcr(tpm_run(&run, &c));
    if (!p)
        die("a PCR", &run.e);
    memcpy(ret, p, 32);
}

static void use(void)
{
    struct tpm_cmd c;
    uint8_t measured[32] = {1, 2, 3}, then[32], now[32];
    cmd2_pcr_extend(&c, 5, measured);
    send("extend", &c);
    read_pcr(then);
    for (unsigned i = 0; i < N_INDICES; i++) {
        cmd2_nv_define(&c, INDEX + i, INDEX_BYTES, NV2_ORDINARY, 0);
        send("define", &c);
        cmd2_nv_write(&c, INDEX + i, content_of(i), INDEX_BYTES, 0);
        send("write", &c);
    }
    cmd2_clock_set(&c, CLOCK_MS);
    send("set the clock", &c);
    read_pcr(now);
    if (!cut && memcmp(then, now, sizeof(now)) != 0)
        violation("use", "what was measured is gone", &run.e);
}

static void all_is_there(void)
{
    struct tpm_cmd c;
    open_anew();
    cmd2_read_clock(&c);
    struct tpm_rsp rsp = tpm_run(&run, &c);
    (void)bytes_be64(&rsp.body); /* since the power is on */
    if (rsp.rc != 0 || bytes_be64(&rsp.body) < CLOCK_MS)
        violation("after the power was cut", "the clock is behind what was set", &run.e);
    for (unsigned i = 0; i < N_INDICES; i++) {
        cmd2_nv_read(&c, INDEX + i, INDEX_BYTES, 0);
        const uint8_t *p = rsp2_nv(tpm_run(&run, &c), INDEX_BYTES);
        if (!p || memcmp(p, content_of(i), INDEX_BYTES) != 0)
            violation("after the power was cut", "an index is not what was written", &run.e);
    }
}

/* The guest's whole life; the volatile state is stored and exported at its end. */
static bool try_use(void)
{
    struct err e = {0};
    OWNED(secret) volatile_state = NULL;
    size_t n;
    spoiled = cut = false;
    start();
    use();
    while (tpm_export(run.t, BLOB_VOLATILE, &volatile_state, &n, &e) < 0)
        again("export", &e);
    while (tpm_store_volatile(run.t, &e) < 0)
        again("store the volatile state", &e);
    while (tpm_settle(run.t, &e) < 0)
        again("settle", &e);
    while (tpm_orderly_shutdown(run.t, &e) < 0)
        again("shut down", &e);
    fault_disarm();
    bool done = !spoiled;
    all_is_there();
    close_all();
    return done;
}

static void all_faults(void)
{
    make_fresh();
    kind = DEVICE_TPM12;
    for_each_fault("manufacture a TPM 1.2", nothing_to_prepare, try_manufacture);
    kind = DEVICE_TPM20;
    for_each_fault("manufacture a TPM 2.0", nothing_to_prepare, try_manufacture);
    for_each_fault("open", prepare_store, try_new);
    for_most_faults("wait", put_fresh, try_waiting, 30, n_variants > 1 ? 1 : 5);
    for_each_fault("use", prepare_tpm, try_use);
    free(fresh);
    unlink(path);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all_faults);
}
