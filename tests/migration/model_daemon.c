#include "model_world.h"

enum act_result { ACT_DONE, ACT_FAILED, ACT_FENCED };

static void blame(struct world *w, enum violation v)
{
    if (!w->broken && !w->outside)
        w->broken = (uint8_t)v;
}

struct model_image *image_of(const struct model *m, struct world *w, int h)
{
    return &w->image[m->storage == SEPARATE ? h : 0];
}

/* --- storage --- */

static bool has_wrong_key(const struct model *m, int h)
{
    return m->wrong_key && h == 1;
}

static enum act_result claim(const struct model *m, struct world *w, int h)
{
    struct model_daemon *d = &w->daemon[h];
    const struct model_daemon *other = &w->daemon[1 - h];
    const struct model_image *i = image_of(m, w, h);
    if (m->storage == SHARED_WITH_LOCKS && other->alive && other->claim)
        return ACT_FAILED;
    if (has_wrong_key(m, h) && m->mistake != CLAIM_WITHOUT_KEY)
        return ACT_FAILED;
    d->claim = 1;
    d->seen = i->record;
    d->unused = i->set && !i->used;
    d->dirty = 0;
    return ACT_DONE;
}

static void let_claim_go(struct model_daemon *d)
{
    d->claim = 0;
    d->seen = 0;
    d->unused = 0;
    d->dirty = 0;
}

static void remember(struct model_daemon *d, uint8_t set)
{
    d->given = d->seen;
    d->given_set = set;
}

/* The check of the owner's epoch and the write are one step. */
static enum act_result commit_back(const struct model *m, struct world *w, int h,
                                   const struct model_image *what, uint8_t back, enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    struct model_image *i = image_of(m, w, h);
    if (!d->claim)
        blame(w, WRITE_WITHOUT_CLAIM);
    if (has_wrong_key(m, h))
        blame(w, WRITE_UNDER_WRONG_KEY);
    if (f == FAULT_NOT_WRITTEN)
        return ACT_FAILED;
    if (i->record != d->seen && i->record != d->dirty) {
        if (m->storage != SHARED_WITHOUT_LOCKS)
            blame(w, WRITE_BY_TWO);
        return ACT_FENCED;
    }
    if (what->d < w->acked_d)
        blame(w, ACKNOWLEDGED_LOST);
    *i = *what;
    i->record = ++w->n_records;
    i->back = back;
    if (f == FAULT_WRITTEN) {
        d->dirty = i->record;
        return ACT_FAILED;
    }
    d->seen = i->record;
    d->dirty = 0;
    d->unused = i->set && !i->used;
    return ACT_DONE;
}

static enum act_result commit(const struct model *m, struct world *w, int h,
                              const struct model_image *what, enum model_fault f)
{
    return commit_back(m, w, h, what, 0, f);
}

static enum act_result commit_used(const struct model *m, struct world *w, int h,
                                   enum model_fault f)
{
    struct model_image next = *image_of(m, w, h);
    if (!w->daemon[h].unused)
        return ACT_DONE;
    next.used = 1;
    return commit(m, w, h, &next, f);
}

/* --- the actions --- */

static void power_off(struct model_daemon *d)
{
    d->on = d->d = d->m = 0;
    d->staged = d->out = d->asked = 0;
}

/* A TPM counts its starts, before it does anything else: there is always something to commit. */
static enum act_result start(const struct model *m, struct world *w, int h, enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    struct model_image next = *image_of(m, w, h);
    power_off(d);
    next.used = next.set != 0;
    enum act_result r = commit(m, w, h, &next, f);
    if (r != ACT_DONE)
        return r;
    d->on = 1;
    d->d = w->acked_d = next.d; /* more than was acknowledged: it was written and not answered */
    d->m = w->acked_m = 0;
    return ACT_DONE;
}

/* Separate images: a saved file of before, or one that was loaded elsewhere already. The other
 * image is not seen from here. */
static bool is_a_clone(const struct world *w, int h)
{
    const uint8_t staged = w->daemon[h].staged;
    const struct model_set *s = &w->set[staged];
    const struct model_image *there = &w->image[1 - h];
    const struct model_emulator *e = &w->emulator[1 - h];
    if (s->d != w->acked_d || s->m != w->acked_m || e->loaded == staged)
        return true;
    return there->set == staged && (there->used || e->phase != EMU_NONE);
}

