/* What the crypto layer does in a second: the sector cipher by the length of a request, PBKDF2 by
 * hash and key. Prints numbers, judges none; times belong to an idle machine.
 *
 *     tool_crypto_bench [SECONDS_PER_LINE]
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "crypto/luks_key_priv.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void give_up(const struct err *e)
{
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

enum { BUF_SECTORS = 128 };

struct cipher_run {
    const struct sector_cipher *c;
    size_t n_sectors;
    uint8_t *buf;
    bool encrypt;
};

/* GB of sectors in one second, by one thread. */
static double gigabytes(const struct cipher_run *r, double budget)
{
    uint64_t done = 0;
    double start = seconds(), now;
    do {
        for (unsigned i = 0; i < 1000; i++) {
            if (r->encrypt)
                sector_encrypt(r->c, done, r->n_sectors, r->buf);
            else
                sector_decrypt(r->c, done, r->n_sectors, r->buf);
            done += r->n_sectors;
        }
        now = seconds();
    } while (now - start < budget);
    return (double)done * SECTOR_BYTES / (now - start) / 1e9;
}

static void sector_lines(const char *name, const struct luks_cipher *how, double budget)
{
    static const uint8_t key[LUKS_MAX_KEY_BYTES] =
        "no secret: 0123456789 abcdefghijklmnopqrstuvwxyz";
    static uint8_t buf[BUF_SECTORS * SECTOR_BYTES];
    OWNED(sector_cipher) c = NULL;
    struct err e;
    if (sector_cipher_with(how, key, &c, &e) < 0)
        give_up(&e);
    for (size_t n = 1; n <= BUF_SECTORS; n = n < 8 ? 8 : n * 16) {
        struct cipher_run r = {c, n, buf, true};
        double enc = gigabytes(&r, budget);
        r.encrypt = false;
        printf("%-28s %6zu bytes  encrypt %5.2f  decrypt %5.2f GB/s\n", name, n * SECTOR_BYTES, enc,
               gigabytes(&r, budget));
    }
}

static void stretch_line(const char *name, enum hash_alg alg, size_t key_bytes, double budget)
{
    uint8_t out[LUKS_MAX_KEY_BYTES];
    uint32_t each = 20000;
    uint64_t done = 0;
    double start = seconds(), now;
    do {
        if (pbkdf2(alg, "passphrase", 10, "0123456789abcdef0123456789abcdef", 32, each, out,
                   key_bytes, NULL) != 0)
            exit(1);
        done += each;
        now = seconds();
    } while (now - start < budget);
    size_t blocks = (key_bytes + hash_bytes(alg) - 1) / hash_bytes(alg);
    double millions = (double)done / (now - start) / 1e6;
    printf("pbkdf2 %-9s %2zu bytes  %6.2f M iterations/s (%6.2f M of single blocks)\n", name,
           key_bytes, millions, millions * (double)blocks);
}

int main(int argc, char **argv)
{
    static const struct luks_cipher xts256 = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, 0, 64};
    static const struct luks_cipher xts128 = {CIPHER_AES128, MODE_XTS, IVGEN_PLAIN64, 0, 32};
    static const struct luks_cipher cbc = {CIPHER_AES256, MODE_CBC, IVGEN_ESSIV, HASH_SHA256, 32};
    double budget = argc > 1 ? strtod(argv[1], NULL) : 0.5;
    sector_lines("aes-256-xts-plain64", &xts256, budget);
    sector_lines("aes-128-xts-plain64", &xts128, budget);
    sector_lines("aes-256-cbc-essiv:sha256", &cbc, budget);
    stretch_line("sha256", HASH_SHA256, 64, budget);
    stretch_line("sha256", HASH_SHA256, 32, budget);
    stretch_line("sha1", HASH_SHA1, 64, budget);
    stretch_line("sha512", HASH_SHA512, 64, budget);
    printf("key slot of 2 s: %u iterations\n", luks_iterations_for(2000));
    return 0;
}
