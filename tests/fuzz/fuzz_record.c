/* Input: what a small store's three areas hold, decrypted: 4 sectors of checkpoint A, 4 of B, 8 of
 * the log; zeroes where it is shorter. It is searched as it is, and again with all MACs made right
 * as far as the marks allow, so that the search behind the MACs sees it. */
#include <string.h>

#include "backend/store_scan.h"
#include "backend/store_state.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

enum { AREA = 4, LOG = 8, N = 2 * AREA + LOG };

struct areas {
    uint8_t sector[N][SECTOR_BYTES];
};

static const size_t first_of[3] = {0, AREA, 2 * AREA};
static const size_t length_of[3] = {AREA, AREA, LOG};

/* From the text of the format, not through the codec. */
static void sign_sector(const struct mac_key *k, enum record_area area, uint32_t position,
                        uint8_t *sector)
{
    uint8_t place[13] = "nvkeep-S";
    place[8] = (uint8_t)area;
    put_be32(place + 9, position);
    const struct span parts[] = {{place, sizeof(place)}, {sector, 480}};
    mac_compute(k, parts, 2, sector + 480);
}

static uint32_t count_of(const uint8_t *sector)
{
    return get_be16(sector + 14);
}

/* Makes the record that seems to begin at `position` right; returns its sectors, at least 1. */
static size_t sign_record(const struct mac_key *k, struct areas *a, enum record_area area,
                          uint32_t position, const uint8_t before[32], uint8_t ret_mac[32])
{
    static const uint8_t none[32];
    uint8_t *first = a->sector[first_of[area] + position];
    size_t n = count_of(first), left = get_be32(first + 24);
    struct span parts[7 + LOG] = {
        {"nvkeep-R", 8}, {first[28] == RECORD_FULL ? none : before, 32},
        {first + 16, 8}, /* epoch */
        {first + 4, 8},  /* generation */
        {first + 28, 1}, /* kind */
        {first + 24, 4}, /* bytes */
    };
    size_t n_parts = 6;
    if (n == 0 || n > length_of[area] - position)
        n = 1;
    for (size_t i = 0; i < n; i++) {
        size_t part = left < RECORD_PART_BYTES ? left : RECORD_PART_BYTES;
        parts[n_parts++] = (struct span){first + i * SECTOR_BYTES + 64, part};
        left -= part;
    }
    mac_compute(k, parts, n_parts, ret_mac);
    for (size_t i = 0; i < n; i++) {
        memcpy(first + i * SECTOR_BYTES + 32, ret_mac, 32);
        sign_sector(k, area, position + (uint32_t)i, first + i * SECTOR_BYTES);
    }
    return n;
}

static void make_right(const struct mac_key *k, struct areas *a)
{
    uint8_t mac[2][32], chain[32];
    for (enum record_area area = AREA_CHECKPOINT_A; area <= AREA_CHECKPOINT_B; area++)
        sign_record(k, a, area, 0, chain, mac[area]);
    bool b_is_newer = get_be64(a->sector[AREA] + 4) > get_be64(a->sector[0] + 4);
    memcpy(chain, mac[b_is_newer], sizeof(chain));
    for (uint32_t at = 0; at < LOG;)
        at += (uint32_t)sign_record(k, a, AREA_LOG, at, chain, chain);
}

static void check_found(const struct scan_result *r)
{
    PROMISE(r->base == AREA_CHECKPOINT_A || r->base == AREA_CHECKPOINT_B);
    PROMISE(r->log_used <= LOG && r->n_records <= r->log_used);
    PROMISE(r->generation == r->base_head.generation + r->n_records);
    PROMISE(r->epoch >= r->base_head.epoch);
    PROMISE(r->base_head.kind == RECORD_FULL && r->base_head.bytes > 0);
    PROMISE(record_sectors(r->base_head.bytes) <= AREA);
    PROMISE(r->torn_sectors <= N);
}

static void search(const struct mac_key *k, const struct areas *a)
{
    struct span spans[LOG + 1];
    struct scan s = {.key = k, .spans = spans};
    struct scan_result r;
    struct err e = {0};
    for (size_t i = 0; i < 3; i++) {
        s.area[i] = a->sector[first_of[i]];
        s.n_sectors[i] = length_of[i];
    }
    if (store_scan(&s, &r, &e) < 0) {
        PROMISE(e.kind == ERR_STATE_CORRUPT && e.text[0]);
        return;
    }
    check_found(&r);

    /* The base's payload, as store_load() takes it. */
    uint8_t payload[AREA * RECORD_PART_BYTES];
    struct state_view state;
    record_payload(s.area[r.base], r.base_head.bytes, payload);
    if (state_decode(bytes_in(payload, r.base_head.bytes), &state))
        PROMISE(state_encoded_bytes(&state) == r.base_head.bytes);
}

static struct mac_key *key;

static void drop_key(void)
{
    mac_key_free(key);
}

static void make_key(void)
{
    struct err e;
    if (mac_key_new("thirty-two bytes of a record key", 32, &key, &e) < 0 || atexit(drop_key) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct areas a = {0};
    if (!key)
        make_key();
    if (n > 0)
        memcpy(&a, bytes, n < sizeof(a) ? n : sizeof(a));
    search(key, &a);
    make_right(key, &a);
    search(key, &a);
    return 0;
}
