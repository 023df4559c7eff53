#include "compare_counters.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

static bool is_one_of(const char *name, size_t n, const char *const list[])
{
    for (size_t i = 0; list[i]; i++)
        if (strlen(list[i]) == n && memcmp(list[i], name, n) == 0)
            return true;
    return false;
}

static const char *const writes[] = {"write", "pwrite64", "writev", "pwritev", "pwritev2", NULL};
static const char *const flushes[] = {"fsync", "fdatasync",       "msync", "syncfs",
                                      "sync",  "sync_file_range", NULL};
static const char *const opens[] = {"open", "openat", "openat2", "creat", NULL};
static const char *const renames[] = {"rename", "renameat", "renameat2", "link",      "linkat",
                                      "unlink", "unlinkat", "ftruncate", "fallocate", NULL};

/* Length asked for: with -s 0 every buffer is printed as ""..., and the length follows it. */
static uint64_t asked_bytes(const char *args)
{
    uint64_t sum = 0;
    const char *p = strstr(args, "iov_len=");
    if (!p) {
        p = strstr(args, "\"\"..., ");
        return p ? strtoull(p + 7, NULL, 10) : 0;
    }
    for (; p; p = strstr(p + 1, "iov_len="))
        sum += strtoull(p + 8, NULL, 10);
    return sum;
}

static void count_line(const char *line, const char *state_path, struct calls *c)
{
    size_t n = strcspn(line, "(");
    if (line[n] != '(')
        return;
    const char *args = line + n + 1;
    c->all++;
    c->opens += is_one_of(line, n, opens);
    c->renames += is_one_of(line, n, renames);
    c->flushes += is_one_of(line, n, flushes);
    if (!is_one_of(line, n, writes))
        return;
    /* write(7</path>, ... : the path strace found behind the descriptor. */
    const char *path = strchr(args, '<');
    const char *comma = strchr(args, ',');
    if (path && comma && path < comma && strncmp(path + 1, state_path, strlen(state_path)) == 0) {
        c->state_writes++;
        c->state_bytes += asked_bytes(args);
    }
}

void calls_count(const char *trace, const char *state_path, const struct interval *at, size_t n,
                 struct calls *ret)
{
    char line[4096], *end;
    FILE *f = fopen(trace, "re");
    if (!f)
        fail("%s: %s", trace, strerror(errno));
    memset(ret, 0, n * sizeof(ret[0]));
    while (fgets(line, sizeof(line), f)) {
        char *p = line + strspn(line, "0123456789 "); /* thread, seconds */
        while (p > line && p[-1] != ' ')
            p--;
        double when = strtod(p, &end);
        if (*end != ' ' || end[1] == '<' || end[1] == '+' || end[1] == '-')
            continue; /* the second half of a call, a signal, an exit */
        size_t i = n;
        while (i > 0 && at[i - 1].from > when)
            i--;
        if (i > 0 && (i < n || when <= at[n - 1].to))
            count_line(end + 1, state_path, &ret[i - 1]);
    }
    fclose(f);
}

/* The n-th word of a line as a number (words count from 0), or 0. */
static uint64_t number_at(const char *line, unsigned word)
{
    const char *p = line + strspn(line, " ");
    for (; word > 0; word--) {
        p += strcspn(p, " ");
        p += strspn(p, " ");
    }
    return strtoull(p, NULL, 10);
}

uint64_t device_bytes_written(const char *path)
{
    enum { MAJOR = 0, MINOR = 1, SECTORS_WRITTEN = 9 };
    struct stat st;
    char line[512];
    uint64_t bytes = 0;
    if (stat(path, &st) < 0)
        return 0;
    FILE *f = fopen("/proc/diskstats", "re");
    while (f && fgets(line, sizeof(line), f))
        if (number_at(line, MAJOR) == major(st.st_dev) &&
            number_at(line, MINOR) == minor(st.st_dev))
            bytes = number_at(line, SECTORS_WRITTEN) * 512;
    if (f)
        fclose(f);
    return bytes;
}

struct memory process_memory(pid_t pid)
{
    char path[64], line[256];
    struct memory m = {0};
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    FILE *f = fopen(path, "re");
    /* A daemon that keeps others out of its memory shows this to root alone. */
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "Rss:", 4) == 0)
            m.rss_kb = number_at(line, 1);
        if (strncmp(line, "Pss:", 4) == 0)
            m.pss_kb = number_at(line, 1);
        if (strncmp(line, "Private_Clean:", 14) == 0 || strncmp(line, "Private_Dirty:", 14) == 0)
            m.private_kb += number_at(line, 1);
    }
    if (f)
        fclose(f);
    return m;
}

double process_cpu_us(pid_t pid)
{
    char path[64], file[400], line[128];
    double sum = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (!d)
        fail("%s: %s", path, strerror(errno));
    for (struct dirent *t; (t = readdir(d));) {
        snprintf(file, sizeof(file), "%s/%s/schedstat", path, t->d_name);
        FILE *f = t->d_name[0] == '.' ? NULL : fopen(file, "re");
        if (f && fgets(line, sizeof(line), f))
            sum += (double)number_at(line, 0) / 1e3;
        if (f)
            fclose(f);
    }
    closedir(d);
    return sum;
}

double real_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
