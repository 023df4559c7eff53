/* Manufactured TPMs, asked by TPM commands in an image of their own. */
#include "tpm_image.h"

#include "src/make/manufacture.h"
#include "src/make/manufacture_tpm12.h"

enum {
    TPMA_NV_WRITELOCKED = 1 << 11,
    TPMA_NV_WRITTEN = 1 << 29,
    NV_ATTRIBUTES = 0x42072001,
    RC_NV_LOCKED = 0x148,
    CERTIFICATE_BYTES = 1300, /* more than one NV_Write takes */
};

struct signer {
    unsigned asked[2];
    uint8_t modulus_begins;
    bool fails;
};

static int sign(void *ctx, const struct certificate_request *request, uint8_t *ret,
                size_t *ret_bytes, struct err *e)
{
    struct signer *s = ctx;
    if (s->fails)
        return err_set(e, ERR_USAGE, "no ink");
    assert_non_null(strstr(request->info, "TPMAttributes"));
    assert_non_null(strstr(request->info, "TPMSpecification"));
    assert_true(request->ek->n_or_x_bytes >= 47);
    s->asked[request->what]++;
    memset(ret, request->what == CERTIFICATE_EK ? 0xe1 : 0xf1, CERTIFICATE_BYTES);
    memcpy(ret, request->ek->n_or_x, 16);
    *ret_bytes = CERTIFICATE_BYTES;
    return 0;
}

static void begin(struct tpm_image *im, const struct manufacture *what)
{
    struct tpm_blobs blobs = {{NULL}, {0}};
    tpm_image_begin(im);
    TPM_IMAGE_MUST(im, manufacture(what, &blobs, &im->e));
    tpm_image_create(im, what->device, &blobs);
    tpm_blobs_clear(&blobs);
    tpm_image_open(im);
    tpm_image_start(im);
}

static struct tpm_rsp public_of(struct tpm_image *im, uint32_t handle)
{
    cmd2_read_public(&im->c, handle);
    struct tpm_rsp r = tpm_run(&im->run, &im->c);
    bytes_skip(&r.body, 2); /* size */
    return r;
}

static void assert_object(struct tpm_image *im, uint32_t handle, uint16_t type, uint16_t name_alg,
                          uint32_t attributes)
{
    struct tpm_rsp r = public_of(im, handle);
    assert_int_equal(r.rc, 0);
    assert_int_equal(bytes_be16(&r.body), type);
    assert_int_equal(bytes_be16(&r.body), name_alg);
    assert_int_equal(bytes_be32(&r.body), attributes);
}

/* Attributes, or 0 where there is no such index. */
static uint32_t nv_attributes(struct tpm_image *im, uint32_t index, uint16_t *ret_bytes)
{
    uint8_t cmd[14] = {0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x69};
    put_be32(cmd + 10, index);
    struct tpm_rsp r = tpm_run_bytes(&im->run, cmd, sizeof(cmd));
    if (r.rc != 0)
        return 0;
    bytes_skip(&r.body, 2 + 4 + 2);
    uint32_t attributes = bytes_be32(&r.body);
    bytes_skip(&r.body, bytes_be16(&r.body));
    *ret_bytes = bytes_be16(&r.body);
    return attributes;
}

/* Which bank has PCRs: bit (algorithm number). */
static uint64_t active_banks(struct tpm_image *im)
{
    uint64_t active = 0;
    cmd2_get_capability(&im->c, 5, 0, 64);
    struct tpm_rsp r = TPM_OK(&im->run, &im->c);
    bytes_skip(&r.body, 5);
    for (uint32_t n = bytes_be32(&r.body); n > 0; n--) {
        uint16_t alg = bytes_be16(&r.body);
        uint8_t bytes = bytes_u8(&r.body);
        const uint8_t *bits = bytes_take(&r.body, bytes);
        if (bits && !bytes_all_zero(bits, bytes))
            active |= UINT64_C(1) << alg;
    }
    return active;
}

static unsigned n_persistent(struct tpm_image *im)
{
    cmd2_get_capability(&im->c, 1, 0x81000000, 64);
    struct tpm_rsp r = TPM_OK(&im->run, &im->c);
    bytes_skip(&r.body, 5);
    return bytes_be32(&r.body);
}

