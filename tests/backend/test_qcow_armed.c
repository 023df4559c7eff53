/* From a disk that is read to one that can be written: what refuses it, and what a write does to
 * the file. */
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
