/* The header decoder: what it takes, what it refuses, and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/qcow_header.h"
#include "crypto/luks_header.h"
#include "src/base/bytes.h"

enum { FILE_BYTES = 32 << 20 };

/* A header that is right in every respect: version 3, 64 KiB clusters, LUKS. */
static struct qcow_header sound(void)
{
    struct qcow_header h = {
        .version = 3,
        .cluster_bits = 16,
        .size = 1 << 20,
        .crypt_method = 2,
        .l1_size = 1,
        .l1 = {0x300000},
        .reftable = {0x10000},
        .reftable_clusters = 1,
        .refcount_order = 4,
        .header_length = 112,
        .luks = {0x30000},
        .luks_bytes = 2068480,
        .ours = true,
        .our_version = 1,
        .instance = "instance number",
    };
    return h;
}

static void sound_bytes(uint8_t bytes[QCOW_HEADER_MAX])
{
    struct qcow_header h = sound();
    qcow_header_encode(&h, bytes);
}

static int decode(const uint8_t *bytes, struct qcow_header *h, struct err *e)
{
    return qcow_header_decode(bytes, QCOW_HEADER_MAX, FILE_BYTES, h, NULL, e);
}

static void refused_bytes(const uint8_t *bytes, size_t n, uint64_t file_bytes, enum err_kind kind,
                          const char *says)
{
    struct qcow_header h, untouched;
    struct err e;
    memset(&h, 0x5a, sizeof(h));
    untouched = h;
    if (qcow_header_decode(bytes, n, file_bytes, &h, NULL, &e) == 0)
        fail_msg("taken, should say \"%s\"", says);
    if (e.kind != kind || !strstr(e.text, says))
        fail_msg("%s \"%s\" is not %s \"%s\"", err_class(e.kind)->name, e.text,
                 err_class(kind)->name, says);
    assert_memory_equal(&h, &untouched, sizeof(h));
}

static void an_encoded_header_decodes_to_itself(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header want = sound(), h;
    struct qcow_oddities odd;
    struct err e;
    (void)state;
    qcow_header_encode(&want, bytes);
    memset(&h, 0, sizeof(h));
    assert_int_equal(qcow_header_decode(bytes, sizeof(bytes), FILE_BYTES, &h, &odd, &e), 0);
    assert_int_equal(h.version, want.version);
    assert_int_equal(h.cluster_bits, want.cluster_bits);
    assert_int_equal(h.size, want.size);
    assert_int_equal(h.crypt_method, 2);
    assert_int_equal(h.l1_size, want.l1_size);
    assert_int_equal(h.l1.byte, want.l1.byte);
    assert_int_equal(h.reftable.byte, want.reftable.byte);
    assert_int_equal(h.reftable_clusters, want.reftable_clusters);
    assert_int_equal(h.refcount_order, 4);
    assert_int_equal(h.header_length, 112);
    assert_int_equal(h.luks.byte, want.luks.byte);
    assert_int_equal(h.luks_bytes, want.luks_bytes);
    assert_true(h.ours);
    assert_int_equal(h.our_version, 1);
    assert_memory_equal(h.instance, want.instance, 16);
    assert_false(odd.backing || odd.data_file || odd.legacy_aes || odd.extended_l2);
}

/* S2.2: one sector write makes it an image, so everything must be in there. */
static void our_extensions_lie_inside_the_first_sector(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    assert_true(bytes_all_zero(bytes + 512, sizeof(bytes) - 512));
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_true(h.ours);
}

