#include "crypto/envelope.h"

#include <string.h>

#include "crypto/der.h"
#include "crypto/luks_key_priv.h"
#include "crypto/migration_key_priv.h"

enum {
    VERSION = 1,
    KEY_ID_BYTES = 16,
    SALT_BYTES = 32,
    HEADER_MAX = 256,
    KINDS_MAX = 7,
    KIND_MAX = 3,
};
_Static_assert(HEADER_MAX + 2 * DER_HEAD_MAX + AEAD_TAG_BYTES <= ENVELOPE_OVERHEAD_MAX,
               "room for the longest header");

static const char aes256_gcm_oid[] = "2.16.840.1.101.3.4.1.46";

/* All that a header says. */
struct header {
    struct envelope_head head;
    uint8_t key_id[KEY_ID_BYTES];
    uint8_t salt[SALT_BYTES];
};

/* ---- keys ---- */

/* Each use of each key has keys of its own, so that nothing made for one passes for another. */
static const char *const content_labels[][ENVELOPE_READY + 1] = {
    [ENVELOPE_IMAGE_KEY] = {[ENVELOPE_STATE] = "nvkeep envelope 1 image key state",
                            [ENVELOPE_OFFER] = "nvkeep envelope 1 image key offer",
                            [ENVELOPE_READY] = "nvkeep envelope 1 image key ready"},
    [ENVELOPE_MIGRATION_KEY] = {[ENVELOPE_STATE] = "nvkeep envelope 1 migration key state",
                                [ENVELOPE_OFFER] = "nvkeep envelope 1 migration key offer",
                                [ENVELOPE_READY] = "nvkeep envelope 1 migration key ready"},
};
static const char *const id_labels[] = {
    [ENVELOPE_IMAGE_KEY] = "nvkeep envelope 1 image key id",
    [ENVELOPE_MIGRATION_KEY] = "nvkeep envelope 1 migration key id",
};

static bool use_is_known(uint64_t use)
{
    return use >= ENVELOPE_STATE && use <= ENVELOPE_READY;
}

static bool key_is_known(uint64_t key)
{
    return key == ENVELOPE_IMAGE_KEY || key == ENVELOPE_MIGRATION_KEY;
}

/* What the keys are derived from; p is NULL where there is none. */
static struct span key_bytes(const struct envelope_keys *keys, enum envelope_key which)
{
    if (which == ENVELOPE_IMAGE_KEY && keys->image)
        return (struct span){volume_key_peek(keys->image),
                             volume_key_cipher(keys->image)->key_bytes};
    if (which == ENVELOPE_MIGRATION_KEY && keys->migration)
        return (struct span){migration_key_peek(keys->migration),
                             migration_key_bits(keys->migration) / 8};
    return (struct span){0};
}

static int key_missing(enum envelope_key which, struct err *e)
{
    if (which == ENVELOPE_MIGRATION_KEY)
        return err_set(e, ERR_KEY_MISSING,
                       "sealed envelope: it is sealed under a migration key, and none was given; "
                       "give both hosts the same --migration-key");
    return err_set(e, ERR_KEY_MISSING,
                   "sealed envelope: it is sealed under the key of an image, and no image is open");
}

static void derive(struct span key, const uint8_t salt[SALT_BYTES], const char *label, void *ret,
                   size_t ret_bytes)
{
    hkdf_sha256(salt, SALT_BYTES, key.p, key.n, label, ret, ret_bytes);
}

/* ---- the header ---- */

static int header_new(struct der **ret, struct err *e)
{
    return der_new("NVKEEP.EnvelopeHeader", "sealed envelope", ret, e);
}

