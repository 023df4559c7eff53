#include "migration/blob.h"

#include <string.h>

#include "src/base/bytes.h"

enum {
    VERSION = 2,
    LEAST_VERSION = 1,
    HEADER_BYTES = 10,
    FIELD_BYTES = 6, /* tag and length in front of a field's bytes */

    FLAG_SEALED = 1 << 0,
    FLAG_MIGRATION_SEALED = 1 << 1,
    FLAG_MIGRATION = 1 << 2,
    FLAG_KEY_256 = 1 << 3,
    FLAG_MIGRATION_KEY_256 = 1 << 4,
    FLAGS_KNOWN = (1 << 5) - 1,

    MAC_BYTES = 32,
};

/* Tags of a layer's fields, as they differ between the two layers. */
struct tags {
    uint16_t plain, sealed, iv;
    const char *key; /* the option that names the key */
    const char *name;
};
enum { TAG_MAC = 3, TAG_MAX = 7 };
static const struct tags state_tags = {1, 2, 6, "--key", "state"};
static const struct tags migration_tags = {4, 5, 7, "--migration-key", "migration"};

/* --- layers --- */

/* Every field once, by tag. */
static int read_fields(struct bytes_in in, struct blob_part ret[TAG_MAX + 1], struct err *e)
{
    struct blob_part field[TAG_MAX + 1] = {0};
    while (in.left > 0) {
        uint16_t tag = bytes_be16(&in);
        uint32_t n = bytes_be32(&in);
        const uint8_t *p = bytes_take(&in, n);
        if (!p)
            return err_set(e, ERR_STATE_CORRUPT,
                           "the state blob is cut off: a field is longer than "
                           "what is left");
        if (tag == 0 || tag > TAG_MAX)
            return err_set(e, ERR_UNSUPPORTED, "the state blob has a field of unknown kind %u",
                           tag);
        if (field[tag].p)
            return err_set(e, ERR_STATE_CORRUPT, "the state blob has field %u twice", tag);
        field[tag] = (struct blob_part){p, n};
    }
    for (size_t i = 0; i <= TAG_MAX; i++)
        ret[i] = field[i];
    return 0;
}

/* Exactly the fields that a plain or a sealed layer has. */
static bool fields_are(const struct blob_part field[TAG_MAX + 1], unsigned wanted)
{
    unsigned there = 0;
    for (unsigned i = 0; i <= TAG_MAX; i++)
        there |= field[i].p ? 1u << i : 0;
    return there == wanted;
}

static int read_layer(struct bytes_in in, const struct tags *tags, bool sealed, unsigned key_bits,
                      struct blob_layer *ret, struct err *e)
{
    struct blob_part field[TAG_MAX + 1];
    if (read_fields(in, field, e) < 0)
        return -1;
    unsigned wanted =
        sealed ? 1u << tags->sealed | 1u << TAG_MAC | 1u << tags->iv : 1u << tags->plain;
    if (!fields_are(field, wanted))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the state blob's header says that its %s layer is %s, and its fields are "
                       "others",
                       tags->name, sealed ? "encrypted" : "not encrypted");
    struct blob_layer layer = {
        .sealed = sealed,
        .key_bits = sealed ? key_bits : 0,
        .content = field[sealed ? tags->sealed : tags->plain],
        .mac = field[sealed ? TAG_MAC : 0],
        .iv = field[sealed ? tags->iv : 0],
    };
    if (layer.content.n == 0)
        return err_set(e, ERR_STATE_CORRUPT, "the state blob's %s layer is empty", tags->name);
    /* AES takes 16 bytes as IV; swtpm stores as many as the key has. */
    if (sealed && (layer.mac.n != MAC_BYTES || layer.iv.n != key_bits / 8))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the state blob's %s layer has a MAC of %zu and an IV of %zu bytes, wanted "
                       "%d and %u",
                       tags->name, layer.mac.n, layer.iv.n, MAC_BYTES, key_bits / 8);
    *ret = layer;
    return 0;
}

/* --- the header --- */

