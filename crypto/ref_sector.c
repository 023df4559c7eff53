#include "crypto/ref_sector.h"

#include <string.h>

#include "crypto/der.h"
#include "crypto/luks_key_priv.h"
#include "src/base/bytes.h"

enum {
    VERSION = 1,
    SALT_AT = 16,
    SALT_BYTES = 32,
    KEY_ID_AT = 48,
    KEY_ID_BYTES = 16,
    BODY_AT = 64,
    CHECKSUM_AT = 448,
    CHECKSUM_BYTES = 16,
    BODY_MAX = CHECKSUM_AT - BODY_AT,
    END_AT = 464,
    MAC_AT = 480,
    ALIGN_SECTORS = 8,
};
static const char magic[8] = "nvkeepRS";
static const char end_magic[16] = "nvkeepRS-the-end";

/* ---- object identifiers ---- */

/* The TCG's arc for the versions of its specification. */
static const struct {
    enum device_kind device;
    const char *oid;
} devices[] = {
    {DEVICE_TPM12, "2.23.133.1.0"}, /* tcg-sv-tpm12 */
    {DEVICE_TPM20, "2.23.133.1.2"}, /* tcg-sv-tpm20 */
};

/* IEEE 1619 and NIST; a mode that nobody gave an identifier cannot carry a reference sector. */
static const struct {
    enum cipher_alg alg;
    enum cipher_mode mode;
    const char *oid;
} cipher_oids[] = {
    {CIPHER_AES256, MODE_XTS, "1.3.111.2.1619.0.1.2"},
    {CIPHER_AES128, MODE_XTS, "1.3.111.2.1619.0.1.1"},
    {CIPHER_AES256, MODE_CBC, "2.16.840.1.101.3.4.1.42"},
    {CIPHER_AES192, MODE_CBC, "2.16.840.1.101.3.4.1.22"},
    {CIPHER_AES128, MODE_CBC, "2.16.840.1.101.3.4.1.2"},
};

static const char hmac_sha256_oid[] = "1.2.840.113549.2.9";

const char *device_oid(enum device_kind device)
{
    for (size_t i = 0; i < ARRAY_LEN(devices); i++)
        if (devices[i].device == device)
            return devices[i].oid;
    return NULL;
}

enum device_kind device_of_oid(const char *oid)
{
    for (size_t i = 0; i < ARRAY_LEN(devices); i++)
        if (!strcmp(devices[i].oid, oid))
            return devices[i].device;
    return 0;
}

static const char *cipher_oid(const struct luks_cipher *c)
{
    for (size_t i = 0; i < ARRAY_LEN(cipher_oids); i++)
        if (cipher_oids[i].alg == c->alg && cipher_oids[i].mode == c->mode)
            return cipher_oids[i].oid;
    return NULL;
}

/* ---- keys ---- */

static void derive(const struct volume_key *key, const uint8_t *sector, const char *label,
                   void *ret, size_t ret_bytes)
{
    hkdf_sha256(sector + SALT_AT, SALT_BYTES, volume_key_peek(key),
                volume_key_cipher(key)->key_bytes, label, ret, ret_bytes);
}

static int derive_mac_key(const struct volume_key *key, const uint8_t *sector, const char *label,
                          struct mac_key **ret, struct err *e)
{
    uint8_t k[SHA256_BYTES];
    derive(key, sector, label, k, sizeof(k));
    int r = mac_key_new(k, sizeof(k), ret, e);
    wipe(k, sizeof(k));
    return r;
}

static int sector_mac(const struct volume_key *key, const uint8_t *sector,
                      uint8_t ret[SHA256_BYTES], struct err *e)
{
    OWNED(mac_key) k = NULL;
    if (derive_mac_key(key, sector, "nvkeep reference sector 1", &k, e) < 0)
        return -1;
    mac_compute(k, &(struct span){sector, MAC_AT}, 1, ret);
    return 0;
}

static int record_key(const struct volume_key *key, const uint8_t *sector, struct mac_key **ret,
                      struct err *e)
{
    return derive_mac_key(key, sector, "nvkeep record store 1", ret, e);
}

static void checksum(const uint8_t *sector, uint8_t ret[CHECKSUM_BYTES])
{
    uint8_t digest[SHA256_BYTES];
    hash_compute(HASH_SHA256, &(struct span){sector, CHECKSUM_AT}, 1, digest);
    memcpy(ret, digest, CHECKSUM_BYTES);
}

/* ---- layout ---- */

static int bad_layout(struct err *e, const char *what)
{
    return err_set(e, ERR_STATE_CORRUPT,
                   "reference sector: the layout of the record store makes no sense: %s", what);
}

/* Within themselves and against each other, behind the reference sector; how long the disk is, is
 * not known here. */
