#include "compare_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void series_add(struct series *s, double v)
{
    if (!s->v)
        s->v = calloc(SERIES_MAX, sizeof(s->v[0]));
    if (s->v && s->n < SERIES_MAX)
        s->v[s->n++] = v;
}

void series_end_batch(struct series *s)
{
    if (s->n_batches < BATCHES_MAX)
        s->end[s->n_batches++] = s->n;
}

void series_clear(struct series *s)
{
    free(s->v);
    memset(s, 0, sizeof(*s));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank: a value that was really seen. */
static double at_rank(const double *sorted, size_t n, double q)
{
    if (n == 0)
        return 0;
    size_t rank = (size_t)ceil(q * (double)n);
    return sorted[rank > 0 ? rank - 1 : 0];
}

static double *sorted_copy(const double *v, size_t n)
{
    double *c = calloc(n ? n : 1, sizeof(c[0]));
    if (!c)
        abort();
    if (n)
        memcpy(c, v, n * sizeof(c[0]));
    qsort(c, n, sizeof(c[0]), by_value);
    return c;
}

struct summary series_summary(const struct series *s)
{
    double *c = sorted_copy(s->v, s->n);
    struct summary r = {
        .n = s->n,
        .min = at_rank(c, s->n, 0),
        .p10 = at_rank(c, s->n, 0.10),
        .p50 = at_rank(c, s->n, 0.50),
        .p90 = at_rank(c, s->n, 0.90),
        .p99 = at_rank(c, s->n, 0.99),
    };
    free(c);
    return r;
}

static double batch_median(const struct series *s, size_t batch)
{
    size_t from = batch ? s->end[batch - 1] : 0;
    double *c = sorted_copy(s->v + from, s->end[batch] - from);
    double m = at_rank(c, s->end[batch] - from, 0.5);
    free(c);
    return m;
}

double series_pair_ratio(const struct series *a, const struct series *b)
{
    double ratio[BATCHES_MAX];
    size_t n = 0;
    for (size_t i = 0; i < a->n_batches && i < b->n_batches; i++) {
        double x = batch_median(a, i), y = batch_median(b, i);
        if (x > 0 && y > 0)
            ratio[n++] = x / y;
    }
    qsort(ratio, n, sizeof(ratio[0]), by_value);
    return at_rank(ratio, n, 0.5);
}

double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}
