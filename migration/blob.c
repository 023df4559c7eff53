#include "migration/blob.h"

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

void blob_encode(enum blob_form form, const uint8_t *state, size_t n, uint8_t *ret)
{
    size_t total = blob_encoded_bytes(form, n);
    struct bytes_out o = bytes_out(ret, total);
    bytes_put_u8(&o, VERSION);
    bytes_put_u8(&o, LEAST_VERSION);
    bytes_put_be16(&o, HEADER_BYTES);
    bytes_put_be16(&o, form == BLOB_WIRE ? FLAG_MIGRATION : 0);
    bytes_put_be32(&o, (uint32_t)total);
    if (form == BLOB_WIRE) {
        bytes_put_be16(&o, migration_tags.plain);
        bytes_put_be32(&o, (uint32_t)(FIELD_BYTES + n));
    }
    bytes_put_be16(&o, state_tags.plain);
    bytes_put_be32(&o, (uint32_t)n);
    bytes_put(&o, state, n);
}
