/* Faults: every allocation and every system call fails while a TPM is manufactured and while one is
 * reconfigured, once and for good. Whatever fails: the class is right, nothing is leaked, there is
 * a whole TPM or none, and what it was made from is as it was. [S1.17]
 *
 *     test_manufacture_faults           the most common error of each call
 *     test_manufacture_faults --long    every error that each call can give
 *
 * Without keys: making them costs time and none of our own calls.
 */
#include "tests/crash/fault_loop.h"

#include "src/make/manufacture.h"

static struct tpm_blobs made;
static enum device_kind device;
static uint8_t made_digest[SHA256_BYTES];

static int sign(void *ctx, const struct certificate_request *request, uint8_t *ret,
                size_t *ret_bytes, struct err *e)
{
    (void)ctx, (void)request, (void)ret, (void)ret_bytes;
    return err_set(e, ERR_USAGE, "nobody asks for it");
}

static void digest(const struct tpm_blobs *b, uint8_t ret[SHA256_BYTES])
{
    const struct span all = {secret_peek(b->blob[0]), b->n[0]};
    hash_compute(HASH_SHA256, &all, 1, ret);
}

static bool judge(const char *where, int r, struct tpm_blobs *blobs, struct resources before,
                  const struct err *e)
{
    const bool has = blobs->blob[BLOB_PERMANENT - 1] != NULL;
    fault_disarm();
    if (r < 0)
        check_class(where, e);
    if (has != (r == 0))
        violation(where, "half a TPM", e);
    tpm_blobs_clear(blobs);
    check_leaks(where, before, e);
    return r == 0;
}

static bool try_new(void)
{
    const struct resources before = in_use();
    const struct manufacture what = {.device = device,
                                     .lock_nvram = true,
                                     .banks = {{0xb}, device == DEVICE_TPM20},
                                     .calls = {.certify = sign}};
    struct tpm_blobs blobs = {{NULL}, {0}};
    struct err e = {0};
    int r = manufacture(&what, &blobs, &e);
    return judge("manufacture", r, &blobs, before, &e);
}

static bool try_reconfigure(void)
{
    const struct resources before = in_use();
    const struct pcr_banks banks = {{0x4, 0xc}, 2};
    const struct manufacture_calls none = {0};
    struct tpm_blobs blobs = {{NULL}, {0}};
    uint8_t now[SHA256_BYTES];
    struct err e = {0};
    int r = manufacture_reconfigure(&made, &banks, &none, &blobs, &e);
    bool done = judge("reconfigure", r, &blobs, before, &e);
    digest(&made, now);
    if (memcmp(now, made_digest, sizeof(now)) != 0)
        violation("reconfigure", "the TPM that it began with has changed", &e);
    return done;
}

static void all(void)
{
    struct err e;
    device = DEVICE_TPM20;
    for_each_fault("a new TPM 2.0", nothing_to_prepare, try_new);
    device = DEVICE_TPM12;
    for_each_fault("a new TPM 1.2", nothing_to_prepare, try_new);
    if (tpm_manufacture(DEVICE_TPM20, &made, &e) < 0)
        die("a TPM", &e);
    digest(&made, made_digest);
    for_each_fault("other PCR banks", nothing_to_prepare, try_reconfigure);
    tpm_blobs_clear(&made);
}

int main(int argc, char **argv)
{
    return fault_loop(argc, argv, all);
}