static int read_header(struct bytes_in *in, size_t n, uint16_t *ret_flags, struct err *e)
{
    uint8_t version = bytes_u8(in);
    uint8_t least_version = bytes_u8(in);
    uint16_t header_bytes = bytes_be16(in);
    uint16_t flags = bytes_be16(in);
    uint32_t total = bytes_be32(in);
    if (in->bad || version == 0 || least_version == 0 || header_bytes < HEADER_BYTES)
        return err_set(e, ERR_STATE_FOREIGN, "%zu bytes that are not a TPM state blob", n);
    if (least_version > VERSION || version < VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "the state blob has format version %u (%u to read it); this is version %d",
                       version, least_version, VERSION);
    if (header_bytes != HEADER_BYTES || flags & ~FLAGS_KNOWN)
        return err_set(e, ERR_UNSUPPORTED,
                       "the state blob has a header of %u bytes and flags 0x%x; known are %d and "
                       "0x%x",
                       header_bytes, flags, HEADER_BYTES, FLAGS_KNOWN);
    if (total != n)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the state blob is %zu bytes long and says that it should be %u", n, total);
    *ret_flags = flags;
    return 0;
}

static unsigned bits(uint16_t flags, unsigned flag_256)
{
    return flags & flag_256 ? 256 : 128;
}

int blob_decode(const uint8_t *p, size_t n, struct blob *ret, struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    struct blob b = {0};
    uint16_t flags = 0;
    if (n > BLOB_ENVELOPE_MAX)
        return err_set(e, ERR_UNSUPPORTED, "a state blob of %zu bytes; at most %d are read", n,
                       BLOB_ENVELOPE_MAX);
    if (read_header(&in, n, &flags, e) < 0)
        return -1;
    bool sealed = flags & FLAG_SEALED;
    if (flags & FLAG_MIGRATION) {
        b.form = BLOB_WIRE;
        b.inner_sealed = sealed;
        b.inner_key_bits = sealed ? bits(flags, FLAG_KEY_256) : 0;
        if (read_layer(in, &migration_tags, flags & FLAG_MIGRATION_SEALED,
                       bits(flags, FLAG_MIGRATION_KEY_256), &b.layer, e) < 0)
            return -1;
    } else {
        b.form = BLOB_FILE;
        if (flags & FLAG_MIGRATION_SEALED)
            return err_set(e, ERR_STATE_CORRUPT,
                           "the state blob's flags 0x%x contradict each other", flags);
        if (read_layer(in, &state_tags, sealed, bits(flags, FLAG_KEY_256), &b.layer, e) < 0)
            return -1;
    }
    *ret = b;
    return 0;
}

int blob_inner_decode(const struct blob *b, struct blob_part content, struct blob_layer *ret,
                      struct err *e)
{
    return read_layer(bytes_in(content.p, content.n), &state_tags, b->inner_sealed,
                      b->inner_key_bits, ret, e);
}

static int key_missing(const struct tags *tags, struct err *e)
{
    return err_set(e, ERR_KEY_MISSING,
                   "the state blob's %s layer is encrypted, and no key for it was given (swtpm's "
                   "%s)",
                   tags->name, tags->key);
}

int blob_plain(const uint8_t *p, size_t n, struct blob_part *ret, struct err *e)
{
    struct blob b;
    if (blob_decode(p, n, &b, e) < 0)
        return -1;
    struct blob_layer state = b.layer;
    if (b.form == BLOB_WIRE) {
        if (b.layer.sealed)
            return key_missing(&migration_tags, e);
        if (blob_inner_decode(&b, b.layer.content, &state, e) < 0)
            return -1;
    }
    if (state.sealed)
        return key_missing(&state_tags, e);
    *ret = state.content;
    return 0;
}

/* --- encoding --- */

size_t blob_encoded_bytes(enum blob_form form, size_t n)
{
    return n + (form == BLOB_WIRE ? BLOB_WIRE_OVERHEAD : BLOB_FILE_OVERHEAD);
}

static void put_header(struct bytes_out *o, unsigned flags, size_t total)
{
    bytes_put_u8(o, VERSION);
    bytes_put_u8(o, LEAST_VERSION);
    bytes_put_be16(o, HEADER_BYTES);
    bytes_put_be16(o, (uint16_t)flags);
    bytes_put_be32(o, (uint32_t)total);
}

static void put_field_head(struct bytes_out *o, uint16_t tag, size_t n)
{
    bytes_put_be16(o, tag);
    bytes_put_be32(o, (uint32_t)n);
}

static void put_field(struct bytes_out *o, uint16_t tag, const uint8_t *p, size_t n)
{
    put_field_head(o, tag, n);
    bytes_put(o, p, n);
}

void blob_encode(enum blob_form form, const uint8_t *state, size_t n, uint8_t *ret)
{
    size_t total = blob_encoded_bytes(form, n);
    struct bytes_out o = bytes_out(ret, total);
    put_header(&o, form == BLOB_WIRE ? FLAG_MIGRATION : 0, total);
    if (form == BLOB_WIRE)
        put_field_head(&o, migration_tags.plain, FIELD_BYTES + n);
    put_field(&o, state_tags.plain, state, n);
}

