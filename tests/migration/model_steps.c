#include <stdio.h>
#include <string.h>

#include "model_world.h"

/* One step at a time: a copy of the world is changed and given away. */
struct walk {
    const struct model *m;
    const struct world *from;
    bool helpful;
    step_fn *step;
    void *ctx;
    int h;
    struct world w; /* the copy */
    struct model_daemon *d;
    struct model_emulator *e, *peer;
};

static void again(struct walk *k)
{
    k->w = *k->from;
}

static void go(struct walk *k, const char *what)
{
    k->step(k->ctx, &k->w, what, k->h);
    again(k);
}

/* Takes one from what is left of something; helpful: not counted. False: nothing is left. */
static bool spend(struct walk *k, uint8_t *left)
{
    if (k->helpful)
        return true;
    if (*left == 0)
        return false;
    (*left)--;
    return true;
}

static enum model_outcome say(struct walk *k, enum handover_event v, enum model_fault f)
{
    return daemon_fire(k->m, &k->w, k->h, v, f);
}

/* The emulator ends without a word. */
static void emulator_exits(struct walk *k)
{
    if (k->m->return_path && k->e->phase == EMU_IN)
        k->w.stream_whole = 0; /* what is in its socket is gone */
    *k->e = (struct model_emulator){0};
    k->d->hangup = k->d->alive;
}

static void resume_with(struct walk *k, enum model_fault f)
{
    bool paused = k->e->was_paused;
    k->e->phase = paused ? EMU_PAUSED : EMU_RUN;
    k->e->was_paused = 0;
    k->e->set = 0;
    if (!paused && k->e->relock)
        (void)say(k, HO_LOCK_STORAGE, f);
}

static void resume(struct walk *k)
{
    resume_with(k, NO_FAULT);
}

/* Separate images: the source goes on while the other side has, or may still get, the guest. */
static void notice_a_second_guest(struct walk *k)
{
    const struct model_image *there = &k->w.image[1 - k->h];
    if (k->m->storage != SEPARATE)
        return;
    if (k->peer->phase != EMU_NONE || (k->w.stream_whole && !k->m->return_path) ||
        (there->set && there->set == k->d->given_set && there->used))
        k->w.outside = 1;
}

/* --- faults of storage: the same step, with a commit that fails --- */

static bool take_fault(struct walk *k, enum model_fault f)
{
    return f == NO_FAULT || (!k->helpful && spend(k, &k->w.left.faults));
}

/* --- the guest and its emulator --- */

static void guest_command(struct walk *k, bool durable, const char *const texts[3])
{
    for (enum model_fault f = NO_FAULT; f <= FAULT_WRITTEN; f++) {
        if (k->helpful || !spend(k, &k->w.left.commands) || !take_fault(k, f)) {
            again(k);
            continue;
        }
        (void)daemon_command(k->m, &k->w, k->h, durable, f);
        go(k, texts[f]);
    }
}

static void guest_runs(struct walk *k)
{
    static const char *const durable[] = {"guest: durable command",
                                          "guest: durable command, not written",
                                          "guest: durable command, written but not acknowledged"};
    static const char *const memory[] = {"guest: command", "guest: command, mark not written",
                                         "guest: command, mark written but failed"};
    guest_command(k, true, durable);
    guest_command(k, false, memory);
    if (!k->helpful && spend(k, &k->w.left.pauses)) {
        k->e->phase = EMU_PAUSED;
        go(k, "management pauses the guest");
    }
}

/* By the guest; or by management, also while the guest is stopped. */
static void reset(struct walk *k)
{
    if (k->helpful || !spend(k, &k->w.left.resets))
        return;
    if (k->e->phase == EMU_POST)
        notice_a_second_guest(k);
    if (say(k, HO_STOP, NO_FAULT) == DONE)
        k->e->phase = EMU_RESET;
    else
        emulator_exits(k);
    go(k, "reset: STOP");
}

/* Not QEMU, which waits for its last command and sends no more. */
static void stray_command(struct walk *k)
{
    if (k->helpful || !spend(k, &k->w.left.commands))
        return;
    (void)daemon_command(k->m, &k->w, k->h, false, NO_FAULT);
    go(k, "a command, although the guest is stopped");
}

