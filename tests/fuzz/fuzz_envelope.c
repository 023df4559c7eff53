/* Any bytes as a sealed envelope, under the image key and the migration key of the seeds. They are
 * opened as they are, and again with key id and tag made right, so that a changed header that is
 * authentic is seen too. */
#include <string.h>

#include "crypto/der.h"
#include "crypto/envelope.h"
#include "tests/crypto/envelope_helpers.h"
#include "tests/crypto/known_key.h"
#include "tests/fuzz/fuzz.h"

static struct envelope_keys keys;

/* What came out was allowed to, and can be sealed and opened again. */
static void check_opened(enum envelope_use use, const struct envelope_head *h,
                         const struct secret *content, size_t n, size_t whole)
{
    struct envelope_head again;
    OWNED(secret) back = NULL;
    struct err e;
    size_t sealed_n = 0, back_n = 0;
    PROMISE(h->use == use && h->kinds <= 7 && h->kind <= 3 && (h->kind == 0) != (use == 1));
    PROMISE(h->device == DEVICE_TPM12 || h->device == DEVICE_TPM20);
    PROMISE((content == NULL) == (n == 0) && n < whole);
    PROMISE(!content || secret_size(content) >= n);
    uint8_t *sealed = malloc(n + ENVELOPE_OVERHEAD_MAX);
    PROMISE(sealed);
    PROMISE(envelope_seal(h, &keys, content ? secret_peek(content) : NULL, n, sealed, &sealed_n,
                          &e) == 0);
    /* One spelling: another salt, key id and content, and nothing else. */
    PROMISE(sealed_n == whole);
    PROMISE(envelope_open(use, &keys, sealed, sealed_n, &again, &back, &back_n, &e) == 0);
    PROMISE(same_head(&again, h) && back_n == n);
    PROMISE(n == 0 || !memcmp(secret_peek(back), secret_peek(content), n));
    free(sealed);
}

static void check(const uint8_t *bytes, size_t n)
{
    for (enum envelope_use use = ENVELOPE_STATE; use <= ENVELOPE_READY; use++) {
        struct envelope_head h;
        OWNED(secret) content = NULL;
        size_t len = 0;
        struct err e = {0};
        memset(&h, 0, sizeof(h));
        if (envelope_open(use, &keys, bytes, n, &h, &content, &len, &e) == 0)
            check_opened(use, &h, content, len, n);
        else
            PROMISE((e.kind == ERR_STATE_CORRUPT || e.kind == ERR_STATE_FOREIGN ||
                     e.kind == ERR_KEY_WRONG || e.kind == ERR_UNSUPPORTED) &&
                    e.text[0] && !content);
    }
}

/* Where key id, salt and tag lie, if it is so far an envelope of a state under the image's key. */
static bool sign(uint8_t *bytes, size_t n)
{
    static const uint8_t nonce[AEAD_NONCE_BYTES];
    struct bytes_in in = bytes_in(bytes, n), all = der_take(&in, DER_SEQUENCE);
    size_t header_at = (size_t)(all.at - bytes);
    struct bytes_in header = der_take(&all, DER_SEQUENCE);
    size_t header_end = (size_t)(all.at - bytes);
    struct bytes_in content = der_take(&all, DER_OCTET_STRING);
    for (int i = 0; i < 3; i++)
        (void)der_take(&header, DER_INTEGER);
    struct bytes_in id = der_take(&header, DER_OCTET_STRING),
                    salt = der_take(&header, DER_OCTET_STRING);
    if (salt.bad || content.bad || id.left != 16 || salt.left != 32 || content.left < 16)
        return false;
    const uint8_t *key = volume_key_peek(keys.image);
    uint8_t k[AEAD_KEY_BYTES], *plain = calloc(1, content.left), *out = malloc(content.left);
    struct err e;
    PROMISE(plain && out);
    size_t len = content.left - AEAD_TAG_BYTES;
    hkdf_sha256(salt.at, 32, key, 64, "nvkeep envelope 1 image key id", bytes + (id.at - bytes),
                16);
    hkdf_sha256(salt.at, 32, key, 64, "nvkeep envelope 1 image key state", k, sizeof(k));
    if (aead_seal(k, nonce, (struct span){bytes + header_at, header_end - header_at},
                  (struct span){plain, len}, out, out + len, &e) < 0)
        abort();
    memcpy(bytes + (content.at - bytes), out, content.left);
    free(plain);
    free(out);
    return true;
}

/* Whoever lacks the key gets nothing. */
static void check_without(const uint8_t *bytes, size_t n)
{
    const struct envelope_keys none = {NULL, NULL};
    for (enum envelope_use use = ENVELOPE_STATE; use <= ENVELOPE_READY; use++) {
        struct envelope_head h;
        OWNED(secret) content = NULL;
        size_t len = 0;
        struct err e = {0};
        PROMISE(envelope_open(use, &none, bytes, n, &h, &content, &len, &e) < 0);
        PROMISE(e.kind != ERR_NONE && e.kind != ERR_USAGE && e.text[0] && !content);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct volume_key *image;
    OWNED(migration_key) migration = known_migration_key(256, 0x80);
    if (!image)
        image = known_key();
    keys = (struct envelope_keys){image, migration};
    check(bytes, n);
    check_without(bytes, n);
    uint8_t *copy = malloc(n ? n : 1);
    PROMISE(copy);
    if (n > 0)
        memcpy(copy, bytes, n);
    if (sign(copy, n))
        check(copy, n);
    free(copy);
    keys.migration = NULL;
    return 0;
}
