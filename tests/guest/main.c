/* The micro-guest: does to the machine's TPM what it reads on the serial line.
 *
 *     HEX                 a TPM command                  -> "< HEX", its response
 *     abort MS HEX        the same, given up after MS    -> "< HEX" or "! aborted"
 *     loop N HEX HEX...   the commands N times over (0: until a line comes), one line each:
 *                         "= I HEX" with I counting from 0; then "ok"
 *     pace MS, dirty KB   what a loop does after each round: sleep, write to so much memory
 *     locality N          -> "ok"
 *     sleep MS            -> "ok"
 *     reset, poweroff     the machine
 *
 * "! why" is the answer to what could not be done. A command's own failure is not one: the response
 * says it. The first line says what was found: "ready tis 2.0 id 00011014 memory 16384".
 */
#include "tpm_port.h"

enum { LINE_BYTES = 24576, ARENA_BYTES = 12288, MAX_COMMANDS = 32, PAGE = 4096 };

struct multiboot_info {
    uint32_t flags, mem_lower_kb, mem_upper_kb;
};

struct command {
    const uint8_t *bytes;
    size_t n;
};

struct guest {
    struct tpm_port tpm;
    uint32_t pace_ms, dirty_kb, free_kb;
    uint32_t n_rounds_dirtied;
    char line[LINE_BYTES];
    uint8_t arena[ARENA_BYTES], resp[TPM_MAX_BYTES];
};

extern uint8_t end_of_image[];
void guest_main(const struct multiboot_info *info);

static struct guest guest;

static void answer(const char *wrong)
{
    if (wrong) {
        put("! ");
        put(wrong);
    } else {
        put("ok");
    }
    put_char('\n');
}

/* If *s starts with word and a space or the end, skips both. */
static bool word(const char **s, const char *w)
{
    const char *p = *s;
    while (*w && *p == *w)
        p++, w++;
    if (*w || (*p && *p != ' '))
        return false;
    while (*p == ' ')
        p++;
    *s = p;
    return true;
}

static bool number(const char **s, uint32_t *ret)
{
    const char *p = *s;
    uint32_t n = 0;
    if (*p < '0' || *p > '9')
        return false;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (n > 100000000)
            return false;
        n = n * 10 + (uint32_t)(*p - '0');
    }
    while (*p == ' ')
        p++;
    *s = p;
    *ret = n;
    return true;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Hex up to the next space or the end, to bytes. */
static bool hex(const char **s, uint8_t *to, size_t size, size_t *ret_n)
{
    const char *p = *s;
    size_t n = 0;
    while (*p && *p != ' ') {
        int high = nibble(p[0]), low = high < 0 ? -1 : nibble(p[1]);
        if (low < 0 || n == size)
            return false;
        to[n++] = (uint8_t)(high << 4 | low);
        p += 2;
    }
    while (*p == ' ')
        p++;
    *s = p;
    *ret_n = n;
    return n > 0;
}

static const char *run_one(struct guest *g, const char *s, uint32_t abort_ms)
{
    size_t n, resp_n;
    if (!hex(&s, g->arena, TPM_MAX_BYTES, &n) || *s)
        return "neither a word I know nor hex";
    const char *wrong = tpm_port_run(&g->tpm, g->arena, n, abort_ms, g->resp, &resp_n);
    if (wrong)
        return wrong;
    put("< ");
    put_hex(g->resp, resp_n);
    put_char('\n');
    return NULL;
}

