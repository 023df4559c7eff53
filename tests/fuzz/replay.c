/* main() of a fuzz target where there is no libFuzzer: replays the files of a corpus; of the seeds
 * among them every prefix as well, and mutations drawn from a fixed sequence. What a fuzzer found
 * is named by its digest, and is what it is. Two runs do the same.
 *
 *     fuzz_NAME [--long N] CORPUS...     N mutations of each file instead of 2000
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "src/base/fd.h"
#include "tests/fuzz/fuzz.h"

enum { MAX_FILE = 1 << 20, MAX_PREFIX = 4096, DEFAULT_MUTATIONS = 2000, DIGEST_NAME = 40 };

static size_t n_replayed;
static uint64_t sequence;

/* [xorshift64*] */
static uint64_t draw(uint64_t below)
{
    sequence ^= sequence >> 12;
    sequence ^= sequence << 25;
    sequence ^= sequence >> 27;
    return (sequence * UINT64_C(2685821657736338717) >> 16) % below;
}

/* In memory of exactly that size, so that a sanitizer sees the first byte too many. */
static void replay(const uint8_t *bytes, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    PROMISE(exact);
    memcpy(exact, bytes, n);
    (void)LLVMFuzzerTestOneInput(n ? exact : NULL, n);
    free(exact);
    n_replayed++;
}

/* Numbers at which decoders break. */
static uint8_t telling(void)
{
    static const uint8_t v[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0xfe, 0x20, 0x40};
    return v[draw(sizeof(v))];
}

static void mutate(const uint8_t *bytes, size_t n)
{
    uint8_t *m = malloc(n + 8);
    PROMISE(m);
    memcpy(m, bytes, n);
    size_t len = n;
    for (uint64_t i = 0, rounds = 1 + draw(6); i < rounds && len > 0; i++) {
        size_t at = draw(len), room = len - at, run = 1 + draw(8);
        switch (draw(6)) {
        case 0:
        case 1:
            m[at] ^= (uint8_t)(1 << draw(8));
            break;
        case 2:
            m[at] = (uint8_t)draw(256);
            break;
        case 3:
            memset(m + at, telling(), run < room ? run : room);
            break;
        case 4: /* a field of four or eight bytes counts one up or down */
            m[at] = (uint8_t)(m[at] + (draw(2) ? 1 : -1));
            break;
        default:
            if (draw(8) == 0)
                len = at;
            else if (len < n + 8)
                m[len++] = telling();
        }
    }
    replay(m, len);
    free(m);
}

static int replay_file(const char *dir, const char *name, uint64_t mutations)
{
    static uint8_t bytes[MAX_FILE];
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    OWNED_FD fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : fd_read_full(fd, bytes, sizeof(bytes));
    if (got < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    size_t n = (size_t)got;
    replay(bytes, n);
    if (strlen(name) == DIGEST_NAME && strspn(name, "0123456789abcdef") == DIGEST_NAME)
        return 0;
    size_t step = &fuzz_replays ? n / fuzz_replays + 1 : 1;
    for (size_t len = 0; len < n && len < MAX_PREFIX; len += step)
        replay(bytes, len);
    for (uint64_t i = 0; i < mutations; i++)
        mutate(bytes, n);
    return 0;
}

static int no_dots(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* alphasort() asks the locale */
}

static int replay_folder(const char *dir, uint64_t mutations)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, no_dots, by_bytes), failed = 0;
    if (n <= 0) {
        fprintf(stderr, "%s: %s\n", dir, n < 0 ? strerror(errno) : "an empty corpus");
        return -1;
    }
    for (int i = 0; i < n; i++) {
        sequence =
            UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)i; /* each file's own, whatever is added */
        failed |= replay_file(dir, names[i]->d_name, mutations);
        free(names[i]);
    }
    free(names);
    return failed;
}

int main(int argc, char **argv)
{
    uint64_t mutations = &fuzz_replays ? fuzz_replays : DEFAULT_MUTATIONS;
    int at = 1, failed = 0;
    if (argc > 2 && !strcmp(argv[1], "--long")) {
        mutations = strtoull(argv[2], NULL, 10);
        at = 3;
    }
    if (at >= argc) {
        fprintf(stderr, "usage: %s [--long N] CORPUS...\n", argv[0]);
        return 2;
    }
    for (; at < argc; at++)
        failed |= replay_folder(argv[at], mutations);
    const char *slash = strrchr(argv[0], '/');
    printf("%s: %zu inputs replayed\n", slash ? slash + 1 : argv[0], n_replayed);
    return failed ? 1 : 0;
}
