/* A store, and what happens to it: commits, faults, new owners, sectors that are flipped, lost, or
 * brought back from an earlier time, records forged by somebody who has the key, recovery. Input:
 * operations of one byte and their arguments, on an image whose key is known. After each:
 *
 * - without damage it opens, with the newest acknowledged state or one that was tried after it;
 * - with damage it opens with a state that was committed, or is refused as STATE_CORRUPT; as long
 * as the damage is no more than one flipped bit to a sector, with the newest acknowledged;
 * - recovery ends in a state that was committed, and the store opens with it;
 * - whatever was forged, what opens takes commits, and reopens with them.
 *
 * Class: records
 */
#include <string.h>

#include "backend/qcow_priv.h"
#include "backend/store_recover.h"
#include "src/base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/hostile.h"
#include "tests/support/resign.h"

enum {
    MAX_OPERATIONS = 48,
    MAX_BLOB = 6000,
    MAX_LEDGER = 2 * MAX_OPERATIONS + KNOWN_GENERATIONS + 8,
    N_KEPT = 4,
    FIRST = 8, /* sector of the store */
    N_STORE = KNOWN_SECTORS - FIRST,
};

/* What a store may open with. */
struct entry {
    uint64_t generation;
    uint8_t digest[32];
};

static struct {
    struct store *s; /* NULL: closed */
    struct entry ledger[MAX_LEDGER];
    size_t n, acknowledged; /* index of the newest that was */
    bool damaged, forged;
    bool lost;        /* not only flipped bits, one to a sector */
    uint64_t flipped; /* sectors with such a bit */
    uint8_t kept[N_KEPT][N_STORE * 512];
} now;

/* Where the store lies in the file: what fuzz_store forges is not the tables. */
static uint64_t place_of(unsigned sector)
{
    static uint64_t first;
    if (first == 0) {
        OWNED(blk) b = NULL;
        OWNED(qcow_image) img = NULL;
        struct err e;
        PROMISE(hostile_blk(&b, &e) == 0 && qcow_open(b, &img, &e) == 0);
        first = (img->map[0] & MAP_HOST) * img->cluster_bytes;
        for (uint32_t i = 1; i < img->n_guest; i++)
            PROMISE((img->map[i] & MAP_HOST) == (img->map[0] & MAP_HOST) + i);
    }
    return first + sector * UINT64_C(512);
}

static const uint8_t *get_store(const void *of, enum blob_kind kind, size_t *ret_n)
{
    return store_get(of, kind, ret_n);
}

/* ---- the ledger ---- */

static void enter(uint64_t generation, const uint8_t digest[32], bool acknowledged)
{
    PROMISE(now.n < MAX_LEDGER);
    now.ledger[now.n].generation = generation;
    memcpy(now.ledger[now.n].digest, digest, 32);
    if (acknowledged)
        now.acknowledged = now.n;
    now.n++;
}

/* Is this one of them, not older than `from`? */
static bool is_entered(uint64_t generation, const uint8_t digest[32], size_t from)
{
    for (size_t i = from; i < now.n; i++)
        if (now.ledger[i].generation == generation && !memcmp(now.ledger[i].digest, digest, 32))
            return true;
    return false;
}

static void describe(const struct store *s, uint64_t *ret_generation, uint8_t ret[32])
{
    struct store_stats stats;
    store_stats(s, &stats);
    known_state_digest(get_store, s, ret);
    *ret_generation = stats.generation;
}

/* ---- opening ---- */

static void close_store(void)
{
    store_free(MOVE(now.s));
}

static void recover(void)
{
    OWNED(qcow_disk_rw) rw = NULL;
    OWNED(recovery) r = NULL;
    struct recovery_facts f;
    uint8_t digest[32];
    uint64_t generation;
    struct err e = {0};
    PROMISE(hostile_arm(&rw, &e) == 0);
    if (recovery_new(&rw, &r, &e) < 0) {
        PROMISE(e.kind == ERR_STATE_CORRUPT || e.kind == ERR_UNSUPPORTED);
        return;
    }
    recovery_facts(r, &f);
    PROMISE(f.damage.kind == ERR_STATE_CORRUPT);
    if (recovery_write(r, &e) < 0) {
        PROMISE(e.kind == ERR_UNSUPPORTED || e.kind == ERR_STORAGE);
        return;
    }
    recovery_free(MOVE(r));
    PROMISE(hostile_open(&now.s, &e) == 0);
    describe(now.s, &generation, digest);
    PROMISE(generation == f.next_generation);
    PROMISE(now.forged || is_entered(f.generation, digest, 0));
    enter(generation, digest, true);
    close_store();
}