/* One field at a time, with the word that must be in the message. [QEMU's limits] */
static void every_field_out_of_bounds_is_refused_by_name(void **state)
{
    static const struct {
        unsigned at, width;
        uint64_t value;
        enum err_kind kind;
        const char *says;
    } cases[] = {
        {4, 4, 4, ERR_UNSUPPORTED, "version 4 is not known"}, /* S4.10 */
        {4, 4, 0xffffffff, ERR_UNSUPPORTED, "version 4294967295"},
        {8, 8, 0x200, ERR_UNSUPPORTED, "backing file, and state must stand on its own"}, /* S4.3 */
        {8, 8, UINT64_MAX, ERR_UNSUPPORTED, "qemu-img rebase"},
        {20, 4, 8, ERR_STATE_CORRUPT, "cluster_bits is 8"},
        {20, 4, 22, ERR_STATE_CORRUPT, "cluster_bits is 22"},
        {20, 4, 0, ERR_STATE_CORRUPT, "cluster_bits is 0"},
        {20, 4, 0xffffffff, ERR_STATE_CORRUPT, "cluster_bits"},
        {24, 8, UINT64_C(1) << 40, ERR_STATE_CORRUPT, "L1 table has 1 entries"},
        {24, 8, UINT64_MAX, ERR_STATE_CORRUPT, "L1 table has 1 entries"},
        {32, 4, 1, ERR_UNSUPPORTED, "old AES encryption"}, /* S0.1 S2.11 */
        {32, 4, 3, ERR_UNSUPPORTED, "unknown encryption method 3"},
        {32, 4, 0, ERR_STATE_CORRUPT, "names a LUKS area, but the encryption method is 0"},
        {36, 4, 0, ERR_STATE_CORRUPT, "L1 table has 0 entries"},
        {36, 4, 0x400001, ERR_STATE_CORRUPT, "more than 32 MiB"},
        {36, 4, 0x400000, ERR_STATE_CORRUPT, "(33554432 bytes at offset 0x300000)"},
        {36, 4, 0xffffffff, ERR_STATE_CORRUPT, "more than 32 MiB"},
        {40, 8, 0x300200, ERR_STATE_CORRUPT, "L1 table lies at offset 0x300200"},
        {40, 8, 0, ERR_STATE_CORRUPT, "L1 table lies at offset 0x0"},
        {40, 8, FILE_BYTES, ERR_STATE_CORRUPT, "beyond the end of the file"},
        {40, 8, UINT64_C(0xffffffffffff0000), ERR_STATE_CORRUPT, "L1 table"},
        {48, 8, 0x10001, ERR_STATE_CORRUPT, "refcount table lies at"},
        {48, 8, 0, ERR_STATE_CORRUPT, "refcount table lies at"},
        {48, 8, UINT64_C(0xffffffffffff0000), ERR_STATE_CORRUPT, "refcount table"},
        {56, 4, 0, ERR_STATE_CORRUPT, "refcount table has 0 clusters"},
        {56, 4, 129, ERR_STATE_CORRUPT, "refcount table has 129 clusters"},
        {56, 4, 0xffffffff, ERR_STATE_CORRUPT, "refcount table has"},
        {60, 4, 65537, ERR_STATE_CORRUPT, "65537 snapshots"},
        {60, 4, 1, ERR_STATE_CORRUPT, "snapshot table lies at offset 0x0"},
        {64, 8, 0x1234, ERR_STATE_CORRUPT, "snapshot table lies at"},
        {72, 8, 4, ERR_UNSUPPORTED, "external data file"}, /* S4.3 */
        {72, 8, 8, ERR_UNSUPPORTED, "another compression"},
        {72, 8, 16, ERR_UNSUPPORTED, "extended L2"},
        {72, 8, 32, ERR_UNSUPPORTED, "unknown incompatible feature bits 0x20"}, /* S4.10 */
        {72, 8, UINT64_C(1) << 63, ERR_UNSUPPORTED, "bits 0x8000000000000000"},
        {96, 4, 7, ERR_STATE_CORRUPT, "refcount_order is 7"},
        {96, 4, 0xffffffff, ERR_STATE_CORRUPT, "refcount_order"},
        {100, 4, 96, ERR_STATE_CORRUPT, "header_length is 96"},
        {100, 4, 0, ERR_STATE_CORRUPT, "header_length is 0"},
        {100, 4, 109, ERR_STATE_CORRUPT, "header_length is 109"},
        {100, 4, 65544, ERR_STATE_CORRUPT, "header_length is 65544"},
        {100, 4, 65536, ERR_UNSUPPORTED, "beyond the first 4096 bytes"},
        {100, 4, 104, ERR_STATE_CORRUPT, "no LUKS area is named"}, /* then 0 is END */
        {104, 1, 1, ERR_STATE_CORRUPT, "compression_type is 1"},
        {112, 4, 0x0537be78, ERR_STATE_CORRUPT, "no LUKS area is named"},
        {116, 4, 15, ERR_STATE_CORRUPT, "has 15 bytes, must have 16"},
        {116, 4, 17, ERR_STATE_CORRUPT, "has 17 bytes, must have 16"},
        {116, 4, 0xffffffff, ERR_STATE_CORRUPT, "reaches beyond the first cluster"},
        {116, 4, 0xfffffff8, ERR_STATE_CORRUPT, "reaches beyond the first cluster"},
        {116, 4, 65536 - 119, ERR_STATE_CORRUPT, "reaches beyond the first cluster"},
        {116, 4, 65536 - 120, ERR_UNSUPPORTED, "beyond the first 4096 bytes"},
        {120, 8, 0x30200, ERR_STATE_CORRUPT, "LUKS area lies at"},
        {120, 8, 0, ERR_STATE_CORRUPT, "LUKS area lies at offset 0x0"},
        {120, 8, FILE_BYTES, ERR_STATE_CORRUPT, "LUKS area"},
        {120, 8, UINT64_C(1) << 56, ERR_STATE_CORRUPT, "LUKS area lies at"},
        {128, 8, 4095, ERR_STATE_CORRUPT, "LUKS area has 4095 bytes"},
        {128, 8, (16 << 20) + 1, ERR_STATE_CORRUPT, "LUKS area has 16777217 bytes"},
        {128, 8, UINT64_C(1) << 63, ERR_STATE_CORRUPT, "LUKS area has"},
        {136, 4, 0x0537be77, ERR_STATE_CORRUPT, "0x0537be77 is there twice"},
        {136, 4, 0x44415441, ERR_UNSUPPORTED, "names an external data file"}, /* S4.16 */
        {140, 4, 16, ERR_UNSUPPORTED, "nvkeep's, of format 1"},
        {144, 4, 2, ERR_UNSUPPORTED, "format 2"}, /* S4.10 */
        {148, 4, 1, ERR_UNSUPPORTED, "flags 0x1"},
    };
    uint8_t bytes[QCOW_HEADER_MAX], v[8];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        sound_bytes(bytes);
        put_be64(v, cases[i].value);
        memcpy(bytes + cases[i].at, v + 8 - cases[i].width, cases[i].width);
        refused_bytes(bytes, sizeof(bytes), FILE_BYTES, cases[i].kind, cases[i].says);
    }
}

