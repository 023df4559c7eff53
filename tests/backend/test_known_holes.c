/* Commands of the kind that broke TPMs built from the same reference code (tests/known-holes.md),
 * sent to the real one: each is refused, the next command works, and the state opens again.
 */
#include "tpm_image.h"

enum {
    SESSIONS = 0x8002,
    ENCRYPTED = 0x20, /* attribute of a session: the first parameter is; with 1: it continues */
    INDEX = 0x01800001,
};

static int setup(void **state)
{
    struct tpm_image *im = calloc(1, sizeof(*im));
    assert_non_null(im);
    tpm_image_new(im, DEVICE_TPM20);
    tpm_image_start(im);
    *state = im;
    return 0;
}

static int teardown(void **state)
{
    struct tpm_image *im = *state;
    tpm_image_end(im);
    free(im);
    return 0;
}

static struct bytes_out begin(struct tpm_cmd *c, uint16_t tag, uint32_t code)
{
    struct bytes_out o = bytes_out(c->b, sizeof(c->b));
    bytes_put_be16(&o, tag);
    bytes_put_be32(&o, 0);
    bytes_put_be32(&o, code);
    return o;
}

static void end(struct tpm_cmd *c, const struct bytes_out *o)
{
    assert_false(o->bad);
    c->n = o->n;
    put_be32(c->b + 2, (uint32_t)c->n);
}

static void put_zeroes(struct bytes_out *o, uint16_t n)
{
    bytes_put_be16(o, n);
    bytes_put_zero(o, n);
}

/* The TPM is neither in failure mode nor gone. */
static void assert_lives(struct tpm_image *im, uint32_t rc)
{
    assert_int_not_equal(rc, RC2_FAILURE);
    cmd2_get_random(&im->c, 8);
    TPM_OK(&im->run, &im->c);
}

static void assert_refused(struct tpm_image *im)
{
    uint32_t rc = tpm_run(&im->run, &im->c).rc;
    assert_int_not_equal(rc, 0);
    assert_lives(im, rc);
}

/* An HMAC session with AES-128-CFB for parameters. */
static uint32_t start_encrypting_session(struct tpm_image *im)
{
    struct bytes_out o = begin(&im->c, 0x8001, 0x176);
    bytes_put_be32(&o, 0x40000007);
    bytes_put_be32(&o, 0x40000007);
    put_zeroes(&o, 16);
    bytes_put_be16(&o, 0);
    bytes_put_u8(&o, 0);
    bytes_put_be16(&o, 0x0006);
    bytes_put_be16(&o, 128);
    bytes_put_be16(&o, 0x0043);
    bytes_put_be16(&o, ALG_SHA256);
    end(&im->c, &o);
    return rsp2_handle(TPM_OK(&im->run, &im->c));
}

/* code: of a command without handles whose first parameter has a length. The parameters are n bytes
 * and say that they are longer. */
static void encrypted(struct tpm_image *im, uint32_t session, uint32_t code, unsigned n,
                      uint16_t says)
{
    uint8_t length[2];
    struct bytes_out o = begin(&im->c, SESSIONS, code);
    put_be16(length, says);
    bytes_put_be32(&o, 4 + 2 + 16 + 1 + 2);
    bytes_put_be32(&o, session);
    put_zeroes(&o, 16);
    bytes_put_u8(&o, ENCRYPTED | 1);
    bytes_put_be16(&o, 0); /* a session that is neither bound nor salted has no HMAC */
    bytes_put(&o, length, n < 2 ? n : 2);
    if (n > 2)
        bytes_put_zero(&o, n - 2);
    end(&im->c, &o);
}

static void cut_off(struct tpm_image *im, uint32_t session, uint32_t code, unsigned n,
                    uint16_t says)
{
    encrypted(im, session, code, n, says);
    if (n >= 2 && says <= n - 2u)
        assert_lives(im, tpm_run(&im->run, &im->c).rc);
    else
        assert_refused(im);
}

static void encrypted_parameters_that_are_cut_off_are_refused(void **state)
{
    static const uint32_t codes[] = {0x146 /* StirRandom */, 0x17d /* Hash */};
    static const uint16_t says[] = {0, 1, 2, 16, 0x80, 0xfffe, 0xffff};
    struct tpm_image *im = *state;
    uint32_t session = start_encrypting_session(im);
    for (size_t c = 0; c < ARRAY_LEN(codes); c++)
        for (unsigned n = 0; n < 5; n++)
            for (size_t s = 0; s < ARRAY_LEN(says); s++)
                cut_off(im, session, codes[c], n, says[s]);
    /* What is whole is decrypted and taken: the others came as far as that. */
    encrypted(im, session, 0x146, 2 + 16, 16);
    TPM_OK(&im->run, &im->c);
}

