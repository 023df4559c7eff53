#include "backend/store_record.h"

#include <string.h>

#include "crypto/secret.h"
#include "src/base/bytes.h"

enum {
    HEAD_MAGIC = 0x6e766b48, /* "nvkH" */
    TAIL_MAGIC = 0x6e766b54, /* "nvkT" */
    MARK_BYTES = 16,
    AT_HEAD = 0,
    AT_FACTS = 16,
    FACTS_BYTES = 16,
    AT_RECORD_MAC = 32,
    AT_PART = 64,
    AT_TAIL = AT_PART + RECORD_PART_BYTES,
    AT_SECTOR_MAC = AT_TAIL + MARK_BYTES,
    LABEL_BYTES = 8,
};
_Static_assert(AT_SECTOR_MAC + SHA256_BYTES == SECTOR_BYTES, "a sector is filled exactly");

static void mark_encode(uint32_t magic, const struct record_mark *m, uint8_t ret[MARK_BYTES])
{
    put_be32(ret, magic);
    put_be64(ret + 4, m->generation);
    put_be16(ret + 12, m->index);
    put_be16(ret + 14, m->count);
}

static bool mark_decode(uint32_t magic, const uint8_t bytes[MARK_BYTES], struct record_mark *ret)
{
    if (get_be32(bytes) != magic)
        return false;
    ret->generation = get_be64(bytes + 4);
    ret->index = get_be16(bytes + 12);
    ret->count = get_be16(bytes + 14);
    return ret->index < ret->count;
}

/* What the record MAC covers before the payload. */
enum { CHAIN_BYTES = LABEL_BYTES + RECORD_MAC_BYTES + 8 + 8 + 1 + 4 };
static void chain_encode(const struct record_head *head, const uint8_t before[RECORD_MAC_BYTES],
                         uint8_t ret[CHAIN_BYTES])
{
    struct bytes_out out = bytes_out(ret, CHAIN_BYTES);
    bytes_put(&out, "nvkeep-R", LABEL_BYTES);
    if (head->kind == RECORD_FULL)
        bytes_put_zero(&out, RECORD_MAC_BYTES);
    else
        bytes_put(&out, before, RECORD_MAC_BYTES);
    bytes_put_be64(&out, head->epoch);
    bytes_put_be64(&out, head->generation);
    bytes_put_u8(&out, (uint8_t)head->kind);
    bytes_put_be32(&out, head->bytes);
}

static void sector_mac(const struct mac_key *key, enum record_area area, uint32_t position,
                       const uint8_t sector[SECTOR_BYTES], uint8_t ret[SHA256_BYTES])
{
    uint8_t place[LABEL_BYTES + 1 + 4];
    struct bytes_out out = bytes_out(place, sizeof(place));
    bytes_put(&out, "nvkeep-S", LABEL_BYTES);
    bytes_put_u8(&out, (uint8_t)area);
    bytes_put_be32(&out, position);
    const struct span parts[] = {{place, sizeof(place)}, {sector, AT_SECTOR_MAC}};
    mac_compute(key, parts, ARRAY_LEN(parts), ret);
}

static size_t part_bytes(size_t payload_bytes, size_t index)
{
    size_t left = payload_bytes - index * RECORD_PART_BYTES;
    return left < RECORD_PART_BYTES ? left : RECORD_PART_BYTES;
}

void record_seal(const struct mac_key *key, enum record_area area, uint32_t position,
                 const struct record_head *head, const uint8_t before[RECORD_MAC_BYTES],
                 uint8_t *buf, uint8_t ret_mac[RECORD_MAC_BYTES])
{
    uint8_t chain[CHAIN_BYTES], mac[RECORD_MAC_BYTES];
    chain_encode(head, before, chain);
    const struct span parts[] = {{chain, sizeof(chain)}, {buf, head->bytes}};
    mac_compute(key, parts, ARRAY_LEN(parts), mac);

    /* From the last part to the first: a sector begins at or behind where its part lay, so what
     * has not been moved yet is never overwritten. */
    size_t n = record_sectors(head->bytes);
    for (size_t i = n; i-- > 0;) {
        uint8_t *sector = buf + i * SECTOR_BYTES;
        size_t part = part_bytes(head->bytes, i);
        memmove(sector + AT_PART, buf + i * RECORD_PART_BYTES, part);
        memset(sector + AT_PART + part, 0, RECORD_PART_BYTES - part);

        const struct record_mark mark = {head->generation, (uint16_t)i, (uint16_t)n};
        mark_encode(HEAD_MAGIC, &mark, sector + AT_HEAD);
        struct bytes_out facts = bytes_out(sector + AT_FACTS, FACTS_BYTES);
        bytes_put_be64(&facts, head->epoch);
        bytes_put_be32(&facts, head->bytes);
        bytes_put_u8(&facts, (uint8_t)head->kind);
        bytes_put_zero(&facts, 3);
        memcpy(sector + AT_RECORD_MAC, mac, sizeof(mac));
        mark_encode(TAIL_MAGIC, &mark, sector + AT_TAIL);
        sector_mac(key, area, position + (uint32_t)i, sector, sector + AT_SECTOR_MAC);
    }
    memcpy(ret_mac, mac, sizeof(mac));
}

