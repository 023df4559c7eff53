/* The record store over a real image in memory: what is committed is what is found. */
#include "tests/backend/store_helpers.h"

static void new_store_holds_its_first_state_as_generation_one(void **state)
{
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    (void)state;
    assert_blob(s, BLOB_PERMANENT, "first", 5);
    assert_no_blob(s, BLOB_VOLATILE);
    assert_no_blob(s, BLOB_SAVESTATE);
    struct store_stats st = stats_of(s);
    assert_int_equal(st.generation, 1);
    assert_int_equal(st.epoch, 1);
    assert_int_equal(st.n_records, 0);
    assert_int_equal(st.log_used, 0);
    assert_int_equal(st.state_bytes, 5);
    assert_int_equal(st.torn_sectors, 0);
    assert_true(st.checkpoint_bytes >= 256 * 1024);
    assert_memory_equal(store_facts(s)->instance, im.facts.instance, 16);
    store_free(s);
    store_image_clear(&im);
}

/* Empty is not absent; deleted is absent; what is kept stays. */
static void blobs_are_set_kept_and_deleted_each_on_its_own(void **state)
{
    struct store_image im = image_of(NULL, "permanent", 9);
    struct store *s = opened(&im);
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        commit(s, set(BLOB_VOLATILE, "volatile", 8));
        commit(s, set(BLOB_SAVESTATE, "", 0));
        assert_blob(s, BLOB_SAVESTATE, "", 0);
        store_free(s);
        s = opened(&im);
        assert_blob(s, BLOB_PERMANENT, "permanent", 9);
        assert_blob(s, BLOB_VOLATILE, "volatile", 8);
        assert_blob(s, BLOB_SAVESTATE, "", 0);
        commit(s, deleted(BLOB_VOLATILE));
        commit(s, deleted(BLOB_SAVESTATE));
        assert_no_blob(s, BLOB_VOLATILE);
        store_free(s);
        s = opened(&im);
        assert_blob(s, BLOB_PERMANENT, "permanent", 9);
        assert_no_blob(s, BLOB_VOLATILE);
        assert_no_blob(s, BLOB_SAVESTATE);
    }
    struct state_change all = {{{BLOB_SET, big, 300}, {BLOB_SET, big, 200}, {BLOB_SET, big, 1}}};
    commit(s, all);
    assert_blob(s, BLOB_PERMANENT, big, 300);
    assert_blob(s, BLOB_SAVESTATE, big, 1);
    store_free(s);
    store_image_clear(&im);
}

/* Growing, shrinking and changing, over many commits and several owners and log rounds. */
static void every_opener_finds_what_was_committed_last(void **state)
{
    static uint8_t now[5200];
    struct store_image im = image_of(&store_image_small, now, 1500);
    struct store *s = opened(&im);
    size_t n = 1500;
    uint64_t generation = 1;
    (void)state;
    for (unsigned i = 0; i < 400; i++) {
        unsigned x = i * 2654435761u;
        if (i % 7 == 3)
            n = 1200 + x % 4000;
        fill(now + x % 1000, i % 5 == 0 ? 700 : 30, i);
        commit(s, set(BLOB_PERMANENT, now, n));
        generation++;
        assert_blob(s, BLOB_PERMANENT, now, n);
        assert_int_equal(stats_of(s).generation, generation);
        if (i % 9 == 8) {
            store_free(s);
            s = opened(&im);
            assert_blob(s, BLOB_PERMANENT, now, n);
            assert_int_equal(stats_of(s).generation, generation);
        }
    }
    store_free(s);
    store_image_clear(&im);
}

static void commit_is_one_write_and_one_flush_and_none_when_nothing_changed(void **state)
{
    fill(big, FULL_NV, 1);
    struct store_image im = image_of(NULL, big, FULL_NV);
    struct store *s = opened(&im);
    (void)state;
    big[70000] ^= 1;
    commit(s, set(BLOB_PERMANENT, big, FULL_NV)); /* this owner's checkpoint */

    struct power_counts before = power_counts(im.power);
    fill(big + 50000, 64, 2); /* NV_Write */
    commit(s, set(BLOB_PERMANENT, big, FULL_NV));
    struct power_counts did = since(&im, before);
    assert_int_equal(did.writes, 1);
    assert_int_equal(did.flushes, 1);
    assert_int_equal(did.sectors_written, 1);
    assert_int_equal(did.reads, 0);

    before = power_counts(im.power);
    uint64_t generation = stats_of(s).generation;
    commit(s, set(BLOB_PERMANENT, big, FULL_NV));
    commit(s, (struct state_change){0});
    commit(s, deleted(BLOB_VOLATILE));
    size_t n;
    const uint8_t *own = store_get(s, BLOB_PERMANENT, &n);
    commit(s, set(BLOB_PERMANENT, own, n));
    did = since(&im, before);
    assert_int_equal(did.writes, 0);
    assert_int_equal(did.flushes, 0);
    assert_int_equal(stats_of(s).generation, generation);
    assert_ptr_equal(store_get(s, BLOB_PERMANENT, &n), own);
    store_free(s);
    store_image_clear(&im);
}