/* --- under a migration key --- */

/* Where a part lies in a secret that begins with it in the end. */
static void keep_only(struct secret *s, struct blob_part part)
{
    memmove(secret_bytes(s), part.p, part.n);
}

static int copied(struct blob_part state, struct secret **ret, size_t *ret_n, struct err *e)
{
    OWNED(secret) s = NULL;
    if (secret_new(state.n, &s, e) < 0)
        return -1;
    keep_only(s, state);
    *ret = MOVE(s);
    *ret_n = state.n;
    return 0;
}

static int check_key(const struct blob *b, const struct migration_key *key, struct err *e)
{
    if (b->form != BLOB_WIRE || !b->layer.sealed)
        return err_set(e, ERR_KEY_UNEXPECTED,
                       "the state blob is not encrypted, and a migration key was given: whoever "
                       "sent it has no migration key; give both hosts the same one, or none");
    if (b->layer.key_bits != migration_key_bits(key))
        return err_set(e, ERR_KEY_WRONG,
                       "the state blob is sealed under a migration key of %u bits, and the one "
                       "given has %u; give both hosts the same key and mode",
                       b->layer.key_bits, migration_key_bits(key));
    return 0;
}

int blob_open(const uint8_t *p, size_t n, const struct migration_key *key, struct secret **ret,
              size_t *ret_n, struct err *e)
{
    OWNED(secret) content = NULL;
    struct blob_part plain;
    struct blob_layer state;
    struct blob b;
    size_t bytes = 0;
    if (!key)
        return blob_plain(p, n, &plain, e) < 0 ? -1 : copied(plain, ret, ret_n, e);
    if (blob_decode(p, n, &b, e) < 0 || check_key(&b, key, e) < 0 ||
        migration_layer_open(key, b.layer.content.p, b.layer.content.n, b.layer.mac.p, b.layer.iv.p,
                             &content, &bytes, e) < 0 ||
        blob_inner_decode(&b, (struct blob_part){secret_peek(content), bytes}, &state, e) < 0)
        return -1;
    if (state.sealed)
        return key_missing(&state_tags, e);
    keep_only(content, state.content);
    *ret = MOVE(content);
    *ret_n = state.content.n;
    return 0;
}

/* The state as the content of a migration layer: one field. */
static int inner_encode(const uint8_t *state, size_t n, struct secret **ret, struct err *e)
{
    if (secret_new(FIELD_BYTES + n, ret, e) < 0)
        return -1;
    struct bytes_out o = bytes_out(secret_bytes(*ret), FIELD_BYTES + n);
    put_field(&o, state_tags.plain, state, n);
    return 0;
}

static int check_size(size_t n, struct err *e)
{
    return n == 0 || n > BLOB_MAX_BYTES
               ? err_set(e, ERR_UNSUPPORTED, "a state of %zu bytes; sealed are 1 to %d", n,
                         BLOB_MAX_BYTES)
               : 0;
}

/* A whole blob around one sealed layer. */
static int seal_layer(const struct migration_key *key, const struct tags *tags, unsigned flags,
                      const uint8_t *content, size_t n, struct secret **ret, size_t *ret_n,
                      struct err *e)
{
    OWNED(secret) blob = NULL;
    uint8_t mac[MAC_BYTES], iv[MIGRATION_IV_MAX];
    unsigned key_bits = migration_key_bits(key);
    size_t sealed = migration_layer_bytes(key, n);
    size_t total = HEADER_BYTES + 3 * FIELD_BYTES + sealed + MAC_BYTES + key_bits / 8;
    if (secret_new(total, &blob, e) < 0 ||
        migration_layer_seal(key, content, n, secret_bytes(blob) + HEADER_BYTES + FIELD_BYTES, mac,
                             iv, e) < 0)
        return -1;
    struct bytes_out o = bytes_out(secret_bytes(blob), total);
    put_header(&o, flags, total);
    put_field_head(&o, tags->sealed, sealed);
    o.n += sealed; /* is there already */
    put_field(&o, TAG_MAC, mac, sizeof(mac));
    put_field(&o, tags->iv, iv, key_bits / 8);
    *ret = MOVE(blob);
    *ret_n = total;
    return 0;
}

