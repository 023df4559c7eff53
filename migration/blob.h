/* swtpm's envelope around a TPM state blob, as bytes and as parts. Pure; nothing is copied.
 *
 * A big-endian header of 10 bytes: u8 version 2, u8 least version that a reader must know, u16
 * header size 10, u16 flags, u32 total length; then fields {u16 tag, u32 length, bytes}.
 *
 *     file form      header, then the state layer
 *     wire form      header with the migration flag, then the migration layer, whose content is a
 *                    state layer (what travels on the control channel)
 *
 * A layer is plain (one field: the content) or sealed (AES-CBC ciphertext, HMAC-SHA256, IV): the
 * state layer under swtpm's --key, the migration layer under its --migration-key. What is in a
 * sealed layer can only be known after opening it, so decoding goes layer by layer.
 *
 *     bytes --blob_decode--> struct blob --(open .layer)--> content [--blob_inner_decode--> layer]
 *
 * Strict: an unknown flag, tag or version, a field twice, a byte too many: refused by name.
 */
#ifndef NVKEEP_MIGRATION_BLOB_H
#define NVKEEP_MIGRATION_BLOB_H

#include "backend/store.h"
#include "crypto/migration_key.h"

enum blob_form { BLOB_FILE, BLOB_WIRE };
enum {
    BLOB_FILE_OVERHEAD = 16, /* bytes around a plain state */
    BLOB_WIRE_OVERHEAD = 22,
    BLOB_ENVELOPE_MAX = BLOB_MAX_BYTES + 256, /* longer ones are refused unread */
};

struct blob_part {
    const uint8_t *p; /* into what was decoded */
    size_t n;
};

struct blob_layer {
    bool sealed;
    unsigned key_bits;        /* of the key it is sealed with: 128 or 256 */
    struct blob_part content; /* never empty; ciphertext where sealed */
    struct blob_part mac, iv; /* where sealed: 32 bytes, and as many as the key has */
};

struct blob {
    enum blob_form form;
    struct blob_layer layer; /* the outermost: state (file) or migration (wire) */
    bool inner_sealed;       /* wire: what the header says of the state layer inside */
    unsigned inner_key_bits;
};

/* ERR_STATE_FOREIGN: no such header; ERR_STATE_CORRUPT: contradictory or cut off;
 * ERR_UNSUPPORTED: version, flag or tag that we do not know, or too long. */
int blob_decode(const uint8_t *p, size_t n, struct blob *ret, struct err *e) MUST_CHECK;
/* content: of a wire blob's migration layer, opened. */
int blob_inner_decode(const struct blob *b, struct blob_part content, struct blob_layer *ret,
                      struct err *e) MUST_CHECK;

/* Both steps for a blob that is plain all the way: the state itself, in place. ERR_KEY_MISSING
 * where a layer is sealed; the message says which key. */
int blob_plain(const uint8_t *p, size_t n, struct blob_part *ret, struct err *e) MUST_CHECK;

/* The same for a wire blob whose migration layer is sealed with this key (NULL: there is none, as
 * blob_plain). *ret: the state, *ret_n bytes of it; memory of its own.
 * ERR_KEY_WRONG; ERR_KEY_UNEXPECTED: a key was given and the blob is plain. */
int blob_open(const uint8_t *p, size_t n, const struct migration_key *key, struct secret **ret,
              size_t *ret_n, struct err *e) MUST_CHECK;
/* A state in a wire blob whose migration layer is sealed. *ret: *ret_n bytes, the whole blob. */
int blob_seal(const struct migration_key *key, const uint8_t *state, size_t n, struct secret **ret,
              size_t *ret_n, struct err *e) MUST_CHECK;

/* The same for the file form, whose state layer is sealed with this key, swtpm's --key (NULL: it is
 * plain). ERR_STATE_FOREIGN: the wire form. What swtpm once wrote as version 1, without fields, is
 * opened too, and sealed never. */
int blob_file_open(const uint8_t *p, size_t n, const struct migration_key *key, struct secret **ret,
                   size_t *ret_n, struct err *e) MUST_CHECK;
int blob_file_seal(const struct migration_key *key, const uint8_t *state, size_t n,
                   struct secret **ret, size_t *ret_n, struct err *e) MUST_CHECK;

/* A plain state in its envelope; n is at least 1. */
size_t blob_encoded_bytes(enum blob_form form, size_t n);
/* ret: blob_encoded_bytes(). */
void blob_encode(enum blob_form form, const uint8_t *state, size_t n, uint8_t *ret);

#endif