static void everything_of_a_tpm20_is_where_the_profile_puts_it(void **state)
{
    static const uint32_t indices[] = {0x01c00002, 0x01c00016, PLATFORM_CERTIFICATE_INDEX};
    struct signer s = {0};
    struct tpm_image im;
    struct manufacture what = {.device = DEVICE_TPM20,
                               .ek = true,
                               .spk = true,
                               .ek_certificate = true,
                               .platform_certificate = true,
                               .lock_nvram = true,
                               .banks = {{0xb}, 1},
                               .calls = {.certify = sign, .ctx = &s}};
    (void)state;
    begin(&im, &what);
    assert_int_equal(n_persistent(&im), 3);
    assert_object(&im, 0x81000001, 0x0001, 0x000b, 0x00030472);
    assert_object(&im, 0x81010001, 0x0001, 0x000b, 0x000300b2);
    assert_object(&im, 0x81010016, 0x0023, 0x000c, 0x000300f2);
    for (size_t i = 0; i < ARRAY_LEN(indices); i++) {
        uint16_t n = 0;
        assert_int_equal(nv_attributes(&im, indices[i], &n),
                         NV_ATTRIBUTES | TPMA_NV_WRITELOCKED | TPMA_NV_WRITTEN);
        assert_int_equal(n, CERTIFICATE_BYTES);
    }
    assert_int_equal(s.asked[CERTIFICATE_EK], 2);
    assert_int_equal(s.asked[CERTIFICATE_PLATFORM], 1);
    assert_int_equal(active_banks(&im), 1 << 0xb);
    /* All of it was written, and it speaks of the key that is there. */
    cmd2_nv_read(&im.c, 0x01c00002, 100, CERTIFICATE_BYTES - 100);
    struct tpm_rsp r = TPM_OK(&im.run, &im.c);
    const uint8_t *end = rsp2_nv(r, 100);
    assert_non_null(end);
    assert_int_equal(end[0], 0xe1);
    assert_int_equal(end[99], 0xe1);
    tpm_image_end(&im);
}

static void keys_of_3072_bits_have_places_of_their_own(void **state)
{
    struct signer s = {0};
    struct tpm_image im;
    uint16_t n = 0;
    struct manufacture what = {.device = DEVICE_TPM20,
                               .ek = true,
                               .spk = true,
                               .spk_is_ecc = true,
                               .rsa3072 = true,
                               .use = EK_SIGNS,
                               .ek_certificate = true,
                               .calls = {.certify = sign, .ctx = &s}};
    (void)state;
    begin(&im, &what);
    assert_int_equal(n_persistent(&im), 3);
    assert_object(&im, 0x81000001, 0x0023, 0x000c, 0x00030472);
    assert_object(&im, 0x8101001c, 0x0001, 0x000c, 0x000400f2);
    assert_object(&im, 0x81010016, 0x0023, 0x000c, 0x000400f2);
    assert_int_equal(nv_attributes(&im, 0x01c0001c, &n), NV_ATTRIBUTES | TPMA_NV_WRITTEN);
    assert_int_equal(nv_attributes(&im, 0x01c0001d, &n), NV_ATTRIBUTES | TPMA_NV_WRITTEN);
    assert_int_equal(n, 0x46);
    assert_int_equal(nv_attributes(&im, 0x01c00017, &n), NV_ATTRIBUTES | TPMA_NV_WRITTEN);
    assert_int_equal(nv_attributes(&im, 0x01c00002, &n), 0);
    assert_int_equal(nv_attributes(&im, PLATFORM_CERTIFICATE_INDEX, &n), 0);
    /* libtpms' own choice. */
    assert_int_equal(active_banks(&im), 1 << 4 | 1 << 0xb | 1 << 0xc | 1 << 0xd);
    tpm_image_end(&im);
}

static void reconfigured_tpm_keeps_everything_but_its_banks(void **state)
{
    const struct pcr_banks banks = {{0xc, 0x27, 0x4}, 3};
    const struct manufacture_calls none = {0};
    struct tpm_blobs old = {{NULL}, {0}}, new = {{NULL}, {0}};
    struct tpm_image im;
    struct manufacture what = {.device = DEVICE_TPM20, .ek = true, .banks = {{0xb}, 1}};
    uint8_t ek[300];
    (void)state;
    begin(&im, &what);
    struct tpm_rsp r = public_of(&im, 0x81010001);
    memcpy(ek, bytes_take(&r.body, sizeof(ek)), sizeof(ek));
    tpm_image_close(&im);
    {
        OWNED(store) s = NULL;
        tpm_image_store(&im, &s);
        size_t n;
        const uint8_t *p = store_get(s, BLOB_PERMANENT, &n);
        TPM_IMAGE_MUST(&im, secret_new(n, &old.blob[0], &im.e));
        memcpy(secret_bytes(old.blob[0]), p, n);
        old.n[0] = n;
    }
    TPM_IMAGE_MUST(&im, manufacture_reconfigure(&old, &banks, &none, &new, &im.e));
    unlink(im.path);
    tpm_image_create(&im, DEVICE_TPM20, &new);
    tpm_image_open(&im);
    tpm_image_start(&im);
    assert_int_equal(active_banks(&im), 1 << 0xc | 1 << 4);
    r = public_of(&im, 0x81010001);
    assert_memory_equal(ek, bytes_take(&r.body, sizeof(ek)), sizeof(ek));
    tpm_blobs_clear(&old);
    tpm_blobs_clear(&new);
    tpm_image_end(&im);
}

