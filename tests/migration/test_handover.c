/* The table of the hand-over, looked at as a whole. What follows from it when two hosts run it is
 * the matter of test_model.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migration/handover.h"

/* All claims are about rules, one at a time; a failing one is named. */
typedef bool claim_fn(enum handover_state s, enum handover_event v, const struct handover_rule *r);

static void for_every_rule(claim_fn *holds)
{
    for (enum handover_state s = 0; s < HO_N_STATES; s++) {
        for (enum handover_event v = 0; v < HO_N_EVENTS; v++) {
            if (!holds(s, v, handover_look(s, v)))
                fail_msg("%s + %s", handover_state_name(s), handover_event_name(v));
        }
    }
}

static bool is_on(enum handover_state s)
{
    return s == HO_RUNNING || s == HO_LOADED || s == HO_EXPORTING || s == HO_EXPORTED;
}

static bool is_frozen(enum handover_state s)
{
    return s == HO_RELEASED || s == HO_RECLAIMING;
}

static bool holds_a_set(enum handover_state s)
{
    return s == HO_IDLE_PART || s == HO_IDLE_SET || s == HO_RELEASED_PART || s == HO_RELEASED_SET ||
           s == HO_AWAY_PART || s == HO_AWAY_SET;
}

static bool is_staging(enum handover_event v)
{
    return v == HO_STAGE_PART || v == HO_STAGE_LAST || v == HO_STAGE_BAD;
}

static bool is_get(enum handover_event v)
{
    return v == HO_GET_PART || v == HO_GET_LAST;
}

static bool takes_the_claim(enum handover_action a)
{
    return a == HO_DO_CLAIM_START || a == HO_DO_TAKE_OVER || a == HO_DO_TAKE_BACK ||
           a == HO_DO_TAKE_BACK_START || a == HO_DO_TAKE_BACK_EXPORT;
}

static bool lets_the_claim_go(enum handover_action a)
{
    return a == HO_DO_RELEASE || a == HO_DO_LET_GO || a == HO_DO_SHUT_DOWN;
}

static bool exports(enum handover_action a)
{
    return a == HO_DO_EXPORT || a == HO_DO_USED_EXPORT || a == HO_DO_TAKE_BACK_EXPORT;
}

static bool powers_on(enum handover_action a)
{
    return a == HO_DO_START || a == HO_DO_START_SET || a == HO_DO_CLAIM_START ||
           a == HO_DO_TAKE_OVER || a == HO_DO_TAKE_BACK_START;
}

static bool powers_off(enum handover_action a)
{
    return a == HO_DO_POWER_OFF || a == HO_DO_SHUT_DOWN || a == HO_DO_LET_GO;
}

static bool has_a_rule(enum handover_state s, enum handover_event v, const struct handover_rule *r)
{
    (void)s, (void)v;
    return r->verdict != HO_FORGOTTEN && r->next < HO_N_STATES && r->failed < HO_N_STATES;
}

static bool stays_when_refused(enum handover_state s, enum handover_event v,
                               const struct handover_rule *r)
{
    (void)v;
    return r->verdict == HO_YES || (r->action == HO_DO_NOTHING && r->next == s && r->failed == s);
}

static bool does_what_becomes_of_the_claim(enum handover_state s, enum handover_event v,
                                           const struct handover_rule *r)
{
    const bool before = handover_is_claimed(s), after = handover_is_claimed(r->next);
    (void)v;
    if (takes_the_claim(r->action))
        return !before && after && !handover_is_claimed(r->failed);
    if (lets_the_claim_go(r->action))
        return before && !after && !handover_is_claimed(r->failed);
    return before == after && before == handover_is_claimed(r->failed);
}

static bool does_what_becomes_of_the_power(enum handover_state s, enum handover_event v,
                                           const struct handover_rule *r)
{
    const bool before = is_on(s) || is_frozen(s), after = is_on(r->next) || is_frozen(r->next);
    (void)v;
    if (powers_on(r->action))
        return after;
    if (powers_off(r->action))
        return !after;
    return before == after;
}

