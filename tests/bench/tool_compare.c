/* nvkeep, swtpm and the floor of the machine, in one interleaved run.
 *
 *     tool_compare [--nvkeep PROGRAM] [--swtpm PROGRAM] [--dir DIR] [--rounds N] [--json FILE]
 *                  [--subjects nvkeep,swtpm-dir,swtpm-key,swtpm-file]
 *                  [--sections start,latency,memory,block,calls]
 *     tool_compare --counters        deterministic counters of nvkeep only, against fixed limits
 *
 * Everything happens on the file system of DIR. The subjects take turns in small batches; between
 * two batches the file system is synced, so that nobody pays for what another left in the cache.
 * "ratio" is nvkeep divided by the subject of that line: the median over the pairs of neighbouring
 * batches. Times include everything from sending a command to having its answer. The block section
 * reads the counters of the whole device: on a busy one, give it a DIR on a file system of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#include "compare_counters.h"
#include "compare_floor.h"
#include "compare_report.h"
#include "compare_subject.h"

enum { SUBJECTS_MAX = 4, MANY = 20 };

struct run {
    struct subject subject[SUBJECTS_MAX];
    size_t n;
    size_t rounds;
    const char *dir, *sections;
    char work[300];
    int work_fd;
    struct report report;
};

/* What one command does, as a function of how often it was sent. */
struct load {
    const char *metric, *title;
    void (*make)(struct tpm_cmd *c, uint32_t count);
    size_t batch;
    bool storage; /* compared with durable writes, else with the socket */
};

static void nv_write_changed(struct tpm_cmd *c, uint32_t count)
{
    uint8_t data[BENCH_INDEX_BYTES];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)((count >> (8 * (i % 4))) + i);
    cmd2_nv_write(c, BENCH_INDEX, data, sizeof(data), 0);
}

static void nv_write_same(struct tpm_cmd *c, uint32_t count)
{
    (void)count;
    nv_write_changed(c, 0x11223344);
}

static void get_random(struct tpm_cmd *c, uint32_t count)
{
    (void)count;
    cmd2_get_random(c, 32);
}

static void pcr_extend(struct tpm_cmd *c, uint32_t count)
{
    uint8_t digest[32] = {0};
    put_be32(digest, count);
    cmd2_pcr_extend(c, 10, digest); /* where a kernel measures what it runs */
}

static void command(struct daemon *d, const struct load *l, uint32_t count, double *ret_us)
{
    struct tpm_cmd c;
    l->make(&c, count);
    uint32_t rc = daemon_command(d, &c, ret_us);
    if (rc != 0)
        fail("%s: response code 0x%x", l->title, rc);
}

static void settle(const struct run *r)
{
    if (syncfs(r->work_fd) < 0)
        fail("sync: %s", strerror(errno));
}

static void prepare(struct run *r)
{
    for (size_t i = 0; i < r->n; i++) {
        subject_prepare(&r->subject[i], "small", FILL_SMALL);
        subject_prepare(&r->subject[i], "full", FILL_FULL);
    }
}

