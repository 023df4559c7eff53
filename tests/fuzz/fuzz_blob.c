/* Any bytes as swtpm's state blob. What is taken apart lies inside the input; what is plain and
 * encoded again in the form it came in gives the same bytes. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "migration/blob.h"

static void inside(const uint8_t *bytes, size_t n, struct blob_part part)
{
    PROMISE(part.n <= n && part.p >= bytes && (size_t)(part.p - bytes) <= n - part.n);
}

static void same_when_encoded_again(const uint8_t *bytes, size_t n, enum blob_form form,
                                    struct blob_part state)
{
    PROMISE(blob_encoded_bytes(form, state.n) == n);
    uint8_t *again = malloc(n);
    PROMISE(again);
    blob_encode(form, state.p, state.n, again);
    /* Up to the version, which may be higher than ours, and flags with the size of no key. */
    PROMISE(memcmp(again + 6, bytes + 6, n - 6) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct blob b;
    struct blob_part state;
    struct err e = {0};
    if (blob_decode(bytes, n, &b, &e) < 0) {
        PROMISE(e.kind != ERR_NONE && e.text[0] != 0);
        PROMISE(blob_plain(bytes, n, &state, &e) < 0);
        return 0;
    }
    inside(bytes, n, b.layer.content);
    PROMISE(b.layer.content.n > 0);
    if (b.layer.sealed) {
        inside(bytes, n, b.layer.mac);
        inside(bytes, n, b.layer.iv);
        PROMISE(blob_plain(bytes, n, &state, &e) < 0 && e.kind == ERR_KEY_MISSING);
        return 0;
    }
    if (blob_plain(bytes, n, &state, &e) < 0)
        return 0;
    inside(bytes, n, state);
    same_when_encoded_again(bytes, n, b.form, state);
    return 0;
}
