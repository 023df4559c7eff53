/* Key slots: what is written where and in which order, and what is refused. What a power loss
 * leaves is tests/crash/test_key_crash.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/key_change.h"
#include "crypto/luks_key.h"
#include "mem_image.h"

enum { ITERATIONS = 1000 };

struct bench {
    struct mem_image im;
    struct blk_rw *w;
    struct qcow_image *img;
    struct key_area area;
    struct qcow_keys *k;
    struct secret *first, *other;
    struct volume_key *volume;
    unsigned opens;
};

static struct secret *passphrase(const char *text)
{
    struct secret *s;
    struct err e;
    assert_int_equal(secret_new(strlen(text), &s, &e), 0);
    memcpy(secret_bytes(s), text, strlen(text));
    return s;
}

static void close_image(struct bench *b)
{
    qcow_keys_free(MOVE(b->k));
    qcow_image_free(MOVE(b->img));
    blk_rw_free(MOVE(b->w));
    volume_key_free(MOVE(b->volume));
}

static void open_image(struct bench *b)
{
    struct err e;
    assert_int_equal(mem_disk_claimed(b->im.disk, &b->w, &e), 0);
    assert_int_equal(qcow_open(blk_of(b->w), &b->img, &e), 0);
    assert_int_equal(key_area_of(b->img, b->w, &b->area, &e), 0);
    const struct key_io io = key_area_io(&b->area);
    assert_int_equal(qcow_keys_open(&io, &b->k, &e), 0);
    assert_int_equal(
        qcow_keys_try(b->k, b->first, secret_size(b->first), NULL, &b->opens, &b->volume, &e), 0);
}

static int setup(void **state)
{
    static struct bench b;
    memset(&b, 0, sizeof(b));
    mem_image_new(12, 32768, &b.im);
    b.first = passphrase(MEM_IMAGE_PASS);
    b.other = passphrase("another one");
    open_image(&b);
    assert_int_equal(b.opens, 1);
    mem_disk_forget(b.im.disk);
    *state = &b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;
    close_image(b);
    secret_free(b->first);
    secret_free(b->other);
    mem_image_clear(&b->im);
    return 0;
}

static int add(struct bench *b, int slot, unsigned *ret, struct err *e)
{
    return qcow_keys_add(b->k, slot, b->volume, b->other, secret_size(b->other), ITERATIONS, NULL,
                         ret, e);
}

static unsigned opens(struct bench *b, const struct secret *pass)
{
    unsigned slots;
    struct err e;
    assert_int_equal(qcow_keys_try(b->k, pass, secret_size(pass), NULL, &slots, NULL, &e), 0);
    return slots;
}

/* ---- order ---- */

static bool is_header(const struct bench *b, const struct mem_op *op)
{
    return op->what == MEM_WRITE && op->off >= b->area.at.byte &&
           op->off < b->area.at.byte + KEY_HEADER_BYTES;
}

/* Each write to the header is one sector, behind a flush and before one. Returns how many. */
static unsigned check_header_writes(const struct bench *b)
{
    size_t n;
    unsigned found = 0;
    const struct mem_op *op = mem_disk_log(b->im.disk, &n);
    for (size_t i = 0; i < n; i++) {
        if (!is_header(b, &op[i]))
            continue;
        found++;
        assert_int_equal(op[i].n, 512);
        assert_int_equal(op[i].off % 512, 0);
        assert_true(i == 0 || op[i - 1].what == MEM_FLUSH);
        assert_true(i + 1 < n && op[i + 1].what == MEM_FLUSH);
    }
    assert_true(n > 0 && op[n - 1].what == MEM_FLUSH);
    return found;
}

/* At every point of adding to and removing from every slot the header can be decoded, and a slot is
 * as it was or as it shall be. */
static void each_write_of_the_header_leaves_a_whole_one(void **state)
{
    struct bench *b = *state;
    for (unsigned slot = 1; slot < LUKS_N_SLOTS; slot++) {
        for (unsigned removes = 0; removes < 2; removes++) {
            uint8_t header[KEY_HEADER_BYTES];
            unsigned got;
            size_t n;
            struct err e = {0};
            struct luks_header was = *qcow_keys_header(b->k), l;
            memcpy(header, mem_disk_bytes(b->im.disk) + b->area.at.byte, sizeof(header));
            mem_disk_forget(b->im.disk);
            if (removes)
                assert_int_equal(qcow_keys_remove(b->k, slot, b->opens, &e), 0);
            else
                assert_int_equal(add(b, (int)slot, &got, &e), 0);
            struct luks_header shall = *qcow_keys_header(b->k);
            assert_int_equal(check_header_writes(b), slot == 6 ? 2 : 1);
            const struct mem_op *op = mem_disk_log(b->im.disk, &n);
            for (size_t i = 0; i < n; i++) {
                if (!is_header(b, &op[i]))
                    continue;
                memcpy(header + (op[i].off - b->area.at.byte), op[i].data, op[i].n);
                assert_int_equal(luks_header_decode(header, b->area.bytes, &l, &e), 0);
                const struct luks_slot *to = l.slot[slot].active == was.slot[slot].active
                                                 ? &was.slot[slot]
                                                 : &shall.slot[slot];
                assert_int_equal(l.slot[slot].active, to->active);
                if (to->active) /* what a disabled slot has beside its place means nothing */
                    assert_memory_equal(l.slot[slot].salt, to->salt, sizeof(to->salt));
            }
            assert_int_equal(l.slot[slot].active, !removes);
        }
    }
    assert_int_equal(opens(b, b->other), 0);
    assert_int_equal(opens(b, b->first), 1);
}

