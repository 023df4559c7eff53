/* The search for the newest state: every case that a cut-off write leaves must open as old or new,
 * every damage must be reported. The numbers are those of backend/store_scan.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/store_scan.h"

enum { AREA = 16, LOG = 24, BLOCK = 16 };

static struct mac_key *key;

static int make_key(void **state)
{
    struct err e;
    (void)state;
    return mac_key_new("thirty-two bytes of a record key", 32, &key, &e);
}

static int drop_key(void **state)
{
    (void)state;
    mac_key_free(key);
    return 0;
}

/* What a disk holds, and the MACs that a writer remembers. */
struct disk {
    uint8_t sector[3][LOG][SECTOR_BYTES];
    uint8_t mac[64][RECORD_MAC_BYTES]; /* by generation, of the last record sealed */
};

static const size_t n_sectors[3] = {AREA, AREA, LOG};

static void noise(uint8_t *p, size_t n)
{
    static uint64_t x = 0x123456789abcdef;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)(x >> 24);
    }
}

static void put(struct disk *d, enum record_area area, uint32_t position, enum record_kind kind,
                uint64_t generation, uint64_t epoch, unsigned n)
{
    const struct record_head head = {generation, epoch, kind, n * RECORD_PART_BYTES - 7};
    noise(d->sector[area][position], head.bytes);
    record_seal(key, area, position, &head, d->mac[generation - 1], d->sector[area][position],
                d->mac[generation]);
}

static void checkpoint(struct disk *d, enum record_area area, uint64_t generation, uint64_t epoch,
                       unsigned n)
{
    put(d, area, 0, RECORD_FULL, generation, epoch, n);
}

static void append(struct disk *d, uint32_t position, uint64_t generation, unsigned n)
{
    put(d, AREA_LOG, position, RECORD_DELTA, generation, 1, n);
}

static int scan(const struct disk *d, struct scan_result *ret, struct err *e)
{
    struct span spans[LOG + 1];
    struct scan s = {.key = key, .spans = spans};
    memset(e, 0, sizeof(*e));
    for (size_t i = 0; i < 3; i++) {
        s.area[i] = d->sector[i][0];
        s.n_sectors[i] = n_sectors[i];
    }
    return store_scan(&s, ret, e);
}

static void assert_opens(const struct disk *d, uint64_t generation)
{
    struct scan_result r;
    struct err e;
    if (scan(d, &r, &e) < 0)
        fail_msg("refused: %s", e.text);
    assert_int_equal(r.generation, generation);
    assert_memory_equal(r.mac, d->mac[generation], RECORD_MAC_BYTES);
}

static void assert_corrupt(const struct disk *d, const char *text)
{
    struct scan_result r, untouched;
    struct err e;
    memset(&r, 0x77, sizeof(r));
    memcpy(&untouched, &r, sizeof(r));
    assert_int_equal(scan(d, &r, &e), -1);
    assert_int_equal(e.kind, ERR_STATE_CORRUPT);
    if (!strstr(e.text, text))
        fail_msg("\"%s\" does not say \"%s\"", e.text, text);
    assert_memory_equal(&r, &untouched, sizeof(r));
}

/* A store in use: checkpoint A is generation 5, B is the older 2, the log holds 6 (1 sector),
 * 7 (3 sectors) and 8 (2 sectors), then leftovers of the round before. */
static struct disk used_disk(void)
{
    static struct disk d;
    memset(&d, 0, sizeof(d));
    checkpoint(&d, AREA_CHECKPOINT_B, 2, 1, 9);
    append(&d, 0, 3, 8);
    append(&d, 8, 4, 8);
    checkpoint(&d, AREA_CHECKPOINT_A, 5, 1, 4);
    append(&d, 0, 6, 1);
    append(&d, 1, 7, 3);
    append(&d, 4, 8, 2);
    return d;
}

static void fresh_store_is_generation_one(void **state)
{
    struct disk d = {0};
    struct scan_result r;
    struct err e;
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_A, 1, 1, 3);
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.base, AREA_CHECKPOINT_A);
    assert_int_equal(r.generation, 1);
    assert_int_equal(r.epoch, 1);
    assert_int_equal(r.n_records, 0);
    assert_int_equal(r.log_used, 0);
    assert_int_equal(r.torn_sectors, 0);
    assert_int_equal(r.base_head.bytes, 3 * RECORD_PART_BYTES - 7);
}

/* R1, R2, R7 */
static void newest_checkpoint_and_all_that_chains_onto_it_is_the_state(void **state)
{
    struct disk d = used_disk();
    struct scan_result r;
    struct err e;
    (void)state;
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.base, AREA_CHECKPOINT_A);
    assert_int_equal(r.generation, 8);
    assert_int_equal(r.n_records, 3);
    assert_int_equal(r.log_used, 6);
    assert_int_equal(r.torn_sectors, 0);
}

