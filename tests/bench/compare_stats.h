/* Samples of one quantity, taken in batches that alternate between the subjects.
 *
 * Each subject keeps its own series. Batch i of one subject stands next to batch i of every other
 * in time, so that what the machine did meanwhile hit both: ratios are taken between the medians of
 * such neighbours, and the ratio that is reported is the median of these.
 */
#ifndef NVKEEP_TESTS_BENCH_STATS_H
#define NVKEEP_TESTS_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SERIES_MAX = 20000, BATCHES_MAX = 1000 };

struct series {
    double *v;
    size_t n;
    size_t end[BATCHES_MAX]; /* where each batch ended */
    size_t n_batches;
};

void series_add(struct series *s, double v);
void series_end_batch(struct series *s);
void series_clear(struct series *s);

struct summary {
    size_t n;
    double min, p10, p50, p90, p99;
};
struct summary series_summary(const struct series *s);
/* Median over the batches of median(a's batch) / median(b's batch); 0 when there is no pair. */
double series_pair_ratio(const struct series *a, const struct series *b);

/* Microseconds that only go forward. */
double now_us(void);

#endif
