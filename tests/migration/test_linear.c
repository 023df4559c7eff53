/* swtpm's linear store: the layout that Debian's swtpm writes, and what is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "migration/linear.h"

/* What swtpm 0.7.1 wrote: a permanent and a volatile state. */
static const uint8_t written[LINEAR_HEADER_BYTES] = {
    'n',  'i',  'l',  'm',  'p',  't',  'w',  's',  0x01, 0x00, 0xc0, 0x00,
    0xc0, 0x00, 0x00, 0x00, 0x23, 0x05, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00,
    0xc0, 0x08, 0x00, 0x00, 0x1a, 0x23, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00,
};
enum { WRITTEN_BYTES = 18624 };

static void a_store_of_swtpm_is_decoded_and_made_again(void **state)
{
    (void)state;
    struct linear l, planned;
    struct err e = {0};
    uint8_t head[LINEAR_HEADER_BYTES];
    assert_int_equal(linear_decode(written, sizeof(written), WRITTEN_BYTES, &l, &e), 0);
    assert_int_equal(l.part[0].off, 192);
    assert_int_equal(l.part[0].n, 1315);
    assert_int_equal(l.part[1].off, 2240);
    assert_int_equal(l.part[1].n, 8986);
    assert_int_equal(l.part[2].n, 0);
    assert_int_equal(linear_plan((size_t[]){1315, 8986, 0}, &planned), WRITTEN_BYTES);
    linear_encode(&planned, head);
    assert_memory_equal(head, written, sizeof(head));
}

static void refused(const uint8_t *head, size_t n, uint64_t bytes, enum err_kind kind,
                    const char *says)
{
    struct linear l = {.part = {{1, 2}}};
    struct err e = {0};
    assert_int_equal(linear_decode(head, n, bytes, &l, &e), -1);
    assert_int_equal(e.kind, kind);
    if (!strstr(e.text, says))
        fail_msg("not said: %s; but: %s", says, e.text);
    assert_int_equal(l.part[0].off, 1);
    assert_int_equal(l.part[0].n, 2);
}

static void what_is_wrong_with_a_store_is_said_by_name(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        enum err_kind kind;
        const char *says;
    } v[] = {
        {0, 'x', ERR_STATE_FOREIGN, "does not begin"},
        {8, 2, ERR_UNSUPPORTED, "version 2"},
        {8, 0, ERR_UNSUPPORTED, "version 0"},
        {11, 1, ERR_UNSUPPORTED, "header of 448 bytes"},
        {12, 0xbf, ERR_STATE_CORRUPT, "file 1"},    /* in the header */
        {15, 0x80, ERR_STATE_CORRUPT, "file 1"},    /* behind the end */
        {21, 0x04, ERR_STATE_CORRUPT, "file 1"},    /* more bytes than room */
        {18, 0x10, ERR_UNSUPPORTED, "at most"},     /* too long */
        {25, 0x04, ERR_STATE_CORRUPT, "over each"}, /* the second in the first */
        {48, 1, ERR_UNSUPPORTED, "file 4"},
    };
    for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
        uint8_t head[LINEAR_HEADER_BYTES];
        memcpy(head, written, sizeof(head));
        head[v[i].at] = v[i].value;
        refused(head, sizeof(head), WRITTEN_BYTES, v[i].kind, v[i].says);
    }
    refused(written, sizeof(written) - 1, WRITTEN_BYTES, ERR_STATE_CORRUPT, "cut off");
    refused(written, sizeof(written), 2240 + 8985, ERR_STATE_CORRUPT, "file 2");
    refused((const uint8_t[LINEAR_HEADER_BYTES]){0}, LINEAR_HEADER_BYTES, WRITTEN_BYTES,
            ERR_STATE_FOREIGN, "does not begin");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_of_swtpm_is_decoded_and_made_again),
        cmocka_unit_test(what_is_wrong_with_a_store_is_said_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