static void log_filled_to_its_last_sector_is_read_whole(void **state)
{
    struct disk d = used_disk();
    struct scan_result r;
    struct err e;
    (void)state;
    append(&d, 6, 9, 18);
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.generation, 9);
    assert_int_equal(r.log_used, LOG);
}

/* R7: the round before had more records, some of the very same lengths. */
static void leftovers_of_the_round_before_do_not_chain(void **state)
{
    struct disk d = used_disk();
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_B, 9, 1, 4); /* log begins anew, nothing appended yet */
    assert_opens(&d, 9);
    append(&d, 0, 10, 1); /* what follows is 7, whole, just behind */
    assert_opens(&d, 10);
}

enum { STALE, ZERO, NOISE, N_LOST };

/* One content of a sector that did not arrive. */
static void lose(struct disk *d, const struct disk *before, enum record_area area, size_t i,
                 unsigned how)
{
    uint8_t *sector = d->sector[area][i];
    if (how == STALE)
        memcpy(sector, before->sector[area][i], SECTOR_BYTES);
    else if (how == ZERO)
        memset(sector, 0, SECTOR_BYTES);
    else
        noise(sector, SECTOR_BYTES);
}

/* R6: every subset of the sectors of a write may arrive, the others hold anything. */
static void assert_torn_is_old_or_new(const struct disk *before, const struct disk *after,
                                      enum record_area area, size_t at, unsigned n, uint64_t old)
{
    for (unsigned arrived = 0; arrived < 1U << n; arrived++) {
        for (unsigned how = 0; how < N_LOST; how++) {
            struct disk d = *after;
            for (unsigned i = 0; i < n; i++)
                if (!(arrived >> i & 1))
                    lose(&d, before, area, at + i, how);
            if (arrived == (1U << n) - 1)
                memcpy(d.mac, after->mac, sizeof(d.mac));
            else
                memcpy(d.mac, before->mac, sizeof(d.mac));
            assert_opens(&d, arrived == (1U << n) - 1 ? old + 1 : old);
        }
    }
}

static void torn_append_opens_as_old_or_new(void **state)
{
    struct disk before = used_disk(), after = before;
    (void)state;
    append(&after, 6, 9, 7);
    assert_torn_is_old_or_new(&before, &after, AREA_LOG, 6, 7, 8);
}

static void torn_checkpoint_opens_as_old_or_new(void **state)
{
    struct disk before = used_disk(), after = before;
    (void)state;
    checkpoint(&after, AREA_CHECKPOINT_B, 9, 1, 7);
    assert_torn_is_old_or_new(&before, &after, AREA_CHECKPOINT_B, 0, 7, 8);
}

/* Several attempts at one generation, each torn, of different lengths, in both places. */
static void attempts_torn_over_one_another_open_as_old(void **state)
{
    struct disk d = used_disk();
    uint8_t mac_of_8[RECORD_MAC_BYTES];
    struct scan_result r;
    struct err e;
    (void)state;
    memcpy(mac_of_8, d.mac[8], sizeof(mac_of_8));
    append(&d, 6, 9, 7);
    noise(d.sector[AREA_LOG][8], SECTOR_BYTES);
    checkpoint(&d, AREA_CHECKPOINT_B, 9, 2, 10);
    memset(d.sector[AREA_CHECKPOINT_B][1], 0, SECTOR_BYTES);
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.generation, 8);
    assert_int_equal(r.torn_sectors, 6 + 9);

    struct disk shorter = d;
    checkpoint(&shorter, AREA_CHECKPOINT_B, 9, 2, 5);
    for (unsigned arrived = 0; arrived < 1U << 5; arrived++) {
        struct disk mixed = d;
        for (unsigned i = 0; i < 5; i++)
            if (arrived >> i & 1)
                memcpy(mixed.sector[AREA_CHECKPOINT_B][i], shorter.sector[AREA_CHECKPOINT_B][i],
                       SECTOR_BYTES);
        bool whole = arrived == (1U << 5) - 1;
        memcpy(mixed.mac[8], mac_of_8, sizeof(mac_of_8));
        memcpy(mixed.mac[9], shorter.mac[9], sizeof(mac_of_8));
        assert_opens(&mixed, whole ? 9 : 8);
    }
    /* The state goes on from there; what the longer attempts left is behind us. */
    put(&shorter, AREA_LOG, 0, RECORD_DELTA, 10, 2, 2);
    assert_opens(&shorter, 10);
}

