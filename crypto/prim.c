#include "crypto/prim.h"

#include <assert.h>
#include <errno.h>
#include <nettle/cbc.h>
#include <nettle/gcm.h>
#include <nettle/md5.h>
#include <nettle/nettle-meta.h>
#include <nettle/ripemd160.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/random.h>

#include "crypto/secret.h"
#include "src/base/bytes.h"

/* ---- hashes ---- */

static const struct nettle_hash *const hashes[] = {
    [HASH_MD5] = &nettle_md5,
    [HASH_SHA1] = &nettle_sha1,
    [HASH_SHA224] = &nettle_sha224,
    [HASH_SHA256] = &nettle_sha256,
    [HASH_SHA384] = &nettle_sha384,
    [HASH_SHA512] = &nettle_sha512,
    [HASH_RIPEMD160] = &nettle_ripemd160,
};

union hash_ctx {
    struct md5_ctx md5;
    struct sha1_ctx sha1;
    struct sha256_ctx sha256;
    struct sha512_ctx sha512;
    struct ripemd160_ctx ripemd160;
};
enum { HASH_MAX_BLOCK = SHA512_BLOCK_SIZE };

size_t hash_bytes(enum hash_alg alg)
{
    return hashes[alg]->digest_size;
}

void hash_compute(enum hash_alg alg, const struct span *parts, size_t n_parts, uint8_t *ret)
{
    const struct nettle_hash *h = hashes[alg];
    union hash_ctx c;
    h->init(&c);
    for (size_t i = 0; i < n_parts; i++)
        h->update(&c, parts[i].n, parts[i].p);
    h->digest(&c, h->digest_size, ret);
    wipe(&c, sizeof(c));
}

/* ---- HMAC [RFC 2104] ---- */

/* The states after the padded key are kept: a short message then costs two compressions instead of
 * four, and that is what PBKDF2 consists of. */
struct hmac {
    const struct nettle_hash *h;
    union hash_ctx inner, outer;
};

static void hmac_init(struct hmac *f, enum hash_alg alg, const void *key, size_t key_bytes)
{
    uint8_t k[HASH_MAX_BLOCK] = {0}, pad[HASH_MAX_BLOCK];
    const struct nettle_hash *h = f->h = hashes[alg];
    if (key_bytes > h->block_size)
        hash_compute(alg, &(struct span){key, key_bytes}, 1, k);
    else if (key_bytes > 0)
        memcpy(k, key, key_bytes);
    for (size_t i = 0; i < h->block_size; i++)
        pad[i] = k[i] ^ 0x36;
    h->init(&f->inner);
    h->update(&f->inner, h->block_size, pad);
    for (size_t i = 0; i < h->block_size; i++)
        pad[i] = k[i] ^ 0x5c;
    h->init(&f->outer);
    h->update(&f->outer, h->block_size, pad);
    wipe(k, sizeof(k));
    wipe(pad, sizeof(pad));
}

static void hmac_compute(const struct hmac *f, const struct span *parts, size_t n_parts,
                         uint8_t *ret)
{
    union hash_ctx c = f->inner;
    for (size_t i = 0; i < n_parts; i++)
        f->h->update(&c, parts[i].n, parts[i].p);
    f->h->digest(&c, f->h->digest_size, ret);
    c = f->outer;
    f->h->update(&c, f->h->digest_size, ret);
    f->h->digest(&c, f->h->digest_size, ret);
    wipe(&c, sizeof(c));
}

struct mac_key {
    struct secret *home; /* this struct lies in it */
    struct hmac hmac;
};

int mac_key_new(const void *key, size_t key_bytes, struct mac_key **ret, struct err *e)
{
    OWNED(secret) home = NULL;
    if (secret_new(sizeof(struct mac_key), &home, e) < 0)
        return -1;
    struct mac_key *k = (void *)secret_bytes(home);
    hmac_init(&k->hmac, HASH_SHA256, key, key_bytes);
    k->home = MOVE(home);
    *ret = k;
    return 0;
}

void mac_key_free(struct mac_key *k)
{
    if (k)
        secret_free(k->home);
}

void mac_compute(const struct mac_key *k, const struct span *parts, size_t n_parts,
                 uint8_t ret[SHA256_BYTES])
{
    hmac_compute(&k->hmac, parts, n_parts, ret);
}