int blob_seal(const struct migration_key *key, const uint8_t *state, size_t n, struct secret **ret,
              size_t *ret_n, struct err *e)
{
    OWNED(secret) inner = NULL;
    unsigned flags = FLAG_MIGRATION | FLAG_MIGRATION_SEALED |
                     (migration_key_bits(key) == 256 ? FLAG_MIGRATION_KEY_256 : 0);
    if (check_size(n, e) < 0 || inner_encode(state, n, &inner, e) < 0)
        return -1;
    return seal_layer(key, &migration_tags, flags, secret_peek(inner), FIELD_BYTES + n, ret, ret_n,
                      e);
}

/* --- files, under the key of the state itself --- */

static int check_state_key(bool sealed, unsigned key_bits, const struct migration_key *key,
                           struct err *e)
{
    if (sealed && !key)
        return key_missing(&state_tags, e);
    if (key && !sealed)
        return err_set(e, ERR_KEY_UNEXPECTED, "the state is not encrypted, and a key was given");
    if (key && key_bits != 0 && key_bits != migration_key_bits(key))
        return err_set(e, ERR_KEY_WRONG,
                       "the state is encrypted with a key of %u bits, and the one given has %u "
                       "(its mode=)",
                       key_bits, migration_key_bits(key));
    return 0;
}

/* What is said of a layer that travels does not fit a file. */
static int not_opened(struct err *e)
{
    return e->kind == ERR_KEY_WRONG
               ? err_set(e, ERR_KEY_WRONG,
                         "the state does not open with this key: it was encrypted with another "
                         "one, or is damaged (swtpm's format cannot tell)")
               : -1;
}

static int open_state_layer(const struct blob_layer *l, const struct migration_key *key,
                            struct secret **ret, size_t *ret_n, struct err *e)
{
    if (check_state_key(l->sealed, l->key_bits, key, e) < 0)
        return -1;
    if (!key)
        return copied(l->content, ret, ret_n, e);
    return migration_layer_open(key, l->content.p, l->content.n, l->mac.p, l->iv.p, ret, ret_n, e) <
                   0
               ? not_opened(e)
               : 0;
}

/* Version 1: behind the header is the state, or what it was encrypted to; of how long a key is not
 * said. */
static int open_old(const uint8_t *p, size_t n, const struct migration_key *key,
                    struct secret **ret, size_t *ret_n, struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    bytes_skip(&in, 2);
    uint16_t header_bytes = bytes_be16(&in), flags = bytes_be16(&in);
    uint32_t total = bytes_be32(&in);
    if (in.bad || header_bytes != HEADER_BYTES || n > BLOB_ENVELOPE_MAX || flags & ~FLAG_SEALED)
        return err_set(e, ERR_UNSUPPORTED,
                       "the state blob has format version 1, %zu bytes and flags 0x%x; of that "
                       "version plain and encrypted files are read",
                       n, flags);
    if (total != n || in.left == 0)
        return err_set(e, ERR_STATE_CORRUPT,
                       "the state blob is %zu bytes long and says that it should be %u", n, total);
    if (check_state_key(flags & FLAG_SEALED, 0, key, e) < 0)
        return -1;
    if (!key)
        return copied((struct blob_part){in.at, in.left}, ret, ret_n, e);
    return migration_layer_open_old(key, in.at, in.left, ret, ret_n, e) < 0 ? not_opened(e) : 0;
}

int blob_file_open(const uint8_t *p, size_t n, const struct migration_key *key, struct secret **ret,
                   size_t *ret_n, struct err *e)
{
    struct blob b;
    if (n >= 2 && p[0] == 1 && p[1] == 1)
        return open_old(p, n, key, ret, ret_n, e);
    if (blob_decode(p, n, &b, e) < 0)
        return -1;
    if (b.form != BLOB_FILE)
        return err_set(e, ERR_STATE_FOREIGN,
                       "this is a state as it travels in a migration, not as swtpm keeps it");
    return open_state_layer(&b.layer, key, ret, ret_n, e);
}

int blob_file_seal(const struct migration_key *key, const uint8_t *state, size_t n,
                   struct secret **ret, size_t *ret_n, struct err *e)
{
    OWNED(secret) blob = NULL;
    if (check_size(n, e) < 0)
        return -1;
    if (key)
        return seal_layer(key, &state_tags,
                          FLAG_SEALED | (migration_key_bits(key) == 256 ? FLAG_KEY_256 : 0), state,
                          n, ret, ret_n, e);
    if (secret_new(blob_encoded_bytes(BLOB_FILE, n), &blob, e) < 0)
        return -1;
    blob_encode(BLOB_FILE, state, n, secret_bytes(blob));
    *ret = MOVE(blob);
    *ret_n = blob_encoded_bytes(BLOB_FILE, n);
    return 0;
}