static void measure_start(struct run *r, const char *tag)
{
    struct series took[SUBJECTS_MAX] = {0};
    double cpu[SUBJECTS_MAX] = {0};
    struct row rows[SUBJECTS_MAX];
    char metric[64], title[64];
    for (size_t round = 0; round < r->rounds; round++)
        for (size_t k = 0; k < r->n; k++) {
            size_t i = (k + round) % r->n;
            struct daemon d;
            struct rusage usage;
            double us;
            settle(r);
            subject_start(&r->subject[i], tag, NULL, &d, &us);
            daemon_stop(&d, &usage);
            series_add(&took[i], us);
            series_end_batch(&took[i]);
            cpu[i] += (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
                      (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
        }
    for (size_t i = 0; i < r->n; i++)
        rows[i] = (struct row){r->subject[i].name, &took[i], cpu[i] / (double)r->rounds};
    snprintf(metric, sizeof(metric), "start_%s", tag);
    snprintf(title, sizeof(title), "start to first answer, %s state, ms", tag);
    report_times(&r->report, metric, title, 1000, rows, r->n);
    for (size_t i = 0; i < r->n; i++)
        series_clear(&took[i]);
}

static void floor_batch(struct floor *f, const struct load *l, struct series s[FLOOR_N])
{
    size_t n = l->storage ? FLOOR_N : 1;
    for (size_t kind = 0; kind < n; kind++) {
        for (size_t k = 0; k < l->batch; k++) {
            double us = l->storage ? floor_write(f, (enum floor_kind)kind) : floor_echo(f);
            if (us >= 0)
                series_add(&s[kind], us);
        }
        series_end_batch(&s[kind]);
    }
}

static void measure_latency(struct run *r, const char *tag, const struct load *l, struct floor *f)
{
    struct daemon d[SUBJECTS_MAX];
    struct series took[SUBJECTS_MAX] = {0}, bottom[FLOOR_N] = {0};
    double cpu[SUBJECTS_MAX] = {0};
    struct row rows[SUBJECTS_MAX + FLOOR_N];
    uint32_t count = 0;
    char metric[64], title[64];
    for (size_t i = 0; i < r->n; i++) {
        subject_start(&r->subject[i], tag, NULL, &d[i], NULL);
        for (size_t k = 0; k < l->batch; k++)
            command(&d[i], l, ++count, NULL); /* warm */
    }
    for (size_t round = 0; round < r->rounds; round++) {
        for (size_t k = 0; k < r->n; k++) {
            size_t i = (k + round) % r->n;
            settle(r);
            double before = process_cpu_us(d[i].pid);
            for (size_t j = 0; j < l->batch; j++) {
                double us;
                command(&d[i], l, ++count, &us);
                series_add(&took[i], us);
            }
            cpu[i] += process_cpu_us(d[i].pid) - before;
            series_end_batch(&took[i]);
        }
        settle(r);
        floor_batch(f, l, bottom);
    }
    for (size_t i = 0; i < r->n; i++) {
        daemon_stop(&d[i], NULL);
        rows[i] =
            (struct row){r->subject[i].name, &took[i], cpu[i] / (double)(r->rounds * l->batch)};
    }
    for (size_t i = 0; i < FLOOR_N; i++)
        rows[r->n + i] = (struct row){l->storage ? floor_names[i] : "socket echo", &bottom[i], 0};
    snprintf(metric, sizeof(metric), "%s_%s", l->metric, tag);
    snprintf(title, sizeof(title), "%s, %s state, us", l->title, tag);
    report_times(&r->report, metric, title, 1, rows, r->n + FLOOR_N);
    for (size_t i = 0; i < r->n; i++)
        series_clear(&took[i]);
    for (size_t i = 0; i < FLOOR_N; i++)
        series_clear(&bottom[i]);
}

static void measure_memory(struct run *r, const struct load *loads, size_t n_loads)
{
    printf("\n%-38s %9s %9s %9s %12s %12s\n", "memory of a process, kB", "RSS", "PSS", "private",
           "PSS of 20", "private of 20");
    for (size_t i = 0; i < r->n; i++) {
        const struct subject *s = &r->subject[i];
        struct daemon d[MANY];
        struct memory one = {0}, sum = {0};
        for (size_t k = 0; k < MANY; k++) {
            char tag[16];
            snprintf(tag, sizeof(tag), "m%zu", k);
            subject_copy(s, "small", tag);
            subject_start(s, tag, NULL, &d[k], NULL);
            for (size_t j = 0; j < n_loads; j++)
                command(&d[k], &loads[j], (uint32_t)k + 1, NULL);
            if (k == 0)
                one = process_memory(d[k].pid);
        }
        for (size_t k = 0; k < MANY; k++) {
            struct memory m = process_memory(d[k].pid);
            sum.pss_kb += m.pss_kb;
            sum.private_kb += m.private_kb;
        }
        for (size_t k = 0; k < MANY; k++)
            daemon_stop(&d[k], NULL);
        printf("  %-36s %9llu %9llu %9llu %12.0f %12.0f\n", s->name, (unsigned long long)one.rss_kb,
               (unsigned long long)one.pss_kb, (unsigned long long)one.private_kb,
               (double)sum.pss_kb / MANY, (double)sum.private_kb / MANY);
        report_number(&r->report, "memory_1", s->name, "pss_kb", (double)one.pss_kb);
        report_number(&r->report, "memory_1", s->name, "private_kb", (double)one.private_kb);
        report_number(&r->report, "memory_20", s->name, "pss_kb", (double)sum.pss_kb / MANY);
        report_number(&r->report, "memory_20", s->name, "private_kb",
                      (double)sum.private_kb / MANY);
    }
}

/* Other writers on the device only add: the smallest of some batches is nearest to the truth. */
static void measure_block_bytes(struct run *r, const char *tag, const struct load *l)
{
    enum { TIMES = 7, WRITES = 100 };
    printf("\nbytes at the block layer per NV write, %s state (least of %d batches)\n", tag, TIMES);
    for (size_t i = 0; i < r->n; i++) {
        struct daemon d;
        uint64_t least = UINT64_MAX;
        uint32_t count = 0;
        subject_start(&r->subject[i], tag, NULL, &d, NULL);
        for (size_t t = 0; t < TIMES; t++) {
            settle(r);
            uint64_t before = device_bytes_written(r->work);
            for (size_t k = 0; k < WRITES; k++)
                command(&d, l, ++count, NULL);
            settle(r);
            uint64_t n = device_bytes_written(r->work) - before;
            if (n < least)
                least = n;
        }
        daemon_stop(&d, NULL);
        printf("  %-36s %9.0f\n", r->subject[i].name, (double)least / WRITES);
        report_number(&r->report, "block_bytes_per_nv_write", r->subject[i].name, tag,
                      (double)least / WRITES);
    }
}

/* Sums over n commands, and how many commands flushed and wrote exactly once. */
struct call_sums {
    double all, state_writes, flushes, opens, renames, state_bytes;
    size_t one_write, one_flush;
};

static struct call_sums trace_calls(struct run *r, const struct subject *s, const char *tag,
                                    const struct load *l, size_t n)
{
    char trace[400], state[400];
    struct daemon d;
    struct interval *at = calloc(n, sizeof(at[0]));
    struct calls *c = calloc(n, sizeof(c[0]));
    struct call_sums sum = {0};
    if (!at || !c)
        fail("no memory");
    snprintf(trace, sizeof(trace), "%s/trace", r->work);
    subject_state_path(s, tag, state, sizeof(state));
    subject_start(s, tag, trace, &d, NULL);
    command(&d, l, 0x11223344, NULL);
    for (size_t i = 0; i < n; i++) {
        at[i].from = real_time();
        command(&d, l, (uint32_t)i + 1, NULL);
        at[i].to = real_time();
    }
    daemon_stop(&d, NULL);
    calls_count(trace, state, at, n, c);
    for (size_t i = 0; i < n; i++) {
        sum.all += c[i].all;
        sum.state_writes += c[i].state_writes;
        sum.flushes += c[i].flushes;
        sum.opens += c[i].opens;
        sum.renames += c[i].renames;
        sum.state_bytes += (double)c[i].state_bytes;
        sum.one_write += c[i].state_writes == 1;
        sum.one_flush += c[i].flushes == 1;
    }
    free(at);
    free(c);
    return sum;
}

static void print_calls(struct run *r, const struct subject *s, const char *tag,
                        const struct load *l, size_t n, const struct call_sums *c)
{
    char what[100];
    double per = 1 / (double)n;
    printf("  %-11s %-25s %7.2f %8.2f %8.2f %8.2f %8.2f %10.0f\n", s->name, l->title, c->all * per,
           c->state_writes * per, c->flushes * per, c->opens * per, c->renames * per,
           c->state_bytes * per);
    snprintf(what, sizeof(what), "%s_%s", l->metric, tag);
    report_number(&r->report, "system_calls", s->name, what, c->all * per);
    report_number(&r->report, "state_writes", s->name, what, c->state_writes * per);
    report_number(&r->report, "flushes", s->name, what, c->flushes * per);
    report_number(&r->report, "state_bytes", s->name, what, c->state_bytes * per);
}

static void calls_heading(const char *tag)
{
    printf("\n  system calls per command, %-11s %7s %8s %8s %8s %8s %10s\n", tag, "all", "writes",
           "flushes", "opens", "renames", "bytes");
}

/* Direct limits of the design; times never decide anything here. */
static bool within_limits(const struct load *l, size_t n, const struct call_sums *c)
{
    bool writes = l->make == nv_write_changed;
    size_t want = writes ? n : 0;
    bool ok = true;
    if (c->one_flush != want || c->flushes != (double)want) {
        printf("    LIMIT: %.0f flushes, wanted %zu: one for a changed state, else none\n",
               c->flushes, want);
        ok = false;
    }
    /* Where the log is full, a checkpoint is written instead, in more than one piece perhaps. */
    if (c->one_write < want * 9 / 10 || (want == 0 && c->state_writes > 0)) {
        printf("    LIMIT: %zu of %zu commands wrote once\n", c->one_write, want);
        ok = false;
    }
    if (c->opens > 0 || c->renames > 0) {
        printf("    LIMIT: files were opened, renamed, removed or resized\n");
        ok = false;
    }
    if (c->all > 7.0 * (double)n) {
        printf("    LIMIT: more than 7 system calls per command\n");
        ok = false;
    }
    if (c->state_bytes > 4300.0 * (double)n) {
        printf("    LIMIT: more than 4300 bytes per command\n");
        ok = false;
    }
    return ok;
}

static const struct load nv_load = {"nv_write_64", "NV_Write 64 B", nv_write_changed, 20, true};
static const struct load small_loads[] = {
    {"get_random_32", "GetRandom 32", get_random, 200, false},
    {"pcr_extend", "PCR_Extend", pcr_extend, 200, false},
};
static const struct load counted[] = {
    {"nv_write_64", "NV_Write 64 B", nv_write_changed, 1, true},
    {"nv_write_same", "NV_Write, same bytes", nv_write_same, 1, true},
    {"get_random_32", "GetRandom 32", get_random, 1, false},
    {"pcr_extend", "PCR_Extend", pcr_extend, 1, false},
};

static bool measure_calls(struct run *r, const char *tag, size_t n, bool limits)
{
    bool ok = true;
    calls_heading(tag);
    for (size_t i = 0; i < r->n; i++)
        for (size_t k = 0; k < ARRAY_LEN(counted); k++) {
            struct call_sums c = trace_calls(r, &r->subject[i], tag, &counted[k], n);
            print_calls(r, &r->subject[i], tag, &counted[k], n, &c);
            if (limits && !within_limits(&counted[k], n, &c))
                ok = false;
        }
    return ok;
}

/* A word of a list with commas. */
static bool listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
            return true;
    return false;
}

static bool wanted(const struct run *r, const char *section)
{
    return !r->sections || listed(r->sections, section);
}

static void measure_all(struct run *r)
{
    struct floor f;
    struct statfs fs;
    floor_open(&f, r->work);
    if (statfs(r->work, &fs) == 0)
        printf(
            "file system type 0x%lx; %zu rounds; first row of each table is what ratios are of\n",
            (unsigned long)fs.f_type, r->rounds);
    prepare(r);
    for (size_t i = 0; i < r->n; i++)
        printf("  %-12s %s; files: small %llu bytes, full %llu bytes\n", r->subject[i].name,
               subject_names[r->subject[i].kind].what,
               (unsigned long long)subject_state_bytes(&r->subject[i], "small"),
               (unsigned long long)subject_state_bytes(&r->subject[i], "full"));
    if (wanted(r, "start")) {
        measure_start(r, "small");
        measure_start(r, "full");
    }
    if (wanted(r, "latency")) {
        measure_latency(r, "small", &nv_load, &f);
        measure_latency(r, "full", &nv_load, &f);
        for (size_t i = 0; i < ARRAY_LEN(small_loads); i++)
            measure_latency(r, "small", &small_loads[i], &f);
    }
    floor_close(&f);
    if (wanted(r, "memory"))
        measure_memory(r, counted, ARRAY_LEN(counted));
    if (wanted(r, "block")) {
        measure_block_bytes(r, "small", &nv_load);
        measure_block_bytes(r, "full", &nv_load);
    }
    if (wanted(r, "calls")) {
        measure_calls(r, "small", 50, false);
        measure_calls(r, "full", 50, false);
    }
}

static char to_remove[300];
static pid_t owner;

static void clean_up(void)
{
    if (getpid() != owner)
        return;
    daemon_kill_all();
    if (!to_remove[0])
        return;
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", to_remove, (char *)NULL);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

static void add_subjects(struct run *r, const char *list, const char *nvkeep, const char *swtpm)
{
    for (size_t kind = 0; kind < SUBJECTS_MAX; kind++) {
        const struct subject_names *names = &subject_names[kind];
        if (listed(list, names->name))
            r->subject[r->n++] = (struct subject){
                .kind = (enum subject_kind)kind,
                .name = names->name,
                .program = kind == SUBJECT_NVKEEP ? nvkeep : swtpm,
                .work = r->work,
            };
    }
    if (r->n == 0)
        fail("no subject in \"%s\"", list);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"nvkeep", required_argument, NULL, 'n'},
        {"swtpm", required_argument, NULL, 's'},
        {"dir", required_argument, NULL, 'd'},
        {"rounds", required_argument, NULL, 'r'},
        {"json", required_argument, NULL, 'j'},
        {"counters", no_argument, NULL, 'c'},
        {"subjects", required_argument, NULL, 'S'},
        {"sections", required_argument, NULL, 'x'},
        {0},
    };
    const char *nvkeep = getenv("NVKEEP") ?: "nvkeep", *swtpm = "swtpm", *json = NULL;
    const char *subjects = NULL;
    struct run r = {.rounds = 50, .dir = getenv("TMPDIR") ?: "/var/tmp"};
    bool counters = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'n':
            nvkeep = optarg;
            break;
        case 's':
            swtpm = optarg;
            break;
        case 'd':
            r.dir = optarg;
            break;
        case 'r':
            r.rounds = strtoul(optarg, NULL, 10);
            break;
        case 'j':
            json = optarg;
            break;
        case 'c':
            counters = true;
            break;
        case 'S':
            subjects = optarg;
            break;
        case 'x':
            r.sections = optarg;
            break;
        default:
            return 2;
        }
    }
    if (optind < argc || r.rounds < 1 || r.rounds > BATCHES_MAX)
        fail("usage: see the head of tool_compare.c");
    signal(SIGPIPE, SIG_IGN);
    snprintf(r.work, sizeof(r.work), "%s/nvkeep-bench.XXXXXX", r.dir);
    if (!mkdtemp(r.work) || (r.work_fd = open(r.work, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        fail("%s: %s", r.work, strerror(errno));
    owner = getpid();
    memcpy(to_remove, r.work, sizeof(to_remove));
    atexit(clean_up);
    report_open(&r.report, json);
    add_subjects(&r, subjects ?: counters ? "nvkeep" : "nvkeep,swtpm-dir,swtpm-key", nvkeep, swtpm);

    bool ok = true;
    if (counters) {
        prepare(&r);
        ok = measure_calls(&r, "small", 40, true);
        ok &= measure_calls(&r, "full", 40, true);
    } else {
        measure_all(&r);
    }
    report_close(&r.report);
    close(r.work_fd);
    return ok ? 0 : 1;
}
