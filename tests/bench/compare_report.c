#include "compare_report.h"

#include <errno.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "compare_daemon.h"

static void machine(struct report *r)
{
    struct utsname u;
    double load[3] = {0};
    char date[40];
    time_t now = time(NULL);
    struct tm tm;
    uname(&u);
    if (getloadavg(load, 3) < 1)
        load[0] = -1;
    gmtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    printf("%s, Linux %s, %ld processors, load %.1f\n", date, u.release, cpus, load[0]);
    if (r->json)
        fprintf(r->json,
                "{\"date\": \"%s\", \"kernel\": \"%s\", \"processors\": %ld, \"load\": %.2f,\n"
                "\"metrics\": [",
                date, u.release, cpus, load[0]);
}

void report_open(struct report *r, const char *json_path)
{
    *r = (struct report){0};
    if (json_path && !(r->json = fopen(json_path, "we")))
        fail("%s: %s", json_path, strerror(errno));
    machine(r);
}

void report_close(struct report *r)
{
    if (!r->json)
        return;
    fputs("\n]}\n", r->json);
    if (fclose(r->json) != 0)
        fail("the JSON file could not be written: %s", strerror(errno));
    r->json = NULL;
}

static void json_entry(struct report *r, const char *metric, const char *subject)
{
    fprintf(r->json, "%s\n{\"metric\": \"%s\", \"subject\": \"%s\", ", r->any ? "," : "", metric,
            subject);
    r->any = true;
}

void report_times(struct report *r, const char *metric, const char *title, double unit,
                  const struct row *rows, size_t n_rows)
{
    printf("\n%-38s %6s %9s %9s %9s %9s %9s %8s\n", title, "n", "min", "p10", "p50", "p90", "p99",
           "ratio");
    for (size_t i = 0; i < n_rows; i++) {
        struct summary s = series_summary(rows[i].series);
        double ratio = i == 0 ? 0 : series_pair_ratio(rows[0].series, rows[i].series);
        if (s.n == 0)
            continue;
        printf("  %-36s %6zu %9.2f %9.2f %9.2f %9.2f %9.2f ", rows[i].name, s.n, s.min / unit,
               s.p10 / unit, s.p50 / unit, s.p90 / unit, s.p99 / unit);
        if (ratio > 0)
            printf("%7.2fx", ratio);
        else
            printf("%8s", "");
        if (rows[i].cpu_us > 0)
            printf("  CPU %.2f", rows[i].cpu_us / unit);
        putchar('\n');
        if (!r->json)
            continue;
        json_entry(r, metric, rows[i].name);
        fprintf(r->json,
                "\"unit\": \"us\", \"n\": %zu, \"min\": %.3f, \"p10\": %.3f, \"p50\": %.3f, "
                "\"p90\": %.3f, \"p99\": %.3f, \"ratio\": %.4f, \"cpu\": %.3f}",
                s.n, s.min, s.p10, s.p50, s.p90, s.p99, ratio, rows[i].cpu_us);
    }
    fflush(stdout);
}

void report_number(struct report *r, const char *metric, const char *subject, const char *what,
                   double value)
{
    if (!r->json)
        return;
    json_entry(r, metric, subject);
    fprintf(r->json, "\"what\": \"%s\", \"value\": %.3f}", what, value);
}
