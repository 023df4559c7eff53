#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_world.h"

/* Breadth first, so that the way to a violation is a shortest one. */
struct search {
    const struct model *m;
    struct world *worlds;
    uint32_t *parents, *table; /* table: index + 1, open addressing */
    size_t n, room, slots;
    uint32_t now;
    bool no_memory;
    struct model_result r;
};

static uint64_t hash_world(const struct world *w)
{
    uint64_t words[(sizeof(*w) + 7) / 8] = {0}, h = 0;
    memcpy(words, w, sizeof(*w));
    for (size_t i = 0; i < sizeof(words) / 8; i++) {
        h = (h ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
    }
    return h;
}

/* Where w is, or the free slot for it. */
static size_t find(const struct world *worlds, const uint32_t *table, size_t slots,
                   const struct world *w)
{
    size_t at = hash_world(w) & (slots - 1);
    while (table[at] && memcmp(&worlds[table[at] - 1], w, sizeof(*w)) != 0)
        at = (at + 1) & (slots - 1);
    return at;
}

static bool grow(struct search *s)
{
    size_t room = s->room ? s->room * 2 : 4096;
    struct world *worlds = realloc(s->worlds, room * sizeof(*worlds));
    if (worlds)
        s->worlds = worlds;
    uint32_t *parents = realloc(s->parents, room * sizeof(*parents));
    if (parents)
        s->parents = parents;
    uint32_t *table = calloc(room * 2, sizeof(*table));
    if (!worlds || !parents || !table) {
        free(table);
        return false;
    }
    free(s->table);
    s->table = table;
    s->room = room;
    s->slots = room * 2;
    for (size_t i = 0; i < s->n; i++)
        table[find(s->worlds, table, s->slots, &s->worlds[i])] = (uint32_t)i + 1;
    return true;
}

/* --- dead ends --- */

enum { HELP_ROOM = 1024 };

struct help {
    const struct model *m;
    struct world worlds[HELP_ROOM];
    uint32_t table[HELP_ROOM * 2];
    size_t n;
    bool runs;
};

static void help_step(void *ctx, const struct world *next, const char *what, int host)
{
    struct help *k = ctx;
    (void)what, (void)host;
    if (k->runs)
        return;
    size_t at = find(k->worlds, k->table, HELP_ROOM * 2, next);
    if (k->table[at])
        return;
    /* Another violation is worth more than this one; and no room was never seen. */
    k->runs = next->broken || k->n == HELP_ROOM || world_runs(k->m, next);
    if (k->runs)
        return;
    k->worlds[k->n++] = *next;
    k->table[at] = (uint32_t)k->n;
}

static bool is_dead_end(const struct model *m, const struct world *w)
{
    static struct help k;
    if (w->outside || !world_must_go_on(m, w) || world_runs(m, w))
        return false;
    memset(k.table, 0, sizeof(k.table));
    k.m = m;
    k.n = 0;
    k.runs = false;
    help_step(&k, w, NULL, 0);
    for (size_t i = 0; i < k.n && !k.runs; i++) {
        struct world from = k.worlds[i];
        world_steps(m, &from, true, help_step, &k);
    }
    return !k.runs;
}

/* --- the search --- */

static void search_step(void *ctx, const struct world *next, const char *what, int host)
{
    struct search *s = ctx;
    (void)what, (void)host;
    s->r.steps++;
    if (s->r.violation || s->no_memory)
        return;
    if (s->n == s->room && !grow(s)) {
        s->no_memory = true;
        return;
    }
    size_t at = find(s->worlds, s->table, s->slots, next);
    if (s->table[at])
        return;
    s->worlds[s->n] = *next;
    s->parents[s->n] = s->now;
    s->table[at] = (uint32_t)++s->n;
    s->r.outside += next->outside;
    s->r.violation = world_judge(s->m, next);
    if (!s->r.violation && is_dead_end(s->m, next))
        s->r.violation = DEAD_END;
}

/* What a step was called is not kept: it is made again. */
struct naming {
    const struct world *want;
    const char *what;
    int host;
};

static void name_step(void *ctx, const struct world *next, const char *what, int host)
{
    struct naming *k = ctx;
    if (k->what || memcmp(next, k->want, sizeof(*next)) != 0)
        return;
    k->what = what;
    k->host = host;
}

static void print_way(const struct search *s, size_t to)
{
    if (to == 0)
        return;
    print_way(s, s->parents[to]);
    struct naming k = {.want = &s->worlds[to]};
    world_steps(s->m, &s->worlds[s->parents[to]], false, name_step, &k);
    printf("    %c %s\n      ", 'A' + k.host, k.what ? k.what : "?");
    world_print(&s->worlds[to]);
}

bool model_search(const struct model *m, bool print, struct model_result *ret)
{
    struct search s = {.m = m};
    struct world first;
    world_begin(m, &first);
    search_step(&s, &first, NULL, 0);
    for (size_t i = 0; i < s.n && !s.r.violation && !s.no_memory; i++) {
        struct world from = s.worlds[i];
        s.now = (uint32_t)i;
        world_steps(m, &from, false, search_step, &s);
    }
    s.r.states = s.n;
    if (s.r.violation && print)
        print_way(&s, s.n - 1);
    free(s.worlds);
    free(s.parents);
    free(s.table);
    *ret = s.r;
    return !s.no_memory;
}
