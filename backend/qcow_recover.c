#include "backend/qcow_priv.h"
#include "src/base/bytes.h"

/* The iterations of several slots, one after the other, as one piece of work. */
struct all_slots {
    const struct watch *outer;
    uint64_t before, total;
};

static bool slots_go_on(void *ctx, uint64_t done, uint64_t total)
{
    const struct all_slots *s = ctx;
    (void)total;
    return s->outer->go_on(s->outer->ctx, s->before + done, s->total);
}

static uint64_t slot_cost(const struct luks_header *luks, unsigned slot)
{
    if (!luks->slot[slot].active)
        return 0;
    return (uint64_t)luks->slot[slot].iterations + luks->digest_iterations;
}

/* As luks_slot_open. *ret_hole: no passphrase can open it as it is. */
static int try_slot(const struct qcow_image *img, unsigned slot, const struct secret *pass,
                    size_t pass_bytes, const struct watch *watch, struct volume_key **ret,
                    bool *ret_hole, struct err *e)
{
    const struct luks_header *luks = &img->luks;
    size_t n = (size_t)luks_slot_sectors(luks->cipher.key_bytes) * SECTOR_BYTES;
    OWNED_HEAP uint8_t *material = malloc(n);
    struct host at = {img->header.luks.byte +
                      (uint64_t)luks->slot[slot].material_sector * SECTOR_BYTES};
    if (!material)
        return err_nomem(e, "the key material of a LUKS slot");
    if (blk_read(img->blk, at, material, n, e) < 0)
        return -1;
    *ret_hole = !luks_material_is_whole(luks, material);
    if (*ret_hole)
        return 0;
    int r = luks_slot_open(luks, slot, material, pass, pass_bytes, watch, ret, e);
    if (r < 0)
        err_prefix(e, "%s", blk_name(img->blk));
    return r;
}

int qcow_recover(const struct qcow_image *img, const struct secret *pass, size_t pass_bytes,
                 const struct watch *watch, struct volume_key **ret, struct err *e)
{
    struct all_slots all = {.outer = watch};
    struct watch inner = {slots_go_on, &all};
    unsigned n_active = 0, n_holes = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        all.total += slot_cost(&img->luks, i);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        if (!img->luks.slot[i].active)
            continue;
        bool hole = false;
        int r = try_slot(img, i, pass, pass_bytes, watch ? &inner : NULL, ret, &hole, e);
        if (r != 0)
            return r < 0 ? -1 : 0;
        all.before += slot_cost(&img->luks, i);
        n_active++;
        n_holes += hole;
    }
    if (n_active == 0)
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "no key slot of the LUKS header is active: no key can open this image");
    if (n_holes > 0) /* whether the key is right cannot be told */
        return qcow_bad(img->blk, ERR_STATE_CORRUPT, e,
                        "there are zeroes in the key material of %u of the %u active key slots, "
                        "and the key opens no other: part of the LUKS area was never written",
                        n_holes, n_active);
    /* No checksum covers digest, slot and material [LUKS1 2.1]. */
    return qcow_bad(img->blk, ERR_KEY_WRONG, e,
                    "the key opens none of the image's key slots (%u tried); a key file counts "
                    "byte for byte, with a newline at its end; if this is certainly the key, its "
                    "slot is damaged, which LUKS cannot tell from a wrong key",
                    n_active);
}