static void material_is_written_before_the_header_and_wiped_behind_it(void **state)
{
    struct bench *b = *state;
    unsigned slot;
    size_t n;
    struct err e = {0};
    assert_int_equal(add(b, KEY_SLOT_ANY, &slot, &e), 0);
    assert_int_equal(slot, 1);
    const struct mem_op *op = mem_disk_log(b->im.disk, &n);
    assert_false(is_header(b, &op[0]));
    assert_true(is_header(b, &op[n - 2]));
    uint64_t at = b->area.at.byte + qcow_keys_header(b->k)->slot[1].material_sector * 512ull;
    size_t bytes = luks_slot_sectors(64) * 512ul;
    assert_int_equal(op[0].off, at);

    mem_disk_forget(b->im.disk);
    assert_int_equal(qcow_keys_remove(b->k, 1, b->opens, &e), 0);
    op = mem_disk_log(b->im.disk, &n);
    assert_true(is_header(b, &op[0]));
    assert_int_equal(op[1].what, MEM_FLUSH);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(mem_disk_bytes(b->im.disk)[at + i], 0);
}

/* ---- what is refused ---- */

static void refused(struct bench *b, int r, const struct err *e, enum err_kind kind,
                    const char *text)
{
    size_t n;
    assert_int_equal(r, -1);
    assert_int_equal(e->kind, kind);
    assert_non_null(strstr(e->text, text));
    mem_disk_log(b->im.disk, &n);
    assert_int_equal(n, 0);
    assert_false(qcow_keys_touched(b->k));
}

static void last_key_is_not_removed(void **state)
{
    struct bench *b = *state;
    struct err e = {0};
    refused(b, qcow_keys_remove(b->k, 0, b->opens, &e), &e, ERR_USAGE, "the last key");
}

static void key_is_removed_only_while_another_was_seen_to_open(void **state)
{
    struct bench *b = *state;
    unsigned slot;
    struct err e = {0};
    assert_int_equal(add(b, KEY_SLOT_ANY, &slot, &e), 0);
    close_image(b);
    open_image(b);
    mem_disk_forget(b->im.disk);
    refused(b, qcow_keys_remove(b->k, 0, 1 << 0, &e), &e, ERR_USAGE, "give one that stays");
    refused(b, qcow_keys_remove(b->k, 0, 0, &e), &e, ERR_USAGE, "give one that stays");
    refused(b, qcow_keys_remove(b->k, 0, 1 << 5, &e), &e, ERR_USAGE, "give one that stays");
    assert_int_equal(qcow_keys_remove(b->k, 0, 1 << 1, &e), 0);
    assert_int_equal(opens(b, b->first), 0);
    assert_int_equal(opens(b, b->other), 1 << 1);
}

static void slot_in_use_is_not_overwritten(void **state)
{
    struct bench *b = *state;
    unsigned slot = 99;
    struct err e = {0};
    refused(b, add(b, 0, &slot, &e), &e, ERR_USAGE, "slot 0 holds a key");
    assert_int_equal(slot, 99);
}

static void ninth_key_is_refused(void **state)
{
    struct bench *b = *state;
    unsigned slot;
    struct err e = {0};
    for (unsigned i = 1; i < LUKS_N_SLOTS; i++) {
        assert_int_equal(add(b, KEY_SLOT_ANY, &slot, &e), 0);
        assert_int_equal(slot, i);
    }
    assert_int_equal(opens(b, b->other), 0xfe);
    close_image(b);
    open_image(b);
    mem_disk_forget(b->im.disk);
    refused(b, add(b, KEY_SLOT_ANY, &slot, &e), &e, ERR_USAGE, "all 8 key slots hold keys");
}