void hkdf_sha256(const void *salt, size_t salt_bytes, const void *ikm, size_t ikm_bytes,
                 const char *info, void *ret, size_t ret_bytes)
{
    uint8_t t[SHA256_BYTES], count = 0;
    struct hmac h;
    assert(ret_bytes <= 255 * SHA256_BYTES);
    hmac_init(&h, HASH_SHA256, salt, salt_bytes);
    hmac_compute(&h, &(struct span){ikm, ikm_bytes}, 1, t);
    hmac_init(&h, HASH_SHA256, t, sizeof(t));
    for (size_t at = 0, n; at < ret_bytes; at += n) {
        n = ret_bytes - at < sizeof(t) ? ret_bytes - at : sizeof(t);
        count++;
        hmac_compute(
            &h, (struct span[]){{t, at > 0 ? sizeof(t) : 0}, {info, strlen(info)}, {&count, 1}}, 3,
            t);
        memcpy((uint8_t *)ret + at, t, n);
    }
    wipe(&h, sizeof(h));
    wipe(t, sizeof(t));
}

/* ---- PBKDF2 ---- */

/* One output block on its way: u is the newest link of the chain, t their sum. */
struct chain {
    uint8_t u[HASH_MAX_BYTES], t[HASH_MAX_BYTES];
};
/* As many side by side as a 64-byte key needs with the shortest digest. */
enum { MAX_CHAINS = 4, WATCH_EVERY = 4096 };

static void chains_run(const struct hmac *f, struct chain *c, size_t n_chains, uint32_t n)
{
    size_t digest = f->h->digest_size;
    union hash_ctx h;
    while (n-- > 0)
        for (size_t i = 0; i < n_chains; i++) {
            memcpy(&h, &f->inner, f->h->context_size);
            f->h->update(&h, digest, c[i].u);
            f->h->digest(&h, digest, c[i].u);
            memcpy(&h, &f->outer, f->h->context_size);
            f->h->update(&h, digest, c[i].u);
            f->h->digest(&h, digest, c[i].u);
            for (size_t j = 0; j < digest; j++)
                c[i].t[j] ^= c[i].u[j];
        }
    wipe(&h, sizeof(h));
}

/* SHA-256 without the padding logic: a digest is one block whose padding never changes, so state
 * in, one whole block, state out. */
struct chain256 {
    uint32_t t[8];
    uint8_t block[SHA256_BLOCK_SIZE];
};

static void put_state(uint8_t *block, const uint32_t state[8])
{
    for (size_t i = 0; i < 8; i++) {
        uint32_t be = __builtin_bswap32(state[i]);
        _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "states are swapped here");
        memcpy(block + 4 * i, &be, 4);
    }
}

static void compress256(struct sha256_ctx *h, const uint32_t from[8], const uint8_t *block)
{
    memcpy(h->state, from, sizeof(h->state));
    sha256_update(h, SHA256_BLOCK_SIZE, block);
}

static void chains_run_sha256(const struct hmac *f, struct chain *c, size_t n_chains, uint32_t n)
{
    /* index 0: a whole block goes straight to the compression function. */
    struct sha256_ctx h = {.index = 0};
    struct chain256 w[MAX_CHAINS];
    for (size_t i = 0; i < n_chains; i++) {
        memset(w[i].block, 0, sizeof(w[i].block));
        memcpy(w[i].block, c[i].u, SHA256_DIGEST_SIZE);
        w[i].block[SHA256_DIGEST_SIZE] = 0x80;
        put_be16(w[i].block + 62, 8 * (SHA256_BLOCK_SIZE + SHA256_DIGEST_SIZE));
        memset(w[i].t, 0, sizeof(w[i].t));
    }
    while (n-- > 0)
        for (size_t i = 0; i < n_chains; i++) {
            compress256(&h, f->inner.sha256.state, w[i].block);
            put_state(w[i].block, h.state);
            compress256(&h, f->outer.sha256.state, w[i].block);
            put_state(w[i].block, h.state);
            for (size_t j = 0; j < 8; j++)
                w[i].t[j] ^= h.state[j];
        }
    for (size_t i = 0; i < n_chains; i++) {
        uint8_t t[SHA256_DIGEST_SIZE];
        put_state(t, w[i].t);
        for (size_t j = 0; j < sizeof(t); j++)
            c[i].t[j] ^= t[j];
        memcpy(c[i].u, w[i].block, SHA256_DIGEST_SIZE);
        wipe(t, sizeof(t));
    }
    wipe(&h, sizeof(h));
    wipe(w, sizeof(w));
}

