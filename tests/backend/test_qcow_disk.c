/* From the passphrase to a disk that can be read: each class of refusal. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow_priv.h"
#include "mem_image.h"
#include "src/base/bytes.h"
#include "tests/backend/qcow_disk_helpers.h"

static void attach_refused(struct mem_disk *d, enum err_kind kind, const char *text)
{
    OWNED(mem_disk) before = mem_disk_of(mem_disk_bytes(d), mem_disk_size(d));
    OWNED(blk) b = NULL;
    OWNED(qcow_volume) v = NULL;
    OWNED(qcow_disk) disk = NULL;
    struct err e;
    assert_int_equal(mem_disk_blk(d, &b, &e), 0);
    if (mem_image_volume(b, MEM_IMAGE_PASS, &v, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(qcow_attach(&v, &disk, &e), -1);
    assert_null(disk);
    assert_non_null(v);
    says(&e, kind, text);
    assert_memory_equal(mem_disk_bytes(d), mem_disk_bytes(before), mem_disk_size(d));
}

static void what_was_formatted_is_read_back(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) d = NULL;
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_blk(im.disk, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    assert_true(mem_image_intact(d, im.sectors));
    assert_memory_equal(qcow_disk_facts(d)->instance, im.facts.instance, 16);
    assert_non_null(qcow_disk_record_key(d));
}

/* ---- the key ---- */

struct asked {
    uint64_t last, total, stop_at;
    unsigned n;
    bool monotonic;
};
static bool go_on(void *ctx, uint64_t done, uint64_t total)
{
    struct asked *a = ctx;
    a->monotonic = (a->n == 0 || done >= a->last) && done <= total &&
                   (a->n == 0 || total == a->total) && a->monotonic;
    a->last = done;
    a->total = total;
    a->n++;
    return a->stop_at == 0 || done < a->stop_at;
}

static int recover(struct mem_disk *d, const char *pass, const struct watch *watch, struct err *e)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(secret) s = NULL;
    if (mem_disk_blk(d, &b, e) < 0 || qcow_open(b, &img, e) < 0 ||
        secret_new(strlen(pass) + 1, &s, e) < 0)
        return -1;
    memcpy(secret_bytes(s), pass, strlen(pass));
    int r = qcow_recover(img, s, strlen(pass), watch, &key, e);
    assert_int_equal(r == 0, key != NULL);
    return r;
}

/* S1.3, S3.3 */
static void a_wrong_key_is_named_as_such_and_gives_nothing(void **state)
{
    static const char *const wrong[] = {"", "correct hors", "correct horse\n", "Correct horse"};
    struct err e;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        assert_int_equal(recover(im.disk, wrong[i], NULL, &e), -1);
        says(&e, ERR_KEY_WRONG, "opens none of the image's key slots (1 tried)");
    }
}

/* The slot's material and parameters in slots 2, 5 and 7 too, of which only the last is sound. */
static struct mem_disk *with_slots(void)
{
    OWNED(mem_disk) d = copy();
    uint8_t *area = mem_disk_bytes(d) + im.header.luks.byte;
    static const unsigned more[] = {2, 5, 7};
    for (size_t i = 0; i < ARRAY_LEN(more); i++) {
        uint8_t *slot = area + 208 + 48 * more[i];
        memcpy(slot, area + 208, 40);
        memcpy(area + get_be32(slot + 40) * 512ul, area + get_be32(area + 208 + 40) * 512ul,
               luks_slot_sectors(64) * 512ul);
        if (more[i] != 7)
            slot[8] ^= 1;
    }
    put_be32(area + 208, 0x0000dead);
    return MOVE(d);
}

static void every_active_slot_is_tried_and_the_watch_counts_over_all(void **state)
{
    OWNED(mem_disk) d = with_slots();
    struct asked asked = {.monotonic = true};
    struct watch watch = {go_on, &asked};
    struct err e;
    (void)state;
    assert_int_equal(recover(d, MEM_IMAGE_PASS, &watch, &e), 0);
    assert_int_equal(asked.total, 3 * 2000);
    assert_true(asked.monotonic);
    assert_true(asked.n > 0 && asked.last > 2 * 2000);
    assert_int_equal(recover(d, "x", &watch, &e), -1);
    says(&e, ERR_KEY_WRONG, "(3 tried)");
}

