/* Secrets that are wiped and used again instead of being mapped and locked anew: opening a store
 * takes some, and for a million stores the kernel's part of that is two thirds of the time. For
 * programs linked with --wrap=secret_new and --wrap=secret_free.
 */
#ifndef NVKEEP_TESTS_KEPT_SECRETS_H
#define NVKEEP_TESTS_KEPT_SECRETS_H

#include "crypto/secret.h"

enum { MOST_KEPT_SECRETS = 64 };

int __real_secret_new(size_t n, struct secret **ret, struct err *e);
void __real_secret_free(struct secret *s);
int __wrap_secret_new(size_t n, struct secret **ret, struct err *e);
void __wrap_secret_free(struct secret *s);

static struct secret *kept_secret[MOST_KEPT_SECRETS];
static unsigned n_kept_secrets, oldest_secret;

int __wrap_secret_new(size_t n, struct secret **ret, struct err *e)
{
    for (unsigned i = n_kept_secrets; i > 0; i--) {
        struct secret *s = kept_secret[i - 1];
        if (secret_size(s) != n)
            continue;
        kept_secret[i - 1] = kept_secret[--n_kept_secrets];
        *ret = s;
        return 0;
    }
    return __real_secret_new(n, ret, e);
}

void __wrap_secret_free(struct secret *s)
{
    if (!s)
        return;
    wipe(secret_bytes(s), secret_size(s));
    if (n_kept_secrets < MOST_KEPT_SECRETS) {
        kept_secret[n_kept_secrets++] = s;
        return;
    }
    oldest_secret = (oldest_secret + 1) % MOST_KEPT_SECRETS;
    __real_secret_free(kept_secret[oldest_secret]);
    kept_secret[oldest_secret] = s;
}

static inline void kept_secrets_end(void)
{
    while (n_kept_secrets > 0)
        __real_secret_free(kept_secret[--n_kept_secrets]);
}

#endif
