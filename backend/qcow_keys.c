#include "backend/qcow_keys.h"

#include <string.h>

#include "src/base/bytes.h"

/* In the daemon the TPM waits for one of these, and not for a whole slot. */
enum { PIECE_BYTES = 64 << 10 };

struct qcow_keys {
    struct key_io io;
    struct luks_header luks;
    uint8_t *header;   /* KEY_HEADER_BYTES, as on the storage */
    uint8_t *material; /* of one slot */
    size_t material_bytes;
    bool touched;
};

void qcow_keys_free(struct qcow_keys *k)
{
    if (!k)
        return;
    free(k->header);
    free(k->material);
    free(k);
}

static int read_header(const struct key_io *io, uint8_t *ret, struct err *e)
{
    return io->read(io->ctx, 0, ret, KEY_HEADER_BYTES, e);
}

int qcow_keys_open(const struct key_io *io, struct qcow_keys **ret, struct err *e)
{
    struct luks_header luks;
    OWNED_HEAP uint8_t *header = key_buffer(KEY_HEADER_BYTES);
    if (!header)
        return err_nomem(e, "the LUKS header");
    if (read_header(io, header, e) < 0 || luks_header_decode(header, io->bytes, &luks, e) < 0)
        return -1;
    size_t n = (size_t)luks_slot_sectors(luks.cipher.key_bytes) * SECTOR_BYTES;
    OWNED_HEAP uint8_t *material = key_buffer(n);
    if (!material)
        return err_nomem(e, "the key material of a LUKS slot");
    struct qcow_keys *k = calloc(1, sizeof(*k));
    if (!k)
        return err_nomem(e, "the key slots");
    *k = (struct qcow_keys){*io, luks, MOVE(header), MOVE(material), n, false};
    *ret = k;
    return 0;
}

const struct luks_header *qcow_keys_header(const struct qcow_keys *k)
{
    return &k->luks;
}

bool qcow_keys_touched(const struct qcow_keys *k)
{
    return k->touched;
}

/* ---- key material ---- */

static uint64_t material_at(const struct qcow_keys *k, unsigned slot)
{
    return (uint64_t)k->luks.slot[slot].material_sector * SECTOR_BYTES;
}

static size_t piece_at(const struct qcow_keys *k, size_t at)
{
    size_t left = k->material_bytes - at;
    return left < PIECE_BYTES ? left : PIECE_BYTES;
}

static int read_material(const struct qcow_keys *k, unsigned slot, struct err *e)
{
    for (size_t at = 0; at < k->material_bytes; at += PIECE_BYTES)
        if (k->io.read(k->io.ctx, material_at(k, slot) + at, k->material + at, piece_at(k, at), e) <
            0)
            return -1;
    return 0;
}

/* Only to slots that are disabled. */
static int write_material(const struct qcow_keys *k, unsigned slot, struct err *e)
{
    for (size_t at = 0; at < k->material_bytes; at += PIECE_BYTES)
        if (k->io.write(k->io.ctx, k->header, material_at(k, slot) + at, k->material + at,
                        piece_at(k, at), e) < 0)
            return -1;
    return k->io.flush(k->io.ctx, e);
}

/* Noise first, for storage that would only note that there are zeroes; then zeroes, which tell that
 * this was done. 1: it was not done yet. */
static int wipe_material(struct qcow_keys *k, unsigned slot, struct err *e)
{
    if (read_material(k, slot, e) < 0)
        return -1;
    if (bytes_all_zero(k->material, k->material_bytes))
        return 0;
    if (random_bytes(k->material, k->material_bytes, e) < 0 || write_material(k, slot, e) < 0)
        return -1;
    memset(k->material, 0, k->material_bytes);
    return write_material(k, slot, e) < 0 ? -1 : 1;
}

/* ---- one slot's entry in the header ---- */

static int write_sector(struct qcow_keys *k, const uint8_t *header, size_t sector, struct err *e)
{
    size_t at = sector * SECTOR_BYTES;
    k->touched = true;
    if (k->io.write(k->io.ctx, k->header, at, header + at, SECTOR_BYTES, e) < 0 ||
        k->io.flush(k->io.ctx, e) < 0)
        return -1;
    memcpy(k->header + at, header + at, SECTOR_BYTES);
    return 0;
}

