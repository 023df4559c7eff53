#include <string.h>
#include <time.h>

#include "backend/image_snapshot.h"
#include "migration/custody_priv.h"

enum { TAKE_OVER_PATIENCE_MS = 3000 };

/* --- making and ending --- */

static int bare_new(const struct custody_rules *rules, struct custody **ret, struct err *e)
{
    struct custody *c = calloc(1, sizeof(*c));
    if (!c)
        return err_nomem(e, "the custody of a state");
    c->rules = *rules;
    c->state = HO_AWAY;
    *ret = c;
    return 0;
}

int custody_new(struct image **i, const struct custody_rules *rules, enum handover_state first,
                struct custody **ret, struct err *e)
{
    OWNED(custody) c = NULL;
    if (bare_new(rules, &c, e) < 0)
        return -1;
    c->state = first;
    c->image = MOVE(*i);
    *ret = MOVE(c);
    return 0;
}

int custody_await(struct image_file **f, struct secret **pass, size_t pass_bytes,
                  const struct custody_rules *rules, struct custody **ret, struct err *e)
{
    OWNED(custody) c = NULL;
    if (bare_new(rules, &c, e) < 0)
        return -1;
    c->file = MOVE(*f);
    c->pass = MOVE(*pass);
    c->pass_bytes = pass_bytes;
    *ret = MOVE(c);
    return 0;
}

void custody_free(struct custody *c)
{
    if (!c)
        return;
    secret_free(c->pass);
    image_file_free(c->file);
    image_free(c->image);
    free(c);
}

bool custody_has_image(const struct custody *c)
{
    return c->image != NULL;
}

const struct volume_key *custody_key(const struct custody *c)
{
    return c->image ? image_key(c->image) : NULL;
}

/* --- the table --- */

enum handover_state custody_state(const struct custody *c)
{
    return c->state;
}

static int refusal(const struct custody *c, enum handover_event v, struct err *e)
{
    if (c->state == HO_FENCED)
        return err_set(e, ERR_FENCED, "another owner has taken the TPM's state over");
    if (c->state == HO_EXPORTED)
        return err_set(
            e, ERR_LOCKED,
            "the TPM's state is on its way to another host; try again when that is done");
    if (v == HO_INIT || v == HO_INIT_LOAD) {
        if (c->state == HO_AWAY)
            return err_set(e, ERR_STATE_EMPTY,
                           "this TPM waits for a migration, and no state was handed over yet; to "
                           "start it from the image, leave `incoming` out of --migration");
        return err_set(e, ERR_STATE_EMPTY,
                       "the state that was handed in is not whole, or was refused; hand in all of "
                       "it, or stop the TPM to go back");
    }
    if (c->state == HO_RELEASED || c->state == HO_RECLAIMING || c->state == HO_RELEASED_OFF)
        return err_set(e, ERR_USAGE,
                       "the TPM's state was given away; it can be taken back (LOCK_STORAGE)");
    return err_set(e, ERR_USAGE, "this cannot be done while the TPM's state is %s",
                   handover_state_name(c->state));
}

struct handover_rule custody_rule(const struct custody *c, enum handover_event v, struct err *e)
{
    struct handover_rule rule = *handover_look(c->state, v);
    if (rule.verdict == HO_NO)
        (void)refusal(c, v, e);
    return rule;
}

void custody_enter(struct custody *c, enum handover_state s)
{
    c->state = s;
}

/* --- the claim --- */

int custody_make_image(struct custody *c, const struct watch *watch, struct err *e)
{
    if (c->image)
        return 0;
    return image_unlock(&c->file, c->pass, c->pass_bytes, watch, &c->image, e);
}

/* *e: what a look or a claim said. What was opened before it was copied over has another key now.
 */
static int make_image_anew(struct custody *c, const struct watch *watch, struct err *e)
{
    if (!c->pass || (e->kind != ERR_STATE_FOREIGN && e->kind != ERR_STATE_CORRUPT))
        return -1;
    image_lock(&c->image, &c->file);
    return custody_make_image(c, watch, e);
}

int custody_claim(struct custody *c, struct store **ret, struct err *e)
{
    if (custody_make_image(c, NULL, e) < 0)
        return -1;
    if (image_claim(c->image, ret, e) < 0 &&
        (make_image_anew(c, NULL, e) < 0 || image_claim(c->image, ret, e) < 0))
        return -1;
    secret_free(MOVE(c->pass)); /* what is claimed is not copied over any more */
    return 0;
}

