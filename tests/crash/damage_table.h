/* What became of each flip, counted by what was hit. */
#ifndef NVKEEP_TESTS_DAMAGE_TABLE_H
#define NVKEEP_TESTS_DAMAGE_TABLE_H

#include <inttypes.h>

#include "tests/crash/damage_places.h"

enum verdict { /* below: refused with that class */
               UNREAD = ERR_N_KINDS,
               SAME,
               OLDER, /* of whole sectors of the last writes, all of them: the state before those */
               WRONG,
               N_VERDICTS,
};
static unsigned long tally[N_GROUPS][N_VERDICTS], n_wrong;

static inline void count(enum group g, enum verdict v, uint64_t n)
{
    tally[g][v] += n;
}

static inline void wrong(const struct place *p, uint64_t at, const char *what)
{
    count(p->group, WRONG, 1);
    if (n_wrong++ < 30)
        fprintf(stderr, "%s, byte %" PRIu64 ": %s\n", group_name[p->group], at, what);
}

static inline void print_header(const char *unit)
{
    printf("%-24s %10s %10s %10s %10s %10s %10s %10s %10s\n", unit, "CORRUPT", "UNSUPPORT",
           "KEY_WRONG", "other", "unread", "same", "older", "wrong");
}

static inline void print_row(const char *name, const unsigned long *row)
{
    unsigned long other = 0;
    for (unsigned k = 0; k < ERR_N_KINDS; k++)
        if (k != ERR_STATE_CORRUPT && k != ERR_UNSUPPORTED && k != ERR_KEY_WRONG)
            other += row[k];
    printf("%-24s %10lu %10lu %10lu %10lu %10lu %10lu %10lu %10lu\n", name, row[ERR_STATE_CORRUPT],
           row[ERR_UNSUPPORTED], row[ERR_KEY_WRONG], other, row[UNREAD], row[SAME], row[OLDER],
           row[WRONG]);
}

static inline void print_table(const char *unit)
{
    unsigned long sum[N_VERDICTS] = {0};
    print_header(unit);
    for (enum group g = 0; g < N_GROUPS; g++) {
        unsigned long any = 0;
        for (enum verdict v = 0; v < N_VERDICTS; v++) {
            sum[v] += tally[g][v];
            any += tally[g][v];
        }
        if (any > 0)
            print_row(group_name[g], tally[g]);
    }
    print_row("all", sum);
    memset(tally, 0, sizeof(tally));
}

#endif
