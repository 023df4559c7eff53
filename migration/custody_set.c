#include <string.h>

#include "crypto/prim.h"
#include "migration/blob.h"
#include "migration/custody_priv.h"

/* --- where a state comes from --- */

struct envelope_keys custody_keys(const struct custody *c)
{
    return (struct envelope_keys){c->image ? image_key(c->image) : NULL, c->rules.migration_key};
}

int custody_lineage(const uint8_t *origin, size_t n, const struct ref_facts *facts,
                    uint64_t generation, struct lineage *ret, struct err *e)
{
    struct store_origin o;
    if (origin && origin_decode(origin, n, &o, e) < 0)
        return -1;
    memcpy(ret->id, origin ? o.lineage : facts->instance, sizeof(ret->id));
    ret->clock = origin_clock(origin ? &o : NULL, generation);
    ret->in_use = origin && !o.used ? o.clock - 1 : ret->clock;
    return 0;
}

static int store_lineage(const struct store *s, struct lineage *ret, struct err *e)
{
    struct store_mark mark;
    size_t n = 0;
    const uint8_t *origin = store_get(s, BLOB_ORIGIN, &n);
    store_mark(s, &mark);
    return custody_lineage(origin, n, store_facts(s), mark.generation, ret, e);
}

int custody_head(const struct custody *c, const struct store *s, struct envelope_head *ret,
                 struct err *e)
{
    const struct ref_facts *facts = store_facts(s);
    struct envelope_head h = {.device = facts->device};
    struct lineage lineage;
    struct store_mark mark;
    h.key = c->rules.migration_key ? ENVELOPE_MIGRATION_KEY : ENVELOPE_IMAGE_KEY;
    if (store_lineage(s, &lineage, e) < 0)
        return -1;
    memcpy(h.lineage, lineage.id, sizeof(h.lineage));
    memcpy(h.image, facts->instance, sizeof(h.image));
    store_mark(s, &mark);
    h.generation = mark.generation;
    h.epoch = mark.epoch;
    h.clock = lineage.clock;
    memcpy(h.mac, mark.mac, sizeof(h.mac));
    *ret = h;
    return 0;
}

static void digest_part(struct set_digest *d, enum blob_kind kind, const uint8_t *p, size_t n)
{
    hash_compute(HASH_SHA256, &(struct span){p, n}, 1, d->part[kind - 1]);
}

void custody_set_id(const struct set_digest *d, uint8_t ret[16])
{
    uint8_t digest[SHA256_BYTES];
    hash_compute(HASH_SHA256, &(struct span){d, sizeof(*d)}, 1, digest);
    memcpy(ret, digest, 16);
}

bool custody_is_unused_set(const struct store *s, const uint8_t set[16])
{
    struct store_origin o;
    struct err ignored;
    size_t n;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    return p && origin_decode(p, n, &o, &ignored) == 0 && o.how == ORIGIN_HANDED_OVER && !o.used &&
           memcmp(o.set, set, sizeof(o.set)) == 0;
}

/* --- what is given away --- */

bool custody_unused(const struct store *s, uint8_t ret[ORIGIN_BYTES])
{
    struct store_origin o;
    struct err ignored;
    size_t n;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    if (!p || origin_decode(p, n, &o, &ignored) < 0 || o.used)
        return false;
    o.used = true;
    origin_encode(&o, ret);
    return true;
}

int custody_export_begin(struct custody *c, const struct store *s, unsigned kinds, uint32_t library,
                         struct err *e)
{
    struct envelope_head h;
    if (c->rules.armed_ms > 0 && !custody_is_armed(c))
        return custody_not_armed(e);
    if (custody_head(c, s, &h, e) < 0 || random_bytes(h.set, sizeof(h.set), e) < 0)
        return -1;
    h.use = ENVELOPE_STATE;
    h.library = library;
    h.kinds = kinds;
    if (c->rules.seal == SEAL_OFF)
        h.key = 0;
    c->out = h;
    c->out_digest = (struct set_digest){0};
    c->exporting = true;
    return 0;
}

