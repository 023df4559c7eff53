/* Memory for keys, passphrases, decrypted sectors and TPM state.
 *
 * Each secret is a mapping of its own: locked, kept out of core dumps, wiped when freed. A forked
 * child finds zeroes in it, keys included: whoever forks to go on working does so before the first
 * secret. Its size is fixed for life and it is never copied implicitly. Where it cannot be locked,
 * creating it fails (ERR_STORAGE) and the message names the limit to raise (RLIMIT_MEMLOCK). A
 * secret is never NULL-sized; it has one owner.
 */
#ifndef NVKEEP_CRYPTO_SECRET_H
#define NVKEEP_CRYPTO_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/err.h"
#include "src/base/own.h"

struct secret;

/* `n` zeroed bytes (1 to 64 MiB). */
int secret_new(size_t n, struct secret **ret, struct err *e) MUST_CHECK;
void secret_free(struct secret *s);
DEFINE_OWNED(secret);

uint8_t *secret_bytes(struct secret *s); /* aligned to a page */
const uint8_t *secret_peek(const struct secret *s);
size_t secret_size(const struct secret *s);

/* Overwrites, and is not optimised away. */
void wipe(void *p, size_t n);

/* Compares in time that depends on n alone. */
bool equal_constant_time(const void *a, const void *b, size_t n) MUST_CHECK;

#endif