static void recovering_can_be_stopped(void **state)
{
    OWNED(mem_disk) d = with_slots();
    struct asked asked = {.monotonic = true, .stop_at = 2500};
    struct watch watch = {go_on, &asked};
    struct err e;
    (void)state;
    assert_int_equal(recover(d, MEM_IMAGE_PASS, &watch, &e), -1);
    says(&e, ERR_USAGE, "interrupted");
}

static void an_image_without_active_slots_is_corrupt(void **state)
{
    OWNED(mem_disk) d = copy();
    struct err e;
    (void)state;
    put_be32(mem_disk_bytes(d) + im.header.luks.byte + 208, 0x0000dead);
    assert_int_equal(recover(d, MEM_IMAGE_PASS, NULL, &e), -1);
    says(&e, ERR_STATE_CORRUPT, "no key slot of the LUKS header is active");
}

/* ---- attaching ---- */

/* Everything that sector 0 can lack, with the mark of ours in the header or without. */
static void without_a_first_sector(bool ours, enum err_kind kind)
{
    static const char *const how[] = {"sector 0 was never written", "sector 0 was never written",
                                      "sector 0 is zero in the file", "it has no sectors",
                                      "it has no sectors"};
    for (size_t i = 0; i < ARRAY_LEN(how); i++) {
        OWNED(mem_disk) d = copy();
        uint8_t *bytes = mem_disk_bytes(d);
        if (!ours)
            take_mark_away(d);
        if (i == 0)
            put_be64(bytes + mem_image_l2_entry(&im, 0), 0);
        if (i == 1)
            bytes[mem_image_l2_entry(&im, 0) + 7] |= 1; /* zero flag */
        if (i == 2)
            memset(bytes + sector_at(0), 0, 512);
        if (i >= 3)
            put_be64(bytes + 24, i == 3 ? 0 : 511);
        attach_refused(d, kind, how[i]);
    }
}

/* S3.8, S3.18 */
static void a_disk_never_written_is_empty_and_not_foreign(void **state)
{
    (void)state;
    without_a_first_sector(false, ERR_STATE_EMPTY);
}

/* S2.6: what nvkeep has made always has one. */
static void a_lost_first_sector_is_damage_and_not_emptiness(void **state)
{
    (void)state;
    without_a_first_sector(true, ERR_STATE_CORRUPT);
}

/* S3.7, S3.8 */
static void a_damaged_reference_sector_is_corrupt(void **state)
{
    (void)state;
    for (size_t at = 0; at < 512; at += 37) {
        OWNED(mem_disk) d = copy();
        mem_disk_bytes(d)[sector_at(0) + at] ^= 0x10;
        attach_refused(d, ERR_STATE_CORRUPT, "");
    }
}

/* Noise where our header promises a reference sector is damage; without that promise the disk is
 * somebody else's. */
static void noise_is_corrupt_under_our_header_and_foreign_under_another(void **state)
{
    OWNED(mem_disk) d = copy();
    (void)state;
    for (size_t i = 0; i < 512; i++)
        mem_disk_bytes(d)[sector_at(0) + i] = (uint8_t)(i * 7 + 1);
    attach_refused(d, ERR_STATE_CORRUPT, "");
    put_be32(mem_disk_bytes(d) + 136, 0x12345678); /* not our extension any more */
    attach_refused(d, ERR_STATE_FOREIGN, "");
}

static void a_header_of_another_instance_is_foreign(void **state)
{
    OWNED(mem_disk) d = copy();
    (void)state;
    for (size_t i = 0; i < 16; i++)
        mem_disk_bytes(d)[152 + i] ^= (uint8_t)(0x5a + i);
    attach_refused(d, ERR_STATE_FOREIGN, "the header names another instance");
}

