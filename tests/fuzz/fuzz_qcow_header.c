/* Input: the length of the file in eight bytes, then the first bytes of it. */
#include <string.h>

#include "backend/qcow_header.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"

/* What whoever computes with a decoded header relies on. */
static void check_promises(const struct qcow_header *h, uint64_t file_bytes)
{
    PROMISE(h->version == 2 || h->version == 3);
    PROMISE(h->cluster_bits >= 9 && h->cluster_bits <= 21);
    PROMISE(h->crypt_method == 0 || h->crypt_method == 2);
    PROMISE((h->incompatible & ~(uint64_t)(QCOW_DIRTY | QCOW_CORRUPT)) == 0);
    PROMISE(h->refcount_order <= 6);
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    uint64_t reftable = h->reftable_clusters * cluster;
    PROMISE(h->l1_size == 0 || h->l1.byte % cluster == 0);
    PROMISE(h->l1_size == 0 || range_within(h->l1.byte, h->l1_size * UINT64_C(8), file_bytes));
    PROMISE(h->size <= h->l1_size * (cluster * cluster / 8));
    PROMISE(h->reftable.byte >= cluster && range_within(h->reftable.byte, reftable, file_bytes));
    PROMISE(h->reftable_clusters > 0 && reftable <= 8 << 20);
    PROMISE(h->n_snapshots == 0 || h->snapshots.byte < file_bytes);
    if (h->crypt_method == 2) {
        PROMISE(h->luks.byte >= cluster && h->luks.byte % cluster == 0);
        PROMISE(h->luks_bytes >= 4096 && range_within(h->luks.byte, h->luks_bytes, file_bytes));
    }
    if (h->has_bitmaps)
        PROMISE(range_within(h->bitmap_dir.byte, h->bitmap_dir_bytes, file_bytes));
}

/* What was decoded, and is of the kind we write, survives being written and decoded again. */
static void check_again(const struct qcow_header *h, uint64_t file_bytes)
{
    uint8_t bytes[QCOW_HEADER_MAX];
    struct qcow_header ours = *h, again;
    struct err e;
    if (h->version != 3 || h->crypt_method != 2 || h->header_length > 112 || h->autoclear != 0)
        return;
    ours.ours = true;
    qcow_header_encode(&ours, bytes);
    PROMISE(qcow_header_decode(bytes, sizeof(bytes), file_bytes, &again, NULL, &e) == 0);
    PROMISE(again.size == h->size && again.l1.byte == h->l1.byte);
    PROMISE(again.luks.byte == h->luks.byte && again.luks_bytes == h->luks_bytes);
    PROMISE(!memcmp(again.instance, h->instance, sizeof(h->instance)));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    uint64_t file_bytes = bytes_be64(&in);
    size_t head = in.left < QCOW_HEADER_MAX ? in.left : QCOW_HEADER_MAX;
    const uint8_t *header = bytes_take(&in, head);
    struct qcow_header h;
    struct qcow_oddities odd;
    struct err e = {0};
    if (in.bad)
        return 0;
    if (file_bytes < head || (head < QCOW_HEADER_MAX && file_bytes > head))
        file_bytes = head; /* the caller shows the whole of a small file */
    if (qcow_header_decode(header, head, file_bytes, &h, &odd, &e) == 0) {
        check_promises(&h, file_bytes);
        check_again(&h, file_bytes);
        return 0;
    }
    PROMISE(e.kind == ERR_STATE_FOREIGN || e.kind == ERR_STATE_CORRUPT ||
            e.kind == ERR_UNSUPPORTED);
    PROMISE(e.text[0] && strlen(e.text) < sizeof(e.text) - 1);
    return 0;
}
