/* Which commands can store, and what is said in a TPM's place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/tpm_command.h"
#include "tpm_cmd.h"

static const uint8_t digest[32] = {1};

static enum tpm_effect effect(const struct tpm_cmd *c)
{
    return tpm_command_effect(DEVICE_TPM20, c->b, c->n);
}

static void quick_commands_are_known_to_read(void **state)
{
    struct tpm_cmd c;
    (void)state;
    cmd2_get_random(&c, 8);
    assert_int_equal(effect(&c), TPM_READS);
    cmd2_pcr_read(&c, 1);
    assert_int_equal(effect(&c), TPM_READS);
    cmd2_get_capability(&c, 6, 0x100, 1);
    assert_int_equal(effect(&c), TPM_READS);
    cmd2_read_clock(&c);
    assert_int_equal(effect(&c), TPM_READS);
    cmd2_read_public(&c, 0x80000000);
    assert_int_equal(effect(&c), TPM_READS);
}

static void everything_else_may_store(void **state)
{
    struct tpm_cmd c[9];
    (void)state;
    cmd2_startup(&c[0], SU_CLEAR);
    cmd2_shutdown(&c[1], SU_CLEAR);
    cmd2_nv_write(&c[2], 0x01800000, digest, 8, 0);
    cmd2_nv_read(&c[3], 0x01800000, 8, 0); /* by password: a wrong one is counted */
    cmd2_create_primary(&c[4]);
    cmd2_start_session(&c[5]);
    cmd2_clear(&c[6]);
    cmd2_sign(&c[7], 0x80000000, digest);
    cmd2_self_test(&c[8]); /* stores nothing, and fails without memory: it needs its way back */
    for (size_t i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(effect(&c[i]), TPM_MAY_STORE);
    for (uint32_t code = 0x100; code < 0x200; code++) {
        cmd2_get_random(&c[0], 8);
        c[0].b[1] = 2; /* with sessions, none is harmless */
        put_be32(c[0].b + 6, code);
        assert_int_equal(effect(&c[0]), TPM_MAY_STORE);
    }
}

/* A header that is not whole, or a size that is not so: nothing is concluded from the rest. */
static void malformed_commands_may_store(void **state)
{
    struct tpm_cmd c;
    (void)state;
    cmd2_get_random(&c, 8);
    for (size_t n = 0; n < c.n; n++)
        assert_int_equal(tpm_command_effect(DEVICE_TPM20, c.b, n), TPM_MAY_STORE);
    c.b[c.n++] = 0;
    assert_int_equal(effect(&c), TPM_MAY_STORE);
}

static void extend_by_password_is_told_from_other_sessions(void **state)
{
    struct tpm_cmd c;
    (void)state;
    cmd2_pcr_extend(&c, 15, digest);
    assert_int_equal(effect(&c), TPM_EXTENDS);
    assert_true(tpm_command_extends_saved_pcr(c.b, c.n));
    for (size_t n = 0; n < c.n; n++) {
        assert_int_equal(tpm_command_effect(DEVICE_TPM20, c.b, n), TPM_MAY_STORE);
        assert_false(tpm_command_extends_saved_pcr(c.b, n));
    }
    cmd2_pcr_extend(&c, 16, digest);
    assert_int_equal(effect(&c), TPM_EXTENDS);
    assert_false(tpm_command_extends_saved_pcr(c.b, c.n));
    static const size_t session[] = {17 /* area longer */, 18, 21 /* handle */, 23 /* nonce */,
                                     26 /* password */};
    for (size_t i = 0; i < ARRAY_LEN(session); i++) {
        cmd2_pcr_extend(&c, 1, digest);
        c.b[session[i]] ^= 1;
        assert_int_equal(effect(&c), TPM_MAY_STORE);
    }
    cmd2_pcr_read(&c, 3);
    assert_false(tpm_command_extends_saved_pcr(c.b, c.n));
}

