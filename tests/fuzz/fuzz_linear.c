/* Any bytes as swtpm's linear store, of any size: what is found lies in it and not over each other,
 * and the same parts, planned anew, are found again. The first 4 bytes say how long the store is.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "migration/blob.h"
#include "migration/linear.h"
#include "src/base/bytes.h"

static void lies_inside(const struct linear *l, uint64_t file_bytes)
{
    for (unsigned i = 0; i < N_TPM_BLOBS; i++) {
        uint64_t off = l->part[i].off, n = l->part[i].n;
        if (n == 0)
            continue;
        PROMISE(off >= LINEAR_HEADER_BYTES && off + n <= file_bytes && n <= BLOB_ENVELOPE_MAX);
        for (unsigned j = 0; j < i; j++)
            PROMISE(l->part[j].n == 0 || off >= (uint64_t)l->part[j].off + l->part[j].n ||
                    off + n <= l->part[j].off);
    }
}

static void found_again(const struct linear *l)
{
    struct linear planned, again;
    uint8_t head[LINEAR_HEADER_BYTES];
    size_t n[N_TPM_BLOBS];
    struct err e = {0};
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        n[i] = l->part[i].n;
    size_t bytes = linear_plan(n, &planned);
    linear_encode(&planned, head);
    PROMISE(linear_decode(head, sizeof(head), bytes, &again, &e) == 0);
    PROMISE(memcmp(&planned, &again, sizeof(again)) == 0);
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        PROMISE(again.part[i].n == l->part[i].n);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct linear l;
    struct err e = {0};
    if (n < 4)
        return 0;
    uint64_t file_bytes = get_be32(bytes);
    if (linear_decode(bytes + 4, n - 4, file_bytes, &l, &e) < 0) {
        PROMISE(e.kind == ERR_STATE_FOREIGN || e.kind == ERR_STATE_CORRUPT ||
                e.kind == ERR_UNSUPPORTED);
        PROMISE(e.text[0] != 0);
        return 0;
    }
    PROMISE(linear_has_magic(bytes + 4, n - 4));
    lies_inside(&l, file_bytes);
    found_again(&l);
    return 0;
}
