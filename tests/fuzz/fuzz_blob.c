/* Any bytes as swtpm's state blob. What is taken apart lies inside the input; what is plain and
 * encoded again in the form it came in gives the same bytes. The blobs of the corpus that are
 * sealed under known keys are opened, and any bytes are sealed as if they were a migration layer's
 * content.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "migration/blob.h"
#include "src/base/bytes.h"
#include "tests/crypto/envelope_helpers.h"

static void inside(const uint8_t *bytes, size_t n, struct blob_part part)
{
    PROMISE(part.n <= n && part.p >= bytes && (size_t)(part.p - bytes) <= n - part.n);
}

static void same_when_encoded_again(const uint8_t *bytes, size_t n, enum blob_form form,
                                    struct blob_part state)
{
    PROMISE(blob_encoded_bytes(form, state.n) == n);
    uint8_t *again = malloc(n);
    PROMISE(again);
    blob_encode(form, state.p, state.n, again);
    /* Up to the version, which may be higher than ours, and flags with the size of no key. */
    PROMISE(memcmp(again + 6, bytes + 6, n - 6) == 0);
    free(again);
}

static void check_open(const uint8_t *bytes, size_t n, const struct migration_key *key)
{
    OWNED(secret) state = NULL;
    OWNED(secret) sealed = NULL;
    OWNED(secret) again = NULL;
    size_t state_n = 0, sealed_n = 0, again_n = 0;
    struct err e = {0};
    if (blob_open(bytes, n, key, &state, &state_n, &e) < 0) {
        PROMISE(e.kind != ERR_NONE && e.kind != ERR_USAGE && e.text[0] != 0 && !state);
        return;
    }
    PROMISE(state_n > 0 && state_n < n && state_n <= secret_size(state));
    if (state_n > BLOB_MAX_BYTES)
        return;
    PROMISE(blob_seal(key, secret_peek(state), state_n, &sealed, &sealed_n, &e) == 0);
    PROMISE(sealed_n == n);
    PROMISE(blob_open(secret_peek(sealed), sealed_n, key, &again, &again_n, &e) == 0);
    PROMISE(again_n == state_n && !memcmp(secret_peek(again), secret_peek(state), state_n));
}

/* The same of the file form, plain where there is no key. */
static void check_file(const uint8_t *bytes, size_t n, const struct migration_key *key)
{
    OWNED(secret) state = NULL;
    OWNED(secret) sealed = NULL;
    OWNED(secret) again = NULL;
    size_t state_n = 0, sealed_n = 0, again_n = 0;
    struct err e = {0};
    if (blob_file_open(bytes, n, key, &state, &state_n, &e) < 0) {
        PROMISE(e.kind != ERR_NONE && e.kind != ERR_USAGE && e.text[0] != 0 && !state);
        return;
    }
    PROMISE(state_n > 0 && state_n < n && state_n <= secret_size(state));
    if (state_n > BLOB_MAX_BYTES)
        return;
    PROMISE(blob_file_seal(key, secret_peek(state), state_n, &sealed, &sealed_n, &e) == 0);
    PROMISE(sealed_n == n || bytes[0] == 1); /* the first format is not made any more */
    PROMISE(blob_file_open(secret_peek(sealed), sealed_n, key, &again, &again_n, &e) == 0);
    PROMISE(again_n == state_n && !memcmp(secret_peek(again), secret_peek(state), state_n));
}

/* Any bytes as a state. */
static void check_file_sealed(const uint8_t *bytes, size_t n, const struct migration_key *key)
{
    OWNED(secret) sealed = NULL;
    size_t sealed_n = 0;
    struct err e = {0};
    if (n == 0 || n > BLOB_MAX_BYTES)
        return;
    PROMISE(blob_file_seal(key, bytes, n, &sealed, &sealed_n, &e) == 0);
    check_file(secret_peek(sealed), sealed_n, key);
}

/* What somebody who has the key could send: the input, behind a header's length, as the content. */
static void check_sealed(const uint8_t *bytes, size_t n, const struct migration_key *key)
{
    uint8_t mac[SHA256_BYTES], iv[MIGRATION_IV_MAX];
    struct err e = {0};
    if (n < 12)
        return;
    size_t layer = migration_layer_bytes(key, n - 10), whole = 10 + 6 + layer + 6 + 32 + 6 + 16;
    uint8_t *blob = malloc(whole);
    PROMISE(blob);
    struct bytes_out o = bytes_out(blob, whole);
    bytes_put(&o, (const uint8_t[]){2, 1, 0, 10, 0, 6 | (bytes[5] & 1)}, 6);
    bytes_put_be32(&o, (uint32_t)whole);
    bytes_put_be16(&o, 5);
    bytes_put_be32(&o, (uint32_t)layer);
    PROMISE(migration_layer_seal(key, bytes + 10, n - 10, blob + o.n, mac, iv, &e) == 0);
    o.n += layer;
    bytes_put_be16(&o, 3);
    bytes_put_be32(&o, 32);
    bytes_put(&o, mac, 32);
    bytes_put_be16(&o, 7);
    bytes_put_be32(&o, 16);
    bytes_put(&o, iv, 16);
    PROMISE(o.n == whole && !o.bad);
    check_open(blob, whole, key);
    free(blob);
}

/* Without a key only what is plain opens, as the plain state that it is. */
static void check_without(const uint8_t *bytes, size_t n)
{
    OWNED(secret) state = NULL;
    struct blob_part plain;
    size_t state_n = 0;
    struct err e = {0};
    bool is_plain = blob_plain(bytes, n, &plain, &e) == 0;
    if (blob_open(bytes, n, NULL, &state, &state_n, &e) < 0) {
        PROMISE(!is_plain && e.kind != ERR_NONE && e.text[0] != 0 && !state);
        return;
    }
    PROMISE(is_plain && state_n == plain.n && !memcmp(secret_peek(state), plain.p, plain.n));
}

static void check_keys(const uint8_t *bytes, size_t n)
{
    OWNED(migration_key) small = known_migration_key(128, 1);
    OWNED(migration_key) large = known_migration_key(256, 1);
    check_open(bytes, n, small);
    check_open(bytes, n, large);
    check_sealed(bytes, n, small);
    check_file(bytes, n, NULL);
    check_file(bytes, n, small);
    if (n % 8 == 0) /* each costs several locked mappings */
        check_file_sealed(bytes, n, large);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct blob b;
    struct blob_part state;
    struct err e = {0};
    check_keys(bytes, n);
    check_without(bytes, n);
    if (blob_decode(bytes, n, &b, &e) < 0) {
        PROMISE(e.kind != ERR_NONE && e.text[0] != 0);
        PROMISE(blob_plain(bytes, n, &state, &e) < 0);
        return 0;
    }
    inside(bytes, n, b.layer.content);
    PROMISE(b.layer.content.n > 0);
    if (b.layer.sealed) {
        inside(bytes, n, b.layer.mac);
        inside(bytes, n, b.layer.iv);
        PROMISE(blob_plain(bytes, n, &state, &e) < 0 && e.kind == ERR_KEY_MISSING);
        return 0;
    }
    if (blob_plain(bytes, n, &state, &e) < 0)
        return 0;
    inside(bytes, n, state);
    same_when_encoded_again(bytes, n, b.form, state);
    return 0;
}
