#include "crypto/luks_key.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"

enum {
    /* Key material passes through memory in pieces of whole sectors and whole stripes, for every
     * length of key (16 to 64 bytes). */
    PIECE_SECTORS = 24,
    PIECE_BYTES = PIECE_SECTORS * SECTOR_BYTES,
};

struct volume_key {
    struct secret *bytes;
    struct luks_cipher how;
};

void volume_key_free(struct volume_key *k)
{
    if (!k)
        return;
    secret_free(k->bytes);
    free(k);
}

const uint8_t *volume_key_peek(const struct volume_key *k)
{
    return secret_peek(k->bytes);
}

const struct luks_cipher *volume_key_cipher(const struct volume_key *k)
{
    return &k->how;
}

static int volume_key_new(const struct luks_cipher *how, struct volume_key **ret, struct err *e)
{
    OWNED(volume_key) k = calloc(1, sizeof(*k));
    if (!k)
        return err_nomem(e, "a volume key");
    k->how = *how;
    if (secret_new(how->key_bytes, &k->bytes, e) < 0)
        return -1;
    *ret = MOVE(k);
    return 0;
}

int volume_key_copy(const struct volume_key *k, struct volume_key **ret, struct err *e)
{
    OWNED(volume_key) copy = NULL;
    if (volume_key_new(&k->how, &copy, e) < 0)
        return -1;
    memcpy(secret_bytes(copy->bytes), secret_peek(k->bytes), k->how.key_bytes);
    *ret = MOVE(copy);
    return 0;
}

bool volume_key_equal(const struct volume_key *a, const struct volume_key *b)
{
    return a->how.key_bytes == b->how.key_bytes &&
           equal_constant_time(secret_peek(a->bytes), secret_peek(b->bytes), a->how.key_bytes);
}

/* Everything secret of one attempt at a slot, in one locked place. */
struct attempt {
    uint8_t slot_key[LUKS_MAX_KEY_BYTES];
    uint8_t d[LUKS_MAX_KEY_BYTES]; /* the anti-forensic sum so far */
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t piece[PIECE_BYTES];
};

static int stopped(struct err *e)
{
    return err_set(e, ERR_USAGE, "interrupted");
}

/* One slot is two derivations, and the watch sees one row of iterations. */
struct both {
    const struct watch *outer;
    uint64_t before, total;
};

static bool both_go_on(void *ctx, uint64_t done, uint64_t total)
{
    const struct both *b = ctx;
    (void)total;
    return !b->outer || b->outer->go_on(b->outer->ctx, b->before + done, b->total);
}

/* ---- anti-forensic splitter [LUKS1 2.4] ---- */

static void diffuse(enum hash_alg alg, uint8_t *d, size_t key_bytes)
{
    size_t digest = hash_bytes(alg);
    uint8_t out[HASH_MAX_BYTES], be[4];
    for (size_t i = 0; i * digest < key_bytes; i++) {
        size_t left = key_bytes - i * digest, n = left < digest ? left : digest;
        put_be32(be, (uint32_t)i);
        hash_compute(alg, (struct span[]){{be, sizeof(be)}, {d + i * digest, n}}, 2, out);
        memcpy(d + i * digest, out, n);
    }
    wipe(out, sizeof(out));
}

static void xor_into(uint8_t *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] ^= src[i];
}

/* How many bytes of the split key, and how many sectors of it, the piece at sector `at` holds. */
static size_t piece_bytes(size_t key_bytes, size_t at, size_t *ret_sectors)
{
    size_t left = key_bytes * LUKS_STRIPES - at * SECTOR_BYTES;
    size_t n = left < PIECE_BYTES ? left : PIECE_BYTES;
    *ret_sectors = (n + SECTOR_BYTES - 1) / SECTOR_BYTES;
    return n;
}

static size_t material_sectors(size_t key_bytes)
{
    return (key_bytes * LUKS_STRIPES + SECTOR_BYTES - 1) / SECTOR_BYTES;
}

bool luks_material_is_whole(const struct luks_header *h, const uint8_t *material)
{
    size_t n = h->cipher.key_bytes * LUKS_STRIPES; /* then padding */
    for (size_t at = 0; at + SECTOR_BYTES <= n; at += SECTOR_BYTES)
        if (bytes_all_zero(material + at, SECTOR_BYTES))
            return false;
    return true;
}