/* S2.6 */
static void a_damaged_name_of_the_instance_is_damage(void **state)
{
    OWNED(mem_disk) d = copy();
    (void)state;
    mem_disk_bytes(d)[152] ^= 1;
    attach_refused(d, ERR_STATE_CORRUPT, "it differs in 1 of 128 bits");
}

/* S2.6 */
static void a_changed_header_that_still_opens_is_corrupt(void **state)
{
    OWNED(mem_disk) d = copy();
    (void)state;
    mem_disk_bytes(d)[im.header.luks.byte + 168] ^= 1; /* LUKS uuid */
    attach_refused(d, ERR_STATE_CORRUPT, "the clear-text header was changed");
}

static void a_disk_made_smaller_than_its_store_is_corrupt(void **state)
{
    uint64_t end = (im.facts.layout.log + im.facts.layout.log_sectors) * 512;
    const uint64_t sizes[] = {C, 2 * C, SIZE / 2, end - C};
    OWNED(mem_disk) d = copy();
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        put_be64(mem_disk_bytes(d) + 24, sizes[i]);
        attach_refused(d, ERR_STATE_CORRUPT, "was the image made smaller?");
    }
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) disk = NULL;
    struct err e;
    put_be64(mem_disk_bytes(d) + 24, end);
    assert_int_equal(mem_disk_blk(d, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &disk, &e), 0);
}