static bool executes_only_while_claimed_and_on(enum handover_state s, enum handover_event v,
                                               const struct handover_rule *r)
{
    if (v != HO_COMMAND)
        return true;
    if (s == HO_RELEASED || s == HO_EXPORTED || s == HO_FENCED)
        return r->verdict == HO_FROZEN;
    if (is_on(s) || s == HO_RECLAIMING) /* the instant is over before anything new happens */
        return r->verdict == HO_YES && r->next == HO_RUNNING;
    return r->verdict == HO_YES && r->action == HO_DO_NOTHING && r->next == s;
}

static bool exports_only_what_is_on(enum handover_state s, enum handover_event v,
                                    const struct handover_rule *r)
{
    if (exports(r->action) != (is_get(v) && r->verdict == HO_YES))
        return false;
    if (!exports(r->action))
        return r->next != HO_EXPORTING || s == HO_EXPORTING;
    return (is_on(s) || is_frozen(s)) && s != HO_EXPORTED &&
           r->next == (v == HO_GET_LAST ? HO_EXPORTED : HO_EXPORTING) &&
           is_frozen(s) == (r->action == HO_DO_TAKE_BACK_EXPORT);
}

static bool releases_only_a_set_that_was_sent(enum handover_state s, enum handover_event v,
                                              const struct handover_rule *r)
{
    const bool is_the_moment = s == HO_EXPORTED && v == HO_SENT;
    return (r->action == HO_DO_RELEASE) == is_the_moment &&
           (r->next != HO_RELEASED || is_the_moment || s == HO_RELEASED);
}

static bool stages_only_what_is_off(enum handover_state s, enum handover_event v,
                                    const struct handover_rule *r)
{
    if (!is_staging(v))
        return true;
    if (is_on(s) || is_frozen(s) || s == HO_FENCED)
        return v == HO_STAGE_BAD || r->verdict == HO_NO;
    return r->verdict == HO_YES && r->action == HO_DO_NOTHING && holds_a_set(r->next) &&
           handover_is_claimed(r->next) == handover_is_claimed(s);
}

static bool a_set_is_used_or_dropped(enum handover_state s, enum handover_event v,
                                     const struct handover_rule *r)
{
    (void)v;
    if (!holds_a_set(s) || holds_a_set(r->next))
        return true;
    return r->action == HO_DO_DROP_SET || r->action == HO_DO_LET_GO ||
           r->action == HO_DO_START_SET || r->action == HO_DO_TAKE_OVER;
}

static bool marks_before_use(enum handover_state s, enum handover_event v,
                             const struct handover_rule *r)
{
    (void)v;
    if (s != HO_LOADED || r->verdict != HO_YES || r->next == HO_LOADED)
        return true;
    if (!handover_is_claimed(r->next))
        return r->action == HO_DO_LET_GO; /* nothing is written: it can be taken back */
    return r->action == HO_DO_MARK_USED || r->action == HO_DO_USED_EXPORT ||
           r->action == HO_DO_START;
}

static bool starts_without_comparing_only_for_a_new_emulator(enum handover_state s,
                                                             enum handover_event v,
                                                             const struct handover_rule *r)
{
    if (r->action == HO_DO_CLAIM_START)
        return s == HO_AWAY && v == HO_INIT;
    if (r->verdict != HO_YES || r->next != HO_AWAY)
        return true;
    /* The way there: the emulator is gone, or had nothing to do with the state yet. */
    return v == HO_HANGUP || v == HO_END || s == HO_AWAY || s == HO_AWAY_PART || s == HO_AWAY_SET;
}

static bool the_end_leaves_nothing(enum handover_state s, enum handover_event v,
                                   const struct handover_rule *r)
{
    (void)s;
    return v != HO_END || (r->verdict == HO_YES && r->next == HO_AWAY && r->failed == HO_AWAY);
}

