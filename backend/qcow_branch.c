#include "backend/qcow_branch.h"

#include <string.h>

#include "src/base/bytes.h"

enum { NAME_AT = 16, END_AT = 464, MAC_AT = 480 };
static const char begin[8] = {'n', 'v', 'k', 'e', 'e', 'p', 'B', 'R'};
static const char end[] = "nvkeepBR-the-end";

static void mark_mac(const struct mac_key *key, const struct qcow_branch *b,
                     uint8_t ret[SHA256_BYTES])
{
    uint8_t numbers[16];
    put_be64(numbers, b->generation);
    put_be64(numbers + 8, b->epoch);
    mac_compute(key,
                (struct span[]){
                    {"nvkeep-B", 8},
                    {b->name, sizeof(b->name)},
                    {numbers, sizeof(numbers)},
                },
                3, ret);
}

void qcow_branch_seal(const struct mac_key *key, struct qcow_branch *b)
{
    uint8_t mac[SHA256_BYTES];
    mark_mac(key, b, mac);
    memcpy(b->mac, mac, sizeof(b->mac));
}

bool qcow_branch_verify(const struct mac_key *key, const struct qcow_branch *b)
{
    uint8_t mac[SHA256_BYTES];
    mark_mac(key, b, mac);
    return equal_constant_time(mac, b->mac, sizeof(b->mac));
}

static void sector_mac(const struct mac_key *key, const uint8_t *sector, uint8_t ret[SHA256_BYTES])
{
    mac_compute(key, (struct span[]){{"nvkeep-b", 8}, {sector, MAC_AT}}, 2, ret);
}

void branch_sector_encode(const struct mac_key *key, const uint8_t name[QCOW_BRANCH_BYTES],
                          uint8_t ret[SECTOR_BYTES])
{
    memset(ret, 0, SECTOR_BYTES);
    memcpy(ret, begin, sizeof(begin));
    memcpy(ret + NAME_AT, name, QCOW_BRANCH_BYTES);
    memcpy(ret + END_AT, end, MAC_AT - END_AT);
    sector_mac(key, ret, ret + MAC_AT);
}

enum branch_verdict branch_sector_decode(const struct mac_key *key,
                                         const uint8_t sector[SECTOR_BYTES],
                                         uint8_t ret[QCOW_BRANCH_BYTES])
{
    uint8_t mac[SHA256_BYTES];
    memset(ret, 0, QCOW_BRANCH_BYTES);
    if (bytes_all_zero(sector, SECTOR_BYTES))
        return BRANCH_NONE;
    bool begins = memcmp(sector, begin, sizeof(begin)) == 0;
    bool ends = memcmp(sector + END_AT, end, MAC_AT - END_AT) == 0;
    if (!begins && !ends)
        return BRANCH_NOTHING;
    sector_mac(key, sector, mac);
    if (!begins || !ends || !equal_constant_time(mac, sector + MAC_AT, sizeof(mac)))
        return BRANCH_DAMAGED;
    memcpy(ret, sector + NAME_AT, QCOW_BRANCH_BYTES);
    return BRANCH_NAMED;
}
