/* swtpm's envelope. The golden blobs were saved by Debian's swtpm 0.7.1 (swtpm_ioctl --save, and
 * the files in its state directory); they are the seeds of the fuzz target too. */
#include "migration/blob.h"
#include "src/base/bytes.h"
#include "tests/migration/blob_golden.h"

static void refused(const struct file *f, enum err_kind kind, const char *says)
{
    struct blob_part untouched = {(const uint8_t *)"x", 77};
    struct blob_part p = untouched;
    struct err e = {0};
    assert_int_equal(blob_plain(f->b, f->n, &p, &e), -1);
    assert_string_equal(err_class(e.kind)->name, err_class(kind)->name);
    if (!strstr(e.text, says))
        fail_msg("\"%s\" does not say \"%s\"", e.text, says);
    assert_ptr_equal(p.p, untouched.p);
    assert_int_equal(p.n, untouched.n);
}

/* --- what others wrote --- */

static void plain_blobs_of_swtpm_are_read(void **state)
{
    static const struct {
        const char *name;
        enum blob_form form;
        size_t n;
        uint8_t begins[4];
    } blobs[] = {
        {"wire_tpm2_permanent", BLOB_WIRE, 1299, {0x00, 0x03, 0xab, 0x36}},
        {"wire_tpm2_volatile", BLOB_WIRE, 8970, {0x00, 0x04, 0x45, 0x63}},
        {"wire_tpm12_permanent", BLOB_WIRE, 1169, {0x00, 0x01, 0x00, 0x22}},
        {"wire_tpm12_volatile", BLOB_WIRE, 1231, {0x00, 0x01, 0x00, 0x01}},
        {"file_tpm2_permanent", BLOB_FILE, 1299, {0x00, 0x03, 0xab, 0x36}},
        {"file_tpm12_permanent", BLOB_FILE, 1169, {0x00, 0x01, 0x00, 0x22}},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(blobs); i++) {
        struct file f = golden(blobs[i].name);
        struct blob b;
        struct blob_part p;
        struct err e = {0};
        assert_int_equal(blob_decode(f.b, f.n, &b, &e), 0);
        assert_int_equal(b.form, blobs[i].form);
        assert_false(b.layer.sealed);
        assert_int_equal(blob_plain(f.b, f.n, &p, &e), 0);
        assert_int_equal(p.n, blobs[i].n);
        assert_memory_equal(p.p, blobs[i].begins, 4);
    }
}

/* The same state, saved through the control channel and found in the directory. */
static void file_and_wire_form_hold_the_same_state(void **state)
{
    struct file wire = golden("wire_tpm2_permanent"), file = golden("file_tpm2_permanent");
    struct blob_part a, b;
    struct err e;
    (void)state;
    assert_int_equal(blob_plain(wire.b, wire.n, &a, &e), 0);
    assert_int_equal(blob_plain(file.b, file.n, &b, &e), 0);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
}

static void what_we_encode_is_byte_for_byte_what_swtpm_wrote(void **state)
{
    static const char *const names[] = {"wire_tpm2_permanent",  "wire_tpm2_volatile",
                                        "wire_tpm12_permanent", "wire_tpm12_volatile",
                                        "file_tpm2_permanent",  "file_tpm12_permanent"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct file f = golden(names[i]);
        uint8_t out[sizeof(f.b)];
        struct blob b;
        struct blob_part p;
        struct err e;
        assert_int_equal(blob_decode(f.b, f.n, &b, &e), 0);
        assert_int_equal(blob_plain(f.b, f.n, &p, &e), 0);
        assert_int_equal(blob_encoded_bytes(b.form, p.n), f.n);
        blob_encode(b.form, p.p, p.n, out);
        assert_memory_equal(out, f.b, f.n);
    }
}

static void sealed_blobs_are_taken_apart_and_the_missing_key_is_named(void **state)
{
    static const struct {
        const char *name, *says;
        unsigned key_bits;
    } blobs[] = {
        {"wire_tpm2_permanent_migration_key256", "--migration-key", 256},
        {"wire_tpm2_permanent_migration_key128", "--migration-key", 128},
        {"file_tpm2_permanent_key256", "swtpm's --key", 256},
        {"file_tpm2_permanent_key128", "swtpm's --key", 128},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(blobs); i++) {
        struct file f = golden(blobs[i].name);
        struct blob b;
        struct err e;
        assert_int_equal(blob_decode(f.b, f.n, &b, &e), 0);
        assert_true(b.layer.sealed);
        assert_int_equal(b.layer.key_bits, blobs[i].key_bits);
        assert_int_equal(b.layer.content.n, 1312); /* 1299 and the layer's own fields, padded */
        assert_int_equal(b.layer.mac.n, 32);
        assert_int_equal(b.layer.iv.n, blobs[i].key_bits / 8);
        assert_false(b.inner_sealed);
        refused(&f, ERR_KEY_MISSING, blobs[i].says);
    }
}