/* Leaves now.s open, or NULL where it is refused. */
static void open_store(void)
{
    struct err e = {0};
    uint8_t digest[32];
    uint64_t generation;
    if (now.s)
        return;
    hostile_fail(0, false, 0);
    if (hostile_open(&now.s, &e) < 0) {
        PROMISE(now.damaged || now.forged);
        PROMISE(e.kind == ERR_STATE_CORRUPT || (now.forged && e.kind == ERR_UNSUPPORTED));
        PROMISE(e.text[0]);
        return;
    }
    describe(now.s, &generation, digest);
    if (now.forged) /* it is as good as committed from here on */
        enter(generation, digest, true);
    PROMISE(is_entered(generation, digest, now.lost ? 0 : now.acknowledged));
}

/* ---- operations ---- */

/* The blob as it is, with one run of it changed, and a new length. */
static void commit(struct bytes_in *in)
{
    static uint8_t blob[MAX_BLOB];
    enum blob_kind kind = (enum blob_kind)(1 + bytes_u8(in) % N_BLOBS);
    size_t length = bytes_be16(in) % MAX_BLOB, at = bytes_be16(in), run = bytes_u8(in), had = 0;
    uint8_t with = bytes_u8(in), digest[32];
    uint64_t generation;
    struct err e = {0};
    open_store();
    if (!now.s)
        return;
    const uint8_t *old = store_get(now.s, kind, &had);
    memset(blob, 0x50, length);
    if (old)
        memcpy(blob, old, had < length ? had : length);
    for (size_t i = 0; i < run && at + i < length; i++)
        blob[at + i] = (uint8_t)(with + i);

    struct state_change c = {0};
    c.blob[kind - 1] = (struct blob_change){with == 0 ? BLOB_DELETE : BLOB_SET, blob, length};
    int r = store_commit(now.s, &c, &e);
    describe(now.s, &generation, digest);
    if (r == 0) {
        enter(generation, digest, true);
        return;
    }
    PROMISE(e.kind == ERR_STORAGE || e.kind == ERR_UNSUPPORTED);
    PROMISE(is_entered(generation, digest, 0)); /* it is as it was */
    if (e.kind == ERR_STORAGE) {                /* and may be found all the same */
        OWNED(store) other = NULL;
        close_store();
        hostile_fail(0, false, 0);
        if (hostile_open(&other, &e) == 0) {
            struct entry found;
            describe(other, &found.generation, found.digest);
            PROMISE(now.damaged || now.forged || found.generation <= generation + 1);
            enter(found.generation, found.digest, false);
        }
    }
}

static void flip(struct bytes_in *in)
{
    unsigned sector = FIRST + bytes_u8(in) % N_STORE, bit = bytes_be16(in) % 4096;
    uint8_t byte = hostile_bytes()[place_of(sector) + bit / 8] ^ (uint8_t)(1 << bit % 8);
    now.lost |= now.flipped >> sector & 1;
    now.flipped |= UINT64_C(1) << sector;
    hostile_file(place_of(sector) + bit / 8, &byte, 1);
}

/* Zeroes, or noise. */
static void lose(struct bytes_in *in)
{
    unsigned sector = FIRST + bytes_u8(in) % N_STORE;
    uint8_t buf[512], with = bytes_u8(in);
    uint32_t x = with;
    now.lost = true;
    for (size_t i = 0; i < sizeof(buf); i++) {
        x = x * 1664525 + 1013904223;
        buf[i] = with ? (uint8_t)(x >> 24) : 0;
    }
    hostile_file(place_of(sector), buf, sizeof(buf));
}

static void keep(struct bytes_in *in)
{
    memcpy(now.kept[bytes_u8(in) % N_KEPT], hostile_bytes() + place_of(FIRST), N_STORE * 512);
}

