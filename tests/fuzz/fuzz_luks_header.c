/* Input: a LUKS header (592 bytes, or fewer and then zeroes) and, behind it, the length of its area
 * in eight bytes; without them the area is as long as that of a 64-byte key. */
#include <string.h>

#include "crypto/luks_header.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

/* What whoever computes with a decoded header relies on. */
static void check_promises(const struct luks_header *h, uint64_t area_bytes)
{
    uint64_t sectors = luks_slot_sectors(h->cipher.key_bytes), cost = h->digest_iterations;
    size_t keys = h->cipher.mode == MODE_XTS ? 2 : 1;
    PROMISE(h->cipher.key_bytes <= LUKS_MAX_KEY_BYTES);
    PROMISE(h->cipher.key_bytes == keys * cipher_key_bytes(h->cipher.alg));
    PROMISE(h->digest_iterations > 0);
    PROMISE(memchr(h->cipher_name, 0, sizeof(h->cipher_name)));
    PROMISE(memchr(h->cipher_mode, 0, sizeof(h->cipher_mode)));
    PROMISE(memchr(h->hash_spec, 0, sizeof(h->hash_spec)));
    PROMISE(memchr(h->uuid, 0, sizeof(h->uuid)));
    for (size_t i = 0; i < LUKS_N_SLOTS; i++) {
        uint64_t at = h->slot[i].material_sector;
        PROMISE(at >= 8 && at + sectors <= area_bytes / 512);
        for (size_t j = 0; j < i; j++) {
            uint64_t other = h->slot[j].material_sector;
            PROMISE(at + sectors <= other || other + sectors <= at);
        }
        if (!h->slot[i].active)
            continue;
        PROMISE(h->slot[i].iterations > 0);
        cost += h->slot[i].iterations;
    }
    PROMISE(cost <= LUKS_MAX_ITERATIONS);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t header[LUKS_HEADER_BYTES] = {0}, once[LUKS_HEADER_BYTES], twice[LUKS_HEADER_BYTES];
    struct bytes_in in = bytes_in(bytes, n);
    struct luks_header h, again;
    struct err e = {0};
    size_t head = n < sizeof(header) ? n : sizeof(header);
    bytes_copy_out(&in, header, head);
    uint64_t area_bytes = bytes_be64(&in);
    if (in.bad)
        area_bytes = luks_area_bytes(64);

    if (luks_header_decode(header, area_bytes, &h, &e) < 0) {
        PROMISE(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_UNSUPPORTED);
        PROMISE(!strncmp(e.text, "LUKS header: ", 13));
        return 0;
    }
    check_promises(&h, area_bytes);
    luks_header_encode(&h, once);
    PROMISE(luks_header_decode(once, area_bytes, &again, &e) == 0);
    luks_header_encode(&again, twice);
    PROMISE(!memcmp(once, twice, sizeof(once)));
    return 0;
}