/* S4.10: none of the 59 bits nobody has given a meaning yet is passed over. */
static void each_unknown_incompatible_bit_is_refused(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        sound_bytes(bytes);
        put_be64(bytes + 72, UINT64_C(1) << bit);
        if (bit < 2) {
            assert_int_equal(decode(bytes, &h, &e), 0);
            assert_int_equal(h.incompatible, 1u << bit);
            continue;
        }
        assert_int_equal(decode(bytes, &h, &e), -1);
        assert_int_equal(e.kind, ERR_UNSUPPORTED);
    }
}

static void unknown_compatible_and_autoclear_bits_are_kept(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    put_be64(bytes + 80, UINT64_MAX);
    put_be64(bytes + 88, UINT64_C(0xfffffffffffffffc));
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_int_equal(h.compatible, UINT64_MAX);
    assert_int_equal(h.autoclear, UINT64_C(0xfffffffffffffffc));
}

/* Bytes 72.. of version 2 are extensions; read as features they would be refused. */
static void version_2_has_no_feature_bits(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX], v3[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(v3);
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, v3, 72);
    memcpy(bytes + 72, v3 + 112, 400);
    put_be32(bytes + 4, 2);
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_int_equal(h.version, 2);
    assert_int_equal(h.incompatible, 0);
    assert_int_equal(h.refcount_order, 4);
    assert_int_equal(h.header_length, 72);
    assert_int_equal(h.luks.byte, 0x30000);
    assert_true(h.ours);
}

static void unknown_extensions_are_skipped(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX], ours[48];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    memcpy(ours, bytes + 112, sizeof(ours)); /* the LUKS pointer, and half of ours */
    put_be32(bytes + 112, 0xdeadbeef);
    put_be32(bytes + 116, 3);
    memset(bytes + 120, 0xff, 8);
    memcpy(bytes + 128, ours, 24);
    put_be32(bytes + 152, 0);
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_int_equal(h.luks.byte, 0x30000);
    assert_false(h.ours);
}

static void an_area_filled_to_the_last_byte_needs_no_end(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h = sound(), got;
    struct err e;
    (void)state;
    h.cluster_bits = 9;
    h.l1_size = 32;
    qcow_header_encode(&h, bytes);
    put_be32(bytes + 168, 0x1234); /* behind ours, up to 512 */
    put_be32(bytes + 172, 512 - 176);
    memset(bytes + 176, 0xff, 512 - 176);
    assert_int_equal(decode(bytes, &got, &e), 0);
    put_be32(bytes + 172, 512 - 175);
    refused_bytes(bytes, sizeof(bytes), FILE_BYTES, ERR_STATE_CORRUPT, "beyond the first cluster");
}