/* As a daemon with both keys sends it when it is not asked to decrypt. */
static void state_key_below_an_open_migration_layer_is_missed(void **state)
{
    struct file inner = golden("file_tpm2_permanent_key128"), f = {0};
    struct bytes_out o = bytes_out(f.b, sizeof(f.b));
    (void)state;
    bytes_put(&o, (const uint8_t[]){2, 1, 0, 10, 0, 5}, 6);
    bytes_put_be32(&o, (uint32_t)(inner.n + 6));
    bytes_put_be16(&o, 4);
    bytes_put_be32(&o, (uint32_t)(inner.n - 10));
    bytes_put(&o, inner.b + 10, inner.n - 10);
    f.n = o.n;
    refused(&f, ERR_KEY_MISSING, "state layer is encrypted");
}

/* --- what nobody should write --- */

static void every_truncation_is_refused(void **state)
{
    struct file f = golden("wire_tpm12_permanent");
    size_t whole = f.n;
    (void)state;
    for (f.n = 0; f.n < whole; f.n++) {
        struct blob_part p;
        struct err e = {0};
        assert_int_equal(blob_plain(f.b, f.n, &p, &e), -1);
        assert_true(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_STATE_FOREIGN);
    }
    f.n = whole + 1;
    refused(&f, ERR_STATE_CORRUPT, "says that it should be 1191");
}

static void all_zero_is_not_a_blob(void **state)
{
    struct file f = {.n = 64};
    (void)state;
    refused(&f, ERR_STATE_FOREIGN, "not a TPM state blob");
    f.n = 0;
    refused(&f, ERR_STATE_FOREIGN, "0 bytes");
}

static void bare_state_of_libtpms_is_not_a_blob(void **state)
{
    struct file f = golden("file_tpm2_permanent");
    (void)state;
    f.n -= 16;
    memmove(f.b, f.b + 16, f.n);
    refused(&f, ERR_STATE_FOREIGN, "not a TPM state blob");
}

struct edit {
    size_t at;
    uint8_t value;
    enum err_kind kind;
    const char *says;
};

static void edited(const char *name, const struct edit *edits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct file f = golden(name);
        f.b[edits[i].at] = edits[i].value;
        refused(&f, edits[i].kind, edits[i].says);
    }
}

static void every_field_of_a_wire_blob_is_checked(void **state)
{
    static const struct edit edits[] = {
        {0, 0, ERR_STATE_FOREIGN, "not a TPM state blob"},
        {0, 1, ERR_UNSUPPORTED, "format version 1"},
        {1, 3, ERR_UNSUPPORTED, "3 to read it"},
        {2, 0x80, ERR_UNSUPPORTED, "a header of 32778 bytes"},
        {3, 9, ERR_STATE_FOREIGN, "not a TPM state blob"},
        {3, 11, ERR_UNSUPPORTED, "a header of 11 bytes"},
        {4, 0x80, ERR_UNSUPPORTED, "flags 0x8004"},
        {5, 0x24, ERR_UNSUPPORTED, "flags 0x24"},
        {5, 0x00, ERR_STATE_CORRUPT, "its fields are others"}, /* a file? */
        {5, 0x02, ERR_STATE_CORRUPT, "contradict"},            /* sealed for migration, no wire */
        {5, 0x06, ERR_STATE_CORRUPT, "migration layer is encrypted"},
        {5, 0x05, ERR_STATE_CORRUPT, "state layer is encrypted"},
        {9, 0xa8, ERR_STATE_CORRUPT, "says that it should be 1192"},
        {11, 1, ERR_STATE_CORRUPT, "its fields are others"},
        {11, 0, ERR_UNSUPPORTED, "unknown kind 0"},
        {11, 8, ERR_UNSUPPORTED, "unknown kind 8"},
        {12, 0xff, ERR_STATE_CORRUPT, "cut off"},
        {15, 0x96, ERR_STATE_CORRUPT, "cut off"},
        {15, 0x98, ERR_STATE_CORRUPT, "cut off"},
        {17, 3, ERR_STATE_CORRUPT, "its fields are others"},
        {17, 9, ERR_UNSUPPORTED, "unknown kind 9"},
        {18, 0xff, ERR_STATE_CORRUPT, "cut off"},
        {21, 0x90, ERR_STATE_CORRUPT, "cut off"},
    };
    (void)state;
    edited("wire_tpm12_permanent", edits, ARRAY_LEN(edits));
}