static int check_layout(const struct store_layout *l, struct err *e)
{
    const struct {
        uint64_t at, n;
    } area[] = {
        {0, ALIGN_SECTORS}, /* the reference sector and its neighbours */
        {l->checkpoint[0], l->checkpoint_sectors},
        {l->checkpoint[1], l->checkpoint_sectors},
        {l->log, l->log_sectors},
    };
    for (size_t i = 0; i < ARRAY_LEN(area); i++) {
        uint64_t end;
        if (area[i].n == 0)
            return bad_layout(e, "an area is empty");
        if (area[i].at % ALIGN_SECTORS || area[i].n % ALIGN_SECTORS)
            return bad_layout(e, "an area is not aligned to 8 sectors");
        if (!add_fits(area[i].at, area[i].n, &end) || end > INT64_MAX / SECTOR_BYTES)
            return bad_layout(e, "an area ends beyond any disk");
        for (size_t j = 0; j < i; j++)
            if (area[i].at < area[j].at + area[j].n && area[j].at < end)
                return bad_layout(e, "two areas overlap");
    }
    return 0;
}

/* ---- the DER body ---- */

static int body_new(struct der **ret, struct err *e)
{
    return der_new("NVKEEP.ReferenceSector", "reference sector", ret, e);
}

static int body_encode(const struct ref_facts *f, const char *cipher, uint8_t ret[BODY_MAX],
                       size_t *ret_n, struct err *e)
{
    OWNED(der) body = NULL;
    if (body_new(&body, e) < 0)
        return -1;
    der_put_u64(body, "version", VERSION);
    der_put_bytes(body, "instance", f->instance, sizeof(f->instance));
    der_put_oid(body, "device", device_oid(f->device));
    der_put_oid(body, "cipher", cipher);
    der_put_oid(body, "mac", hmac_sha256_oid);
    der_put_bytes(body, "headerDigest", f->header_digest, sizeof(f->header_digest));
    der_put_u64(body, "layout.checkpointA", f->layout.checkpoint[0]);
    der_put_u64(body, "layout.checkpointB", f->layout.checkpoint[1]);
    der_put_u64(body, "layout.checkpointSectors", f->layout.checkpoint_sectors);
    der_put_u64(body, "layout.log", f->layout.log);
    der_put_u64(body, "layout.logSectors", f->layout.log_sectors);
    return der_encode(body, ret, BODY_MAX, ret_n, e);
}

static int unknown_oid(struct err *e, const char *what, const char *found)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "reference sector: %s is %s, which this version does not know", what, found);
}

static int body_facts(struct der *body, const struct luks_cipher *cipher, struct ref_facts *ret,
                      struct err *e)
{
    struct ref_facts f = {0};
    char device[DER_OID_MAX], algorithm[DER_OID_MAX], mac[DER_OID_MAX];
    uint64_t version = der_get_u64(body, "version");
    der_get_bytes(body, "instance", f.instance, sizeof(f.instance));
    der_get_oid(body, "device", device);
    der_get_oid(body, "cipher", algorithm);
    der_get_oid(body, "mac", mac);
    der_get_bytes(body, "headerDigest", f.header_digest, sizeof(f.header_digest));
    f.layout.checkpoint[0] = der_get_u64(body, "layout.checkpointA");
    f.layout.checkpoint[1] = der_get_u64(body, "layout.checkpointB");
    f.layout.checkpoint_sectors = der_get_u64(body, "layout.checkpointSectors");
    f.layout.log = der_get_u64(body, "layout.log");
    f.layout.log_sectors = der_get_u64(body, "layout.logSectors");
    if (der_got(body, e) < 0)
        return -1;

    if (version != VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "reference sector: its body has version %llu, this program knows %d",
                       (unsigned long long)version, VERSION);
    f.device = device_of_oid(device);
    if (f.device == 0)
        return unknown_oid(e, "the kind of device", device);
    if (strcmp(mac, hmac_sha256_oid))
        return unknown_oid(e, "the MAC", mac);
    const char *ours = cipher_oid(cipher);
    if (!ours || strcmp(algorithm, ours))
        return err_set(e, ERR_STATE_CORRUPT,
                       "reference sector: made for cipher %s, but the LUKS header says %s",
                       algorithm, ours ? ours : "another one");
    if (check_layout(&f.layout, e) < 0)
        return -1;
    *ret = f;
    return 0;
}

static int body_decode(const uint8_t *der, size_t n, const struct luks_cipher *cipher,
                       struct ref_facts *ret, struct err *e)
{
    OWNED(der) body = NULL;
    struct ref_facts f;
    uint8_t again[BODY_MAX];
    size_t again_n = 0;
    if (body_new(&body, e) < 0 || der_decode(body, der, n, e) < 0 ||
        body_facts(body, cipher, &f, e) < 0 ||
        body_encode(&f, cipher_oid(cipher), again, &again_n, e) < 0 ||
        der_same(body, der, n, again, again_n, e) < 0)
        return -1;
    *ret = f;
    return 0;
}