void custody_export_end(struct custody *c)
{
    c->exporting = false;
}

/* Sealed by us: the caller's client is told that it is encrypted. swtpm's own layer is not told, as
 * swtpm does not: its flag is about another layer. */
static int seal(const struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                struct secret **ret, size_t *ret_n, struct err *e)
{
    struct envelope_keys keys = custody_keys(c);
    struct envelope_head head = c->out;
    OWNED(secret) out = NULL;
    head.kind = kind;
    if (secret_new(n + ENVELOPE_OVERHEAD_MAX, &out, e) < 0 ||
        envelope_seal(&head, &keys, p, n, secret_bytes(out), ret_n, e) < 0)
        return -1;
    *ret = MOVE(out);
    return 0;
}

static int wrap_plain(const uint8_t *p, size_t n, struct secret **ret, size_t *ret_n, struct err *e)
{
    size_t total = blob_encoded_bytes(BLOB_WIRE, n);
    if (secret_new(total, ret, e) < 0)
        return -1;
    blob_encode(BLOB_WIRE, p, n, secret_bytes(*ret));
    *ret_n = total;
    return 0;
}

int custody_export(struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                   struct secret **ret, size_t *ret_n, bool *ret_encrypted, struct err *e)
{
    bool sealed = c->out.key != 0;
    int r;
    if (!c->exporting)
        return err_set(e, ERR_USAGE, "no export has begun");
    digest_part(&c->out_digest, kind, p, n);
    if (sealed)
        r = seal(c, kind, p, n, ret, ret_n, e);
    else if (c->rules.migration_key)
        r = blob_seal(c->rules.migration_key, p, n, ret, ret_n, e);
    else
        r = wrap_plain(p, n, ret, ret_n, e);
    if (r == 0)
        *ret_encrypted = sealed;
    return r;
}

/* --- what is handed in --- */

void custody_forget_set(struct custody *c)
{
    c->staging = false;
    c->sealed = false;
    c->got = 0;
    c->in_digest = (struct set_digest){0};
}

bool custody_set_is_whole(const struct custody *c)
{
    unsigned permanent = 1u << (BLOB_PERMANENT - 1);
    if (!c->staging || !(c->got & permanent))
        return false;
    return !c->sealed || (c->got & c->in.kinds) == c->in.kinds;
}

static bool same_set(const struct envelope_head *a, const struct envelope_head *b)
{
    return memcmp(a->set, b->set, sizeof(a->set)) == 0 &&
           memcmp(a->image, b->image, sizeof(a->image)) == 0 && a->generation == b->generation &&
           a->kinds == b->kinds;
}

static int check_sealed(struct custody *c, enum blob_kind kind, const struct envelope_head *head,
                        struct err *e)
{
    if (head->kind != (unsigned)kind)
        return err_set(e, ERR_STATE_FOREIGN,
                       "this is the blob of kind %u of a TPM state, handed in as that of kind %d",
                       head->kind, (int)kind);
    if (!(head->kinds & 1u << (kind - 1)))
        return err_set(e, ERR_STATE_CORRUPT,
                       "the blob of kind %d says that it does not belong to its own hand-over",
                       (int)kind);
    if (c->staging && (!c->sealed || !same_set(&c->in, head)))
        return err_set(e, ERR_STATE_FOREIGN,
                       "this blob and the one before it are not of the same hand-over");
    c->in = *head;
    c->sealed = true;
    return 0;
}

static int open_plain(const struct custody *c, const uint8_t *p, size_t n, struct secret **ret,
                      size_t *ret_n, struct err *e)
{
    struct blob b;
    if (c->rules.seal == SEAL_REQUIRED)
        return err_set(e, ERR_STATE_FOREIGN,
                       "the state that was handed in is not sealed, and --migration-seal required "
                       "says that it must be");
    if (c->staging && c->sealed)
        return err_set(
            e, ERR_STATE_FOREIGN,
            "this blob is not sealed and the one before it was: they are not of the same "
            "hand-over");
    if (blob_decode(p, n, &b, e) < 0)
        return -1;
    if (b.form != BLOB_WIRE)
        return err_set(e, ERR_STATE_FOREIGN,
                       "this is swtpm's file on disk, not a state made for migration");
    return blob_open(p, n, c->rules.migration_key, ret, ret_n, e);
}

