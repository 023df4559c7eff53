/* The hand-over, all of it: every interleaving of two hosts, two daemons that follow the table of
 * migration/handover.h, two emulators, a crash or a failed write at any step. What must never
 * happen is enum violation of model_world.h.
 *
 * Shared storage: never two owners, two that execute, or a command between giving away and taking
 * back; nothing that was acknowledged is lost; and as long as somebody has the guest's state whole
 * and nobody else has used it, there is a way on without anything new but `cont` (or loading the
 * saved file once more). Where locks do not work, a person does not start a guest anew beside a
 * running one; all else is the daemons' part. [S3.6] [S3.23] [S3.24] [S3.25] [S3.26]
 *
 * Separate images: the same, up to the moment in which a second guest is made where no daemon can
 * see it: `cont` after a completed migration, an emulator that resumes although the other side has
 * the guest or may still get it, an old file loaded on another image. Such worlds are counted
 * ("outside") and not followed.
 *
 * Then the same with mistakes made on purpose, in the table and in what the actions do: each must
 * be found, or the search proves nothing.
 *
 *     migration_test_model [--long]            also by NVKEEP_LONG=1
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_world.h"

/* How much of everything may happen on one way. Nothing else is bounded. */
struct course {
    const char *name;
    bool is_long;
    struct model_bounds most;
};

static const struct course courses[] = {
    {"ends",
     false,
     {.commands = 2, .exports = 1, .crashes = 2, .conts = 1, .resets = 1, .starts = 1}},
    {"again",
     false,
     {.commands = 1, .exports = 2, .crashes = 1, .conts = 1, .pauses = 1, .starts = 1}},
    {"storage",
     false,
     {.commands = 2, .exports = 1, .crashes = 1, .faults = 2, .conts = 1, .starts = 1}},
    {"there and back",
     true,
     {.commands = 2,
      .exports = 2,
      .crashes = 1,
      .conts = 1,
      .resets = 1,
      .pauses = 1,
      .starts = 1}},
    {"many ends",
     true,
     {.commands = 2,
      .exports = 1,
      .crashes = 3,
      .faults = 1,
      .conts = 2,
      .resets = 1,
      .starts = 2}},
};

static const char *const storages[] = {"shared, locks", "shared, no locks", "separate images"};

static void print_head(void)
{
    printf("%-15s %-17s %-8s %-6s %10s %10s %8s  %s\n", "course", "storage", "ret.path", "key B",
           "states", "steps", "outside", "violation");
}

static void print_bounds(const struct course *c)
{
    const struct model_bounds *b = &c->most;
    printf("%s: at most %u commands, %u migrations, %u crashes, %u failed writes, %u cont, %u "
           "resets, %u pauses, %u new starts\n",
           c->name, b->commands, b->exports, b->crashes, b->faults, b->conts, b->resets, b->pauses,
           b->starts);
}

static void print_row(const struct course *c, const struct model *m, const struct model_result *r)
{
    printf("%-15s %-17s %-8s %-6s %10llu %10llu %8llu  %s\n", c->name, storages[m->storage],
           m->return_path ? "on" : "off", m->wrong_key ? "wrong" : "right",
           (unsigned long long)r->states, (unsigned long long)r->steps,
           (unsigned long long)r->outside, violation_text(r->violation));
    fflush(stdout);
}

static bool search(const struct model *m, bool print, struct model_result *ret)
{
    if (model_search(m, print, ret))
        return true;
    fprintf(stderr, "there is not enough memory for so many states\n");
    exit(1);
}

/* Every storage, both settings of the return path, a right and a wrong key at B. */
typedef bool config_fn(const struct model *m, const struct course *c, void *ctx); /* false: end */

static void for_every_config(const struct handover_table *table, enum model_mistake mistake,
                             bool with_long, config_fn *fn, void *ctx)
{
    for (size_t i = 0; i < sizeof(courses) / sizeof(courses[0]); i++) {
        for (unsigned n = 0; n < 12; n++) {
            const struct course *c = &courses[i];
            const struct model m = {.table = table,
                                    .storage = n / 4,
                                    .return_path = n / 2 % 2,
                                    .wrong_key = n % 2,
                                    .mistake = mistake,
                                    .most = c->most};
            if ((!c->is_long || with_long) && !fn(&m, c, ctx))
                return;
        }
    }
}

struct total {
    uint64_t states, steps;
    unsigned violations;
};

static bool must_be_sound(const struct model *m, const struct course *c, void *ctx)
{
    struct total *t = ctx;
    struct model_result r;
    search(m, true, &r);
    print_row(c, m, &r);
    t->states += r.states;
    t->steps += r.steps;
    t->violations += r.violation != SOUND;
    return true;
}

