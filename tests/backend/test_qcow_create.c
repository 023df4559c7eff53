/* What is asked of qcow_format() that cannot be made, and what its fill() may write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow.h"
#include "crypto/luks_key.h"
#include "mem_disk.h"
#include "src/base/bytes.h"

enum { SIZE = 64 * 1024, SECTORS = SIZE / 512 };

static int fill_nothing(void *ctx, struct qcow_new *n, const uint8_t digest[32], struct err *e)
{
    (void)ctx, (void)n, (void)digest, (void)e;
    return 0;
}

static struct qcow_create wanted(struct volume_key **ret_key)
{
    struct qcow_create c = {.size = SIZE, .cluster_bits = 16};
    struct err e;
    assert_int_equal(luks_volume_new(LUKS_MIN_ITERATIONS, &c.luks, ret_key, &e), 0);
    return c;
}

static void refused(const struct qcow_create *c, const struct volume_key *key, const char *says)
{
    OWNED(mem_disk) d = mem_disk_new(4 << 20);
    OWNED(blk_rw) w = NULL;
    struct err e = {0};
    size_t n_log;
    assert_int_equal(mem_disk_claimed(d, &w, &e), 0);
    assert_int_equal(qcow_format(w, c, key, fill_nothing, NULL, &e), -1);
    if (e.kind != ERR_USAGE || !strstr(e.text, says))
        fail_msg("%s \"%s\", no \"%s\"", err_class(e.kind)->name, e.text, says);
    (void)mem_disk_log(d, &n_log);
    assert_int_equal(n_log, 0);
}

/* S2.10 */
static void sizes_that_cannot_be_are_refused_before_a_byte_is_written(void **state)
{
    OWNED(volume_key) key = NULL;
    const struct qcow_create good = wanted(&key);
    struct qcow_create c = good;
    (void)state;
    c.cluster_bits = 8;
    refused(&c, key, "a cluster size of 2^8 bytes");
    c.cluster_bits = 22;
    refused(&c, key, "a cluster size of 2^22 bytes");
    c = good;
    c.size = 0;
    refused(&c, key, "a disk of 0 bytes; it must be a multiple of 4096");
    c.size = SIZE + 512;
    refused(&c, key, "a disk of 66048 bytes; it must be a multiple of 4096");
    c.cluster_bits = 9;
    c.size = (UINT64_C(512) << 20) + 4096;
    refused(&c, key, "a disk of 536875008 bytes is too large for clusters of 512 bytes");
    c.cluster_bits = 21;
    c.size = (UINT64_C(1) << 41) + 4096;
    refused(&c, key, "is too large for clusters of 2097152 bytes: at most 1048576 clusters");
}

static void refused_in_fill(struct qcow_new *n, uint64_t first, size_t n_sectors)
{
    static uint8_t buf[2 * 512];
    struct err e = {0};
    memset(buf, 0x5a, sizeof(buf));
    assert_int_equal(qcow_new_write(n, (struct sector){first}, n_sectors, buf, &e), -1);
    assert_int_equal(e.kind, ERR_USAGE);
    for (size_t i = 0; i < sizeof(buf); i++) /* nothing was encrypted either */
        assert_int_equal(buf[i], 0x5a);
}

static int fill_to_the_end(void *ctx, struct qcow_new *n, const uint8_t digest[32], struct err *e)
{
    uint8_t buf[512] = {0};
    (void)ctx, (void)digest;
    refused_in_fill(n, SECTORS, 1);
    refused_in_fill(n, SECTORS - 1, 2);
    refused_in_fill(n, UINT64_MAX, 1);
    return qcow_new_write(n, (struct sector){SECTORS - 1}, 1, buf, e);
}

static void what_fills_a_new_disk_stays_inside_it(void **state)
{
    OWNED(volume_key) key = NULL;
    struct qcow_create c = wanted(&key);
    OWNED(mem_disk) d = mem_disk_new(qcow_create_bytes(&c));
    OWNED(blk_rw) w = NULL;
    struct err e;
    (void)state;
    assert_int_equal(mem_disk_claimed(d, &w, &e), 0);
    assert_int_equal(qcow_format(w, &c, key, fill_to_the_end, NULL, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_that_cannot_be_are_refused_before_a_byte_is_written),
        cmocka_unit_test(what_fills_a_new_disk_stays_inside_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