/* S0.13 */
static void what_cannot_be_had_gives_nothing(void **state)
{
    struct signer s = {.fails = true};
    struct tpm_blobs blobs = {{NULL}, {0}};
    struct err e;
    struct manufacture what = {.device = DEVICE_TPM20, .banks = {{0x27}, 1}};
    (void)state;
    assert_int_equal(manufacture(&what, &blobs, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "No PCR banks could be allocated"));
    what = (struct manufacture){.device = DEVICE_TPM20,
                                .ek = true,
                                .ek_certificate = true,
                                .calls = {.certify = sign, .ctx = &s}};
    assert_int_equal(manufacture(&what, &blobs, &e), -1);
    assert_non_null(strstr(e.text, "no ink"));
    what = (struct manufacture){.device = DEVICE_TPM20, .ek_certificate = true};
    assert_int_equal(manufacture(&what, &blobs, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    what = (struct manufacture){.device = DEVICE_TPM12, .spk = true};
    assert_int_equal(manufacture(&what, &blobs, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    const struct manufacture_calls none = {0};
    assert_int_equal(manufacture_reconfigure(&blobs, &what.banks, &none, &blobs, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_EMPTY);
    for (size_t i = 0; i < N_TPM_BLOBS; i++)
        assert_null(blobs.blob[i]);
}

static void tpm12_has_its_key_its_owner_and_its_locks(void **state)
{
    enum { RC1_AUTH_CONFLICT = 0x3b };
    struct signer s = {0};
    struct tpm_image im;
    struct manufacture what = {.device = DEVICE_TPM12,
                               .ek = true,
                               .ek_certificate = true,
                               .platform_certificate = true,
                               .take_ownership = true,
                               .lock_nvram = true,
                               .owner_auth = {1, 2, 3},
                               .srk_auth = {4, 5},
                               .calls = {.certify = sign, .ctx = &s}};
    (void)state;
    begin(&im, &what);
    assert_int_equal(s.asked[CERTIFICATE_EK], 1);
    assert_int_equal(s.asked[CERTIFICATE_PLATFORM], 1);
    /* It has an owner: the EK is not read without him, and NV not either. */
    uint8_t read_ek[30] = {0, 0xc1, 0, 0, 0, 30, 0, 0, 0, 0x7c};
    assert_int_equal(tpm_run_bytes(&im.run, read_ek, sizeof(read_ek)).rc, 8); /* DISABLED_CMD */
    cmd1_nv_read(&im.c, TPM12_EK_CERTIFICATE_INDEX, 7, 0);
    assert_int_equal(tpm_run(&im.run, &im.c).rc, RC1_AUTH_CONFLICT);
    cmd1_get_random(&im.c, 8);
    (void)TPM_OK(&im.run, &im.c);
    tpm_image_end(&im);
}

static void tpm12_certificates_are_in_nv(void **state)
{
    struct signer s = {0};
    struct tpm_image im;
    struct manufacture what = {.device = DEVICE_TPM12,
                               .ek = true,
                               .ek_certificate = true,
                               .calls = {.certify = sign, .ctx = &s}};
    (void)state;
    begin(&im, &what);
    cmd1_nv_read(&im.c, TPM12_EK_CERTIFICATE_INDEX, 100, CERTIFICATE_BYTES + 7 - 100);
    const uint8_t *end = rsp1_nv(TPM_OK(&im.run, &im.c), 100);
    assert_non_null(end);
    assert_int_equal(end[99], 0xe1);
    cmd1_nv_read(&im.c, TPM12_EK_CERTIFICATE_INDEX, 7, 0);
    const uint8_t *begins = rsp1_nv(TPM_OK(&im.run, &im.c), 7);
    assert_non_null(begins);
    assert_memory_equal(begins, "\x10\x01\x00\x05\x16\x10\x02", 7);
    tpm_image_end(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_of_a_tpm20_is_where_the_profile_puts_it),
        cmocka_unit_test(keys_of_3072_bits_have_places_of_their_own),
        cmocka_unit_test(reconfigured_tpm_keeps_everything_but_its_banks),
        cmocka_unit_test(what_cannot_be_had_gives_nothing),
        cmocka_unit_test(tpm12_has_its_key_its_owner_and_its_locks),
        cmocka_unit_test(tpm12_certificates_are_in_nv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