static void every_field_of_a_sealed_blob_is_checked(void **state)
{
    /* content 10, MAC 1328, IV 1366 */
    static const struct edit edits[] = {
        {5, 0x01, ERR_STATE_CORRUPT, "wanted 32 and 16"}, /* another key size */
        {5, 0x00, ERR_STATE_CORRUPT, "state layer is not encrypted"},
        {11, 5, ERR_STATE_CORRUPT, "its fields are others"},
        {1329, 2, ERR_STATE_CORRUPT, "field 2 twice"},
        {1329, 1, ERR_STATE_CORRUPT, "its fields are others"},
        {1333, 31, ERR_STATE_CORRUPT, "cut off"},
        {1367, 7, ERR_STATE_CORRUPT, "its fields are others"},
        {1371, 33, ERR_STATE_CORRUPT, "cut off"},
    };
    (void)state;
    edited("file_tpm2_permanent_key256", edits, ARRAY_LEN(edits));
}

static void mac_or_iv_of_another_length_is_refused(void **state)
{
    static const struct {
        size_t mac, iv;
        const char *says;
    } lengths[] = {
        {31, 16, "a MAC of 31 and an IV of 16 bytes"},
        {33, 16, "a MAC of 33 and an IV of 16 bytes"},
        {0, 16, "a MAC of 0 and an IV of 16 bytes"},
        {32, 15, "a MAC of 32 and an IV of 15 bytes"},
        {32, 32, "a MAC of 32 and an IV of 32 bytes"},
    };
    static const uint8_t bytes[64];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        const size_t n[] = {48, lengths[i].mac, lengths[i].iv};
        static const uint16_t tags[] = {2, 3, 6};
        struct file f = {0};
        struct bytes_out o = bytes_out(f.b, sizeof(f.b));
        bytes_put(&o, (const uint8_t[]){2, 1, 0, 10, 0, 1}, 6);
        bytes_put_be32(&o, (uint32_t)(10 + 3 * 6 + n[0] + n[1] + n[2]));
        for (size_t k = 0; k < ARRAY_LEN(n); k++) {
            bytes_put_be16(&o, tags[k]);
            bytes_put_be32(&o, (uint32_t)n[k]);
            bytes_put(&o, bytes, n[k]);
        }
        f.n = o.n;
        refused(&f, ERR_STATE_CORRUPT, lengths[i].says);
    }
}

static void envelope_without_state_is_refused(void **state)
{
    struct file f = {.b = {2, 1, 0, 10, 0, 0, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0}, .n = 16};
    (void)state;
    refused(&f, ERR_STATE_CORRUPT, "state layer is empty");
}

static void oversized_blob_is_refused_unread(void **state)
{
    static uint8_t big[BLOB_ENVELOPE_MAX + 1];
    struct blob b;
    struct err e = {0};
    (void)state;
    assert_int_equal(blob_decode(big, sizeof(big), &b, &e), -1);
    assert_int_equal(e.kind, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "at most"));
}

static void largest_state_fits_its_envelope(void **state)
{
    static uint8_t blob[BLOB_MAX_BYTES], out[BLOB_MAX_BYTES + BLOB_WIRE_OVERHEAD];
    struct blob_part p;
    struct err e;
    (void)state;
    blob[0] = 1;
    blob[BLOB_MAX_BYTES - 1] = 2;
    assert_int_equal(blob_encoded_bytes(BLOB_WIRE, sizeof(blob)), sizeof(out));
    blob_encode(BLOB_WIRE, blob, sizeof(blob), out);
    assert_int_equal(blob_plain(out, sizeof(out), &p, &e), 0);
    assert_int_equal(p.n, sizeof(blob));
    assert_memory_equal(p.p, blob, sizeof(blob));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_blobs_of_swtpm_are_read),
        cmocka_unit_test(file_and_wire_form_hold_the_same_state),
        cmocka_unit_test(what_we_encode_is_byte_for_byte_what_swtpm_wrote),
        cmocka_unit_test(sealed_blobs_are_taken_apart_and_the_missing_key_is_named),
        cmocka_unit_test(state_key_below_an_open_migration_layer_is_missed),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(all_zero_is_not_a_blob),
        cmocka_unit_test(bare_state_of_libtpms_is_not_a_blob),
        cmocka_unit_test(every_field_of_a_wire_blob_is_checked),
        cmocka_unit_test(every_field_of_a_sealed_blob_is_checked),
        cmocka_unit_test(mac_or_iv_of_another_length_is_refused),
        cmocka_unit_test(envelope_without_state_is_refused),
        cmocka_unit_test(oversized_blob_is_refused_unread),
        cmocka_unit_test(largest_state_fits_its_envelope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
