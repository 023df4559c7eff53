#include "backend/store_origin.h"

#include <string.h>

#include "src/base/bytes.h"

enum { VERSION = 1, TAIL_BYTES = 16 };

void origin_encode(const struct store_origin *o, uint8_t ret[ORIGIN_BYTES])
{
    struct bytes_out out = bytes_out(ret, ORIGIN_BYTES);
    bytes_put_u8(&out, VERSION);
    bytes_put_u8(&out, (uint8_t)o->how);
    bytes_put_u8(&out, o->used);
    bytes_put_u8(&out, 0);
    bytes_put(&out, o->lineage, sizeof(o->lineage));
    bytes_put(&out, o->set, sizeof(o->set));
    bytes_put(&out, o->image, sizeof(o->image));
    bytes_put_be64(&out, o->from.generation);
    bytes_put_be64(&out, o->from.epoch);
    bytes_put(&out, o->from.mac, sizeof(o->from.mac));
    bytes_put_be64(&out, o->clock);
    bytes_put_be64(&out, o->at);
    bytes_put_zero(&out, TAIL_BYTES);
}

/* What is not known is zero, and then all that follows from it is. */
static bool from_agrees(const struct store_origin *o)
{
    bool knows_image = !bytes_all_zero(o->image, sizeof(o->image));
    bool knows_epoch = o->from.epoch != 0;
    if (o->from.generation == 0)
        return !knows_epoch && bytes_all_zero(o->from.mac, sizeof(o->from.mac));
    return knows_image && knows_epoch;
}

int origin_decode(const uint8_t *p, size_t n, struct store_origin *ret, struct err *e)
{
    struct bytes_in in = bytes_in(p, n);
    struct store_origin o = {0};
    uint8_t version = bytes_u8(&in);
    if (!in.bad && version > VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "the note of where this TPM state came from has version %u; this program "
                       "knows version %d: a newer nvkeep wrote it and can read it",
                       version, VERSION);

    unsigned how = bytes_u8(&in), used = bytes_u8(&in), zero = bytes_u8(&in);
    bytes_copy_out(&in, o.lineage, sizeof(o.lineage));
    bytes_copy_out(&in, o.set, sizeof(o.set));
    bytes_copy_out(&in, o.image, sizeof(o.image));
    o.from.generation = bytes_be64(&in);
    o.from.epoch = bytes_be64(&in);
    bytes_copy_out(&in, o.from.mac, sizeof(o.from.mac));
    o.clock = bytes_be64(&in);
    o.at = bytes_be64(&in);
    const uint8_t *tail = bytes_take(&in, TAIL_BYTES);
    if (!bytes_done(&in))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the note of where this TPM state came from has %zu bytes; it has %d", n,
                       ORIGIN_BYTES);

    bool known = version == VERSION && (how == ORIGIN_HANDED_OVER || how == ORIGIN_RESTORED);
    bool sound = used <= 1 && zero == 0 && bytes_all_zero(tail, TAIL_BYTES) && from_agrees(&o);
    bool counts = o.clock > 0 && o.at > 0;
    if (!known || !sound || !counts || (how == ORIGIN_RESTORED && !used))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the note of where this TPM state came from contradicts itself (version %u, "
                       "how %u, used %u, generation %s, clock %llu): it was not written by this "
                       "program",
                       version, how, used, o.from.generation ? "known" : "not known",
                       (unsigned long long)o.clock);
    o.how = how;
    o.used = used;
    *ret = o;
    return 0;
}

uint64_t origin_clock(const struct store_origin *o, uint64_t generation)
{
    if (!o)
        return generation;
    uint64_t since = generation > o->at ? generation - o->at : 0;
    return since > UINT64_MAX - o->clock ? UINT64_MAX : o->clock + since;
}