static void rotating_to_the_same_key_is_refused(void **state)
{
    struct bench *b = *state;
    struct key_changed done;
    const struct key_new n = {b->first, secret_size(b->first), ITERATIONS, KEY_SLOT_ANY, false};
    struct err e = {0};
    refused(b, key_change_rotate(b->k, b->volume, b->opens, &n, NULL, &done, &e), &e, ERR_USAGE,
            "the new key is the old one");
}

/* ---- storage ---- */

/* A header that somebody else has written meanwhile: not one byte more is written. */
static void header_that_changed_meanwhile_is_left_alone(void **state)
{
    struct bench *b = *state;
    unsigned slot;
    struct err e = {0};
    mem_disk_bytes(b->im.disk)[b->area.at.byte + luks_slot_offset(7) + 8] ^= 1;
    refused(b, add(b, KEY_SLOT_ANY, &slot, &e), &e, ERR_LOCKED, "somebody else");
}

static int forgets(void *ctx, const uint8_t *header, uint64_t at, const void *buf, size_t n,
                   struct err *e)
{
    const struct bench *b = ctx;
    struct key_area a = b->area;
    const struct key_io io = key_area_io(&a);
    return at >= KEY_HEADER_BYTES ? 0 : io.write(&a, header, at, buf, n, e);
}

static int reads(void *ctx, uint64_t at, void *buf, size_t n, struct err *e)
{
    struct key_area a = ((const struct bench *)ctx)->area;
    return key_area_io(&a).read(&a, at, buf, n, e);
}

static int flushes(void *ctx, struct err *e)
{
    (void)ctx;
    (void)e;
    return 0;
}

/* Storage that drops what is written: the slot is not enabled. */
static void key_that_does_not_open_what_was_written_does_not_count(void **state)
{
    struct bench *b = *state;
    unsigned slot;
    struct err e = {0};
    const struct key_io io = {reads, forgets, flushes, b, b->area.bytes};
    qcow_keys_free(MOVE(b->k));
    assert_int_equal(qcow_keys_open(&io, &b->k, &e), 0);
    refused(b, add(b, KEY_SLOT_ANY, &slot, &e), &e, ERR_STORAGE, "the slot was not enabled");
}

static void image_that_is_not_claimed_is_not_written(void **state)
{
    struct bench *b = *state;
    OWNED(blk) plain = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(qcow_keys) k = NULL;
    struct key_area area;
    unsigned slot;
    struct err e = {0};
    assert_int_equal(mem_disk_blk(b->im.disk, &plain, &e), 0);
    assert_int_equal(qcow_open(plain, &img, &e), 0);
    assert_int_equal(key_area_of(img, b->w, &area, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    assert_int_equal(key_area_of(img, NULL, &area, &e), 0);
    const struct key_io io = key_area_io(&area);
    assert_int_equal(qcow_keys_open(&io, &k, &e), 0);
    assert_int_equal(qcow_keys_add(k, KEY_SLOT_ANY, b->volume, b->other, secret_size(b->other),
                                   ITERATIONS, NULL, &slot, &e),
                     -1);
    assert_int_equal(e.kind, ERR_USAGE);
}

static void one_entry_changes_no_other_byte_of_the_header(void **state)
{
    (void)state;
    for (unsigned slot = 0; slot < LUKS_N_SLOTS; slot++) {
        uint8_t header[LUKS_HEADER_BYTES], was[LUKS_HEADER_BYTES];
        const struct luks_slot s = {true, 0x01020304, {9, 8, 7}, 0x0a0b0c0d};
        memset(header, 0x55, sizeof(header));
        memset(was, 0x55, sizeof(was));
        luks_slot_encode(&s, slot, header);
        size_t at = luks_slot_offset(slot), end = at + LUKS_SLOT_BYTES;
        assert_int_equal(at, 208 + 48 * slot);
        assert_memory_equal(header, was, at);
        assert_memory_equal(header + end, was + end, sizeof(was) - end);
        assert_memory_equal(header + at, "\0\xac\x71\xf3\1\2\3\4\x09\x08\7\0", 12);
        assert_memory_equal(header + at + 40, "\x0a\x0b\x0c\x0d\0\0\x0f\xa0", 8);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_write_of_the_header_leaves_a_whole_one),
        TEST(material_is_written_before_the_header_and_wiped_behind_it),
        TEST(last_key_is_not_removed),
        TEST(key_is_removed_only_while_another_was_seen_to_open),
        TEST(slot_in_use_is_not_overwritten),
        TEST(ninth_key_is_refused),
        TEST(rotating_to_the_same_key_is_refused),
        TEST(header_that_changed_meanwhile_is_left_alone),
        TEST(key_that_does_not_open_what_was_written_does_not_count),
        TEST(image_that_is_not_claimed_is_not_written),
        cmocka_unit_test(one_entry_changes_no_other_byte_of_the_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