static void put_password(struct bytes_out *o)
{
    bytes_put_be32(o, 9);
    bytes_put_be32(o, 0x40000009);
    bytes_put_be16(o, 0);
    bytes_put_u8(o, 1);
    bytes_put_be16(o, 0);
}

/* An HMAC key that leaves its scheme to whoever signs. */
static uint32_t create_hmac_key(struct tpm_image *im)
{
    struct bytes_out o = begin(&im->c, SESSIONS, 0x131);
    bytes_put_be32(&o, RH_OWNER);
    put_password(&o);
    bytes_put_be16(&o, 4);
    bytes_put_be32(&o, 0);
    bytes_put_be16(&o, 14);
    bytes_put_be16(&o, 0x0008); /* KEYEDHASH */
    bytes_put_be16(&o, ALG_SHA256);
    bytes_put_be32(&o, 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 17 | 1 << 18);
    bytes_put_be16(&o, 0);
    bytes_put_be16(&o, 0x0010); /* no scheme */
    bytes_put_be16(&o, 0);
    bytes_put_be16(&o, 0);
    bytes_put_be32(&o, 0);
    end(&im->c, &o);
    return rsp2_handle(TPM_OK(&im->run, &im->c));
}

static void sign(struct tpm_image *im, uint32_t key, uint16_t scheme, uint16_t hash)
{
    struct bytes_out o = begin(&im->c, SESSIONS, 0x15d);
    bytes_put_be32(&o, key);
    put_password(&o);
    put_zeroes(&o, 32);
    bytes_put_be16(&o, scheme);
    bytes_put_be16(&o, hash);
    bytes_put_be16(&o, 0x8024);
    bytes_put_be32(&o, 0x40000007);
    bytes_put_be16(&o, 0);
    end(&im->c, &o);
}

static void hmac_key_and_scheme_of_another_kind_are_refused(void **state)
{
    static const uint16_t schemes[] = {0x0014, 0x0016, 0x0018, 0x001a, 0x001b, 0x001c};
    struct tpm_image *im = *state;
    uint32_t key = create_hmac_key(im);
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        sign(im, key, schemes[i], ALG_SHA256);
        assert_refused(im);
    }
    sign(im, key, 0x0005, 0xffff);
    assert_refused(im);
    sign(im, key, 0x0005, ALG_SHA256);
    TPM_OK(&im->run, &im->c);
}

/* [xorshift64*] */
static uint64_t draw(uint64_t below)
{
    static uint64_t s = UINT64_C(0x9e3779b97f4a7c15);
    s ^= s >> 12;
    s ^= s << 25;
    s ^= s >> 27;
    return (s * UINT64_C(2685821657736338717) >> 16) % below;
}

static void one_of_many(struct tpm_cmd *c)
{
    static const uint8_t digest[32] = {1};
    switch (draw(8)) {
    case 0:
        cmd2_nv_write(c, INDEX, digest, 32, 0);
        break;
    case 1:
        cmd2_pcr_extend(c, 10, digest);
        break;
    case 2:
        cmd2_start_session(c);
        break;
    case 3:
        cmd2_create_primary(c);
        break;
    case 4:
        cmd2_sign(c, 0x80000000, digest);
        break;
    case 5:
        cmd2_get_capability(c, 6, 0x100, 64);
        break;
    case 6:
        cmd2_nv_define(c, INDEX + (uint32_t)draw(4), 64, NV2_ORDINARY, 0);
        break;
    default:
        cmd2_policy_pcr(c, 0x03000000, (uint32_t)draw(24));
    }
}

/* Sound commands with a few bytes changed, then the volatile state is written. */
static void crafted_commands_leave_a_state_that_opens_again(void **state)
{
    static const uint8_t telling[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x40};
    struct tpm_image *im = *state;
    unsigned refused = 0;
    for (unsigned i = 0; i < 1500; i++) {
        one_of_many(&im->c);
        for (uint64_t n = 1 + draw(3); n > 0; n--)
            im->c.b[10 + draw(im->c.n - 10)] = telling[draw(sizeof(telling))];
        refused += tpm_run(&im->run, &im->c).rc != 0;
    }
    assert_true(refused > 500);
    TPM_IMAGE_MUST(im, tpm_store_volatile(im->run.t, &im->e));
    cmd2_get_random(&im->c, 8);
    TPM_OK(&im->run, &im->c);
    tpm_image_close(im);
    tpm_image_open(im);
    TPM_IMAGE_MUST(im, tpm_power_on(im->run.t, false, &im->e));
    cmd2_get_random(&im->c, 8);
    TPM_OK(&im->run, &im->c); /* it went on where it was */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(encrypted_parameters_that_are_cut_off_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(hmac_key_and_scheme_of_another_kind_are_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(crafted_commands_leave_a_state_that_opens_again, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