/* ---- the sector ---- */

static int encode(const struct ref_facts *facts, const struct volume_key *key,
                  uint8_t sector[SECTOR_BYTES], struct mac_key **ret_record_key, struct err *e)
{
    const char *cipher = cipher_oid(volume_key_cipher(key));
    size_t body_bytes;
    if (!device_oid(facts->device))
        return err_set(e, ERR_USAGE, "a reference sector for an unknown kind of device");
    if (!cipher)
        return err_set(e, ERR_UNSUPPORTED,
                       "a reference sector needs a volume with aes in mode xts or cbc");
    if (check_layout(&facts->layout, e) < 0 ||
        body_encode(facts, cipher, sector + BODY_AT, &body_bytes, e) < 0 ||
        random_bytes(sector + SALT_AT, SALT_BYTES, e) < 0)
        return -1;
    memcpy(sector, magic, sizeof(magic));
    put_be16(sector + 8, VERSION);
    put_be16(sector + 10, (uint16_t)body_bytes);
    derive(key, sector, "nvkeep key id 1", sector + KEY_ID_AT, KEY_ID_BYTES);
    checksum(sector, sector + CHECKSUM_AT);
    memcpy(sector + END_AT, end_magic, sizeof(end_magic));
    if (sector_mac(key, sector, sector + MAC_AT, e) < 0)
        return -1;
    return record_key(key, sector, ret_record_key, e);
}

int ref_sector_encode(const struct ref_facts *facts, const struct volume_key *key,
                      uint8_t ret[SECTOR_BYTES], struct mac_key **ret_record_key, struct err *e)
{
    uint8_t sector[SECTOR_BYTES] = {0};
    int r = encode(facts, key, sector, ret_record_key, e);
    if (r == 0)
        memcpy(ret, sector, SECTOR_BYTES);
    wipe(sector, sizeof(sector));
    return r;
}

/* The MAC did not match: which refusal is it? */
static int refuse(const uint8_t *sector, const struct volume_key *key, struct err *e)
{
    uint8_t sum[CHECKSUM_BYTES], id[KEY_ID_BYTES];
    bool begins = !memcmp(sector, magic, sizeof(magic));
    bool ends = !memcmp(sector + END_AT, end_magic, sizeof(end_magic));
    if (!begins && !ends)
        return err_set(e, ERR_STATE_FOREIGN,
                       "the key is right, but the encrypted disk does not begin with a reference "
                       "sector: it was not made by nvkeep, or its first sector is destroyed");
    checksum(sector, sum);
    derive(key, sector, "nvkeep key id 1", id, sizeof(id));
    if (equal_constant_time(sum, sector + CHECKSUM_AT, sizeof(sum)) &&
        !equal_constant_time(id, sector + KEY_ID_AT, sizeof(id)))
        return err_set(e, ERR_STATE_FOREIGN,
                       "reference sector: sound, but made under another volume key: the content "
                       "was copied from another encrypted volume (decrypted and encrypted again); "
                       "use the original image");
    return err_set(e, ERR_STATE_CORRUPT,
                   "reference sector: damaged (its MAC does not match); restore the image from a "
                   "backup");
}

static int decode(const uint8_t *sector, const struct luks_cipher *cipher, struct ref_facts *ret,
                  struct err *e)
{
    size_t body_bytes = get_be16(sector + 10);
    if (get_be16(sector + 8) != VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "reference sector: version is %u, this program knows %d; a newer nvkeep "
                       "made it",
                       get_be16(sector + 8), VERSION);
    if (memcmp(sector, magic, sizeof(magic)) || body_bytes > BODY_MAX ||
        !bytes_all_zero(sector + 12, 4) ||
        !bytes_all_zero(sector + BODY_AT + body_bytes, BODY_MAX - body_bytes))
        return err_set(e, ERR_STATE_CORRUPT,
                       "reference sector: authenticated, but its fields contradict each other");
    return body_decode(sector + BODY_AT, body_bytes, cipher, ret, e);
}

int ref_sector_verify(const uint8_t sector[SECTOR_BYTES], const struct volume_key *key,
                      struct ref_facts *ret_facts, struct mac_key **ret_record_key, struct err *e)
{
    uint8_t mac[SHA256_BYTES];
    struct ref_facts facts;
    if (sector_mac(key, sector, mac, e) < 0)
        return -1;
    bool right = equal_constant_time(mac, sector + MAC_AT, sizeof(mac));
    wipe(mac, sizeof(mac));
    if (!right)
        return refuse(sector, key, e);
    if (decode(sector, volume_key_cipher(key), &facts, e) < 0 ||
        record_key(key, sector, ret_record_key, e) < 0)
        return -1;
    *ret_facts = facts;
    return 0;
}