static void bitmaps_count_only_where_their_bit_says_so(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    put_be32(bytes + 168, 0x23852875);
    put_be32(bytes + 172, 24);
    put_be32(bytes + 176, 1);
    put_be64(bytes + 184, 64);
    put_be64(bytes + 192, 0x310000);
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_false(h.has_bitmaps);
    put_be64(bytes + 88, 1);
    assert_int_equal(decode(bytes, &h, &e), 0);
    assert_true(h.has_bitmaps);
    assert_int_equal(h.n_bitmaps, 1);
    assert_int_equal(h.bitmap_dir_bytes, 64);
    assert_int_equal(h.bitmap_dir.byte, 0x310000);
    put_be32(bytes + 176, 0);
    refused_bytes(bytes, sizeof(bytes), FILE_BYTES, ERR_STATE_CORRUPT, "0 bitmaps");
    put_be32(bytes + 176, 1);
    put_be64(bytes + 192, 0x310001);
    refused_bytes(bytes, sizeof(bytes), FILE_BYTES, ERR_STATE_CORRUPT, "bitmap directory lies at");
    put_be64(bytes + 192, 0x310000);
    put_be64(bytes + 184, UINT64_MAX);
    refused_bytes(bytes, sizeof(bytes), FILE_BYTES, ERR_STATE_CORRUPT, "bitmap directory of 1");
}

static void too_many_extensions_are_refused(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    (void)state;
    sound_bytes(bytes);
    for (size_t i = 0; i < 70; i++) {
        put_be32(bytes + 168 + i * 8, (uint32_t)(1000 + i));
        put_be32(bytes + 172 + i * 8, 0);
    }
    refused_bytes(bytes, sizeof(bytes), FILE_BYTES, ERR_UNSUPPORTED, "more than 64");
}

/* S2.10, S2.11: every shorter file is refused, and none reads beyond its end (for ASan, the bytes
 * are on the heap and exactly as many). */
static void every_truncation_is_refused(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    for (size_t n = 0; n < QCOW_HEADER_MAX; n++) {
        OWNED_HEAP uint8_t *copy = malloc(n + (n == 0));
        assert_non_null(copy);
        memcpy(copy, bytes, n);
        assert_int_equal(qcow_header_decode(copy, n, n, &h, NULL, &e), -1);
        assert_true(e.kind == ERR_STATE_FOREIGN || e.kind == ERR_STATE_CORRUPT);
    }
}

/* S4.1: what it is decides over the message, never over the verdict. */
static void what_is_not_qcow2_is_foreign_and_called_by_its_name(void **state)
{
    /* Both as swtpm 0.7.1 writes them. */
    static const uint8_t swtpm_blob[16] = {2, 1, 0, 10, 0, 0, 0, 0, 5, 0x23, 0, 1, 0, 0, 5, 0x13};
    static const uint8_t swtpm_linear[12] = {0x6e, 0x69, 0x6c, 0x6d, 0x70, 0x74,
                                             0x77, 0x73, 1,    0,    0xc0, 0};
    uint8_t buf[QCOW_HEADER_MAX] = {0};
    (void)state;
    refused_bytes(buf, 0, 0, ERR_STATE_FOREIGN, "an empty file");
    refused_bytes(buf, sizeof(buf), FILE_BYTES, ERR_STATE_FOREIGN, "zeroes");
    refused_bytes(buf, 1, 1, ERR_STATE_FOREIGN, "zeroes");
    memcpy(buf, "LUKS\xba\xbe\0\1", 8); /* S2.16: the layers the wrong way round */
    refused_bytes(buf, sizeof(buf), FILE_BYTES, ERR_STATE_FOREIGN,
                  "a LUKS volume that is not inside a qcow2 image");
    memcpy(buf, swtpm_linear, sizeof(swtpm_linear));
    refused_bytes(buf, sizeof(buf), FILE_BYTES, ERR_STATE_FOREIGN, "linear store of swtpm");
    memcpy(buf, "QFI\xfb\0\0\0\1", 8); /* S2.11 */
    refused_bytes(buf, sizeof(buf), FILE_BYTES, ERR_UNSUPPORTED, "qcow image of version 1");
    refused_bytes(swtpm_blob, sizeof(swtpm_blob), 1400, ERR_STATE_FOREIGN, "a state file of swtpm");
    memset(buf, 0xa5, sizeof(buf));
    refused_bytes(buf, sizeof(buf), FILE_BYTES, ERR_STATE_FOREIGN, "neither qcow2 nor anything");
}