static int header_encode(const struct header *h, uint8_t ret[HEADER_MAX], size_t *ret_n,
                         struct err *e)
{
    const struct envelope_head *head = &h->head;
    OWNED(der) d = NULL;
    if (header_new(&d, e) < 0)
        return -1;
    der_put_u64(d, "version", VERSION);
    der_put_u64(d, "use", head->use);
    der_put_u64(d, "key", head->key);
    der_put_bytes(d, "keyId", h->key_id, sizeof(h->key_id));
    der_put_bytes(d, "salt", h->salt, sizeof(h->salt));
    der_put_oid(d, "algorithm", aes256_gcm_oid);
    der_put_bytes(d, "set", head->set, sizeof(head->set));
    der_put_bytes(d, "image", head->image, sizeof(head->image));
    der_put_bytes(d, "lineage", head->lineage, sizeof(head->lineage));
    der_put_oid(d, "device", device_oid(head->device));
    der_put_u64(d, "generation", head->generation);
    der_put_u64(d, "epoch", head->epoch);
    der_put_u64(d, "clock", head->clock);
    der_put_bytes(d, "mac", head->mac, sizeof(head->mac));
    der_put_u64(d, "library", head->library);
    der_put_u64(d, "kinds", head->kinds);
    der_put_u64(d, "kind", head->kind);
    return der_encode(d, ret, HEADER_MAX, ret_n, e);
}

static int unknown(struct err *e, const char *what, const char *found)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "sealed envelope: %s is %s, which this version does not know", what, found);
}

static int nonsense(struct err *e, const char *what, uint64_t found)
{
    return err_set(e, ERR_STATE_CORRUPT, "sealed envelope: %s is %llu, which makes no sense", what,
                   (unsigned long long)found);
}

/* What is written and what is read keeps to the same rules. */
static int check_kinds(uint64_t use, uint64_t kinds, uint64_t kind, struct err *e)
{
    if (kinds > KINDS_MAX)
        return nonsense(e, "its set of blobs", kinds);
    if (kind > KIND_MAX || (use == ENVELOPE_STATE) != (kind != 0))
        return nonsense(e, "its kind of blob", kind);
    return 0;
}

static int header_fields(struct der *d, struct header *ret, struct err *e)
{
    struct header h = {0};
    struct envelope_head *head = &h.head;
    char algorithm[DER_OID_MAX], device[DER_OID_MAX];
    uint64_t use = der_get_u64(d, "use"), key = der_get_u64(d, "key");
    der_get_bytes(d, "keyId", h.key_id, sizeof(h.key_id));
    der_get_bytes(d, "salt", h.salt, sizeof(h.salt));
    der_get_oid(d, "algorithm", algorithm);
    der_get_bytes(d, "set", head->set, sizeof(head->set));
    der_get_bytes(d, "image", head->image, sizeof(head->image));
    der_get_bytes(d, "lineage", head->lineage, sizeof(head->lineage));
    der_get_oid(d, "device", device);
    head->generation = der_get_u64(d, "generation");
    head->epoch = der_get_u64(d, "epoch");
    head->clock = der_get_u64(d, "clock");
    der_get_bytes(d, "mac", head->mac, sizeof(head->mac));
    uint64_t library = der_get_u64(d, "library"), kinds = der_get_u64(d, "kinds"),
             kind = der_get_u64(d, "kind");
    if (der_got(d, e) < 0)
        return -1;

    head->device = device_of_oid(device);
    if (strcmp(algorithm, aes256_gcm_oid))
        return unknown(e, "the cipher", algorithm);
    if (head->device == 0)
        return unknown(e, "the kind of device", device);
    if (!use_is_known(use))
        return nonsense(e, "its use", use);
    if (!key_is_known(key))
        return nonsense(e, "its kind of key", key);
    if (library > UINT32_MAX)
        return nonsense(e, "its version of libtpms", library);
    if (check_kinds(use, kinds, kind, e) < 0)
        return -1;
    head->use = (enum envelope_use)use;
    head->key = (enum envelope_key)key;
    head->library = (uint32_t)library;
    head->kinds = (unsigned)kinds;
    head->kind = (unsigned)kind;
    *ret = h;
    return 0;
}

static int header_decode(const uint8_t *p, size_t n, struct header *ret, struct err *e)
{
    OWNED(der) d = NULL;
    struct header h;
    uint8_t again[HEADER_MAX];
    size_t again_n = 0;
    if (header_new(&d, e) < 0 || der_decode(d, p, n, e) < 0 || header_fields(d, &h, e) < 0 ||
        header_encode(&h, again, &again_n, e) < 0 || der_same(d, p, n, again, again_n, e) < 0)
        return -1;
    *ret = h;
    return 0;
}

