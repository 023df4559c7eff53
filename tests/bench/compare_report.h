/* The tables people read and the JSON that programs read, from the same numbers.
 */
#ifndef NVKEEP_TESTS_BENCH_REPORT_H
#define NVKEEP_TESTS_BENCH_REPORT_H

#include <stdio.h>

#include "compare_stats.h"

struct report {
    FILE *json; /* NULL: none */
    bool any;   /* an entry was written already */
};

void report_open(struct report *r, const char *json_path);
void report_close(struct report *r);

struct row {
    const char *name;
    const struct series *series;
    double cpu_us; /* per command; 0: not measured */
};
/* One metric. Rows without samples are left out; where the first row has samples, each other one
 * says by how much the first is slower (above 1) or faster. unit scales microseconds: 1, or 1000
 * for milliseconds. */
void report_times(struct report *r, const char *metric, const char *title, double unit,
                  const struct row *rows, size_t n_rows);

/* One number of one subject. */
void report_number(struct report *r, const char *metric, const char *subject, const char *what,
                   double value);

#endif