/* One byte of the magic is damage, two are another file. */
static void a_damaged_magic_is_told_from_another_file(void **state)
{
    static const struct {
        uint8_t xor [4];
        enum err_kind kind;
    } v[] = {{{1, 0, 0, 0}, ERR_STATE_CORRUPT},    {{0, 0xff, 0, 0}, ERR_STATE_CORRUPT},
             {{0, 0, 0x80, 0}, ERR_STATE_CORRUPT}, {{0, 0, 0, 0x10}, ERR_STATE_CORRUPT},
             {{1, 1, 0, 0}, ERR_STATE_FOREIGN},    {{0, 0, 1, 1}, ERR_STATE_FOREIGN},
             {{1, 0, 0, 1}, ERR_STATE_FOREIGN},    {{1, 1, 1, 1}, ERR_STATE_FOREIGN}};
    uint8_t bytes[QCOW_HEADER_MAX];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        sound_bytes(bytes);
        for (size_t k = 0; k < 4; k++)
            bytes[k] ^= v[i].xor [k];
        refused_bytes(bytes, sizeof(bytes), FILE_BYTES, v[i].kind, "");
    }
}

static void oddities_are_told_of_what_is_refused(void **state)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header h;
    struct qcow_oddities odd;
    struct err e;
    (void)state;
    sound_bytes(bytes);
    put_be64(bytes + 8, 0x1000);
    put_be32(bytes + 32, 1);
    put_be64(bytes + 72, 4 | 16);
    assert_int_equal(qcow_header_decode(bytes, sizeof(bytes), FILE_BYTES, &h, &odd, &e), -1);
    assert_true(odd.backing && odd.data_file && odd.legacy_aes && odd.extended_l2);
}

/* S2.6: what the reference sector vouches for, each field on its own. */
static void the_digest_covers_each_field_that_matters(void **state)
{
    struct qcow_header h = sound(), g;
    struct luks_header l = {.cipher_name = "aes",
                            .cipher_mode = "xts-plain64",
                            .hash_spec = "sha256",
                            .uuid = "01234567-89ab-cdef-0123-456789abcdef",
                            .cipher = {.key_bytes = 64}};
    struct luks_header m;
    uint8_t want[32], got[32];
    (void)state;
    qcow_header_digest(&h, &l, want);
#define CHANGED(stmt)                                                                              \
    g = h, m = l;                                                                                  \
    stmt;                                                                                          \
    qcow_header_digest(&g, &m, got);                                                               \
    assert_memory_not_equal(got, want, 32)
    CHANGED(g.cluster_bits = 12);
    CHANGED(g.crypt_method = 0);
    CHANGED(m.cipher.key_bytes = 32);
    CHANGED(m.uuid[0] = '1');
    CHANGED(m.cipher_name[0] = 'b');
    CHANGED(m.cipher_mode[0] = 'c');
    CHANGED(m.hash_spec[3] = '5');
    /* no running together of neighbours */
    CHANGED(memcpy(m.cipher_name, "aesx", 5); memcpy(m.cipher_mode, "ts-plain64", 11));
#undef CHANGED
    g = h; /* these may change in the life of an image */
    g.size *= 2;
    g.l1.byte += 0x10000;
    g.n_snapshots = 3;
    qcow_header_digest(&g, &l, got);
    assert_memory_equal(got, want, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_encoded_header_decodes_to_itself),
        cmocka_unit_test(our_extensions_lie_inside_the_first_sector),
        cmocka_unit_test(every_field_out_of_bounds_is_refused_by_name),
        cmocka_unit_test(each_unknown_incompatible_bit_is_refused),
        cmocka_unit_test(unknown_compatible_and_autoclear_bits_are_kept),
        cmocka_unit_test(version_2_has_no_feature_bits),
        cmocka_unit_test(unknown_extensions_are_skipped),
        cmocka_unit_test(an_area_filled_to_the_last_byte_needs_no_end),
        cmocka_unit_test(bitmaps_count_only_where_their_bit_says_so),
        cmocka_unit_test(too_many_extensions_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(what_is_not_qcow2_is_foreign_and_called_by_its_name),
        cmocka_unit_test(a_damaged_magic_is_told_from_another_file),
        cmocka_unit_test(oddities_are_told_of_what_is_refused),
        cmocka_unit_test(the_digest_covers_each_field_that_matters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