/* The sector with the state is written while the other one belongs to a slot that is disabled: last
 * when it is enabled, first when it is not any more. */
static int write_entry(struct qcow_keys *k, const uint8_t *header, unsigned slot, bool enables,
                       struct err *e)
{
    size_t state = luks_slot_offset(slot) / SECTOR_BYTES;
    size_t end = (luks_slot_offset(slot) + LUKS_SLOT_BYTES - 1) / SECTOR_BYTES;
    if (enables && end != state && write_sector(k, header, end, e) < 0)
        return -1;
    if (write_sector(k, header, state, e) < 0)
        return -1;
    return !enables && end != state ? write_sector(k, header, end, e) : 0;
}

static int change_slot(struct qcow_keys *k, unsigned slot, const struct luks_slot *to,
                       struct err *e)
{
    OWNED_HEAP uint8_t *header = key_buffer(KEY_HEADER_BYTES);
    OWNED_HEAP uint8_t *now = key_buffer(KEY_HEADER_BYTES);
    if (!header || !now)
        return err_nomem(e, "the LUKS header");
    memcpy(header, k->header, KEY_HEADER_BYTES);
    luks_slot_encode(to, slot, header);
    if (write_entry(k, header, slot, to->active, e) < 0 || read_header(&k->io, now, e) < 0)
        return err_prefix(e, "key slot %u may or may not be %s", slot,
                          to->active ? "in use now" : "disabled now");
    if (memcmp(now, header, KEY_HEADER_BYTES) != 0)
        return err_set(e, ERR_STORAGE,
                       "the LUKS header that was written is not what is read again: the storage "
                       "does not keep what it is given");
    k->luks.slot[slot] = *to;
    return 0;
}

/* ---- which slots a key opens ---- */

/* The iterations of several slots, one after the other, as one piece of work. */
struct all_slots {
    const struct watch *outer;
    uint64_t before, total;
};

static bool slots_go_on(void *ctx, uint64_t done, uint64_t total)
{
    const struct all_slots *s = ctx;
    (void)total;
    return !s->outer || s->outer->go_on(s->outer->ctx, s->before + done, s->total);
}

static uint64_t slot_cost(const struct luks_header *luks, unsigned slot)
{
    if (!luks->slot[slot].active)
        return 0;
    return (uint64_t)luks->slot[slot].iterations + luks->digest_iterations;
}

/* As luks_slot_open(). */
static int try_slot(struct qcow_keys *k, unsigned slot, const struct secret *pass,
                    size_t pass_bytes, const struct watch *watch, struct volume_key **ret,
                    struct err *e)
{
    if (read_material(k, slot, e) < 0)
        return -1;
    if (!luks_material_is_whole(&k->luks, k->material))
        return 0;
    return luks_slot_open(&k->luks, slot, k->material, pass, pass_bytes, watch, ret, e);
}

int qcow_keys_try(struct qcow_keys *k, const struct secret *pass, size_t pass_bytes,
                  const struct watch *watch, unsigned *ret_slots, struct volume_key **ret_key,
                  struct err *e)
{
    struct all_slots all = {.outer = watch};
    const struct watch inner = {slots_go_on, &all};
    OWNED(volume_key) key = NULL;
    unsigned opened = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        all.total += slot_cost(&k->luks, i);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        OWNED(volume_key) found = NULL;
        if (!k->luks.slot[i].active)
            continue;
        int r = try_slot(k, i, pass, pass_bytes, &inner, &found, e);
        if (r < 0)
            return -1;
        if (r > 0)
            opened |= 1u << i;
        if (r > 0 && !key)
            key = MOVE(found);
        all.before += slot_cost(&k->luks, i);
    }
    if (ret_key && key)
        *ret_key = MOVE(key);
    *ret_slots = opened;
    return 0;
}

/* ---- adding ---- */

