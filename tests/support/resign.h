/* Checksums and MACs made right again, for what only somebody who has the key could have written:
 * so that whatever lies behind them is reached. From the text of the format, not through the codec.
 */
#ifndef NVKEEP_TESTS_RESIGN_H
#define NVKEEP_TESTS_RESIGN_H

#include "crypto/luks_key.h"

/* Of a decrypted reference sector, as it stands. */
void resign_reference(uint8_t sector[512], const struct volume_key *key);
/* The record key that belongs to its salt. */
int resign_record_key(const uint8_t sector[512], const struct volume_key *key, struct mac_key **ret,
                      struct err *e);

/* What the areas of a store hold, decrypted; by enum record_area. */
struct resign_areas {
    uint8_t *area[3];
    size_t n_sectors[3];
};
enum { RESIGN_MAX_SECTORS = 64 }; /* of one area */

/* Every record as far as the marks allow: both checkpoints, then the log, chained onto the newer of
 * them. */
void resign_records(const struct mac_key *k, const struct resign_areas *a);
/* This sector alone. */
void resign_sector(const struct mac_key *k, unsigned area, uint32_t position, uint8_t sector[512]);

#endif