/* ---- the message ---- */

/* Its parts, where they lie. */
struct parts {
    struct span header; /* with tag and length: what is authenticated */
    struct span cipher;
    const uint8_t *tag;
};

bool envelope_is(const uint8_t *p, size_t n)
{
    return n > 0 && p[0] == DER_SEQUENCE;
}

/* A later version may have another header: its number is all that is read of it. */
static int check_version(struct bytes_in header, struct err *e)
{
    struct bytes_in version = der_take(&header, DER_INTEGER);
    uint64_t v = 0;
    if (version.left > sizeof(v))
        version.bad = true;
    while (version.left > 0 && !version.bad)
        v = v << 8 | bytes_u8(&version);
    if (version.bad)
        return err_set(e, ERR_STATE_CORRUPT, "sealed envelope: it does not begin with a version");
    if (v != VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "sealed envelope: version %llu, this program knows %d; a newer nvkeep made "
                       "it",
                       (unsigned long long)v, VERSION);
    return 0;
}

static int split(const uint8_t *p, size_t n, struct parts *ret, struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    if (!envelope_is(p, n))
        return err_set(e, ERR_STATE_FOREIGN, "%zu bytes that are not a sealed envelope", n);
    if (n > ENVELOPE_CONTENT_MAX + ENVELOPE_OVERHEAD_MAX)
        return err_set(e, ERR_UNSUPPORTED, "a sealed envelope of %zu bytes; at most %d are read", n,
                       ENVELOPE_CONTENT_MAX + ENVELOPE_OVERHEAD_MAX);
    struct bytes_in all = der_take(&in, DER_SEQUENCE);
    const uint8_t *header_at = all.at;
    struct bytes_in header = der_take(&all, DER_SEQUENCE);
    size_t header_bytes = all.bad ? 0 : (size_t)(all.at - header_at);
    struct bytes_in content = der_take(&all, DER_OCTET_STRING);
    if (header.bad || !bytes_done(&in) || !bytes_done(&all) || content.left < AEAD_TAG_BYTES)
        return err_set(e, ERR_STATE_CORRUPT,
                       "sealed envelope: damaged: its %zu bytes are cut off, or its lengths "
                       "contradict each other",
                       n);
    if (check_version(header, e) < 0)
        return -1;
    if (header_bytes > HEADER_MAX)
        return err_set(e, ERR_STATE_CORRUPT, "sealed envelope: a header of %zu bytes",
                       header_bytes);
    *ret = (struct parts){
        .header = {header_at, header_bytes},
        .cipher = {content.at, content.left - AEAD_TAG_BYTES},
        .tag = content.at + content.left - AEAD_TAG_BYTES,
    };
    return 0;
}

/* ---- sealing ---- */

/* Each key encrypts one message: its salt was drawn for it. So the nonce need not differ. */
static const uint8_t nonce[AEAD_NONCE_BYTES];

static int check_sealing(const struct envelope_head *head, const struct envelope_keys *keys,
                         size_t n, struct err *e)
{
    if (!use_is_known(head->use) || !key_is_known(head->key) || !device_oid(head->device))
        return err_set(e, ERR_USAGE, "an envelope of unknown use %d, key %d or device %d",
                       (int)head->use, (int)head->key, (int)head->device);
    if (check_kinds(head->use, head->kinds, head->kind, e) < 0)
        return -1;
    if (!key_bytes(keys, head->key).p)
        return key_missing(head->key, e);
    if (n > ENVELOPE_CONTENT_MAX)
        return err_set(e, ERR_UNSUPPORTED, "an envelope for %zu bytes; at most %d are sealed", n,
                       ENVELOPE_CONTENT_MAX);
    return 0;
}