static bool go_on(const struct watch *w, uint64_t done, uint64_t total)
{
    return !w || w->go_on(w->ctx, done, total);
}

/* Blocks first .. first + n - 1 of the output, all with the same iterations. */
static bool chains_finish(const struct hmac *f, enum hash_alg alg, struct chain *c, size_t n_chains,
                          uint32_t iterations, uint64_t before, uint64_t total,
                          const struct watch *watch)
{
    uint32_t done = 1;
    while (done < iterations) {
        if (!go_on(watch, before + done, total))
            return false;
        uint32_t n = iterations - done < WATCH_EVERY ? iterations - done : WATCH_EVERY;
        if (alg == HASH_SHA256)
            chains_run_sha256(f, c, n_chains, n);
        else
            chains_run(f, c, n_chains, n);
        done += n;
    }
    return go_on(watch, before + done, total);
}

static void chain_start(const struct hmac *f, struct chain *c, const void *salt, size_t salt_bytes,
                        uint32_t number)
{
    uint8_t be[4];
    put_be32(be, number);
    hmac_compute(f, (struct span[]){{salt, salt_bytes}, {be, sizeof(be)}}, 2, c->u);
    memcpy(c->t, c->u, sizeof(c->t));
}

int pbkdf2(enum hash_alg alg, const void *pass, size_t pass_bytes, const void *salt,
           size_t salt_bytes, uint32_t iterations, void *ret, size_t ret_bytes,
           const struct watch *watch)
{
    size_t digest = hash_bytes(alg), n_blocks = (ret_bytes + digest - 1) / digest;
    uint64_t rounds = (n_blocks + MAX_CHAINS - 1) / MAX_CHAINS;
    struct chain c[MAX_CHAINS];
    struct hmac f;
    bool going = true;

    assert(iterations > 0 && ret_bytes > 0);
    hmac_init(&f, alg, pass, pass_bytes);
    for (size_t b = 0; b < n_blocks && going; b += MAX_CHAINS) {
        size_t n = n_blocks - b < MAX_CHAINS ? n_blocks - b : MAX_CHAINS;
        for (size_t i = 0; i < n; i++)
            chain_start(&f, &c[i], salt, salt_bytes, (uint32_t)(b + i + 1));
        going = chains_finish(&f, alg, c, n, iterations, b / MAX_CHAINS * (uint64_t)iterations,
                              rounds * iterations, watch);
        for (size_t i = 0; i < n && going; i++) {
            size_t at = (b + i) * digest, len = ret_bytes - at < digest ? ret_bytes - at : digest;
            memcpy((uint8_t *)ret + at, c[i].t, len);
        }
    }
    wipe(c, sizeof(c));
    wipe(&f, sizeof(f));
    if (!going)
        wipe(ret, ret_bytes);
    return going ? 0 : 1;
}

/* ---- block ciphers ---- */

static const struct nettle_cipher *const ciphers[] = {
    [CIPHER_AES128] = &nettle_aes128,         [CIPHER_AES192] = &nettle_aes192,
    [CIPHER_AES256] = &nettle_aes256,         [CIPHER_SERPENT128] = &nettle_serpent128,
    [CIPHER_SERPENT192] = &nettle_serpent192, [CIPHER_SERPENT256] = &nettle_serpent256,
    [CIPHER_TWOFISH128] = &nettle_twofish128, [CIPHER_TWOFISH192] = &nettle_twofish192,
    [CIPHER_TWOFISH256] = &nettle_twofish256, [CIPHER_CAST5_128] = &nettle_cast128,
};

struct block_cipher {
    struct secret *home; /* this struct and both schedules lie in it */
    const struct nettle_cipher *how;
    const void *encrypt, *decrypt;
};

size_t cipher_key_bytes(enum cipher_alg alg)
{
    return ciphers[alg]->key_size;
}

size_t cipher_block_bytes(enum cipher_alg alg)
{
    return ciphers[alg]->block_size;
}

