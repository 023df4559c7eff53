/* Input: what a small store's three areas hold, decrypted: 4 sectors of checkpoint A, 4 of B, 8 of
 * the log; zeroes where it is shorter. It is searched as it is, and again with all MACs made right
 * as far as the marks allow, so that the search behind the MACs sees it. */
#include <string.h>

#include "backend/store_scan.h"
#include "backend/store_state.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/resign.h"

enum { AREA = 4, LOG = 8, N = 2 * AREA + LOG };

struct areas {
    uint8_t sector[N][SECTOR_BYTES];
};

static const size_t first_of[3] = {0, AREA, 2 * AREA};
static const size_t length_of[3] = {AREA, AREA, LOG};

static void make_right(const struct mac_key *k, struct areas *a)
{
    struct resign_areas r;
    for (size_t i = 0; i < 3; i++) {
        r.area[i] = a->sector[first_of[i]];
        r.n_sectors[i] = length_of[i];
    }
    resign_records(k, &r);
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
