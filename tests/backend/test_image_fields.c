/* Every field of an image set to every number at which readers break: header, extensions, tables
 * and refcounts of qcow2, snapshots and bitmaps, LUKS header and key slots, the reference sector
 * and its DER, records and their payload; what lies behind a MAC both with the MAC as it was and
 * made right again. What must hold then is in tests/support/hostile_way.h; besides, a refusal takes
 * at most 50 ms and 16 MiB. (S2.6, S2.11)
 *
 *     test_image_fields           of what repeats itself, the ends and what differs; some pairs
 *     test_image_fields --long    every entry, on every image; all pairs of fields that lead
 * further
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crypto/luks_key_priv.h"
#include "tests/crypto/helpers.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory.h"
#include "tests/support/hostile_way.h"
#include "tests/support/image_fields.h"

enum {
    MOST_MS = 50,
    PAIR_VALUES = 6,
    MOST_ITERATIONS = 5000, /* of a derivation that is worth waiting for */
};

static bool thorough;
static char about[300]; /* what is being tried */
static struct {
    unsigned long fields, cases, pairs, other, by_kind[ERR_N_KINDS];
    double worst_ms;
    size_t worst_memory;
} tally;

static void say_what(int sig)
{
    (void)sig;
    (void)!write(2, about, strlen(about));
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- one case ---- */

struct change {
    const struct image_field *field;
    uint64_t value;
};

static void tamper(enum known_kind kind, const struct change *c, size_t n, unsigned flags)
{
    uint8_t bytes[8];
    hostile_begin(kind);
    for (size_t i = 0; i < n; i++) {
        const struct image_field *f = c[i].field;
        field_put(f, c[i].value, bytes);
        if (f->in_disk)
            hostile_disk(f->at, bytes, f->bytes);
        else
            hostile_file(f->at, bytes, f->bytes);
    }
    hostile_seal(flags);
}

/* The time of a refusal alone, the shortest of a few. */
static double refusal_ms(void)
{
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        OWNED(store) s = NULL;
        struct err e;
        double began = cpu_ms();
        PROMISE(hostile_open(&s, &e) < 0);
        double took = cpu_ms() - began;
        best = took < best ? took : best;
    }
    return best;
}

static void check_time(enum known_kind kind, const struct change *c, size_t n, unsigned flags,
                       double took)
{
    if (took > tally.worst_ms && took > MOST_MS / 4.0) { /* with recovery; or something else ran */
        tamper(kind, c, n, flags);
        took = refusal_ms();
    }
    if (took > tally.worst_ms)
        tally.worst_ms = took;
    PROMISE(SANITIZED || took <= MOST_MS);
}

static void try(enum known_kind kind, const struct change *c, size_t n, unsigned flags)
{
    struct err e;
    int at = snprintf(about, sizeof(about), "%s, flags %u:", known_image_name(kind), flags);
    for (size_t i = 0; i < n && at < 250; i++)
        at += snprintf(about + at, sizeof(about) - (size_t)at, " %s[%u].%s = 0x%llx",
                       c[i].field->table, c[i].field->row, c[i].field->name,
                       (unsigned long long)c[i].value);
    snprintf(about + at, sizeof(about) - (size_t)at, "\n");
    tamper(kind, c, n, flags);
    memory_begin();
    double began = cpu_ms();
    enum err_kind found = hostile_way(&e);
    double took = cpu_ms() - began;
    if (memory_peak() > tally.worst_memory)
        tally.worst_memory = memory_peak();
    PROMISE(memory_peak() <= MEMORY_MOST);
    /* One field of the clear text, and be it of the tables, never takes back what was acknowledged.
     */
    if (found == ERR_NONE && n == 1 && !hostile_was_sealed())
        PROMISE(hostile_way_generation() == KNOWN_GENERATIONS);
    if (found == ERR_NONE && hostile_way_generation() != KNOWN_GENERATIONS)
        tally.other++;
    if (found != ERR_NONE)
        check_time(kind, c, n, flags, took);
    tally.by_kind[found]++;
    tally.cases++;
}

/* ---- the key slots, with a passphrase ---- */

static bool not_for_ever(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    (void)done;
    return total <= MOST_ITERATIONS;
}

/* The right key, or none. */
static void try_passphrase(const struct change *c)
{
    static const struct watch watch = {not_for_ever, NULL};
    OWNED(blk) b = NULL;
    OWNED(qcow_image) img = NULL;
    OWNED(volume_key) key = NULL;
    OWNED(secret) pass = NULL;
    struct err e = {0};
    tamper(KNOWN_4K, c, 1, 0);
    PROMISE(hostile_blk(&b, &e) == 0 && secret_new(1, &pass, &e) == 0);
    if (qcow_open(b, &img, &e) < 0)
        return;
    tally.cases++;
    if (qcow_recover(img, pass, 0, &watch, &key, &e) < 0) {
        PROMISE(e.kind == ERR_KEY_WRONG || e.kind == ERR_STATE_CORRUPT ||
                (e.kind == ERR_USAGE && strstr(e.text, "interrupted")));
        tally.by_kind[e.kind]++;
        return;
    }
    const struct luks_cipher *how = &qcow_image_luks(img)->cipher;
    PROMISE(!memcmp(volume_key_peek(key), volume_key_peek(known_image_key(how)), how->key_bytes));
    tally.by_kind[ERR_NONE]++;
}