/* Each cluster of the disk in turn lies where the file is cut off. */
static void a_file_that_is_cut_off_inside_the_store_is_not_whole(void **state)
{
    const struct store_layout *l = &im.facts.layout;
    uint64_t n = SIZE / C, beyond = (l->log + l->log_sectors) * 512 / C;
    (void)state;
    assert_true(beyond < n);
    for (uint64_t i = 0; i < n; i++) {
        OWNED(mem_disk) m = copy();
        OWNED(blk) b = NULL;
        OWNED(qcow_disk) d = NULL;
        struct err e;
        uint8_t *bytes = mem_disk_bytes(m);
        if (i != n - 1)
            swap64(bytes + mem_image_l2_entry(&im, i), bytes + mem_image_l2_entry(&im, n - 1));
        mem_disk_truncate(m, mem_disk_size(m) - 512);
        assert_int_equal(mem_disk_blk(m, &b, &e), 0);
        if (i == 0) /* its place in the file is part of what was encrypted */
            continue;
        assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
        if (i >= beyond) {
            assert_int_equal(qcow_disk_check_whole(d, &e), 0);
            continue;
        }
        assert_int_equal(qcow_disk_check_whole(d, &e), -1);
        says(&e, ERR_STATE_CORRUPT, "the file is cut off");
    }
    /* What was never allocated is not cut off. */
    OWNED(mem_disk) m = copy();
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) d = NULL;
    struct err e;
    put_be64(mem_disk_bytes(m) + mem_image_l2_entry(&im, 3), 0);
    assert_int_equal(mem_disk_blk(m, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    assert_int_equal(qcow_disk_check_whole(d, &e), 0);
}

/* Unallocated and zero clusters, next to ones that hold something. */
static void what_is_not_allocated_reads_as_zeroes(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) d = NULL;
    uint8_t buf[6 * C], want[512];
    struct err e;
    (void)state;
    uint64_t four = mem_image_l2_entry(&im, 4);
    put_be64(mem_disk_bytes(m) + mem_image_l2_entry(&im, 2), 0);
    put_be64(mem_disk_bytes(m) + mem_image_l2_entry(&im, 3), 0);
    put_be64(mem_disk_bytes(m) + four, get_be64(mem_disk_bytes(m) + four) | QCOW_ZERO);
    assert_int_equal(mem_disk_blk(m, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    memset(buf, 0xee, sizeof(buf));
    assert_int_equal(qcow_disk_read(d, (struct sector){8}, 6 * C / 512, buf, &e), 0);
    for (uint64_t nr = 8; nr < 8 + 6 * C / 512; nr++) {
        const uint8_t *got = buf + (nr - 8) * 512;
        mem_image_pattern(nr, want);
        if (nr / 8 >= 2 && nr / 8 <= 4)
            assert_true(bytes_all_zero(got, 512));
        else
            assert_memory_equal(got, want, 512);
    }
}

/* For a look at what somebody else may have written meanwhile. */
static void a_sector_is_read_again_only_where_the_store_is(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(qcow_disk_rw) d = NULL;
    uint8_t buf[512], want[512];
    struct err e;
    (void)state;
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    assert_int_equal(qcow_disk_read_again(d, (struct sector){9}, buf, &e), 0);
    mem_image_pattern(9, want);
    assert_memory_equal(buf, want, 512);
    assert_int_equal(qcow_disk_read_again(d, (struct sector){SIZE / 512 - 1}, buf, &e), 0);
    assert_int_equal(qcow_disk_read_again(d, (struct sector){SIZE / 512}, buf, &e), -1);
    assert_int_equal(qcow_disk_read_again(d, (struct sector){UINT64_MAX}, buf, &e), -1);
    mem_disk_fail(m, 0, MEM_FAIL_ONCE, EIO, 0);
    assert_int_equal(qcow_disk_read_again(d, (struct sector){9}, buf, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(e.os, EIO);
}

/* ---- reading ---- */

static void reading_beyond_the_disk_is_refused_and_reads_nothing(void **state)
{
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) d = NULL;
    uint8_t buf[1024];
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_blk(im.disk, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    memset(buf, 0x5a, sizeof(buf));
    assert_int_equal(qcow_disk_read(d, (struct sector){SIZE / 512 - 1}, 2, buf, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_int_equal(qcow_disk_read(d, (struct sector){UINT64_MAX}, 2, buf, &e), -1);
    assert_int_equal(buf[0], 0x5a);
    assert_int_equal(qcow_disk_read(d, (struct sector){SIZE / 512 - 1}, 1, buf, &e), 0);
}

static void a_failed_read_leaves_no_payload_behind(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) d = NULL;
    uint8_t buf[16 * 512];
    struct err e;
    (void)state;
    /* two runs: clusters 1 and 2 change places */
    uint64_t one = mem_image_l2_entry(&im, 1), two = mem_image_l2_entry(&im, 2);
    uint8_t *bytes = mem_disk_bytes(m), t[8];
    memcpy(t, bytes + one, 8);
    memcpy(bytes + one, bytes + two, 8);
    memcpy(bytes + two, t, 8);
    assert_int_equal(mem_disk_blk(m, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    mem_disk_fail(m, 1, MEM_FAIL_ONCE, EIO, 0);
    assert_int_equal(qcow_disk_read(d, (struct sector){8}, 16, buf, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_true(bytes_all_zero(buf, sizeof(buf)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_formatted_is_read_back),
        cmocka_unit_test(a_wrong_key_is_named_as_such_and_gives_nothing),
        cmocka_unit_test(every_active_slot_is_tried_and_the_watch_counts_over_all),
        cmocka_unit_test(recovering_can_be_stopped),
        cmocka_unit_test(an_image_without_active_slots_is_corrupt),
        cmocka_unit_test(a_disk_never_written_is_empty_and_not_foreign),
        cmocka_unit_test(a_lost_first_sector_is_damage_and_not_emptiness),
        cmocka_unit_test(a_damaged_reference_sector_is_corrupt),
        cmocka_unit_test(noise_is_corrupt_under_our_header_and_foreign_under_another),
        cmocka_unit_test(a_header_of_another_instance_is_foreign),
        cmocka_unit_test(a_damaged_name_of_the_instance_is_damage),
        cmocka_unit_test(a_changed_header_that_still_opens_is_corrupt),
        cmocka_unit_test(a_disk_made_smaller_than_its_store_is_corrupt),
        cmocka_unit_test(a_file_that_is_cut_off_inside_the_store_is_not_whole),
        cmocka_unit_test(what_is_not_allocated_reads_as_zeroes),
        cmocka_unit_test(a_sector_is_read_again_only_where_the_store_is),
        cmocka_unit_test(reading_beyond_the_disk_is_refused_and_reads_nothing),
        cmocka_unit_test(a_failed_read_leaves_no_payload_behind),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