static void bring_back(struct bytes_in *in)
{
    const uint8_t *kept = now.kept[bytes_u8(in) % N_KEPT];
    unsigned sector = bytes_u8(in) % N_STORE, n = 1 + bytes_u8(in) % N_STORE;
    now.lost = true;
    if (n > N_STORE - sector)
        n = N_STORE - sector;
    hostile_file(place_of(FIRST + sector), kept + sector * 512, n * 512);
}

static void decrypt_all(const struct sector_cipher *c, uint8_t *ret)
{
    memcpy(ret, hostile_bytes() + place_of(0), KNOWN_SECTORS * 512);
    sector_decrypt(c, place_of(0) / 512, KNOWN_SECTORS, ret);
}

/* Some bytes of one sector changed, and MACs made right: of that sector, or of all records. */
static void forge(struct bytes_in *in)
{
    static const struct luks_cipher how = {CIPHER_AES256, MODE_XTS, IVGEN_PLAIN64, HASH_SHA256, 64};
    static uint8_t plain[KNOWN_SECTORS][512];
    const struct volume_key *key = known_image_key(&how);
    const struct store_layout *l = &known_layout;
    unsigned sector = FIRST + bytes_u8(in) % N_STORE, at = bytes_be16(in) % 512;
    uint8_t flags = bytes_u8(in), n = flags >> 2 & 15;
    OWNED(sector_cipher) c = NULL;
    OWNED(mac_key) record = NULL;
    struct err e;
    PROMISE(sector_cipher_new(&how, key, &c, &e) == 0);
    decrypt_all(c, plain[0]);
    if (n > 512 - at)
        n = (uint8_t)(512 - at);
    bytes_copy_out(in, plain[sector] + at, n < in->left ? n : in->left);
    PROMISE(resign_record_key(plain[0], key, &record, &e) == 0);
    const struct resign_areas areas = {
        {plain[l->checkpoint[0]], plain[l->checkpoint[1]], plain[l->log]},
        {l->checkpoint_sectors, l->checkpoint_sectors, l->log_sectors},
    };
    if (flags & 1)
        resign_records(record, &areas);
    else if (flags & 2)
        resign_sector(record,
                      sector < l->checkpoint[1] ? 0
                      : sector < l->log         ? 1
                                                : 2,
                      sector < l->checkpoint[1] ? sector - (unsigned)l->checkpoint[0]
                      : sector < l->log         ? sector - (unsigned)l->checkpoint[1]
                                                : sector - (unsigned)l->log,
                      plain[sector]);
    sector_encrypt(c, place_of(FIRST) / 512, N_STORE, plain[FIRST]);
    hostile_file(place_of(FIRST), plain[FIRST], N_STORE * 512);
    now.forged = true;
}

static void damage(struct bytes_in *in, void (*how)(struct bytes_in *in))
{
    close_store();
    now.damaged = true;
    how(in);
}

static void operate(struct bytes_in *in)
{
    unsigned nth;
    switch (bytes_u8(in) % 10) {
    case 0:
    case 1:
        return commit(in);
    case 2: /* a new owner */
        close_store();
        return open_store();
    case 3:
        nth = bytes_u8(in);
        open_store();
        return hostile_fail(1 + nth % 4, nth & 0x80, nth >> 2 & 15);
    case 4:
        return keep(in);
    case 5:
        return damage(in, bring_back);
    case 6:
        return damage(in, flip);
    case 7:
        return damage(in, lose);
    case 8:
        close_store();
        return forge(in);
    default:
        open_store();
        if (!now.s)
            recover();
    }
}

static void begin(void)
{
    const struct known_image *im = known_image(KNOWN_4K);
    hostile_begin(KNOWN_4K);
    close_store();
    now.n = now.acknowledged = 0;
    now.damaged = now.forged = now.lost = false;
    now.flipped = 0;
    for (unsigned g = 1; g <= KNOWN_GENERATIONS; g++)
        enter(g, im->state[g], true);
    for (unsigned i = 0; i < N_KEPT; i++)
        memcpy(now.kept[i], hostile_bytes() + place_of(FIRST), sizeof(now.kept[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct bytes_in in = bytes_in(bytes, n);
    begin();
    for (unsigned i = 0; i < MAX_OPERATIONS && in.left > 0; i++)
        operate(&in);
    close_store();
    open_store();
    if (!now.s)
        recover();
    close_store();
    return 0;
}