static enum act_result start_set(const struct model *m, struct world *w, int h, bool used,
                                 enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    const struct model_set *s = &w->set[d->staged];
    const struct model_image next = {.d = s->d, .set = d->staged, .used = used};
    if (used && !w->outside) { /* restored, because somebody asked for it */
        w->acked_d = s->d;
        w->acked_m = s->m;
    }
    if (m->storage == SEPARATE && is_a_clone(w, h))
        w->outside = 1;
    if (!w->outside && s->m != w->acked_m)
        blame(w, ANOTHER_STATE);
    enum act_result r = commit(m, w, h, &next, f);
    if (r != ACT_DONE)
        return r;
    d->on = 1;
    d->d = s->d;
    d->m = s->m;
    d->staged = 0;
    d->waits = 0;
    return ACT_DONE;
}

bool daemon_may_take_over(const struct model *m, const struct world *w, int h, unsigned set)
{
    const int at = m->storage == SEPARATE ? h : 0;
    const struct model_image *i = &w->image[at];
    const struct model_set *s = &w->set[set];
    if (m->mistake == TAKE_OVER_COMPARES_NOTHING)
        return true;
    if (m->mistake != TAKE_OVER_ONLY_ONCE && i->set == set && !i->used)
        return true;
    if (s->image == at)
        return i->record == s->record;
    if (i->set == 0 || w->set[i->set].image != s->image)
        return true;
    return w->set[i->set].record < s->record;
}

static enum act_result take_over(const struct model *m, struct world *w, int h, enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    if (claim(m, w, h) != ACT_DONE)
        return ACT_FAILED;
    enum act_result r = ACT_FAILED;
    if (daemon_may_take_over(m, w, h, d->staged))
        r = start_set(m, w, h, false, f);
    if (r != ACT_DONE)
        let_claim_go(d);
    return r;
}

static uint8_t back_mark(const struct model_daemon *d, int h)
{
    return (uint8_t)(d->given_set | (h + 1) << 4);
}

bool daemon_may_take_back(const struct model *m, const struct world *w, int h)
{
    const struct model_daemon *d = &w->daemon[h];
    const struct model_image *i = &w->image[m->storage == SEPARATE ? h : 0];
    if (m->mistake == TAKE_BACK_COMPARES_NOTHING || i->record == d->given)
        return true;
    if (m->mistake != TAKE_BACK_FORGETS_ITS_RECORD && i->back == back_mark(d, h))
        return true;
    return d->given_set && i->set == d->given_set && !i->used;
}

static enum act_result take_back(const struct model *m, struct world *w, int h, enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    struct model_image next = *image_of(m, w, h);
    if (claim(m, w, h) != ACT_DONE)
        return ACT_FAILED;
    next.used = next.set != 0;
    enum act_result r = ACT_FENCED;
    if (daemon_may_take_back(m, w, h))
        r = m->mistake == TAKE_BACK_WRITES_NOTHING
                ? ACT_DONE
                : commit_back(m, w, h, &next, back_mark(d, h), f);
    if (r != ACT_DONE) {
        let_claim_go(d);
        return r;
    }
    d->out = d->asked = 0;
    return ACT_DONE;
}

static enum act_result export_state(const struct model *m, struct world *w, int h,
                                    enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    if (d->out)
        return ACT_DONE;
    if (d->dirty && m->mistake != EXPORT_AFTER_FAILED_COMMIT) {
        struct model_image next = *image_of(m, w, h);
        next.d = d->d;
        enum act_result r = commit(m, w, h, &next, f);
        if (r != ACT_DONE)
            return r;
    }
    d->out = ++w->n_sets;
    d->asked = 0;
    w->set[d->out] = (struct model_set){d->d, d->m, d->seen, m->storage == SEPARATE ? h : 0};
    return ACT_DONE;
}