static void emulator_inits(struct walk *k, uint8_t next)
{
    static const char *const texts[] = {"INIT", "INIT, not written", "INIT, written but failed"};
    for (enum model_fault f = NO_FAULT; f <= FAULT_WRITTEN; f++) {
        if (!take_fault(k, f)) {
            again(k);
            continue;
        }
        enum handover_event v = k->d->waits ? HO_INIT_LOAD : HO_INIT;
        if (say(k, v, f) == DONE)
            k->e->phase = next;
        else
            emulator_exits(k);
        go(k, texts[f]);
    }
}

static void migrate(struct walk *k)
{
    if (k->helpful || k->w.n_sets + 1 >= SETS || (k->m->return_path && k->peer->phase != EMU_IN))
        return;
    if (!spend(k, &k->w.left.exports))
        return;
    k->e->was_paused = k->e->phase == EMU_PAUSED;
    k->e->phase = EMU_GET;
    k->w.stream[0] = k->w.stream[1] = k->w.stream_whole = 0;
    go(k, "migrate: guest stopped");
}

static void get_blob(struct walk *k, bool last)
{
    static const char *const texts[] = {"GET", "GET, not written", "GET, written but failed"};
    for (enum model_fault f = NO_FAULT; f <= FAULT_WRITTEN; f++) {
        if (!take_fault(k, f)) {
            again(k);
            continue;
        }
        const uint8_t blob = last ? 2 : 1;
        const bool whole = k->d->state == HO_EXPORTING && (k->d->asked | blob) == 3;
        if (say(k, whole ? HO_GET_LAST : HO_GET_PART, f) == DONE) {
            k->d->asked |= blob;
            k->d->reply = blob;
            k->e->set = k->d->out;
            k->e->phase = last ? EMU_LAST_WAIT : EMU_GET_WAIT;
        } else {
            k->e->relock = 0;
            resume(k);
        }
        go(k, texts[f]);
    }
    if (k->helpful || !spend(k, &k->w.left.faults))
        return;
    (void)say(k, HO_GET_FAILED, NO_FAULT);
    k->e->relock = 0;
    resume(k);
    go(k, "GET is refused (not armed, or no memory)");
}

static void got_blob(struct walk *k, bool last)
{
    k->w.stream[last] = k->e->set;
    k->e->phase = last ? EMU_SENT : EMU_GET_LAST;
    k->e->relock = last;
    go(k, last ? "the whole state is in the emulator" : "permanent state is in the emulator");
}

static void source_fails(struct walk *k, enum model_fault f)
{
    static const char *const texts[] = {
        "source: failed or cancelled, resumes (LOCK_STORAGE unless it was paused)",
        "source: failed, resumes; taking back is not written",
        "source: failed, resumes; taking back is written but failed"};
    if (!take_fault(k, f)) {
        again(k);
        return;
    }
    notice_a_second_guest(k);
    if (!k->w.stream_whole && k->peer->phase == EMU_IN)
        k->w.stream[0] = k->w.stream[1] = 0;
    resume_with(k, f);
    go(k, texts[f]);
}

static void source_waits(struct walk *k)
{
    if (!k->w.stream_whole && k->w.stream[1] && !k->helpful &&
        (!k->m->return_path || k->peer->phase == EMU_IN)) {
        k->w.stream_whole = 1;
        go(k, "the stream arrives whole");
    }
    if (k->m->return_path ? k->peer->loaded != 0 && k->peer->loaded == k->e->set
                          : k->w.stream_whole) {
        k->e->phase = EMU_POST;
        k->e->was_paused = 0;
        go(k, "source: completed");
    }
    for (enum model_fault f = NO_FAULT; f <= FAULT_WRITTEN; f++)
        source_fails(k, f);
}

static void person_says_cont(struct walk *k)
{
    if (!spend(k, &k->w.left.conts))
        return;
    if (k->e->phase == EMU_POST)
        notice_a_second_guest(k);
    k->e->was_paused = 0;
    resume(k);
    go(k, "management: cont (LOCK_STORAGE if all had been asked for)");
}

