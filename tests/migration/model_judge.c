#include <stdio.h>

#include "model_world.h"

const char *violation_text(enum violation v)
{
    static const char *const texts[N_VIOLATIONS] = {
        "none",
        "two owners at the same time",
        "both sides execute commands",
        "a command was executed without the claim",
        "the guest was given another TPM state than the one it knows",
        "an acknowledged change was lost",
        "a write without the claim",
        "a write between another owner's",
        "a write under a wrong key",
        "the claim was let go before the whole set was sent",
        "the claim is not what the state says",
        "a dead end: the state is there, and nobody can ever use it",
    };
    return texts[v];
}

static bool owns(const struct world *w, int h)
{
    const struct model_daemon *d = &w->daemon[h];
    return d->alive && w->emulator[h].phase != EMU_NONE &&
           (d->state == HO_RUNNING || d->state == HO_EXPORTING || d->state == HO_EXPORTED);
}

static bool executes(const struct model *m, struct world *w, int h)
{
    if (w->emulator[h].phase != EMU_RUN || !w->daemon[h].alive)
        return false;
    return daemon_command(m, w, h, false, NO_FAULT);
}

/* Both guests try, one after the other. */
static bool both_execute(const struct model *m, const struct world *w, int first)
{
    struct world trial = *w;
    return executes(m, &trial, first) && executes(m, &trial, 1 - first);
}

enum violation world_judge(const struct model *m, const struct world *w)
{
    if (w->outside)
        return SOUND;
    if (w->broken)
        return w->broken;
    for (int h = 0; h < HOSTS; h++) {
        const struct model_daemon *d = &w->daemon[h];
        if (d->alive && d->claim != handover_is_claimed(d->state))
            return CLAIM_NOT_AS_THE_STATE_SAYS;
    }
    if (owns(w, 0) && owns(w, 1))
        return TWO_OWNERS;
    if (both_execute(m, w, 0) || both_execute(m, w, 1))
        return TWO_EXECUTE;
    return SOUND;
}

bool world_runs(const struct model *m, const struct world *w)
{
    for (int h = 0; h < HOSTS; h++) {
        struct world trial = *w;
        if (executes(m, &trial, h) && (!trial.broken || w->outside))
            return true;
    }
    return false;
}

/* Separate images: the other side has not got the guest, and will not get it. */
static bool nobody_else_has_it(const struct model *m, const struct world *w, int h)
{
    const struct model_image *there = &w->image[1 - h];
    return w->emulator[1 - h].phase == EMU_NONE && !(w->stream_whole && !m->return_path) &&
           !(there->set && there->set == w->daemon[h].given_set && there->used);
}

static bool guest_is_here(const struct model *m, const struct world *w, int h)
{
    const struct model_daemon *d = &w->daemon[h];
    const unsigned phase = w->emulator[h].phase;
    if (phase < EMU_RUN || phase >= EMU_IN || !d->alive || !d->on)
        return false;
    if (d->d != w->acked_d || d->m != w->acked_m)
        return false;
    if (!d->claim)
        return daemon_may_take_back(m, w, h) &&
               (m->storage != SEPARATE || nobody_else_has_it(m, w, h));
    const struct model_image *i = &w->image[m->storage == SEPARATE ? h : 0];
    return i->record == d->seen || i->record == d->dirty;
}

static bool guest_is_in_a_file(const struct model *m, const struct world *w)
{
    const unsigned set = w->stream[0];
    if (m->return_path || !w->stream_whole || set == 0 || set != w->stream[1])
        return false;
    if (w->set[set].d != w->acked_d || w->set[set].m != w->acked_m)
        return false;
    for (int h = 0; h < HOSTS; h++)
        if (w->emulator[h].phase != EMU_NONE)
            return false;
    return daemon_may_take_over(m, w, 0, set);
}

bool world_must_go_on(const struct model *m, const struct world *w)
{
    struct model right = *m;
    right.mistake = NO_MISTAKE;
    return guest_is_here(&right, w, 0) || guest_is_here(&right, w, 1) ||
           guest_is_in_a_file(&right, w);
}

void world_print(const struct world *w)
{
    for (int h = 0; h < HOSTS; h++) {
        const struct model_daemon *d = &w->daemon[h];
        if (!d->alive)
            printf("  %c: -", 'A' + h);
        else
            printf("  %c: %s%s %u.%u", 'A' + h, handover_state_name(d->state),
                   d->on ? "" : " (off)", d->d, d->m);
    }
    printf("  images:");
    for (int i = 0; i < HOSTS; i++)
        printf(" %u=%u(set %u%s)", w->image[i].record, w->image[i].d, w->image[i].set,
               w->image[i].used ? " used" : "");
    printf("  guest knows %u.%u\n", w->acked_d, w->acked_m);
}
