#include "backend/key_change.h"

unsigned key_first_slot(unsigned slots)
{
    return (unsigned)__builtin_ctz(slots);
}

/* Which slots have the new key already: not 0 where this is done again. */
static int look_for(struct qcow_keys *k, const struct key_new *n, const struct watch *watch,
                    unsigned *ret, struct err *e)
{
    *ret = 0;
    return n->fresh ? 0 : qcow_keys_try(k, n->pass, n->bytes, watch, ret, NULL, e);
}

static int add_unless_there(struct qcow_keys *k, const struct volume_key *key,
                            const struct key_new *n, unsigned there, const struct watch *watch,
                            struct key_changed *ret, struct err *e)
{
    if (there == 0)
        return qcow_keys_add(k, n->slot, key, n->pass, n->bytes, n->iterations, watch, &ret->slot,
                             e);
    ret->was_there = true;
    ret->slot = key_first_slot(there);
    if (n->slot == KEY_SLOT_ANY || there & 1u << n->slot)
        return 0;
    return err_set(e, ERR_USAGE, "this key is in slot %u already", ret->slot);
}

int key_change_add(struct qcow_keys *k, const struct volume_key *key, const struct key_new *n,
                   const struct watch *watch, struct key_changed *ret, struct err *e)
{
    unsigned there;
    struct key_changed done = {0};
    if (look_for(k, n, watch, &there, e) < 0 ||
        add_unless_there(k, key, n, there, watch, &done, e) < 0)
        return -1;
    *ret = done;
    return 0;
}

static int remove_all(struct qcow_keys *k, unsigned slots, unsigned seen, struct key_changed *ret,
                      struct err *e)
{
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        if (!(slots & 1u << i))
            continue;
        bool active = qcow_keys_header(k)->slot[i].active;
        if (qcow_keys_remove(k, i, seen & ~slots, e) < 0)
            return -1;
        ret->removed |= active ? 1u << i : 0;
    }
    return qcow_keys_sweep(k, &ret->swept, e);
}

int key_change_remove(struct qcow_keys *k, unsigned slots, unsigned seen, struct key_changed *ret,
                      struct err *e)
{
    struct key_changed done = {0};
    if (remove_all(k, slots, seen, &done, e) < 0)
        return -1;
    *ret = done;
    return 0;
}

int key_change_rotate(struct qcow_keys *k, const struct volume_key *key, unsigned old,
                      const struct key_new *n, const struct watch *watch, struct key_changed *ret,
                      struct err *e)
{
    unsigned there;
    *ret = (struct key_changed){0};
    if (look_for(k, n, watch, &there, e) < 0)
        return -1;
    if (there & old)
        return err_set(e, ERR_USAGE,
                       "the new key is the old one (slot %u); to rotate is to replace it by "
                       "another",
                       key_first_slot(there & old));
    if (add_unless_there(k, key, n, there, watch, ret, e) < 0)
        return -1;
    there |= 1u << ret->slot;
    if (remove_all(k, old, there, ret, e) == 0)
        return 0;
    return err_prefix(e, "the new key opens the image (slot %u), but the old one was not removed",
                      ret->slot);
}