static int open_blob(struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                     struct secret **ret, size_t *ret_n, struct err *e)
{
    struct envelope_head head;
    if (!envelope_is(p, n))
        return open_plain(c, p, n, ret, ret_n, e);
    /* What is copied is there by now, or never was. */
    if (custody_make_image(c, NULL, e) < 0)
        return -1;
    struct envelope_keys keys = custody_keys(c);
    if (envelope_open(ENVELOPE_STATE, &keys, p, n, &head, ret, ret_n, e) < 0)
        return -1;
    return check_sealed(c, kind, &head, e);
}

int custody_stage(struct custody *c, enum blob_kind kind, const uint8_t *p, size_t n,
                  struct secret **ret, size_t *ret_n, struct err *e)
{
    OWNED(secret) content = NULL;
    size_t content_bytes = 0;
    if (kind == BLOB_PERMANENT)
        custody_forget_set(c);
    if (n > 0 && open_blob(c, kind, p, n, &content, &content_bytes, e) < 0) {
        custody_forget_set(c);
        return -1;
    }
    if (n == 0 && c->sealed && c->in.kinds & 1u << (kind - 1)) {
        custody_forget_set(c);
        return err_set(
            e, ERR_STATE_FOREIGN,
            "the state that is handed over has a blob of kind %d, and none was handed in",
            (int)kind);
    }
    if (n > 0) {
        /* An envelope's content may be empty, and is NULL then. */
        digest_part(&c->in_digest, kind, content ? secret_peek(content) : p, content_bytes);
        c->got |= 1u << (kind - 1);
    }
    c->staging = true;
    *ret = MOVE(content);
    *ret_n = content_bytes;
    return 0;
}

/* Exported from this very image: it must hold what the set belongs to. */
static int accepts_own(const struct custody *c, const struct store_mark *now, struct err *e)
{
    const struct envelope_head *in = &c->in;
    if (in->generation > now->generation)
        return err_set(e, ERR_STATE_ROLLED_BACK,
                       "%s: holds generation %llu, and the state that was handed over belongs to "
                       "generation %llu: the copy is not finished, or it is an old copy",
                       image_name(c->image), (unsigned long long)now->generation,
                       (unsigned long long)in->generation);
    if (in->generation < now->generation)
        return err_set(e, ERR_STATE_ROLLED_BACK,
                       "%s: holds generation %llu, and the state that was handed over is of the "
                       "older generation %llu; to restore an older state on purpose, add `rewind` "
                       "to --migration",
                       image_name(c->image), (unsigned long long)now->generation,
                       (unsigned long long)in->generation);
    if (in->epoch != now->epoch || memcmp(in->mac, now->mac, sizeof(in->mac)) != 0)
        return err_set(
            e, ERR_STATE_ROLLED_BACK,
            "%s: its generation %llu is not the one that the state was handed over from: "
            "two owners went on from the same state",
            image_name(c->image), (unsigned long long)now->generation);
    return 0;
}

int custody_accepts_other(const struct custody *c, const struct lineage *here,
                          const struct envelope_head *other, bool rewind, struct err *e)
{
    if (memcmp(here->id, other->lineage, sizeof(here->id)) != 0)
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s: holds another TPM than the one that is handed over; `nvkeep create "
                       "--incoming` makes an image for a TPM that comes from elsewhere",
                       image_name(c->image));
    if (rewind || other->clock > here->in_use)
        return 0;
    return err_set(e, ERR_STATE_ROLLED_BACK,
                   "%s: has this TPM at clock %llu, and the one that is handed over is not later: "
                   "it is at clock %llu; to restore an older state on purpose, add `rewind` to "
                   "--migration",
                   image_name(c->image), (unsigned long long)here->in_use,
                   (unsigned long long)other->clock);
}