/* A word into every page, so that a migration has something to do. */
static void dirty(struct guest *g)
{
    uint8_t *from = (uint8_t *)(((uintptr_t)end_of_image + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    g->n_rounds_dirtied++;
    for (uint32_t kb = 0; kb < g->dirty_kb && kb + 4 < g->free_kb; kb += 4)
        *(volatile uint32_t *)(from + kb * 1024) = g->n_rounds_dirtied;
}

static const char *loop(struct guest *g, const char *s)
{
    struct command commands[MAX_COMMANDS];
    uint32_t n_rounds, seq = 0;
    size_t n = 0, used = 0;
    if (!number(&s, &n_rounds))
        return "loop wants a number of rounds";
    for (; *s; n++) {
        if (n == MAX_COMMANDS)
            return "more commands than a loop has room for";
        commands[n].bytes = g->arena + used;
        if (!hex(&s, g->arena + used, ARENA_BYTES - used, &commands[n].n))
            return "not hex, or no room for it";
        used += commands[n].n;
    }
    if (n == 0)
        return "loop wants commands";
    for (uint32_t round = 0; n_rounds ? round < n_rounds : !serial_has_input(); round++) {
        for (size_t i = 0; i < n; i++) {
            size_t resp_n;
            const char *wrong =
                tpm_port_run(&g->tpm, commands[i].bytes, commands[i].n, 0, g->resp, &resp_n);
            if (wrong)
                return wrong;
            put("= ");
            put_number(seq++);
            put_char(' ');
            put_hex(g->resp, resp_n);
            put_char('\n');
        }
        if (g->dirty_kb)
            dirty(g);
        if (g->pace_ms)
            sleep_ms(g->pace_ms);
    }
    answer(NULL);
    return NULL;
}

/* One number into *to, or slept, or asked of the interface. */
static const char *set(const char *s, uint32_t *to)
{
    uint32_t n;
    if (!number(&s, &n) || *s)
        return "wants a number";
    *to = n;
    return NULL;
}

static void obey(struct guest *g)
{
    const char *s = g->line, *wrong;
    uint32_t n;
    if (word(&s, "reset"))
        machine_reset();
    if (word(&s, "poweroff"))
        machine_poweroff();
    if (word(&s, "loop")) {
        wrong = loop(g, s);
        if (wrong)
            answer(wrong);
    } else if (word(&s, "abort")) {
        wrong = number(&s, &n) && n ? run_one(g, s, n) : "wants milliseconds";
        if (wrong)
            answer(wrong);
    } else if (word(&s, "pace")) {
        answer(set(s, &g->pace_ms));
    } else if (word(&s, "dirty")) {
        answer(set(s, &g->dirty_kb));
    } else if (word(&s, "sleep")) {
        wrong = set(s, &n);
        if (!wrong)
            sleep_ms(n);
        answer(wrong);
    } else if (word(&s, "locality")) {
        wrong = set(s, &n);
        answer(wrong ? wrong : tpm_port_locality(&g->tpm, n));
    } else {
        wrong = run_one(g, s, 0);
        if (wrong)
            answer(wrong);
    }
}

static const char *ready(struct guest *g)
{
    const char *wrong = tpm_port_find(&g->tpm);
    if (wrong)
        return wrong;
    uint8_t id[4] = {(uint8_t)(g->tpm.id >> 24), (uint8_t)(g->tpm.id >> 16),
                     (uint8_t)(g->tpm.id >> 8), (uint8_t)g->tpm.id};
    put("ready ");
    put(g->tpm.crb ? "crb " : "tis ");
    put(g->tpm.family2 ? "2.0 id " : "1.2 id ");
    put_hex(id, sizeof id);
    put(" memory ");
    put_number(g->free_kb);
    put_char('\n');
    return NULL;
}

void guest_main(const struct multiboot_info *info)
{
    struct guest *g = &guest;
    machine_init();
    uint32_t used_kb = ((uint32_t)(uintptr_t)end_of_image - 0x100000) / 1024 + 8;
    if ((info->flags & 1) && info->mem_upper_kb > used_kb)
        g->free_kb = info->mem_upper_kb - used_kb;
    const char *wrong = ready(g);
    if (wrong)
        answer(wrong);
    for (;;) {
        if (!serial_read_line(g->line, sizeof g->line))
            answer("the line is too long");
        else if (g->line[0])
            obey(g);
    }
}