/* R4, R3: as a flipped bit of ciphertext does it, noise in one cipher block. */
static void any_garbled_block_of_live_sectors_is_damage(void **state)
{
    const struct disk good = used_disk();
    (void)state;
    for (enum record_area a = AREA_CHECKPOINT_A; a <= AREA_LOG; a++) {
        for (size_t i = 0; i < n_sectors[a]; i++) {
            bool live = (a == AREA_CHECKPOINT_A && i < 4) || (a == AREA_LOG && i < 6);
            for (size_t block = 0; block < SECTOR_BYTES / BLOCK; block++) {
                struct disk d = good;
                noise(d.sector[a][i] + block * BLOCK, BLOCK);
                if (live)
                    assert_corrupt(&d, "damaged");
                else
                    assert_opens(&d, 8);
            }
        }
    }
}

static void damage_is_described_with_what_still_verifies(void **state)
{
    struct disk d = used_disk();
    (void)state;
    noise(d.sector[AREA_LOG][2] + 100, BLOCK);
    assert_corrupt(&d, "sector 2 of the log is damaged: it was sector 2 of 3 of generation 7; the "
                       "newest state that verifies is generation 6");
    d = used_disk();
    noise(d.sector[AREA_CHECKPOINT_A][3], BLOCK);
    assert_corrupt(&d, "sector 3 of checkpoint A is damaged: it was sector 4 of 4 of generation 5");
}

/* R3: whole sectors gone, but what came after is there. */
static void lost_record_before_others_is_damage(void **state)
{
    (void)state;
    for (unsigned how = ZERO; how <= NOISE; how++) {
        for (size_t i = 0; i < 4; i++) {
            struct disk d = used_disk(), blank = {0};
            lose(&d, &blank, AREA_LOG, i, how);
            assert_corrupt(&d, i == 0 ? "generation 6 is damaged or missing"
                                      : "generation 7 is damaged or missing");
        }
        for (size_t i = 0; i < 4; i++) {
            struct disk d = used_disk(), blank = {0};
            lose(&d, &blank, AREA_CHECKPOINT_A, i, how);
            assert_corrupt(&d, "generation 3 is damaged or missing");
        }
    }
}

/* Rolling the areas back one by one to what they once held. */
static void part_of_the_disk_put_back_to_an_older_time_is_damage(void **state)
{
    struct disk older = used_disk(), newer = older, d;
    (void)state;
    checkpoint(&newer, AREA_CHECKPOINT_B, 9, 1, 6);
    append(&newer, 0, 10, 2);
    append(&newer, 2, 11, 1);
    assert_opens(&newer, 11);

    d = newer;
    memcpy(d.sector[AREA_CHECKPOINT_B], older.sector[AREA_CHECKPOINT_B], sizeof(d.sector[0]));
    assert_corrupt(&d, "generation 6 is damaged or missing");
}

/* R6: an owner found 9 in the page cache alone, and its first checkpoint, 10, was cut off. */
static void torn_first_checkpoint_of_an_owner_is_no_proof_of_what_it_built_on(void **state)
{
    struct disk d = used_disk();
    struct scan_result r;
    struct err e;
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_B, 10, 2, 5);
    noise(d.sector[AREA_CHECKPOINT_B][3], SECTOR_BYTES);
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.generation, 8);
    assert_int_equal(r.torn_sectors, 4);

    struct disk same_owner = used_disk();
    checkpoint(&same_owner, AREA_CHECKPOINT_B, 10, 1, 5);
    noise(same_owner.sector[AREA_CHECKPOINT_B][3], SECTOR_BYTES);
    assert_corrupt(&same_owner, "generation 9 is damaged or missing");

    struct disk further = used_disk();
    checkpoint(&further, AREA_CHECKPOINT_B, 11, 2, 5);
    noise(further.sector[AREA_CHECKPOINT_B][3], SECTOR_BYTES);
    assert_corrupt(&further, "generation 9 is damaged or missing");

    struct disk in_log = used_disk();
    put(&in_log, AREA_LOG, 10, RECORD_DELTA, 10, 2, 1);
    assert_corrupt(&in_log, "generation 9 is damaged or missing");
}

/* R3 holds at any distance: that no store has so many records excuses noise, not what verifies. */
static void valid_sector_from_far_ahead_is_damage(void **state)
{
    struct disk d = used_disk();
    const struct record_head head = {1ULL << 40, 1, RECORD_DELTA, 10};
    uint8_t mac[RECORD_MAC_BYTES];
    (void)state;
    record_seal(key, AREA_LOG, 20, &head, d.mac[8], d.sector[AREA_LOG][20], mac);
    assert_corrupt(&d, "generation 9 is damaged or missing");
    d.sector[AREA_LOG][20][200] ^= 1; /* no longer more than noise with a mark */
    assert_opens(&d, 8);
}