int block_cipher_new(enum cipher_alg alg, const void *key, struct block_cipher **ret, struct err *e)
{
    const struct nettle_cipher *how = ciphers[alg];
    OWNED(secret) home = NULL;
    size_t head = (sizeof(struct block_cipher) + 63) & ~(size_t)63;
    size_t schedule = (how->context_size + 63) & ~(size_t)63;
    if (secret_new(head + 2 * schedule, &home, e) < 0)
        return -1;
    uint8_t *p = secret_bytes(home);
    struct block_cipher *c = (void *)p;
    how->set_encrypt_key(p + head, key);
    how->set_decrypt_key(p + head + schedule, key);
    c->how = how;
    c->encrypt = p + head;
    c->decrypt = p + head + schedule;
    c->home = MOVE(home);
    *ret = c;
    return 0;
}

void block_cipher_free(struct block_cipher *c)
{
    if (c)
        secret_free(c->home);
}

void block_encrypt(const struct block_cipher *c, size_t n, uint8_t *dst, const uint8_t *src)
{
    c->how->encrypt(c->encrypt, n, dst, src);
}

void block_decrypt(const struct block_cipher *c, size_t n, uint8_t *dst, const uint8_t *src)
{
    c->how->decrypt(c->decrypt, n, dst, src);
}

void block_cbc_encrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n, uint8_t *dst,
                       const uint8_t *src)
{
    uint8_t running[16];
    assert(c->how->block_size == sizeof(running) && n % sizeof(running) == 0);
    memcpy(running, iv, sizeof(running));
    cbc_encrypt(c->encrypt, c->how->encrypt, sizeof(running), running, n, dst, src);
}

void block_cbc_decrypt(const struct block_cipher *c, const uint8_t iv[16], size_t n, uint8_t *dst,
                       const uint8_t *src)
{
    uint8_t running[16];
    assert(c->how->block_size == sizeof(running) && n % sizeof(running) == 0);
    memcpy(running, iv, sizeof(running));
    cbc_decrypt(c->decrypt, c->how->decrypt, sizeof(running), running, n, dst, src);
}

/* ---- authenticated encryption ---- */

static const struct nettle_aead *const gcm = &nettle_gcm_aes256;
_Static_assert((int)AEAD_KEY_BYTES == AES256_KEY_SIZE && (int)AEAD_NONCE_BYTES == GCM_IV_SIZE &&
                   (int)AEAD_TAG_BYTES == GCM_DIGEST_SIZE,
               "what the header promises");

/* The key with its tables, in secret memory: ready for the content. */
static int gcm_begin(const uint8_t *key, const uint8_t *nonce, struct span ad, struct secret **ret,
                     struct err *e)
{
    OWNED(secret) home = NULL;
    if (secret_new(gcm->context_size, &home, e) < 0)
        return -1;
    void *c = secret_bytes(home);
    gcm->set_encrypt_key(c, key); /* the same for both directions */
    gcm->set_nonce(c, nonce);
    gcm->update(c, ad.n, ad.p);
    *ret = MOVE(home);
    return 0;
}

int aead_seal(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct span ad, struct span plain, uint8_t *ret, uint8_t ret_tag[AEAD_TAG_BYTES],
              struct err *e)
{
    OWNED(secret) home = NULL;
    if (gcm_begin(key, nonce, ad, &home, e) < 0)
        return -1;
    void *c = secret_bytes(home);
    if (plain.n > 0)
        gcm->encrypt(c, plain.n, ret, plain.p);
    gcm->digest(c, GCM_DIGEST_SIZE, ret_tag);
    return 0;
}

int aead_open(const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
              struct span ad, struct span cipher, const uint8_t tag[AEAD_TAG_BYTES], uint8_t *ret,
              struct err *e)
{
    OWNED(secret) home = NULL;
    uint8_t wanted[AEAD_TAG_BYTES];
    if (gcm_begin(key, nonce, ad, &home, e) < 0)
        return -1;
    void *c = secret_bytes(home);
    if (cipher.n > 0)
        gcm->decrypt(c, cipher.n, ret, cipher.p);
    gcm->digest(c, GCM_DIGEST_SIZE, wanted);
    bool right = equal_constant_time(wanted, tag, sizeof(wanted));
    wipe(wanted, sizeof(wanted));
    if (!right && cipher.n > 0)
        wipe(ret, cipher.n);
    return right;
}

/* ---- randomness ---- */

int random_bytes(void *ret, size_t n, struct err *e)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = getrandom((uint8_t *)ret + done, n - done, 0);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return err_sys(e, ERR_STORAGE, errno, "the kernel gives no random bytes");
        done += (size_t)r;
    }
    return 0;
}