int envelope_seal(const struct envelope_head *head, const struct envelope_keys *keys,
                  const uint8_t *content, size_t n, uint8_t *ret, size_t *ret_n, struct err *e)
{
    struct header h = {.head = *head};
    uint8_t der[HEADER_MAX], key[AEAD_KEY_BYTES];
    size_t der_n = 0, sealed = n + AEAD_TAG_BYTES;
    if (check_sealing(head, keys, n, e) < 0 || random_bytes(h.salt, sizeof(h.salt), e) < 0)
        return -1;
    struct span from = key_bytes(keys, head->key);
    derive(from, h.salt, id_labels[head->key], h.key_id, sizeof(h.key_id));
    if (header_encode(&h, der, &der_n, e) < 0)
        return -1;

    size_t all = der_n + der_head_bytes(sealed) + sealed, at = der_head_bytes(all) + all - sealed;
    derive(from, h.salt, content_labels[head->key][head->use], key, sizeof(key));
    int r = aead_seal(key, nonce, (struct span){der, der_n}, (struct span){content, n}, ret + at,
                      ret + at + n, e);
    wipe(key, sizeof(key));
    if (r < 0)
        return -1;
    struct bytes_out out = bytes_out(ret, at);
    der_put_head(&out, DER_SEQUENCE, all);
    bytes_put(&out, der, der_n);
    der_put_head(&out, DER_OCTET_STRING, sealed);
    *ret_n = at + sealed;
    return 0;
}

/* ---- opening ---- */

static const char *use_name(enum envelope_use use)
{
    return use == ENVELOPE_STATE   ? "a TPM's state"
           : use == ENVELOPE_OFFER ? "the token of prepare-outgoing"
                                   : "the token of prepare-incoming";
}

/* Is it for us, and have we the key? The key id is compared before anything is decrypted, to tell
 * another key from damage. */
static int check_key(enum envelope_use use, const struct header *h,
                     const struct envelope_keys *keys, struct err *e)
{
    uint8_t id[KEY_ID_BYTES];
    struct span from = key_bytes(keys, h->head.key);
    if (h->head.use != use)
        return err_set(e, ERR_STATE_FOREIGN, "sealed envelope: it holds %s, wanted %s",
                       use_name(h->head.use), use_name(use));
    if (!from.p)
        return key_missing(h->head.key, e);
    derive(from, h->salt, id_labels[h->head.key], id, sizeof(id));
    if (equal_constant_time(id, h->key_id, sizeof(id)))
        return 0;
    if (h->head.key == ENVELOPE_MIGRATION_KEY)
        return err_set(e, ERR_KEY_WRONG,
                       "sealed envelope: it is sealed under another migration key; give both "
                       "hosts the same --migration-key");
    return err_set(e, ERR_STATE_FOREIGN,
                   "sealed envelope: it is sealed under the key of another image; use the image "
                   "it comes from, or give both hosts a --migration-key");
}

static int content_open(const struct header *h, struct span from, const struct parts *parts,
                        struct secret **ret, struct err *e)
{
    OWNED(secret) content = NULL;
    uint8_t key[AEAD_KEY_BYTES];
    if (secret_new(parts->cipher.n > 0 ? parts->cipher.n : 1, &content, e) < 0)
        return -1;
    derive(from, h->salt, content_labels[h->head.key][h->head.use], key, sizeof(key));
    int r =
        aead_open(key, nonce, parts->header, parts->cipher, parts->tag, secret_bytes(content), e);
    wipe(key, sizeof(key));
    if (r < 0)
        return -1;
    if (r == 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "sealed envelope: damaged or changed on its way: the key is right, and its "
                       "content is not authentic");
    *ret = parts->cipher.n > 0 ? MOVE(content) : NULL;
    return 0;
}

int envelope_open(enum envelope_use use, const struct envelope_keys *keys, const uint8_t *p,
                  size_t n, struct envelope_head *ret_head, struct secret **ret, size_t *ret_n,
                  struct err *e)
{
    struct parts parts;
    struct header h;
    struct secret *content = NULL;
    if (split(p, n, &parts, e) < 0 || header_decode(parts.header.p, parts.header.n, &h, e) < 0 ||
        check_key(use, &h, keys, e) < 0 ||
        content_open(&h, key_bytes(keys, h.head.key), &parts, &content, e) < 0)
        return -1;
    *ret_head = h.head;
    *ret = content;
    *ret_n = parts.cipher.n;
    return 0;
}