/* R5 */
static void whole_next_record_that_does_not_chain_is_damage(void **state)
{
    struct disk d = used_disk();
    (void)state;
    noise(d.mac[8], sizeof(d.mac[8]));
    append(&d, 6, 9, 2);
    assert_corrupt(&d, "generation 9 at sector 6 of the log does not belong behind");
}

static void full_record_in_the_log_is_damage(void **state)
{
    struct disk d = used_disk();
    (void)state;
    put(&d, AREA_LOG, 6, RECORD_FULL, 9, 1, 2);
    assert_corrupt(&d, "generation 9 at sector 6 of the log does not belong behind");
}

/* An owner of an older epoch who goes on writing after another took over is not evidence of loss.
 */
static void sectors_of_a_lower_epoch_are_leftovers(void **state)
{
    struct disk d = used_disk();
    uint8_t mac_of_9[RECORD_MAC_BYTES];
    struct scan_result r;
    struct err e;
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_B, 9, 2, 4);
    memcpy(mac_of_9, d.mac[9], sizeof(mac_of_9));
    append(&d, 6, 9, 1);
    append(&d, 7, 10, 1);
    append(&d, 8, 11, 4);
    memcpy(d.mac[9], mac_of_9, sizeof(mac_of_9));
    assert_int_equal(scan(&d, &r, &e), 0);
    assert_int_equal(r.generation, 9);
    assert_int_equal(r.epoch, 2);
    assert_int_equal(r.torn_sectors, 0);
}

static void records_of_an_epoch_that_falls_do_not_count(void **state)
{
    struct disk d = {0};
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_A, 5, 3, 4);
    put(&d, AREA_LOG, 0, RECORD_DELTA, 6, 2, 1);
    assert_opens(&d, 5);
    put(&d, AREA_LOG, 0, RECORD_DELTA, 6, 4, 1);
    assert_opens(&d, 6);
}

static void store_without_a_checkpoint_is_damage_and_says_what_is_there(void **state)
{
    struct disk d = {0};
    (void)state;
    assert_corrupt(&d, "neither checkpoint of the record store is intact: checkpoint A holds "
                       "nothing recognisable; checkpoint B holds nothing recognisable");
    d = used_disk();
    noise(d.sector[AREA_CHECKPOINT_A][1], BLOCK);
    noise(d.sector[AREA_CHECKPOINT_B][0], SECTOR_BYTES);
    assert_corrupt(&d, "checkpoint A begins generation 5 (4 sectors), 3 sectors verify; "
                       "checkpoint B mentions generation 2, 8 of 8 sectors verify");
}

static void two_checkpoints_of_one_generation_are_damage(void **state)
{
    struct disk d = used_disk();
    (void)state;
    checkpoint(&d, AREA_CHECKPOINT_B, 5, 1, 4);
    assert_corrupt(&d, "both checkpoints of the record store claim generation 5");
}

/* What the format cannot tell, kept in sight: the last write, wholly replaced. */
static void last_write_replaced_by_noise_looks_like_one_that_never_arrived(void **state)
{
    struct disk d = used_disk();
    (void)state;
    noise(d.sector[AREA_LOG][4], (size_t)2 * SECTOR_BYTES);
    assert_opens(&d, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_store_is_generation_one),
        cmocka_unit_test(newest_checkpoint_and_all_that_chains_onto_it_is_the_state),
        cmocka_unit_test(log_filled_to_its_last_sector_is_read_whole),
        cmocka_unit_test(leftovers_of_the_round_before_do_not_chain),
        cmocka_unit_test(torn_append_opens_as_old_or_new),
        cmocka_unit_test(torn_checkpoint_opens_as_old_or_new),
        cmocka_unit_test(attempts_torn_over_one_another_open_as_old),
        cmocka_unit_test(any_garbled_block_of_live_sectors_is_damage),
        cmocka_unit_test(damage_is_described_with_what_still_verifies),
        cmocka_unit_test(lost_record_before_others_is_damage),
        cmocka_unit_test(part_of_the_disk_put_back_to_an_older_time_is_damage),
        cmocka_unit_test(torn_first_checkpoint_of_an_owner_is_no_proof_of_what_it_built_on),
        cmocka_unit_test(valid_sector_from_far_ahead_is_damage),
        cmocka_unit_test(whole_next_record_that_does_not_chain_is_damage),
        cmocka_unit_test(full_record_in_the_log_is_damage),
        cmocka_unit_test(sectors_of_a_lower_epoch_are_leftovers),
        cmocka_unit_test(records_of_an_epoch_that_falls_do_not_count),
        cmocka_unit_test(store_without_a_checkpoint_is_damage_and_says_what_is_there),
        cmocka_unit_test(two_checkpoints_of_one_generation_are_damage),
        cmocka_unit_test(last_write_replaced_by_noise_looks_like_one_that_never_arrived),
    };
    return cmocka_run_group_tests(tests, make_key, drop_key);
}