static int choose_slot(const struct qcow_keys *k, int slot, unsigned *ret, struct err *e)
{
    if (slot != KEY_SLOT_ANY && k->luks.slot[slot].active)
        return err_set(e, ERR_USAGE,
                       "key slot %d holds a key; choose another one, or remove that key first",
                       slot);
    if (slot != KEY_SLOT_ANY) {
        *ret = (unsigned)slot;
        return 0;
    }
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (!k->luks.slot[i].active) {
            *ret = i;
            return 0;
        }
    return err_set(e, ERR_USAGE, "all %d key slots hold keys; remove one first", LUKS_N_SLOTS);
}

/* What is on the storage, under the header as it will be. */
static int verify_material(struct qcow_keys *k, const struct luks_header *after, unsigned slot,
                           const struct volume_key *key, const struct secret *pass,
                           size_t pass_bytes, const struct watch *watch, struct err *e)
{
    OWNED(volume_key) found = NULL;
    if (read_material(k, slot, e) < 0)
        return -1;
    int r = luks_slot_open(after, slot, k->material, pass, pass_bytes, watch, &found, e);
    if (r < 0)
        return -1;
    if (r > 0 && volume_key_equal(found, key))
        return 0;
    return err_set(e, ERR_STORAGE,
                   "the new key does not open what was written for it into slot %u: the storage "
                   "does not keep what it is given; the slot was not enabled",
                   slot);
}

int qcow_keys_add(struct qcow_keys *k, int slot, const struct volume_key *key,
                  const struct secret *pass, size_t pass_bytes, uint32_t iterations,
                  const struct watch *watch, unsigned *ret_slot, struct err *e)
{
    struct luks_header after = k->luks;
    uint64_t once = iterations;
    struct all_slots all = {watch, 0, 2 * once + k->luks.digest_iterations};
    const struct watch inner = {slots_go_on, &all};
    unsigned to = 0;
    if (choose_slot(k, slot, &to, e) < 0 ||
        luks_slot_seal(&after, to, key, pass, pass_bytes, iterations, &inner, k->material, e) < 0 ||
        write_material(k, to, e) < 0)
        return -1;
    all.before = once;
    if (verify_material(k, &after, to, key, pass, pass_bytes, &inner, e) < 0 ||
        change_slot(k, to, &after.slot[to], e) < 0)
        return -1;
    *ret_slot = to;
    return 0;
}

/* ---- removing ---- */

static unsigned active_slots(const struct luks_header *luks)
{
    unsigned slots = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        slots |= luks->slot[i].active ? 1u << i : 0;
    return slots;
}

static int check_what_stays(const struct qcow_keys *k, unsigned slot, unsigned seen, struct err *e)
{
    unsigned stays = active_slots(&k->luks) & ~(1u << slot);
    if (stays == 0)
        return err_set(e, ERR_USAGE,
                       "slot %u holds the last key of the image; without it nobody could ever open "
                       "the image again: add another key first",
                       slot);
    if (!(stays & seen))
        return err_set(e, ERR_USAGE,
                       "the key that was given opens slot %u itself; give one that stays, so that "
                       "there is certainly a key left",
                       slot);
    return 0;
}

int qcow_keys_remove(struct qcow_keys *k, unsigned slot, unsigned seen, struct err *e)
{
    struct luks_slot none = {.material_sector = k->luks.slot[slot].material_sector};
    if (k->luks.slot[slot].active &&
        (check_what_stays(k, slot, seen, e) < 0 || change_slot(k, slot, &none, e) < 0))
        return -1;
    if (wipe_material(k, slot, e) < 0)
        return err_prefix(e,
                          "key slot %u is disabled, but its key material could not be overwritten; "
                          "remove it once more to do that",
                          slot);
    return 0;
}

int qcow_keys_sweep(struct qcow_keys *k, unsigned *ret_n, struct err *e)
{
    *ret_n = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        int r = k->luks.slot[i].active ? 0 : wipe_material(k, i, e);
        if (r < 0)
            return err_prefix(e, "the key material of slot %u, which holds no key", i);
        *ret_n += r > 0;
    }
    return 0;
}