/* ---- all of them ---- */

static uint64_t value_now(enum known_kind kind, const struct image_field *f)
{
    const struct known_image *im = known_image(kind);
    return field_get(f, (f->in_disk ? im->plain[0] : im->bytes) + f->at);
}

static bool is_luks(const struct image_field *f)
{
    return !strcmp(f->table, "LUKS header") || !strcmp(f->table, "key slot");
}

static void each_value(enum known_kind kind, const struct image_fields *all,
                       const struct image_field *f)
{
    uint64_t values[FIELD_VALUES_MAX];
    size_t n = field_values(all, f, value_now(kind, f), values);
    tally.fields++;
    /* With sanitizers the numbers take turns from field to field: each case is much slower. */
    size_t step = SANITIZED && !thorough ? 4 : 1;
    for (size_t i = tally.fields % step; i < n; i += step) {
        const struct change c = {f, values[i]};
        try(kind, &c, 1, 0);
        if (f->in_disk)
            try(kind, &c, 1, SEAL_REFERENCE | SEAL_RECORDS);
        if (!f->in_disk && (is_luks(f) || !strcmp(f->table, "header")))
            try(kind, &c, 1, SEAL_REFERENCE | SEAL_RECORDS | SEAL_DIGEST | SEAL_ALL);
        if (is_luks(f) && kind == KNOWN_4K)
            try_passphrase(&c);
    }
}

/* Fields that say where to go on, or how far. */
static bool leads_further(const struct image_field *f)
{
    static const char *const names[] = {"offset", "size",  "clusters", "bits", "order",
                                        "length", "entry", "nb_",      "bytes"};
    if (f->in_disk || is_luks(f))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strstr(f->name, names[i]))
            return f->row < 3;
    return false;
}

static size_t pair_values(enum known_kind kind, const struct image_fields *all,
                          const struct image_field *f, uint64_t ret[PAIR_VALUES])
{
    uint64_t values[FIELD_VALUES_MAX];
    size_t n = field_values(all, f, value_now(kind, f), values), most = PAIR_VALUES;
    for (size_t i = 0; i < most; i++)
        ret[i] = values[i * n / most];
    return n < most ? 0 : most;
}

static void each_pair(enum known_kind kind, const struct image_fields *all, size_t step)
{
    size_t turn = 0;
    for (size_t i = 0; i < all->n; i++)
        for (size_t k = i + 1; k < all->n; k++) {
            uint64_t first[PAIR_VALUES], second[PAIR_VALUES];
            const struct image_field *f = &all->field[i], *g = &all->field[k];
            if (!leads_further(f) || !leads_further(g) || turn++ % step != 0)
                continue;
            size_t n = pair_values(kind, all, f, first), m = pair_values(kind, all, g, second);
            for (size_t j = 0; j < n * m; j++) {
                const struct change c[] = {{f, first[j / m]}, {g, second[j % m]}};
                try(kind, c, 2, 0);
                tally.pairs++;
            }
        }
}

static void each_field(enum known_kind kind)
{
    struct image_fields all;
    const struct known_image *im = known_image(kind);
    image_fields_of(im->bytes, im->size, im->plain[0], sizeof(im->plain), thorough, &all);
    for (size_t i = 0; i < all.n; i++) {
        /* What is in the disk is the same in all images. */
        if (thorough || kind == KNOWN_4K || (!all.field[i].in_disk && !is_luks(&all.field[i])))
            each_value(kind, &all, &all.field[i]);
    }
    each_pair(kind, &all, thorough ? 1 : 53);
    image_fields_clear(&all);
}

int main(int argc, char **argv)
{
    thorough = argc > 1 && !strcmp(argv[1], "--long");
    signal(SIGABRT, say_what);
    for (enum known_kind kind = 0; kind < KNOWN_KINDS; kind++) {
        unsigned long before = tally.cases;
        each_field(kind);
        printf("%s: %lu cases\n", known_image_name(kind), tally.cases - before);
    }
    printf(
        "fields: %lu, cases %lu (pairs of fields %lu), opened %lu (with another state, by somebody "
        "who has the key, %lu), refused:",
        tally.fields, tally.cases, tally.pairs, tally.by_kind[ERR_NONE], tally.other);
    for (unsigned i = 1; i < ERR_N_KINDS; i++)
        if (tally.by_kind[i] > 0)
            printf(" %s %lu", err_class(i)->name, tally.by_kind[i]);
    printf("; worst refusal %.1f ms, most memory %zu KiB; wrong 0\n", tally.worst_ms,
           tally.worst_memory >> 10);
    return tally.by_kind[ERR_STATE_CORRUPT] == 0;
}
