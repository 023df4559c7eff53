/* The LUKS1 header, as bytes and as numbers. Pure: decode and encode touch only their arguments.
 *
 * A struct luks_header that luks_header_decode() returned is safe to compute with: every string is
 * from the allow list, every slot lies inside the area and overlaps no other, every iteration count
 * is below the cap. It contains no key. [LUKS1 On-Disk Format 1.2.3]
 */
#ifndef NVKEEP_CRYPTO_LUKS_HEADER_H
#define NVKEEP_CRYPTO_LUKS_HEADER_H

#include "crypto/prim.h"

enum {
    LUKS_HEADER_BYTES = 592,
    LUKS_N_SLOTS = 8,
    LUKS_STRIPES = 4000,
    LUKS_DIGEST_BYTES = 20,
    LUKS_SALT_BYTES = 32,
    LUKS_MAX_KEY_BYTES = 64,
    LUKS_MIN_ITERATIONS = 1000, /* when writing; reading accepts 1 */
};
/* What trying every enabled slot may cost, in iterations: each slot and, behind it, the digest. A
 * crafted header cannot make us compute longer. Above twenty times what `qemu-img create` chooses
 * by default on a fast machine. */
#define LUKS_MAX_ITERATIONS (UINT64_C(1) << 28)

enum cipher_mode { MODE_ECB, MODE_CBC, MODE_CTR, MODE_XTS };
enum ivgen { IVGEN_NONE, IVGEN_PLAIN, IVGEN_PLAIN64, IVGEN_ESSIV };

/* How sectors are encrypted: key_bytes is the length of the volume key (for XTS two cipher keys).
 */
struct luks_cipher {
    enum cipher_alg alg;
    enum cipher_mode mode;
    enum ivgen ivgen;
    enum hash_alg essiv_hash; /* IVGEN_ESSIV only */
    size_t key_bytes;
};

struct luks_slot {
    bool active;
    uint32_t iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    uint32_t material_sector; /* from the start of the LUKS area, 512-byte sectors */
};

struct luks_header {
    char cipher_name[33], cipher_mode[33], hash_spec[33]; /* as found, for `info` */
    struct luks_cipher cipher;
    enum hash_alg hash;
    uint32_t payload_sector; /* kept, and ignored for data: qcow2 says where data is */
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t digest_salt[LUKS_SALT_BYTES];
    uint32_t digest_iterations;
    char uuid[41];
    struct luks_slot slot[LUKS_N_SLOTS];
};

/* Sectors of key material in each slot: ceil(key_bytes * 4000 / 512), rounded up to 8. */
uint32_t luks_slot_sectors(size_t key_bytes);
/* Length of an area that holds header and eight slots, in bytes (2068480 for 64-byte keys). */
uint64_t luks_area_bytes(size_t key_bytes);

/* bytes: the first LUKS_HEADER_BYTES of the area; area_bytes: the length of the whole area.
 * ERR_STATE_CORRUPT: not a LUKS header, or fields that contradict each other;
 * ERR_UNSUPPORTED: named algorithm, version or cost beyond the cap. */
int luks_header_decode(const uint8_t bytes[LUKS_HEADER_BYTES], uint64_t area_bytes,
                       struct luks_header *ret, struct err *e) MUST_CHECK;
void luks_header_encode(const struct luks_header *h, uint8_t ret[LUKS_HEADER_BYTES]);
/* One slot's entry in a header that is there already; no other byte of it changes. The entry begins
 * with its state, and that of slot 6 lies across the end of the first sector. */
enum { LUKS_SLOT_BYTES = 48 };
size_t luks_slot_offset(unsigned slot);
void luks_slot_encode(const struct luks_slot *s, unsigned slot, uint8_t header[LUKS_HEADER_BYTES]);

#endif
