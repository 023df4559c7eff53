/* From the passphrase to a disk that can be written: each class of refusal, and what a write does
 * to the file. */
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

enum { C = 4096, SIZE = 128 * 1024 };

static struct mem_image im;

static int make(void **state)
{
    (void)state;
    mem_image_new(12, SIZE, &im);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    mem_image_clear(&im);
    return 0;
}

static struct mem_disk *copy(void)
{
    return mem_disk_of(mem_disk_bytes(im.disk), mem_disk_size(im.disk));
}

static void says(const struct err *e, enum err_kind kind, const char *text)
{
    if (e->kind != kind || !strstr(e->text, text) || !strstr(e->text, "memory: "))
        fail_msg("%s \"%s\" is not %s \"%s\"", err_class(e->kind)->name, e->text,
                 err_class(kind)->name, text);
}

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

static void arm_refused(struct mem_disk *d, enum err_kind kind, const char *text)
{
    OWNED(mem_disk) before = mem_disk_of(mem_disk_bytes(d), mem_disk_size(d));
    OWNED(qcow_disk) disk = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk_rw) rw = NULL;
    struct err e;
    assert_int_equal(mem_disk_claimed(d, &w, &e), 0);
    if (mem_image_attach(blk_of(w), MEM_IMAGE_PASS, &disk, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(qcow_arm(&disk, &w, &rw, &e), -1);
    assert_non_null(disk);
    assert_non_null(w);
    says(&e, kind, text);
    qcow_disk_free(MOVE(disk));
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

static uint64_t sector_at(uint64_t guest)
{
    uint64_t entry = get_be64(mem_disk_bytes(im.disk) + mem_image_l2_entry(&im, guest / (C / 512)));
    return (entry & QCOW_OFFSET) + guest % (C / 512) * 512;
}

/* The mark of ours becomes an extension that nobody knows. */
static void take_mark_away(struct mem_disk *d)
{
    uint8_t *mark = mem_disk_bytes(d) + im.header.header_length + 24;
    assert_memory_equal(mark, "nvkp", 4);
    memcpy(mark, "none", 4);
}

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

static void swap64(uint8_t *a, uint8_t *b)
{
    uint64_t v = get_be64(a);
    put_be64(a, get_be64(b));
    put_be64(b, v);
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

/* The last cluster may be short; what lacks is zero ciphertext, as stock tools have it. */
static void a_short_last_cluster_is_read_but_never_armed(void **state)
{
    OWNED(mem_disk) d = copy();
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) disk = NULL;
    uint8_t buf[C], want[512];
    struct err e;
    (void)state;
    mem_disk_truncate(d, mem_disk_size(d) - 2048);
    assert_int_equal(mem_disk_blk(d, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &disk, &e), 0);
    assert_int_equal(qcow_disk_read(disk, (struct sector){SIZE / 512 - 8}, 8, buf, &e), 0);
    mem_image_pattern(SIZE / 512 - 5, want);
    assert_memory_equal(buf + 3 * 512, want, 512);
    mem_image_pattern(SIZE / 512 - 4, want);
    assert_memory_not_equal(buf + 4 * 512, want, 512);
    qcow_disk_free(MOVE(disk));

    uint64_t five = mem_image_l2_entry(&im, 5), last = mem_image_l2_entry(&im, SIZE / C - 1);
    memcpy(mem_disk_bytes(d) + five, mem_disk_bytes(im.disk) + last, 8);
    memcpy(mem_disk_bytes(d) + last, mem_disk_bytes(im.disk) + five, 8);
    arm_refused(d, ERR_STATE_CORRUPT, "lies at the cut off end of the file");
}

/* ---- arming ---- */

static void what_cannot_be_written_in_place_is_not_armed(void **state)
{
    uint64_t at = mem_image_l2_entry(&im, 5);
    (void)state;
    {
        OWNED(mem_disk) d = copy();
        put_be64(mem_disk_bytes(d) + at, 0);
        arm_refused(d, ERR_STATE_CORRUPT, "cluster 5 of the state is not allocated");
    }
    {
        OWNED(mem_disk) d = copy();
        mem_disk_bytes(d)[at + 7] |= 1;
        arm_refused(d, ERR_STATE_CORRUPT, "cluster 5 of the state is marked as zero");
    }
    {
        OWNED(mem_disk) d = copy();
        mem_disk_bytes(d)[at] &= 0x7f;
        arm_refused(d, ERR_STATE_CORRUPT, "cluster 5 of the state is marked as shared");
    }
    {
        /* a stale COPIED does not suffice: this is how stock tools destroy snapshots */
        OWNED(mem_disk) d = copy();
        uint64_t host = (get_be64(mem_disk_bytes(d) + at) & QCOW_OFFSET) / C;
        put_be16(mem_disk_bytes(d) + mem_image_refcount(&im, host), 2);
        arm_refused(d, ERR_STATE_CORRUPT, "and the image has no snapshots");
        take_mark_away(d);
        arm_refused(d, ERR_UNSUPPORTED, "qemu-img snapshot -l");
    }
}

static void a_marked_image_is_read_but_not_armed(void **state)
{
    static const struct {
        unsigned at;
        uint64_t value;
        const char *text;
    } marks[] = {
        {72, QCOW_DIRTY, "is marked dirty"},
        {72, QCOW_CORRUPT, "is marked corrupt"},
        {88, 2, "features that are not known here"},
        {88, UINT64_C(1) << 63, "features that are not known here"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        OWNED(mem_disk) d = copy();
        put_be64(mem_disk_bytes(d) + marks[i].at, marks[i].value);
        arm_refused(d, ERR_UNSUPPORTED, marks[i].text);
    }
}

static void a_check_says_what_an_image_is_marked_as(void **state)
{
    static const struct {
        uint64_t marks;
        const char *text;
    } cases[] = {{QCOW_DIRTY, "is marked dirty"}, {QCOW_CORRUPT, "is marked corrupt"}};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        OWNED(mem_disk) m = copy();
        OWNED(blk) b = NULL;
        struct qcow_check check;
        struct err e;
        put_be64(mem_disk_bytes(m) + 72, cases[i].marks);
        assert_int_equal(mem_disk_blk(m, &b, &e), 0);
        OWNED(qcow_disk) d = NULL;
        assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
        assert_int_equal(qcow_check_image(qcow_disk_image(d), &check, &e), 0);
        assert_int_equal(check.corruptions, 1);
        assert_non_null(strstr(check.first, cases[i].text));
    }
}

static void an_image_opened_before_the_claim_is_not_armed(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(blk) b = NULL;
    OWNED(blk_rw) w = NULL;
    OWNED(qcow_disk) d = NULL;
    OWNED(qcow_disk_rw) rw = NULL;
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_blk(m, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &d, &e), 0);
    assert_int_equal(blk_claim(&b, &w, &e), 0);
    assert_int_equal(qcow_arm(&d, &w, &rw, &e), -1);
    says(&e, ERR_USAGE, "was opened before it was claimed");
    assert_non_null(d);
    assert_non_null(w);
    qcow_disk_free(MOVE(d));
}

static void another_images_claim_arms_nothing(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(mem_disk) n = copy();
    OWNED(blk_rw) w = NULL;
    OWNED(blk_rw) other = NULL;
    OWNED(qcow_disk) d = NULL;
    OWNED(qcow_disk_rw) rw = NULL;
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_claimed(m, &w, &e), 0);
    assert_int_equal(mem_disk_claimed(n, &other, &e), 0);
    assert_int_equal(mem_image_attach(blk_of(w), MEM_IMAGE_PASS, &d, &e), 0);
    assert_int_equal(qcow_arm(&d, &other, &rw, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    qcow_disk_free(MOVE(d));
}

/* ---- writing ---- */

static void a_contiguous_range_is_one_write_and_touches_nothing_else(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(qcow_disk_rw) d = NULL;
    OWNED(mem_disk) before = copy();
    uint8_t buf[20 * 512], got[20 * 512], plain[20 * 512];
    struct err e;
    size_t n;
    (void)state;
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    memset(buf, 0xab, sizeof(buf));
    memcpy(plain, buf, sizeof(buf));
    mem_disk_forget(m);
    assert_int_equal(qcow_disk_write(d, (struct sector){21}, 20, buf, &e), 0);
    assert_int_equal(qcow_disk_flush(d, &e), 0);
    const struct mem_op *log = mem_disk_log(m, &n);
    assert_int_equal(n, 2);
    assert_int_equal(log[0].what, MEM_WRITE);
    assert_int_equal(log[0].off, sector_at(21));
    assert_int_equal(log[0].n, sizeof(buf));
    assert_int_equal(log[1].what, MEM_FLUSH);
    assert_memory_equal(log[0].data, buf, sizeof(buf)); /* S2.9: encrypted where it was */
    assert_memory_not_equal(buf, plain, 16);

    memcpy(mem_disk_bytes(before) + sector_at(21), buf, sizeof(buf));
    assert_memory_equal(mem_disk_bytes(m), mem_disk_bytes(before), mem_disk_size(m));
    assert_int_equal(qcow_disk_read(qcow_disk_of(d), (struct sector){21}, 20, got, &e), 0);
    assert_memory_equal(got, plain, sizeof(plain));
}

/* S2.4, S2.5: guest order reversed in the file. Contents written through the scrambled map come
 * back, and each sector is encrypted for the place where it lies. */
static void a_scrambled_map_encrypts_for_the_physical_sector(void **state)
{
    OWNED(mem_disk) m = copy();
    uint8_t *bytes = mem_disk_bytes(m), buf[4 * C], plain[4 * C], got[4 * C];
    enum { N = SIZE / C };
    uint64_t entry[N];
    OWNED(qcow_disk_rw) d = NULL;
    struct err e;
    size_t n;
    (void)state;
    for (unsigned i = 1; i < N; i++)
        entry[i] = get_be64(bytes + mem_image_l2_entry(&im, i));
    for (unsigned i = 1; i < N; i++)
        put_be64(bytes + mem_image_l2_entry(&im, i), entry[N - i]);
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    for (size_t i = 0; i < sizeof(plain); i++)
        plain[i] = (uint8_t)(i >> 4);
    memcpy(buf, plain, sizeof(plain));
    mem_disk_forget(m);
    assert_int_equal(qcow_disk_write(d, (struct sector){12}, sizeof(buf) / 512, buf, &e), 0);
    const struct mem_op *log = mem_disk_log(m, &n);
    assert_int_equal(n, 5); /* no two of the five clusters touched lie in order */
    assert_int_equal(log[0].off, (entry[N - 1] & QCOW_OFFSET) + 4 * 512);
    assert_int_equal(log[4].off, entry[N - 5] & QCOW_OFFSET);
    assert_int_equal(
        qcow_disk_read(qcow_disk_of(d), (struct sector){12}, sizeof(got) / 512, got, &e), 0);
    assert_memory_equal(got, plain, sizeof(plain));
    qcow_disk_rw_free(MOVE(d));

    /* Moved to where it was written, in straight order, it must decrypt the same. */
    OWNED(mem_disk) straight = copy();
    OWNED(blk) b = NULL;
    OWNED(qcow_disk) s = NULL;
    memcpy(mem_disk_bytes(straight) + log[1].off, log[1].data, log[1].n);
    assert_int_equal(mem_disk_blk(straight, &b, &e), 0);
    assert_int_equal(mem_image_attach(b, MEM_IMAGE_PASS, &s, &e), 0);
    assert_int_equal(qcow_disk_read(s, (struct sector){(N - 2) * (C / 512)}, C / 512, got, &e), 0);
    assert_memory_equal(got, plain + 4 * 512, C);
}

/* A gap in the file is the end of a run, like a step back is: read and written in one go, what was
 * meant for each cluster is there. */
static void a_map_with_gaps_is_followed_cluster_by_cluster(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(qcow_disk_rw) d = NULL;
    uint8_t buf[8 * C], want[512], got[512];
    struct err e;
    (void)state;
    swap64(mem_disk_bytes(m) + mem_image_l2_entry(&im, 3),
           mem_disk_bytes(m) + mem_image_l2_entry(&im, 7));
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    assert_int_equal(
        qcow_disk_read(qcow_disk_of(d), (struct sector){8}, sizeof(buf) / 512, buf, &e), 0);
    for (uint64_t nr = 8; nr < 8 + sizeof(buf) / 512; nr++) {
        uint64_t from = nr / 8 == 3 ? nr + 4 * 8 : nr / 8 == 7 ? nr - 4 * 8 : nr;
        mem_image_pattern(from, want);
        assert_memory_equal(buf + (nr - 8) * 512, want, 512);
    }
    for (uint64_t nr = 8; nr < 8 + sizeof(buf) / 512; nr++)
        mem_image_pattern(nr + 1000, buf + (nr - 8) * 512);
    assert_int_equal(qcow_disk_write(d, (struct sector){8}, sizeof(buf) / 512, buf, &e), 0);
    for (uint64_t nr = 8; nr < 8 + sizeof(buf) / 512; nr++) {
        assert_int_equal(qcow_disk_read(qcow_disk_of(d), (struct sector){nr}, 1, got, &e), 0);
        mem_image_pattern(nr + 1000, want);
        assert_memory_equal(got, want, 512);
    }
}

static void writing_beyond_the_disk_or_where_nothing_is_writes_nothing(void **state)
{
    OWNED(mem_disk) m = copy();
    OWNED(qcow_disk_rw) d = NULL;
    uint8_t buf[16 * 512] = {0};
    struct err e;
    size_t n;
    (void)state;
    /* sectors behind the store's layout may be anything */
    uint64_t last = SIZE / C - 1;
    put_be64(mem_disk_bytes(m) + mem_image_l2_entry(&im, last), 0);
    assert_true(im.facts.layout.log + im.facts.layout.log_sectors <= last * (C / 512));
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    mem_disk_forget(m);
    assert_int_equal(qcow_disk_write(d, (struct sector){last * (C / 512) - 1}, 2, buf, &e), -1);
    says(&e, ERR_STATE_CORRUPT, "is not allocated");
    assert_int_equal(qcow_disk_write(d, (struct sector){SIZE / 512 - 1}, 2, buf, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    (void)mem_disk_log(m, &n);
    assert_int_equal(n, 0);
}

/* ---- faults ---- */

/* Every operation of the way up, of a write and a flush fails once, and then for good. */
static void every_failing_operation_is_a_storage_error_and_changes_nothing(void **state)
{
    uint8_t buf[4 * 512];
    struct err e;
    size_t n_ops;
    (void)state;
    {
        OWNED(mem_disk) m = copy();
        OWNED(qcow_disk_rw) d = NULL;
        mem_disk_heal(m);
        assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
        n_ops = mem_disk_n_ops(m);
    }
    for (size_t k = 0; k < n_ops; k++)
        for (enum mem_fault how = MEM_FAIL_ONCE; how <= MEM_FAIL_AFTER; how++) {
            OWNED(mem_disk) m = copy();
            OWNED(qcow_disk_rw) d = NULL;
            mem_disk_fail(m, k, how, EIO, 0);
            assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), -1);
            assert_int_equal(e.kind, ERR_STORAGE);
            assert_int_equal(e.os, EIO);
            assert_false(mem_disk_is_claimed(m));
            assert_memory_equal(mem_disk_bytes(m), mem_disk_bytes(im.disk), mem_disk_size(m));
        }
    OWNED(mem_disk) m = copy();
    OWNED(qcow_disk_rw) d = NULL;
    assert_int_equal(mem_image_arm(m, MEM_IMAGE_PASS, &d, &e), 0);
    mem_disk_fail(m, 0, MEM_FAIL_ONCE, ENOSPC, 0);
    memset(buf, 1, sizeof(buf));
    assert_int_equal(qcow_disk_write(d, (struct sector){8}, 4, buf, &e), -1);
    assert_int_equal(e.os, ENOSPC);
    memset(buf, 1, sizeof(buf));
    assert_int_equal(qcow_disk_write(d, (struct sector){8}, 4, buf, &e), 0);
    mem_disk_fail(m, 0, MEM_FAIL_ONCE, EIO, 0);
    assert_int_equal(qcow_disk_flush(d, &e), -1);
    assert_int_equal(e.kind, ERR_STORAGE);
    assert_int_equal(qcow_disk_flush(d, &e), 0);
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
        cmocka_unit_test(a_short_last_cluster_is_read_but_never_armed),
        cmocka_unit_test(what_cannot_be_written_in_place_is_not_armed),
        cmocka_unit_test(a_marked_image_is_read_but_not_armed),
        cmocka_unit_test(a_check_says_what_an_image_is_marked_as),
        cmocka_unit_test(an_image_opened_before_the_claim_is_not_armed),
        cmocka_unit_test(another_images_claim_arms_nothing),
        cmocka_unit_test(a_contiguous_range_is_one_write_and_touches_nothing_else),
        cmocka_unit_test(a_scrambled_map_encrypts_for_the_physical_sector),
        cmocka_unit_test(a_map_with_gaps_is_followed_cluster_by_cluster),
        cmocka_unit_test(writing_beyond_the_disk_or_where_nothing_is_writes_nothing),
        cmocka_unit_test(every_failing_operation_is_a_storage_error_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, make, clear);
}