unsigned record_marks(const uint8_t sector[SECTOR_BYTES], struct record_mark ret[2])
{
    unsigned n = 0;
    if (mark_decode(HEAD_MAGIC, sector + AT_HEAD, &ret[n]))
        n++;
    if (mark_decode(TAIL_MAGIC, sector + AT_TAIL, &ret[n]))
        n++;
    return n;
}

bool record_sector_decode(const uint8_t sector[SECTOR_BYTES], struct record_sector *ret)
{
    struct record_mark head, tail;
    if (!mark_decode(HEAD_MAGIC, sector + AT_HEAD, &head) ||
        !mark_decode(TAIL_MAGIC, sector + AT_TAIL, &tail) || head.generation != tail.generation ||
        head.index != tail.index || head.count != tail.count)
        return false;

    struct bytes_in in = bytes_in(sector + AT_FACTS, FACTS_BYTES);
    uint64_t epoch = bytes_be64(&in);
    uint32_t bytes = bytes_be32(&in);
    uint8_t kind = bytes_u8(&in);
    if ((kind != RECORD_FULL && kind != RECORD_DELTA) || bytes == 0 ||
        record_sectors(bytes) != head.count || !bytes_all_zero(sector + AT_FACTS + 13, 3))
        return false;

    ret->mark = head;
    ret->head = (struct record_head){head.generation, epoch, (enum record_kind)kind, bytes};
    memcpy(ret->mac, sector + AT_RECORD_MAC, sizeof(ret->mac));
    return true;
}

bool record_sector_verify(const struct mac_key *key, enum record_area area, uint32_t position,
                          const uint8_t sector[SECTOR_BYTES], struct record_sector *ret)
{
    /* The marks first: they cost nothing, and noise has none. */
    struct record_mark marks[2];
    struct record_sector found;
    uint8_t mac[SHA256_BYTES];
    if (record_marks(sector, marks) != 2)
        return false;
    sector_mac(key, area, position, sector, mac);
    if (!equal_constant_time(mac, sector + AT_SECTOR_MAC, sizeof(mac)) ||
        !record_sector_decode(sector, &found))
        return false;
    *ret = found;
    return true;
}

static bool same_record(const struct record_sector *a, const struct record_sector *b)
{
    return a->head.generation == b->head.generation && a->head.epoch == b->head.epoch &&
           a->head.kind == b->head.kind && a->head.bytes == b->head.bytes &&
           memcmp(a->mac, b->mac, sizeof(a->mac)) == 0;
}

enum record_verdict record_verify(const struct mac_key *key, enum record_area area,
                                  uint32_t position, const uint8_t *sectors, size_t n_sectors,
                                  const uint8_t before[RECORD_MAC_BYTES], struct span *spans,
                                  struct record_sector *ret)
{
    struct record_sector first, next;
    if (n_sectors == 0 || !record_sector_verify(key, area, position, sectors, &first) ||
        first.mark.index != 0 || first.mark.count > n_sectors)
        return RECORD_INCOMPLETE;

    uint8_t chain[CHAIN_BYTES], mac[RECORD_MAC_BYTES];
    chain_encode(&first.head, before, chain);
    spans[0] = (struct span){chain, sizeof(chain)};
    for (size_t i = 0; i < first.mark.count; i++) {
        const uint8_t *sector = sectors + i * SECTOR_BYTES;
        if (i > 0 && (!record_sector_verify(key, area, position + (uint32_t)i, sector, &next) ||
                      next.mark.index != i || !same_record(&first, &next)))
            return RECORD_INCOMPLETE;
        spans[1 + i] = (struct span){sector + AT_PART, part_bytes(first.head.bytes, i)};
    }
    mac_compute(key, spans, (size_t)first.mark.count + 1, mac);
    *ret = first;
    return equal_constant_time(mac, first.mac, sizeof(mac)) ? RECORD_INTACT : RECORD_UNCHAINED;
}

void record_payload(const uint8_t *sectors, size_t bytes, uint8_t *ret)
{
    for (size_t i = 0; i < record_sectors(bytes); i++)
        memcpy(ret + i * RECORD_PART_BYTES, sectors + i * SECTOR_BYTES + AT_PART,
               part_bytes(bytes, i));
}