static void load(struct walk *k)
{
    unsigned a = k->w.stream[0], b = k->w.stream[1];
    if (!k->w.stream_whole)
        return;
    if (say(k, HO_STOP, NO_FAULT) != DONE)
        return;
    k->e->set = a == b ? (uint8_t)a : 0;
    k->e->phase = EMU_IN_SET;
    if (k->m->return_path)
        k->w.stream_whole = 0;
    go(k, "load: STOP");
}

static void set_blob(struct walk *k, bool last)
{
    bool good = k->e->set != 0;
    if (say(k,
            !good  ? HO_STAGE_BAD
            : last ? HO_STAGE_LAST
                   : HO_STAGE_PART,
            NO_FAULT) == DONE &&
        good) {
        k->e->phase = last ? EMU_IN_INIT : EMU_IN_SET_LAST;
        k->d->staged = last ? k->e->set : 0;
    } else {
        emulator_exits(k);
    }
    go(k, last ? "SET of the last blob" : "SET of the permanent state");
    if (k->m->wrong_key && k->h == 1) {
        (void)say(k, HO_STAGE_BAD, NO_FAULT);
        emulator_exits(k);
        go(k, "SET of a blob that the key does not open");
    }
}

static void incoming_runs(struct walk *k)
{
    k->e->loaded = k->e->set;
    k->e->set = 0;
    k->e->phase = EMU_RUN;
    go(k, "destination: the guest runs");
}

static void emulator_steps(struct walk *k)
{
    if (k->e->phase >= EMU_GET && k->e->phase <= EMU_POST)
        stray_command(k);
    again(k);
    switch ((enum emulator_phase)k->e->phase) {
    case EMU_RUN:
        guest_runs(k);
        reset(k);
        migrate(k);
        break;
    case EMU_PAUSED:
        person_says_cont(k);
        reset(k);
        migrate(k);
        break;
    case EMU_RESET:
        emulator_inits(k, EMU_RUN);
        break;
    case EMU_GET:
    case EMU_GET_LAST:
        get_blob(k, k->e->phase == EMU_GET_LAST);
        break;
    case EMU_GOT:
    case EMU_LAST_GOT:
        got_blob(k, k->e->phase == EMU_LAST_GOT);
        break;
    case EMU_GET_WAIT:
    case EMU_LAST_WAIT:
        if (k->d->alive && k->d->reply)
            break; /* the daemon writes it */
        k->e->relock = 0;
        resume(k);
        go(k, "the daemon has gone before its reply: GET failed");
        break;
    case EMU_SENT:
        source_waits(k);
        break;
    case EMU_POST:
        person_says_cont(k);
        reset(k);
        break;
    case EMU_IN:
        load(k);
        break;
    case EMU_IN_SET:
    case EMU_IN_SET_LAST:
        set_blob(k, k->e->phase == EMU_IN_SET_LAST);
        break;
    case EMU_IN_INIT:
        emulator_inits(k, EMU_IN_LOADED);
        break;
    case EMU_IN_LOADED:
        incoming_runs(k);
        break;
    case EMU_NONE:
        break;
    }
    again(k);
}

/* --- ends --- */

static void emulator_ends(struct walk *k)
{
    const bool incoming = k->e->phase >= EMU_IN;
    if (k->e->phase == EMU_NONE)
        return;
    /* A destination may fail for reasons of its own; any other end is a crash. */
    if (incoming || (!k->helpful && spend(k, &k->w.left.crashes))) {
        emulator_exits(k);
        go(k, incoming ? "destination emulator fails and exits" : "emulator is killed");
    }
    again(k);
    if (k->helpful || incoming || (k->e->phase != EMU_RUN && k->e->phase != EMU_POST))
        return;
    (void)say(k, HO_END, NO_FAULT);
    daemon_gone(&k->w, k->h);
    *k->e = (struct model_emulator){0};
    go(k, "emulator quits: SHUTDOWN");
}