static bool writes_at_the_end_only_what_it_owns(enum handover_state s, enum handover_event v,
                                                const struct handover_rule *r)
{
    return r->action != HO_DO_SHUT_DOWN || (v == HO_END && (s == HO_RUNNING || s == HO_EXPORTING));
}

static bool a_hangup_frees_what_was_not_used(enum handover_state s, enum handover_event v,
                                             const struct handover_rule *r)
{
    return v != HO_HANGUP || s != HO_LOADED ||
           (r->action == HO_DO_LET_GO && !handover_is_claimed(r->next));
}

static bool a_fenced_owner_owns_nothing(enum handover_state s, enum handover_event v,
                                        const struct handover_rule *r)
{
    if (v != HO_FENCE)
        return s != HO_FENCED || r->verdict != HO_YES ||
               (r->action == HO_DO_NOTHING && !handover_is_claimed(r->next));
    return r->verdict == HO_YES && !handover_is_claimed(r->next) && !is_frozen(r->next);
}

static void every_state_and_event_has_a_rule(void **x)
{
    (void)x;
    for_every_rule(has_a_rule);
    for_every_rule(stays_when_refused);
}

static void no_step_moves_the_claim_without_saying_so(void **x)
{
    (void)x;
    for_every_rule(does_what_becomes_of_the_claim);
    for_every_rule(does_what_becomes_of_the_power);
}

static void nothing_is_executed_between_giving_away_and_taking_back(void **x)
{
    (void)x;
    for_every_rule(executes_only_while_claimed_and_on);
}

static void the_claim_goes_only_after_the_whole_set(void **x)
{
    (void)x;
    for_every_rule(exports_only_what_is_on);
    for_every_rule(releases_only_a_set_that_was_sent);
}

static void what_is_handed_in_is_staged_while_off_and_used_or_dropped(void **x)
{
    (void)x;
    for_every_rule(stages_only_what_is_off);
    for_every_rule(a_set_is_used_or_dropped);
}

static void what_was_handed_over_is_marked_before_its_first_use(void **x)
{
    (void)x;
    for_every_rule(marks_before_use);
    for_every_rule(a_hangup_frees_what_was_not_used);
}

static void an_old_owner_does_not_start_again_whatever_it_is_told(void **x)
{
    (void)x;
    for_every_rule(starts_without_comparing_only_for_a_new_emulator);
    for_every_rule(a_fenced_owner_owns_nothing);
}

static void the_end_writes_only_what_is_owned(void **x)
{
    (void)x;
    for_every_rule(the_end_leaves_nothing);
    for_every_rule(writes_at_the_end_only_what_it_owns);
}

static void every_state_and_event_has_a_name_of_its_own(void **x)
{
    (void)x;
    for (enum handover_state s = 0; s < HO_N_STATES; s++) {
        assert_non_null(handover_state_name(s));
        for (enum handover_state t = 0; t < s; t++)
            assert_string_not_equal(handover_state_name(s), handover_state_name(t));
    }
    for (enum handover_event v = 0; v < HO_N_EVENTS; v++) {
        assert_non_null(handover_event_name(v));
        for (enum handover_event w = 0; w < v; w++)
            assert_string_not_equal(handover_event_name(v), handover_event_name(w));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_state_and_event_has_a_rule),
        cmocka_unit_test(no_step_moves_the_claim_without_saying_so),
        cmocka_unit_test(nothing_is_executed_between_giving_away_and_taking_back),
        cmocka_unit_test(the_claim_goes_only_after_the_whole_set),
        cmocka_unit_test(what_is_handed_in_is_staged_while_off_and_used_or_dropped),
        cmocka_unit_test(what_was_handed_over_is_marked_before_its_first_use),
        cmocka_unit_test(an_old_owner_does_not_start_again_whatever_it_is_told),
        cmocka_unit_test(the_end_writes_only_what_is_owned),
        cmocka_unit_test(every_state_and_event_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