/* Exported from another image. */
static int accepts_other(const struct custody *c, const struct store *s, bool rewind, struct err *e)
{
    struct lineage here;
    size_t n;
    if (!store_get(s, BLOB_PERMANENT, &n))
        return 0;
    return store_lineage(s, &here, e) < 0 ? -1 : custody_accepts_other(c, &here, &c->in, rewind, e);
}

/* Nothing is known of a set that came in the clear: whoever can change the stream can put any in.
 * An image takes it that holds no TPM yet, or one that came so; others must be told to. */
static int accepts_clear(const struct custody *c, const struct store *s, struct err *e)
{
    static const uint8_t unknown[16];
    struct store_origin o;
    size_t n = 0;
    if (c->rules.seal == SEAL_OFF || c->rules.migration_key || !store_get(s, BLOB_PERMANENT, &n))
        return 0;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    if (p && origin_decode(p, n, &o, e) < 0)
        return -1;
    if (p && memcmp(o.image, unknown, sizeof(unknown)) == 0)
        return 0;
    return err_set(
        e, ERR_STATE_FOREIGN,
        "%s: holds a TPM, and a state that is not sealed is handed over: whose it is and "
        "how old cannot be known; `--migration-seal off` takes it all the same",
        image_name(c->image));
}

bool custody_set_is_sealed(const struct custody *c)
{
    return c->sealed;
}

int custody_accepts_set(const struct custody *c, const struct store *s, bool rewind, struct err *e)
{
    const struct ref_facts *facts = store_facts(s);
    struct store_mark now;
    if (!c->sealed)
        return accepts_clear(c, s, e);
    if (c->in.device != facts->device)
        return err_set(e, ERR_STATE_FOREIGN,
                       "%s: is for a TPM %s, and the state of a TPM %s is handed over",
                       image_name(c->image), facts->device == DEVICE_TPM20 ? "2.0" : "1.2",
                       c->in.device == DEVICE_TPM20 ? "2.0" : "1.2");
    /* Stored once already by somebody who then failed: it may be stored again. */
    if (custody_is_unused_set(s, c->in.set))
        return 0;
    if (memcmp(c->in.image, facts->instance, sizeof(facts->instance)) != 0)
        return accepts_other(c, s, rewind, e);
    store_mark(s, &now);
    return rewind ? 0 : accepts_own(c, &now, e);
}

/* Behind what is replaced and behind what was handed in. */
static uint64_t next_clock(uint64_t here, uint64_t in)
{
    uint64_t newest = here > in ? here : in;
    return newest < UINT64_MAX ? newest + 1 : newest;
}

void custody_set_origin(const struct custody *c, const struct store *s, bool used,
                        uint8_t ret[ORIGIN_BYTES])
{
    struct store_origin o = {.how = used ? ORIGIN_RESTORED : ORIGIN_HANDED_OVER, .used = used};
    struct lineage here;
    struct store_mark now;
    struct err ignored;
    store_mark(s, &now);
    /* Where the note here cannot be read, what is handed in begins anew. */
    if (store_lineage(s, &here, &ignored) < 0)
        (void)!custody_lineage(NULL, 0, store_facts(s), now.generation, &here, &ignored);
    memcpy(o.lineage, c->sealed ? c->in.lineage : here.id, sizeof(o.lineage));
    o.clock = next_clock(here.in_use, c->sealed ? c->in.clock : 0);
    o.at = now.generation + 1;
    if (c->sealed) {
        memcpy(o.set, c->in.set, sizeof(o.set));
        memcpy(o.image, c->in.image, sizeof(o.image));
        o.from = (struct store_mark){.generation = c->in.generation, .epoch = c->in.epoch};
        memcpy(o.from.mac, c->in.mac, sizeof(o.from.mac));
    } else {
        custody_set_id(&c->in_digest, o.set);
    }
    origin_encode(&o, ret);
}