static void daemon_steps(struct walk *k)
{
    if (!k->d->alive)
        return;
    if (k->d->reply) {
        bool last = k->d->reply == 2;
        (void)say(k, HO_SENT, NO_FAULT);
        k->d->reply = 0;
        if (k->e->phase == EMU_GET_WAIT || k->e->phase == EMU_LAST_WAIT)
            k->e->phase = last ? EMU_LAST_GOT : EMU_GOT;
        go(k, "daemon: the reply is written");
    }
    if (k->d->reply && k->e->phase == EMU_NONE) {
        (void)say(k, HO_UNSENT, NO_FAULT);
        k->d->reply = 0;
        go(k, "daemon: the reply cannot be written");
    }
    if (k->d->hangup) {
        k->d->hangup = 0;
        (void)say(k, HO_HANGUP, NO_FAULT);
        go(k, "daemon notices that its emulator has gone");
    }
    if (k->e->phase == EMU_NONE && !k->d->hangup && !k->d->reply) {
        (void)say(k, HO_END, NO_FAULT);
        daemon_gone(&k->w, k->h);
        go(k, "daemon is ended");
    }
    if (!k->helpful && spend(k, &k->w.left.crashes)) {
        daemon_gone(&k->w, k->h);
        go(k, "daemon is killed");
    }
    again(k);
}

/* --- beginnings --- */

/* A person starts a guest anew only where none is; with separate images, from the newer one;
 * without locks, not beside a daemon that has the image. */
static bool may_boot(struct walk *k)
{
    if (k->helpful || k->peer->phase != EMU_NONE || k->e->phase != EMU_NONE)
        return false;
    if (k->m->storage == SHARED_WITHOUT_LOCKS)
        return !k->w.daemon[1 - k->h].claim;
    if (k->m->storage == SHARED_WITH_LOCKS)
        return true;
    const struct model_image *here = &k->w.image[k->h], *there = &k->w.image[1 - k->h];
    return here->d >= k->w.acked_d && here->record > there->record;
}

static void beginnings(struct walk *k)
{
    if (k->e->phase != EMU_NONE)
        return;
    if (!k->d->alive) {
        if (may_boot(k) && spend(k, &k->w.left.starts)) {
            daemon_start(k->m, &k->w, k->h, false);
            go(k, "daemon is started");
        }
        again(k);
        if (spend(k, &k->w.left.starts)) {
            daemon_start(k->m, &k->w, k->h, true);
            go(k, "daemon is started to wait for a migration");
        }
        again(k);
        return;
    }
    if (k->d->hangup || k->d->reply)
        return;
    if (!k->d->waits && may_boot(k) && spend(k, &k->w.left.starts)) {
        if (say(k, HO_STOP, NO_FAULT) == DONE)
            k->e->phase = EMU_RESET;
        /* Who starts the guest anew has given the saved one up: where no lock keeps two owners
         * apart, that is the person's part. */
        if (k->m->storage != SHARED_WITH_LOCKS)
            k->w.stream_whole = 0;
        go(k, "emulator is started");
    }
    again(k);
    if (spend(k, &k->w.left.starts)) {
        k->e->phase = EMU_IN;
        go(k, "emulator is started with -incoming");
    }
    again(k);
}

void world_steps(const struct model *m, const struct world *w, bool helpful, step_fn *step,
                 void *ctx)
{
    if (w->broken || (w->outside && !helpful))
        return;
    for (int h = 0; h < HOSTS; h++) {
        struct walk k = {.m = m, .from = w, .helpful = helpful, .step = step, .ctx = ctx, .h = h};
        k.w = *w;
        k.d = &k.w.daemon[h];
        k.e = &k.w.emulator[h];
        k.peer = &k.w.emulator[1 - h];
        emulator_steps(&k);
        emulator_ends(&k);
        daemon_steps(&k);
        beginnings(&k);
    }
}

/* A runs; B waits for a migration. */
void world_begin(const struct model *m, struct world *ret)
{
    struct world w;
    memset(&w, 0, sizeof(w));
    w.n_records = 1;
    w.image[0].record = 1;
    w.left = m->most;
    daemon_start(m, &w, 0, false);
    w.emulator[0].phase = EMU_RESET;
    daemon_start(m, &w, 1, true);
    w.emulator[1].phase = EMU_IN;
    *ret = w;
}