void custody_release(struct custody *c, struct store **s, bool remember)
{
    c->gave = remember;
    c->gave_set = remember && c->exporting;
    c->tried_generation = 0;
    if (remember)
        store_mark(*s, &c->given);
    if (c->gave_set) {
        memcpy(c->given_set, c->out.set, sizeof(c->given_set));
        if (c->out.key == 0)
            custody_set_id(&c->out_digest, c->given_set);
        custody_disarm(c);
    }
    image_release(c->image, s);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whoever gave the state away lets go a moment after his last reply has left, on slow storage a
 * longer one. To give up here would fail a migration that is nearly done. */
static int claim_from_another(struct custody *c, struct store **ret, struct err *e)
{
    int64_t until = now_ms() + TAKE_OVER_PATIENCE_MS;
    for (;;) {
        if (custody_claim(c, ret, e) == 0)
            return 0;
        if (e->kind != ERR_LOCKED || now_ms() >= until)
            return -1;
    }
}

int custody_take_over(struct custody *c, struct store **ret, struct err *e)
{
    struct store *s = NULL;
    if (claim_from_another(c, &s, e) < 0)
        return -1;
    if (custody_accepts_set(c, s, c->rules.rewind, e) < 0) {
        image_release(c->image, &s);
        return -1;
    }
    *ret = s;
    return 0;
}

/* The record of an attempt at taking back that failed, and did reach the disk. */
static bool is_our_attempt(const struct custody *c, const struct store *s,
                           const struct store_mark *now)
{
    struct store_origin o;
    struct err ignored;
    size_t n;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    return c->tried_generation > 0 && now->generation == c->tried_generation && p &&
           origin_decode(p, n, &o, &ignored) == 0 &&
           memcmp(o.set, c->tried_set, sizeof(o.set)) == 0;
}

/* Where the state came from stays; that it is in use here, and under which name of its own, is new:
 * so there is always something to commit. The clock goes on as it did. */
static int taken_back_origin(struct custody *c, const struct store *s, uint64_t generation,
                             uint8_t ret[ORIGIN_BYTES], struct err *e)
{
    struct store_origin o = {.how = ORIGIN_HANDED_OVER};
    size_t n;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    if (p && origin_decode(p, n, &o, e) < 0)
        return -1;
    if (!p) {
        memcpy(o.lineage, store_facts(s)->instance, sizeof(o.lineage));
        memcpy(o.image, store_facts(s)->instance, sizeof(o.image));
        o.clock = o.at = generation;
    }
    o.used = true;
    memcpy(o.set, c->tried_set, sizeof(o.set));
    origin_encode(&o, ret);
    return 0;
}

static int take_back(struct custody *c, struct store *s, struct err *e)
{
    uint8_t origin[ORIGIN_BYTES];
    struct state_change change = {0};
    struct store_mark now;
    store_mark(s, &now);
    bool again = is_our_attempt(c, s, &now);
    if (!again && !store_mark_equal(&now, &c->given) &&
        !(c->gave_set && custody_is_unused_set(s, c->given_set)))
        return err_set(e, ERR_FENCED,
                       "another owner has used the TPM's state since it was given away (generation "
                       "%llu then, %llu now); this copy is out of date and is not continued",
                       (unsigned long long)c->given.generation, (unsigned long long)now.generation);
    if (again)
        return 0;
    if (random_bytes(c->tried_set, sizeof(c->tried_set), e) < 0 ||
        taken_back_origin(c, s, now.generation + 1, origin, e) < 0)
        return -1;
    c->tried_generation = now.generation + 1;
    change.blob[BLOB_ORIGIN - 1] = (struct blob_change){BLOB_SET, origin, sizeof(origin)};
    return store_commit(s, &change, e);
}

int custody_take_back(struct custody *c, struct store **ret, struct err *e)
{
    struct store *s = NULL;
    if (!c->gave)
        return err_set(e, ERR_USAGE, "nothing was given away that could be taken back");
    if (image_claim(c->image, &s, e) < 0)
        return -1;
    if (take_back(c, s, e) < 0) {
        image_release(c->image, &s);
        return -1;
    }
    c->gave = false;
    c->tried_generation = 0;
    *ret = s;
    return 0;
}

int custody_apply(struct custody *c, const char *snapshot, struct store **s, struct err *e)
{
    struct image_restored unused;
    if (c->state != HO_IDLE)
        return err_set(e, ERR_USAGE,
                       "the TPM's state is %s: a snapshot can be applied while the TPM is off, and "
                       "its state neither given away nor handed in",
                       handover_state_name(c->state));
    return image_apply_open(c->image, snapshot, s, &unused, e);
}

/* --- looking --- */

int custody_prepare_load(struct custody *c, const struct watch *watch, struct store_look **ret,
                         struct err *e)
{
    if (handover_is_claimed(c->state))
        return err_set(e, ERR_USAGE, "the image is in use here already");
    if (custody_make_image(c, watch, e) < 0)
        return -1;
    if (image_look(c->image, ret, e) == 0)
        return 0;
    return make_image_anew(c, watch, e) < 0 ? -1 : image_look(c->image, ret, e);
}

int custody_owns(const struct custody *c, struct err *e)
{
    if (c->state != HO_RUNNING && c->state != HO_LOADED && c->state != HO_EXPORTING)
        return err_set(e, ERR_USAGE, "the TPM's state is %s: there is nothing to be handed over",
                       handover_state_name(c->state));
    return 0;
}

int custody_check_save(const struct custody *c, struct err *e)
{
    if (custody_owns(c, e) < 0)
        return -1;
    return c->rules.armed_ms > 0 && !custody_is_armed(c) ? custody_not_armed(e) : 0;
}