/* Decrypts and merges; the volume key (if the slot key was right) is in a->d afterwards. */
static void merge(const struct luks_header *h, const struct sector_cipher *c,
                  const uint8_t *material, struct attempt *a)
{
    size_t key_bytes = h->cipher.key_bytes, stripe = 0, sectors;
    memset(a->d, 0, sizeof(a->d));
    for (size_t at = 0; at < material_sectors(key_bytes); at += PIECE_SECTORS) {
        size_t n = piece_bytes(key_bytes, at, &sectors);
        memcpy(a->piece, material + at * SECTOR_BYTES, sectors * SECTOR_BYTES);
        sector_decrypt(c, at, sectors, a->piece);
        for (size_t i = 0; i < n; i += key_bytes) {
            xor_into(a->d, a->piece + i, key_bytes);
            if (++stripe < LUKS_STRIPES)
                diffuse(h->hash, a->d, key_bytes);
        }
    }
}

/* The reverse: random stripes, and a last one that makes the sum the volume key. */
static int split(const struct luks_header *h, const struct sector_cipher *c, const uint8_t *key,
                 struct attempt *a, uint8_t *ret_material, struct err *e)
{
    size_t key_bytes = h->cipher.key_bytes, stripe = 0, sectors;
    memset(a->d, 0, sizeof(a->d));
    for (size_t at = 0; at < material_sectors(key_bytes); at += PIECE_SECTORS) {
        size_t n = piece_bytes(key_bytes, at, &sectors);
        if (random_bytes(a->piece, n, e) < 0)
            return -1;
        memset(a->piece + n, 0, sectors * SECTOR_BYTES - n);
        for (size_t i = 0; i < n; i += key_bytes) {
            if (++stripe == LUKS_STRIPES)
                memcpy(a->piece + i, key, key_bytes);
            xor_into(stripe == LUKS_STRIPES ? a->piece + i : a->d,
                     stripe == LUKS_STRIPES ? a->d : a->piece + i, key_bytes);
            if (stripe < LUKS_STRIPES)
                diffuse(h->hash, a->d, key_bytes);
        }
        sector_encrypt(c, at, sectors, a->piece);
        memcpy(ret_material + at * SECTOR_BYTES, a->piece, sectors * SECTOR_BYTES);
    }
    return 0;
}

/* ---- opening ---- */

int luks_slot_open(const struct luks_header *h, unsigned slot, const uint8_t *material,
                   const struct secret *pass, size_t pass_bytes, const struct watch *watch,
                   struct volume_key **ret, struct err *e)
{
    const struct luks_slot *s = &h->slot[slot];
    size_t key_bytes = h->cipher.key_bytes;
    struct both both = {watch, 0, (uint64_t)s->iterations + h->digest_iterations};
    struct watch inner = {both_go_on, &both};
    OWNED(secret) home = NULL;
    OWNED(sector_cipher) c = NULL;
    OWNED(volume_key) key = NULL;

    if (secret_new(sizeof(struct attempt), &home, e) < 0)
        return -1;
    struct attempt *a = (void *)secret_bytes(home);
    if (pbkdf2(h->hash, secret_peek(pass), pass_bytes, s->salt, sizeof(s->salt), s->iterations,
               a->slot_key, key_bytes, &inner) != 0)
        return stopped(e);
    if (sector_cipher_with(&h->cipher, a->slot_key, &c, e) < 0)
        return -1;
    merge(h, c, material, a);

    both.before = s->iterations;
    if (pbkdf2(h->hash, a->d, key_bytes, h->digest_salt, sizeof(h->digest_salt),
               h->digest_iterations, a->digest, sizeof(a->digest), &inner) != 0)
        return stopped(e);
    if (!equal_constant_time(a->digest, h->digest, sizeof(a->digest)))
        return 0;
    if (volume_key_new(&h->cipher, &key, e) < 0)
        return -1;
    memcpy(secret_bytes(key->bytes), a->d, key_bytes);
    *ret = MOVE(key);
    return 1;
}

/* ---- making ---- */

static void uuid_text(uint8_t u[16], char ret[41])
{
    u[6] = (uint8_t)((u[6] & 0x0f) | 0x40); /* [RFC 4122 4.4] */
    u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
    snprintf(ret, 41, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
             u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
             u[14], u[15]);
}

/* Two equal halves would undo XTS [SP 800-38E via FIPS 140 IG A.9]. */
static int random_xts_key(uint8_t *key, size_t key_bytes, struct err *e)
{
    do {
        if (random_bytes(key, key_bytes, e) < 0)
            return -1;
    } while (equal_constant_time(key, key + key_bytes / 2, key_bytes / 2));
    return 0;
}