static enum act_result act(const struct model *m, struct world *w, int h, enum handover_action a,
                           enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    const struct model_image kept = *image_of(m, w, h);
    enum act_result r = ACT_DONE;
    switch (a) {
    case HO_DO_NOTHING:
        return ACT_DONE;
    case HO_DO_START:
        return start(m, w, h, f);
    case HO_DO_START_SET:
        return start_set(m, w, h, true, f);
    case HO_DO_CLAIM_START:
        power_off(d);
        if (claim(m, w, h) != ACT_DONE)
            return ACT_FAILED;
        r = start(m, w, h, f);
        break;
    case HO_DO_TAKE_OVER:
        return take_over(m, w, h, f);
    case HO_DO_TAKE_BACK:
        return take_back(m, w, h, f);
    case HO_DO_TAKE_BACK_START:
        power_off(d);
        r = take_back(m, w, h, f);
        if (r == ACT_DONE)
            r = start(m, w, h, NO_FAULT);
        break;
    case HO_DO_TAKE_BACK_EXPORT:
        r = take_back(m, w, h, f);
        return r == ACT_DONE ? export_state(m, w, h, NO_FAULT) : r;
    case HO_DO_MARK_USED:
        return commit_used(m, w, h, f);
    case HO_DO_USED_EXPORT:
        r = commit_used(m, w, h, f);
        return r == ACT_DONE ? export_state(m, w, h, NO_FAULT) : r;
    case HO_DO_EXPORT:
        return export_state(m, w, h, f);
    case HO_DO_DROP_EXPORT:
        d->out = d->asked = 0;
        return ACT_DONE;
    case HO_DO_DROP_SET:
        d->staged = 0;
        return ACT_DONE;
    case HO_DO_POWER_OFF:
        power_off(d);
        return ACT_DONE;
    case HO_DO_SHUT_DOWN:
        (void)commit(m, w, h, &kept, NO_FAULT);
        power_off(d);
        let_claim_go(d);
        return ACT_DONE;
    case HO_DO_LET_GO:
        power_off(d);
        remember(d, 0);
        let_claim_go(d);
        return ACT_DONE;
    case HO_DO_RELEASE:
        if (d->asked != 3)
            blame(w, RELEASED_TOO_EARLY);
        remember(d, d->out);
        d->out = d->asked = 0;
        let_claim_go(d);
        return ACT_DONE;
    }
    if (r != ACT_DONE)
        let_claim_go(d);
    return r;
}

enum model_outcome daemon_fire(const struct model *m, struct world *w, int h, enum handover_event v,
                               enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    const struct handover_rule *rule = &m->table->rule[d->state][v];
    if (!d->alive || rule->verdict == HO_NO)
        return REFUSED;
    if (rule->verdict == HO_FROZEN)
        return FROZEN;
    enum act_result r = act(m, w, h, rule->action, f);
    d->state = r == ACT_DONE ? rule->next : rule->failed;
    if (r == ACT_FENCED && v != HO_FENCE)
        (void)daemon_fire(m, w, h, HO_FENCE, NO_FAULT);
    if (d->state == HO_AWAY || d->state == HO_FENCED || d->state == HO_RUNNING)
        d->given = d->given_set = 0;
    return r == ACT_DONE ? DONE : FAILED;
}

/* --- commands --- */

bool daemon_command(const struct model *m, struct world *w, int h, bool durable, enum model_fault f)
{
    struct model_daemon *d = &w->daemon[h];
    if (daemon_fire(m, w, h, HO_COMMAND, durable ? NO_FAULT : f) != DONE || !d->on)
        return false;
    if (!d->claim)
        blame(w, EXECUTED_WITHOUT_CLAIM);
    if (d->d != w->acked_d || d->m != w->acked_m)
        blame(w, ANOTHER_STATE);
    if (!durable) {
        d->m++;
        w->acked_m++;
        return true;
    }
    struct model_image next = *image_of(m, w, h);
    next.d = d->d + 1;
    enum act_result r = commit(m, w, h, &next, f);
    if (r == ACT_FENCED)
        (void)daemon_fire(m, w, h, HO_FENCE, NO_FAULT);
    if (r != ACT_DONE)
        return false;
    d->d++;
    w->acked_d++;
    return true;
}

void daemon_start(const struct model *m, struct world *w, int h, bool incoming)
{
    struct model_daemon *d = &w->daemon[h];
    *d = (struct model_daemon){.alive = 1, .state = HO_AWAY, .waits = 1};
    if (incoming)
        return;
    d->state = HO_IDLE;
    d->waits = 0;
    if (claim(m, w, h) != ACT_DONE)
        daemon_gone(w, h);
}

void daemon_gone(struct world *w, int h)
{
    w->daemon[h] = (struct model_daemon){0};
}