/* --- mistakes --- */

struct mistake {
    const char *text;
    enum handover_state state;
    enum handover_event event;
    struct handover_rule rule;
    enum model_mistake action;
};

static const struct mistake mistakes[] = {
    {"RELEASED + COMMAND is executed",
     HO_RELEASED,
     HO_COMMAND,
     {HO_YES, HO_DO_NOTHING, HO_RELEASED, HO_RELEASED},
     NO_MISTAKE},
    {"EXPORTING + SENT lets the claim go",
     HO_EXPORTING,
     HO_SENT,
     {HO_YES, HO_DO_RELEASE, HO_RELEASED, HO_RELEASED},
     NO_MISTAKE},
    {"LOADED + COMMAND does not mark as used",
     HO_LOADED,
     HO_COMMAND,
     {HO_YES, HO_DO_NOTHING, HO_RUNNING, HO_LOADED},
     NO_MISTAKE},
    {"RELEASED + STOP forgets that it was given away",
     HO_RELEASED,
     HO_STOP,
     {HO_YES, HO_DO_POWER_OFF, HO_AWAY, HO_AWAY},
     NO_MISTAKE},
    {"FENCED + STOP forgets the other owner",
     HO_FENCED,
     HO_STOP,
     {HO_YES, HO_DO_NOTHING, HO_AWAY, HO_AWAY},
     NO_MISTAKE},
    {"RELEASED + GET is refused",
     HO_RELEASED,
     HO_GET_PART,
     {HO_NO, HO_DO_NOTHING, HO_RELEASED, HO_RELEASED},
     NO_MISTAKE},
    {"RELEASED + LOCK_STORAGE only goes on",
     HO_RELEASED,
     HO_LOCK_STORAGE,
     {HO_YES, HO_DO_NOTHING, HO_RUNNING, HO_RECLAIMING},
     NO_MISTAKE},
    {"taking back compares nothing", 0, 0, {0}, TAKE_BACK_COMPARES_NOTHING},
    {"taking back writes nothing", 0, 0, {0}, TAKE_BACK_WRITES_NOTHING},
    {"taking back does not know its own record again", 0, 0, {0}, TAKE_BACK_FORGETS_ITS_RECORD},
    {"a set that was stored and not used is not taken again", 0, 0, {0}, TAKE_OVER_ONLY_ONCE},
    {"taking over compares nothing", 0, 0, {0}, TAKE_OVER_COMPARES_NOTHING},
    {"claiming does not check the key", 0, 0, {0}, CLAIM_WITHOUT_KEY},
    {"an export after a failed commit does not commit first",
     0,
     0,
     {0},
     EXPORT_AFTER_FAILED_COMMIT},
};

static bool find_it(const struct model *m, const struct course *c, void *ctx)
{
    enum violation *found = ctx;
    struct model_result r;
    search(m, false, &r);
    if (r.violation == SOUND)
        return true;
    *found = r.violation;
    print_row(c, m, &r);
    search(m, true, &r);
    return false;
}

static unsigned mistakes_not_found(void)
{
    unsigned n = 0;
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        const struct mistake *k = &mistakes[i];
        struct handover_table table = handover_table;
        enum violation found = SOUND;
        if (k->action == NO_MISTAKE)
            table.rule[k->state][k->event] = k->rule;
        printf("\nmistake: %s\n", k->text);
        for_every_config(&table, k->action, false, find_it, &found);
        printf("%s\n", found ? "  found" : "  NOT FOUND");
        n += found == SOUND;
    }
    return n;
}

int main(int argc, char **argv)
{
    const char *env = getenv("NVKEEP_LONG");
    bool with_long = (argc > 1 && strcmp(argv[1], "--long") == 0) || (env && strcmp(env, "1") == 0);
    struct total t = {0};
    for (size_t i = 0; i < sizeof(courses) / sizeof(courses[0]); i++)
        if (!courses[i].is_long || with_long)
            print_bounds(&courses[i]);
    print_head();
    for_every_config(&handover_table, NO_MISTAKE, with_long, must_be_sound, &t);
    unsigned not_found = mistakes_not_found();
    printf("\n%llu states, %llu steps, violations %u; %zu mistakes made on purpose, not found %u\n",
           (unsigned long long)t.states, (unsigned long long)t.steps, t.violations,
           sizeof(mistakes) / sizeof(mistakes[0]), not_found);
    return t.violations == 0 && not_found == 0 ? 0 : 1;
}