int luks_volume_new(uint32_t digest_iterations, struct luks_header *ret_header,
                    struct volume_key **ret_key, struct err *e)
{
    struct luks_header h = {
        .cipher_name = "aes",
        .cipher_mode = "xts-plain64",
        .hash_spec = "sha256",
        .cipher = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, HASH_SHA256, 64},
        .hash = HASH_SHA256,
        .payload_sector = (uint32_t)(luks_area_bytes(64) / SECTOR_BYTES),
        .digest_iterations = digest_iterations,
    };
    OWNED(volume_key) key = NULL;
    uint8_t uuid[16];
    if (digest_iterations < LUKS_MIN_ITERATIONS)
        return err_set(e, ERR_USAGE, "a LUKS digest of %u iterations was asked for, at least %d",
                       digest_iterations, LUKS_MIN_ITERATIONS);
    if (volume_key_new(&h.cipher, &key, e) < 0)
        return -1;
    uint8_t *k = secret_bytes(key->bytes);
    if (random_xts_key(k, h.cipher.key_bytes, e) < 0 || random_bytes(uuid, sizeof(uuid), e) < 0 ||
        random_bytes(h.digest_salt, sizeof(h.digest_salt), e) < 0)
        return -1;
    uuid_text(uuid, h.uuid);
    (void)!pbkdf2(h.hash, k, h.cipher.key_bytes, h.digest_salt, sizeof(h.digest_salt),
                  h.digest_iterations, h.digest, sizeof(h.digest), NULL);
    for (uint32_t i = 0; i < LUKS_N_SLOTS; i++)
        h.slot[i].material_sector = 8 + i * luks_slot_sectors(h.cipher.key_bytes);
    *ret_header = h;
    *ret_key = MOVE(key);
    return 0;
}

/* What is written must be readable: luks_header_decode() counts in the same way. */
static int check_iterations(const struct luks_header *h, unsigned slot, uint32_t iterations,
                            struct err *e)
{
    uint64_t sum = (uint64_t)iterations + h->digest_iterations;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (i != slot && h->slot[i].active)
            sum += (uint64_t)h->slot[i].iterations + h->digest_iterations;
    if (iterations >= LUKS_MIN_ITERATIONS && sum <= LUKS_MAX_ITERATIONS)
        return 0;
    return err_set(e, ERR_USAGE,
                   "%u iterations of PBKDF2 were asked for key slot %u; at least %d, and at most "
                   "%llu over all slots",
                   iterations, slot, LUKS_MIN_ITERATIONS, (unsigned long long)LUKS_MAX_ITERATIONS);
}

int luks_slot_seal(struct luks_header *h, unsigned slot, const struct volume_key *key,
                   const struct secret *pass, size_t pass_bytes, uint32_t iterations,
                   const struct watch *watch, uint8_t *ret_material, struct err *e)
{
    struct luks_slot s = {true, iterations, {0}, h->slot[slot].material_sector};
    size_t key_bytes = h->cipher.key_bytes;
    OWNED(secret) home = NULL;
    OWNED(sector_cipher) c = NULL;
    if (check_iterations(h, slot, iterations, e) < 0 || random_bytes(s.salt, sizeof(s.salt), e) < 0)
        return -1;
    if (secret_new(sizeof(struct attempt), &home, e) < 0)
        return -1;
    struct attempt *a = (void *)secret_bytes(home);
    if (pbkdf2(h->hash, secret_peek(pass), pass_bytes, s.salt, sizeof(s.salt), iterations,
               a->slot_key, key_bytes, watch) != 0)
        return stopped(e);
    if (sector_cipher_with(&h->cipher, a->slot_key, &c, e) < 0 ||
        split(h, c, volume_key_peek(key), a, ret_material, e) < 0)
        return -1;
    size_t used = material_sectors(key_bytes), all = luks_slot_sectors(key_bytes);
    memset(ret_material + used * SECTOR_BYTES, 0, (all - used) * SECTOR_BYTES);
    h->slot[slot] = s;
    return 0;
}

/* ---- what a slot should cost ---- */

static double seconds_of_thread(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

uint32_t luks_iterations_for(unsigned ms)
{
    uint8_t key[LUKS_MAX_KEY_BYTES];
    uint32_t n = 1 << 10;
    double took;
    for (;; n *= 4) {
        double start = seconds_of_thread();
        (void)!pbkdf2(HASH_SHA256, "measure", 7, "0123456789abcdef0123456789abcdef", 32, n, key,
                      sizeof(key), NULL);
        took = seconds_of_thread() - start;
        /* The next would take four times as long, and all of them a third more than that. */
        if (took > 0.008 || n >= UINT32_C(1) << 26)
            break;
    }
    wipe(key, sizeof(key));
    double want = (double)n / (took > 0 ? took : 1e-9) * ms / 1000.0;
    uint32_t most = (uint32_t)(LUKS_MAX_ITERATIONS / 2);
    if (want > most)
        return most;
    return want < LUKS_MIN_ITERATIONS ? LUKS_MIN_ITERATIONS : (uint32_t)want;
}