static void opening_writes_nothing(void **state)
{
    struct store_image im = image_of(NULL, "state", 5);
    struct power_counts before = power_counts(im.power);
    struct store *s = opened(&im);
    (void)state;
    assert_int_equal(since(&im, before).writes, 0);
    assert_int_equal(since(&im, before).flushes, 1); /* what is served is durable */
    store_free(s);
    assert_int_equal(since(&im, before).writes, 0);
    store_image_clear(&im);
}

/* W2, W3, W4, W6 */
static void owner_begins_with_a_checkpoint_in_the_other_area_under_a_new_epoch(void **state)
{
    struct store_image im = image_of(NULL, "state", 5);
    (void)state;
    for (uint64_t owner = 1; owner < 6; owner++) {
        struct store *s = opened(&im);
        struct store_stats st = stats_of(s);
        assert_int_equal(st.epoch, owner);
        uint64_t generation = st.generation;
        fill(big, 2000, (unsigned)owner);
        commit(s, set(BLOB_PERMANENT, big, 2000));
        st = stats_of(s);
        assert_int_equal(st.epoch, owner + 1);
        assert_int_equal(st.generation, generation + 1);
        assert_int_equal(st.n_records, 0);
        big[7] ^= 1;
        commit(s, set(BLOB_PERMANENT, big, 2000));
        st = stats_of(s);
        assert_int_equal(st.n_records, 1);
        assert_int_equal(st.log_used, 1);
        store_free(s);
    }
    store_image_clear(&im);
}

static void full_log_leads_to_a_checkpoint_and_begins_anew(void **state)
{
    struct store_image im = image_of(&store_image_small, big, 1000);
    struct store *s = opened(&im);
    bool wrapped = false;
    (void)state;
    for (unsigned i = 0; i < 60; i++) {
        uint64_t used = stats_of(s).log_used;
        big[i] ^= 1;
        commit(s, set(BLOB_PERMANENT, big, 1000));
        struct store_stats st = stats_of(s);
        assert_true(st.log_used == used + 1 || st.log_used == 0);
        if (i > 0 && st.log_used == 0) {
            assert_int_equal(used, st.log_sectors);
            wrapped = true;
        }
    }
    assert_true(wrapped);
    store_free(s);
    store_image_clear(&im);
}

static void change_larger_than_half_the_state_is_a_checkpoint(void **state)
{
    fill(big, 4000, 3);
    struct store_image im = image_of(NULL, big, 4000);
    struct store *s = opened(&im);
    (void)state;
    big[0] ^= 1;
    commit(s, set(BLOB_PERMANENT, big, 4000));
    fill(big, 1700, 4);
    commit(s, set(BLOB_PERMANENT, big, 4000));
    assert_int_equal(stats_of(s).n_records, 1);
    fill(big, 2200, 5);
    commit(s, set(BLOB_PERMANENT, big, 4000));
    assert_int_equal(stats_of(s).n_records, 0);
    store_free(s);
    store_image_clear(&im);
}

/* S2.15: an ordinary commit changes no metadata: what it writes lies in the store's areas. */
static void commits_write_only_inside_the_store(void **state)
{
    struct store_image im = image_of(&store_image_small, big, 2500);
    struct store *s = opened(&im);
    const struct store_layout *l = &im.facts.layout;
    uint64_t host0 = store_image_host_sector(store_disk(s), 0);
    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        fill(big + i, i % 6 == 0 ? 900 : 20, i);
        power_fail(im.power, 2, false, EIO, 0); /* the flush: what was written stays volatile */
        struct state_change c = set(BLOB_PERMANENT, big, 2500);
        struct err e;
        assert_int_equal(store_commit(s, &c, &e), -1);
        for (size_t v = 0; v < power_n_volatile(im.power); v++) {
            uint64_t guest = power_volatile_sector(im.power, v) - host0;
            assert_in_range(guest, l->checkpoint[0], l->log + l->log_sectors - 1);
        }
        commit(s, c);
        power_settle(im.power);
    }
    store_free(s);
    store_image_clear(&im);
}

static void inspecting_sees_what_the_running_owner_sees(void **state)
{
    struct store_image im = image_of(NULL, big, 3000);
    struct store *s = opened(&im);
    struct err e = {0};
    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        OWNED(qcow_disk) d = NULL;
        struct store_stats seen, own = stats_of(s);
        assert_int_equal(store_image_disk(&im, &d, &e), 0);
        OWNED(store_look) look = NULL;
        assert_int_equal(store_look(d, &look, &e), 0);
        store_look_stats(look, &seen);
        assert_memory_equal(&seen, &own, sizeof(seen));
        fill(big + 10 * i, 100 * (i % 4), i);
        commit(s, set(BLOB_PERMANENT, big, 3000));
    }
    store_free(s);
    store_image_clear(&im);
}

