/* Input: a decrypted sector (512 bytes, or fewer and then zeroes). It is verified as it is, and
 * again with checksum and MAC made right, so that the decoder behind the MAC sees it. */
#include <string.h>

#include "crypto/ref_sector.h"
#include "tests/crypto/known_key.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/resign.h"

enum { SALT_AT = 16, BODY_AT = 64, SUM_AT = 448 };

/* An area of the layout: apart from the first sectors and not past the end of numbers. */
static void check_area(uint64_t at, uint64_t n)
{
    uint64_t end;
    PROMISE(n > 0 && at >= 8 && at % 8 == 0 && n % 8 == 0);
    PROMISE(add_fits(at, n, &end) && end <= INT64_MAX / 512);
}

/* What was understood has one spelling: encoding it again gives the same body. */
static void check_facts(const struct ref_facts *f, const uint8_t *sector,
                        const struct volume_key *key)
{
    OWNED(mac_key) record = NULL;
    uint8_t again[SECTOR_BYTES];
    struct err e;
    PROMISE(f->device == DEVICE_TPM12 || f->device == DEVICE_TPM20);
    check_area(f->layout.checkpoint[0], f->layout.checkpoint_sectors);
    check_area(f->layout.checkpoint[1], f->layout.checkpoint_sectors);
    check_area(f->layout.log, f->layout.log_sectors);
    PROMISE(ref_sector_encode(f, key, again, &record, &e) == 0);
    PROMISE(!memcmp(again, sector, SALT_AT));
    PROMISE(!memcmp(again + BODY_AT, sector + BODY_AT, SUM_AT - BODY_AT));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct volume_key *key;
    uint8_t sector[SECTOR_BYTES] = {0};
    OWNED(mac_key) record = NULL;
    struct ref_facts f;
    struct err e = {0};
    if (!key)
        key = known_key();
    if (n > 0)
        memcpy(sector, bytes, n < sizeof(sector) ? n : sizeof(sector));

    if (ref_sector_verify(sector, key, &f, &record, &e) == 0)
        check_facts(&f, sector, key); /* a file of the corpus that is right as it is */
    else
        PROMISE(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_STATE_FOREIGN ||
                e.kind == ERR_UNSUPPORTED);
    mac_key_free(MOVE(record));

    resign_reference(sector, key);
    if (ref_sector_verify(sector, key, &f, &record, &e) == 0)
        check_facts(&f, sector, key);
    else
        PROMISE(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_UNSUPPORTED);
    return 0;
}
