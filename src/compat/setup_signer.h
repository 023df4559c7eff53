/* An external program that signs certificates, as swtpm_setup.conf names it: swtpm_localca or one
 * with its command line [swtpm_setup.conf(5)].
 *
 * It runs with a limit of time and without our descriptors, and leaves what it signed in a
 * directory that is made for it and removed again.
 */
#ifndef NVKEEP_COMPAT_SETUP_SIGNER_H
#define NVKEEP_COMPAT_SETUP_SIGNER_H

#include <sys/types.h>

#include "backend/blk.h"
#include "src/compat/setup_config.h"
#include "src/make/manufacture.h"

enum { SIGNED_MAX = 2 };

struct setup_signer {
    const struct setup_config *config;
    const struct setup_log *log;
    const char *vm_id; /* NULL: none */
    mode_t umask;      /* of those who called us */
    /* The EK certificates, for --write-ek-cert-files. */
    struct {
        enum made_key key;
        size_t bytes;
        uint8_t der[CERTIFICATE_MAX_BYTES];
        struct blk_new *file; /* owned; written, and not published yet */
    } kept[SIGNED_MAX];
    size_t n_kept;
};

/* manufacture_calls.certify; ctx: struct setup_signer. */
int setup_sign(void *ctx, const struct certificate_request *request, uint8_t *ret,
               size_t *ret_bytes, struct err *e) MUST_CHECK;

/* dir/ek-rsa2048.crt and so on: written before anything is committed, and then given their names;
 * a regular file that is there is replaced. */
int setup_signer_write(struct setup_signer *s, const char *dir, struct err *e) MUST_CHECK;
int setup_signer_publish(struct setup_signer *s, struct err *e) MUST_CHECK;
void setup_signer_clear(struct setup_signer *s);

#endif