/* S4.2: contents under the guest's control that look like images, or like our own records. */
static void contents_that_look_like_headers_change_nothing(void **state)
{
    static uint8_t like[SECTOR_BYTES * 3];
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    const struct record_head head = {1000000, 7, RECORD_FULL, 2 * RECORD_PART_BYTES};
    uint8_t mac[RECORD_MAC_BYTES] = {0};
    (void)state;
    memcpy(like, "QFI\xfb\0\0\0\3", 8);
    memcpy(like + 100, "LUKS\xba\xbe\0\1", 8);
    /* A genuine sector of this very store's key, for each offset that it might be read at. */
    for (size_t at = 0; at < SECTOR_BYTES; at += 16) {
        record_seal(qcow_disk_record_key(store_disk(s)), AREA_LOG, 0, &head, mac, like + at, mac);
        commit(s, set(BLOB_PERMANENT, like, sizeof(like)));
    }
    store_free(s);
    s = opened(&im);
    assert_blob(s, BLOB_PERMANENT, like, sizeof(like));
    store_free(s);
    store_image_clear(&im);
}

/* S2.14: the vector in src/doc/format.md. */
static void documented_header_digest_is_what_we_compute(void **state)
{
    static const uint8_t want[32] = {0xcf, 0x73, 0x24, 0xfb, 0x37, 0x93, 0xfd, 0x53,
                                     0xf8, 0xdf, 0x14, 0x0f, 0xfa, 0x25, 0x49, 0x49,
                                     0xae, 0x6f, 0x29, 0x85, 0x54, 0x3c, 0x0a, 0x10,
                                     0x58, 0x2c, 0x65, 0xc3, 0x3f, 0xe1, 0xc1, 0x54};
    struct qcow_header h = {.cluster_bits = 16, .crypt_method = 2};
    struct luks_header luks = {.cipher = {.key_bytes = 64},
                               .cipher_name = "aes",
                               .cipher_mode = "xts-plain64",
                               .hash_spec = "sha256",
                               .uuid = "00000000-0000-4000-8000-000000000000"};
    uint8_t got[32];
    (void)state;
    qcow_header_digest(&h, &luks, got);
    assert_memory_equal(got, want, sizeof(want));
}

/* S1.10 */
static void nothing_that_is_committed_is_on_the_disk_in_clear(void **state)
{
    static const uint8_t marker[16] = "MARKER-of-clear!";
    static uint8_t bytes[4000];
    struct store_image im = image_of(NULL, "first", 5);
    struct store *s = opened(&im);
    struct qcow_disk_rw *d = NULL;
    struct err e;
    (void)state;
    for (size_t i = 0; i + 16 <= sizeof(bytes); i += 16)
        memcpy(bytes + i, marker, 16);
    commit(s, set(BLOB_VOLATILE, bytes, sizeof(bytes)));
    for (unsigned i = 0; i < 20; i++) {
        bytes[i * 50]++;
        commit(s, set(BLOB_VOLATILE, bytes, sizeof(bytes)));
    }
    store_free(s);
    assert_int_equal(store_image_arm(&im, &d, &e), 0);
    uint64_t size = qcow_image_header(qcow_disk_image(qcow_disk_of(d)))->size;
    uint64_t end = store_image_host_sector(qcow_disk_of(d), size / SECTOR_BYTES - 1) + 1;
    qcow_disk_rw_free(d);
    assert_null(memmem(power_disk_bytes(im.power), end * SECTOR_BYTES, marker, sizeof(marker)));
    store_image_clear(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_store_holds_its_first_state_as_generation_one),
        cmocka_unit_test(blobs_are_set_kept_and_deleted_each_on_its_own),
        cmocka_unit_test(every_opener_finds_what_was_committed_last),
        cmocka_unit_test(commit_is_one_write_and_one_flush_and_none_when_nothing_changed),
        cmocka_unit_test(opening_writes_nothing),
        cmocka_unit_test(owner_begins_with_a_checkpoint_in_the_other_area_under_a_new_epoch),
        cmocka_unit_test(full_log_leads_to_a_checkpoint_and_begins_anew),
        cmocka_unit_test(change_larger_than_half_the_state_is_a_checkpoint),
        cmocka_unit_test(commits_write_only_inside_the_store),
        cmocka_unit_test(inspecting_sees_what_the_running_owner_sees),
        cmocka_unit_test(contents_that_look_like_headers_change_nothing),
        cmocka_unit_test(documented_header_digest_is_what_we_compute),
        cmocka_unit_test(nothing_that_is_committed_is_on_the_disk_in_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
