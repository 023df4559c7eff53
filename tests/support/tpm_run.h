/* Commands of tpm_cmd.h sent to a struct tpm; asserts what must always be true of a response. */
#ifndef NVKEEP_TESTS_TPM_RUN_H
#define NVKEEP_TESTS_TPM_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/tpm.h"
#include "tpm_cmd.h"

struct tpm_run {
    struct tpm *t;
    uint8_t locality;
    uint8_t resp[TPM_BUFFER_BYTES];
    int result; /* of the last tpm_process() */
    struct err e;
};

static inline struct tpm_rsp tpm_run_bytes(struct tpm_run *r, const uint8_t *cmd, size_t n)
{
    size_t resp_bytes = 0;
    r->e.kind = ERR_NONE;
    r->result = tpm_process(r->t, r->locality, cmd, n, r->resp, &resp_bytes, &r->e);
    struct tpm_rsp rsp = rsp_of(r->resp, resp_bytes);
    assert_in_range(resp_bytes, 10, TPM_BUFFER_BYTES);
    assert_int_equal(rsp.size, resp_bytes);
    assert_int_equal(r->result < 0, r->e.kind != ERR_NONE);
    return rsp;
}

static inline struct tpm_rsp tpm_run(struct tpm_run *r, const struct tpm_cmd *c)
{
    return tpm_run_bytes(r, c->b, c->n);
}

/* The command has to succeed. */
#define TPM_OK(run, c)                                                                             \
    ({                                                                                             \
        struct tpm_rsp ok_rsp_ = tpm_run(run, c);                                                  \
        if ((run)->result < 0)                                                                     \
            print_error("%s\n", (run)->e.text);                                                    \
        assert_int_equal(ok_rsp_.rc, 0);                                                           \
        assert_int_equal((run)->result, 0);                                                        \
        ok_rsp_;                                                                                   \
    })

#endif
