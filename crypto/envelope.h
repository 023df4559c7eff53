/* The sealed envelope: how a TPM's state, and the tokens of a prepared hand-over, travel.
 *
 * DER (SealedEnvelope of nvkeep.asn): a header in the clear, and the content under AES-256-GCM. The
 * header is the associated data, so that a content never passes under another header. The key is
 * derived (HKDF-SHA256) from what both ends hold, the image's volume key or a migration key, with a
 * salt drawn for this one envelope. A key id in the header, derived with the same salt, tells
 * another key from damage.
 *
 * It begins with 0x30 (a DER SEQUENCE); swtpm's blobs begin with 0x02. Decoding is strict, pure and
 * bounded; nothing of the content is released before its tag was found right.
 */
#ifndef NVKEEP_CRYPTO_ENVELOPE_H
#define NVKEEP_CRYPTO_ENVELOPE_H

#include "crypto/luks_key.h"
#include "crypto/migration_key.h"
#include "crypto/ref_sector.h"

enum envelope_use {
    ENVELOPE_STATE = 1, /* a blob of a TPM's state */
    ENVELOPE_OFFER = 2, /* token of prepare-outgoing */
    ENVELOPE_READY = 3, /* token of prepare-incoming */
};
enum envelope_key { ENVELOPE_IMAGE_KEY = 1, ENVELOPE_MIGRATION_KEY = 2 };

struct envelope_head {
    enum envelope_use use;
    enum envelope_key key;
    uint8_t set[16];     /* of one export; in tokens: the nonce */
    uint8_t image[16];   /* instance of the image it comes from */
    uint8_t lineage[16]; /* of the TPM: instance of the image in which it was made */
    enum device_kind device;
    uint64_t generation, epoch; /* of the newest record of that image */
    uint64_t clock;             /* of the TPM: see backend/store_origin.h */
    uint8_t mac[SHA256_BYTES];
    uint32_t
        library;    /* version of libtpms that wrote the state: major << 16 | minor << 8 | micro */
    unsigned kinds; /* bit (kind - 1) for each blob of the set */
    unsigned kind;  /* of this blob; 0 in tokens */
};

/* What both ends hold; either may be NULL. Borrowed. */
struct envelope_keys {
    const struct volume_key *image;
    const struct migration_key *migration;
};

enum { ENVELOPE_OVERHEAD_MAX = 512, ENVELOPE_CONTENT_MAX = 512 * 1024 };

bool envelope_is(const uint8_t *p, size_t n); /* begins like one */

/* head->key says which of the keys. ret: room for n + ENVELOPE_OVERHEAD_MAX, apart from content.
 * ERR_KEY_MISSING: there is no such key; ERR_UNSUPPORTED: longer than ENVELOPE_CONTENT_MAX. */
int envelope_seal(const struct envelope_head *head, const struct envelope_keys *keys,
                  const uint8_t *content, size_t n, uint8_t *ret, size_t *ret_n,
                  struct err *e) MUST_CHECK;
/* ERR_STATE_FOREIGN: not an envelope, of another use, or sealed under the key of another image;
 * ERR_KEY_MISSING: sealed under a migration key (or the key of an image), and there is none;
 * ERR_KEY_WRONG: under another migration key; ERR_STATE_CORRUPT: the key is right, the bytes are
 * not; ERR_UNSUPPORTED: version, algorithm or length. *ret: NULL where the content is empty. */
int envelope_open(enum envelope_use use, const struct envelope_keys *keys, const uint8_t *p,
                  size_t n, struct envelope_head *ret_head, struct secret **ret, size_t *ret_n,
                  struct err *e) MUST_CHECK;

#endif
