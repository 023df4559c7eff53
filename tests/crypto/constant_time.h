/* Secrets that memcheck takes for uninitialised: from then on it reports every branch and every
 * address that depends on one of them, or on what was computed from them.
 *
 * What may be known of a secret is made known here and nowhere else, around the product's own
 * functions (the linker's --wrap), so that the product is tested as it is:
 *
 * - equal_constant_time: the verdict. It is told to the peer or the user, and what follows differs.
 * - hkdf_sha256 with a label that ends in "id" or "id 1": a key id, which lies in clear in the
 *   reference sector and in the envelope, to tell another key from damage.
 * - block_cbc_decrypt: the last 32 bytes, where the padding of swtpm's layer is. Its MAC was found
 *   right before, so nobody can try paddings; and the length of the content is no secret.
 * - blk_write: what goes into the new key file is written there on purpose.
 *
 * And by the cases themselves: the length of a key or passphrase; the first two and the last
 * character of a migration key in hex (is there an 0x, does white space follow); the last byte of a
 * key of which one newline is dropped.
 *
 * Outside: key_usable_by_qemu(), which reads a passphrase for a new image as UTF-8 and has to tell
 * where it is none; store_diff.c, which compares the old state with the new one, and whose verdict
 * is the length of the record; all of libtpms; and nettle's own tables, see constant_time.supp.
 */
#ifndef NVKEEP_TESTS_CRYPTO_CONSTANT_TIME_H
#define NVKEEP_TESTS_CRYPTO_CONSTANT_TIME_H

#include <valgrind/memcheck.h>

#include "backend/blk.h"
#include "tests/crypto/helpers.h"

static inline void hide(const void *p, size_t n)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(p, n);
}

static inline void show(const void *p, size_t n)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(p, n);
}

static inline unsigned n_reports(void)
{
    return VALGRIND_COUNT_ERRORS;
}

/* How many of the next calls for randomness draw something secret, and whether what is read from a
 * descriptor is secret but for its last byte. */
static unsigned secret_draws;
static bool reads_are_secret;

/* ---- what is wrapped ---- */

bool __real_equal_constant_time(const void *a, const void *b, size_t n);
bool __wrap_equal_constant_time(const void *a, const void *b, size_t n);
bool __wrap_equal_constant_time(const void *a, const void *b, size_t n)
{
    bool verdict = __real_equal_constant_time(a, b, n);
    show(&verdict, sizeof(verdict));
    return verdict;
}

void __real_hkdf_sha256(const void *salt, size_t salt_bytes, const void *ikm, size_t ikm_bytes,
                        const char *info, void *ret, size_t ret_bytes);
void __wrap_hkdf_sha256(const void *salt, size_t salt_bytes, const void *ikm, size_t ikm_bytes,
                        const char *info, void *ret, size_t ret_bytes);
void __wrap_hkdf_sha256(const void *salt, size_t salt_bytes, const void *ikm, size_t ikm_bytes,
                        const char *info, void *ret, size_t ret_bytes)
{
    size_t n = strlen(info);
    __real_hkdf_sha256(salt, salt_bytes, ikm, ikm_bytes, info, ret, ret_bytes);
    if (!strcmp(info + n - 2, "id") || !strcmp(info + n - 4, "id 1"))
        show(ret, ret_bytes);
}

struct block_cipher;
void __real_block_cbc_decrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n,
                              uint8_t *dst, const uint8_t *src);
void __wrap_block_cbc_decrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n,
                              uint8_t *dst, const uint8_t *src);
void __wrap_block_cbc_decrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n,
                              uint8_t *dst, const uint8_t *src)
{
    __real_block_cbc_decrypt(c, iv, n, dst, src);
    show(dst + (n < 32 ? 0 : n - 32), n < 32 ? n : 32);
}

int __real_random_bytes(void *ret, size_t n, struct err *e);
int __wrap_random_bytes(void *ret, size_t n, struct err *e);
int __wrap_random_bytes(void *ret, size_t n, struct err *e)
{
    int r = __real_random_bytes(ret, n, e);
    if (secret_draws > 0) {
        hide(ret, n);
        secret_draws--;
    }
    return r;
}

int __real_blk_write(struct blk_rw *w, struct host at, const void *p, size_t n, struct err *e);
int __wrap_blk_write(struct blk_rw *w, struct host at, const void *p, size_t n, struct err *e);
int __wrap_blk_write(struct blk_rw *w, struct host at, const void *p, size_t n, struct err *e)
{
    show(p, n);
    int r = __real_blk_write(w, at, p, n, e);
    hide(p, n);
    return r;
}

ssize_t __real_read(int fd, void *ret, size_t n);
ssize_t __wrap_read(int fd, void *ret, size_t n);
ssize_t __wrap_read(int fd, void *ret, size_t n)
{
    ssize_t r = __real_read(fd, ret, n);
    if (reads_are_secret && r > 1)
        hide(ret, (size_t)r - 1);
    return r;
}

#endif