/* Its saved state is dropped by whatever command comes next. */
static void any_command_of_a_tpm12_may_store(void **state)
{
    struct tpm_cmd c;
    (void)state;
    cmd1_get_random(&c, 8);
    assert_int_equal(tpm_command_effect(DEVICE_TPM12, c.b, c.n), TPM_MAY_STORE);
    cmd2_get_random(&c, 8);
    assert_int_equal(tpm_command_effect(DEVICE_TPM12, c.b, c.n), TPM_MAY_STORE);
}

static void shutdown_is_recognised(void **state)
{
    struct tpm_cmd c;
    uint8_t own[TPM_SHORT_COMMAND_BYTES];
    (void)state;
    cmd2_shutdown(&c, SU_STATE);
    assert_true(tpm_command_is_shutdown(c.b, c.n));
    assert_false(tpm_command_is_shutdown(c.b, c.n - 1));
    assert_int_equal(tpm_command_shutdown(SU_STATE, own), c.n);
    assert_memory_equal(own, c.b, c.n);
    cmd2_startup(&c, SU_STATE);
    assert_false(tpm_command_is_shutdown(c.b, c.n));
    assert_int_equal(tpm_command_startup(DEVICE_TPM20, SU_STATE, own), c.n);
    assert_memory_equal(own, c.b, c.n);
    cmd1_startup(&c, ST_DEACTIVATED);
    assert_int_equal(tpm_command_startup(DEVICE_TPM12, ST_DEACTIVATED, own), c.n);
    assert_memory_equal(own, c.b, c.n);
}

static void setting_the_clock_is_recognised(void **state)
{
    struct tpm_cmd c;
    (void)state;
    cmd2_clock_set(&c, 1);
    assert_true(tpm_command_is_clock_set(c.b, c.n));
    assert_false(tpm_command_is_clock_set(c.b, c.n - 1));
    assert_int_equal(effect(&c), TPM_MAY_STORE);
    cmd2_read_clock(&c);
    assert_false(tpm_command_is_clock_set(c.b, c.n));
}

static void responses_are_taken_only_whole(void **state)
{
    uint8_t resp[11];
    uint32_t code = 77;
    (void)state;
    tpm_response_error(DEVICE_TPM20, 0x923, resp);
    assert_memory_equal(resp, "\x80\x01\0\0\0\x0a\0\0\x09\x23", 10);
    assert_true(tpm_response_code(resp, 10, &code));
    assert_int_equal(code, 0x923);
    code = 77;
    for (size_t n = 0; n < 10; n++)
        assert_false(tpm_response_code(resp, n, &code));
    assert_false(tpm_response_code(resp, 11, &code));
    assert_int_equal(code, 77);
    tpm_response_error(DEVICE_TPM12, 0x800, resp);
    assert_memory_equal(resp, "\0\xc4\0\0\0\x0a\0\0\x08\0", 10);
}

static void wrong_password_is_recognised_whichever_session_it_was(void **state)
{
    (void)state;
    for (uint32_t session = 1; session <= 3; session++)
        assert_true(tpm_response_is_auth_failure(DEVICE_TPM20, 0x88e | session << 8));
    assert_false(tpm_response_is_auth_failure(DEVICE_TPM20, 0));
    assert_false(tpm_response_is_auth_failure(DEVICE_TPM20, 0x9a2)); /* not counted: BAD_AUTH */
    assert_false(tpm_response_is_auth_failure(DEVICE_TPM20, 0x1ce)); /* of a parameter */
    assert_false(tpm_response_is_auth_failure(DEVICE_TPM20, 0x921)); /* LOCKOUT */
    assert_false(tpm_response_is_auth_failure(DEVICE_TPM12, 0x98e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quick_commands_are_known_to_read),
        cmocka_unit_test(everything_else_may_store),
        cmocka_unit_test(malformed_commands_may_store),
        cmocka_unit_test(extend_by_password_is_told_from_other_sessions),
        cmocka_unit_test(any_command_of_a_tpm12_may_store),
        cmocka_unit_test(shutdown_is_recognised),
        cmocka_unit_test(setting_the_clock_is_recognised),
        cmocka_unit_test(responses_are_taken_only_whole),
        cmocka_unit_test(wrong_password_is_recognised_whichever_session_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
