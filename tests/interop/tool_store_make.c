/* Makes an image with a record store in use, and says what it holds, for the second reader.
 *
 *     tool_store_make IMAGE PASSPHRASE SEED N     N commits by several owners; then JSON as
 *                                                 second_reader.py prints it
 *     tool_store_make --read IMAGE PASSPHRASE     the same JSON of an image that is there
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/image.h"
#include "backend/store_origin.h"

enum { MOST = 9000, SIZE = 1 << 19 };

static uint8_t blob[N_BLOBS][MOST];
static uint64_t sequence;

static uint32_t draw(uint32_t below)
{
    sequence ^= sequence << 13;
    sequence ^= sequence >> 7;
    sequence ^= sequence << 17;
    return (uint32_t)(sequence >> 16) % below;
}

static int failed(const struct err *e)
{
    fprintf(stderr, "%s: %s\n", err_class(e->kind)->name, e->text);
    return err_class(e->kind)->exit_code;
}

static void hex(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf("%02x", p[i]);
}

static void print_field(const char *name, const uint8_t *p, size_t n)
{
    printf("\"%s\": \"", name);
    hex(p, n);
    printf("\", ");
}

static int print_origin(const struct store *s, struct err *e)
{
    struct store_origin o;
    size_t n;
    const uint8_t *p = store_get(s, BLOB_ORIGIN, &n);
    if (!p) {
        printf("\"origin\": null, ");
        return 0;
    }
    if (origin_decode(p, n, &o, e) < 0)
        return -1;
    printf("\"origin\": {");
    print_field("lineage", o.lineage, sizeof(o.lineage));
    print_field("set", o.set, sizeof(o.set));
    print_field("image", o.image, sizeof(o.image));
    print_field("mac", o.from.mac, sizeof(o.from.mac));
    printf("\"how\": %d, \"used\": %d, \"generation\": %" PRIu64 ", \"epoch\": %" PRIu64
           ", \"clock\": %" PRIu64 ", \"at\": %" PRIu64 "}, ",
           (int)o.how, o.used, o.from.generation, o.from.epoch, o.clock, o.at);
    return 0;
}

static int print_store(const struct store *s)
{
    const struct ref_facts *f = store_facts(s);
    struct store_stats st;
    const char *comma = "";
    struct err e;
    store_stats(s, &st);
    printf("{");
    if (print_origin(s, &e) < 0)
        return failed(&e);
    printf("\"blobs\": {");
    for (unsigned kind = 1; kind <= N_BLOBS; kind++) {
        size_t n;
        uint8_t digest[SHA256_BYTES];
        const uint8_t *p = store_get(s, (enum blob_kind)kind, &n);
        if (!p)
            continue;
        hash_compute(HASH_SHA256, &(struct span){p, n}, 1, digest);
        printf("%s\"%u\": {\"bytes\": %zu, \"sha256\": \"", comma, kind, n);
        hex(digest, sizeof(digest));
        printf("\"}");
        comma = ", ";
    }
    printf("}, \"device\": \"%s\", \"epoch\": %" PRIu64 ", \"generation\": %" PRIu64
           ", \"instance\": \"",
           f->device == DEVICE_TPM20 ? "tpm20" : "tpm12", st.epoch, st.generation);
    hex(f->instance, sizeof(f->instance));
    printf("\", \"log_used\": %" PRIu64 ", \"records\": %" PRIu64 ", \"torn\": %" PRIu64 "}\n",
           st.log_used, st.n_records, st.torn_sectors);
    return 0;
}

/* As after a hand-over, or its first use. */
static struct state_change next_origin(size_t n[N_BLOBS])
{
    const size_t i = BLOB_ORIGIN - 1;
    struct state_change c = {0};
    struct store_origin o = {.how = ORIGIN_HANDED_OVER,
                             .used = draw(2),
                             .from = {.generation = 1 + draw(9), .epoch = 1 + draw(9)},
                             .clock = 1 + draw(99),
                             .at = 1 + draw(9)};
    for (size_t k = 0; k < 16; k++)
        o.lineage[k] = o.set[k] = o.image[k] = (uint8_t)(1 + draw(255));
    memset(o.from.mac, (int)draw(256), sizeof(o.from.mac));
    origin_encode(&o, blob[i]);
    n[i] = ORIGIN_BYTES;
    c.blob[i] = (struct blob_change){BLOB_SET, blob[i], n[i]};
    return c;
}

/* A change to one blob: bytes, a stretch inserted or cut out, all of it, or gone. */
static struct state_change next_change(size_t n[N_BLOBS])
{
    struct state_change c = {0};
    size_t i = draw(3) ? 0 : 1 + draw(2), at = n[i] ? draw((uint32_t)n[i]) : 0;
    uint32_t what = draw(8);
    if (draw(10) == 0)
        return next_origin(n);
    if (what == 0 && i > 0) {
        n[i] = 0;
        c.blob[i].what = BLOB_DELETE;
        return c;
    }
    if (what == 1 && n[i] + 300 < MOST) {
        memmove(blob[i] + at + 300, blob[i] + at, n[i] - at);
        n[i] += 300;
    }
    if (what == 2 && n[i] > 900 && at + 500 < n[i]) {
        memmove(blob[i] + at, blob[i] + at + 500, n[i] - at - 500);
        n[i] -= 500;
    }
    if (n[i] == 0)
        n[i] = 1 + draw(1500);
    for (size_t left = 1 + draw(what == 3 ? 3000 : 90); left > 0; left--)
        blob[i][(at + left) % n[i]] = (uint8_t)draw(256);
    c.blob[i] = (struct blob_change){BLOB_SET, blob[i], n[i]};
    return c;
}

static int make(const char *path, const struct secret *pass, size_t pass_bytes, unsigned n_commits)
{
    struct err e;
    size_t n[N_BLOBS] = {4000};
    for (size_t i = 0; i < n[0]; i++)
        blob[0][i] = (uint8_t)draw(256);
    const struct state_change first = {{{BLOB_SET, blob[0], n[0]}}};
    const struct image_create what = {.path = path,
                                      .device = draw(2) ? DEVICE_TPM20 : DEVICE_TPM12,
                                      .size = SIZE,
                                      .cluster_bits = 12 + draw(6),
                                      .iterations = LUKS_MIN_ITERATIONS,
                                      .first = &first};
    OWNED(store) s = NULL;
    if (image_create(&what, pass, pass_bytes, NULL, NULL, &e) < 0 ||
        image_open_store(path, pass, pass_bytes, NULL, &s, &e) < 0)
        return failed(&e);
    for (unsigned i = 0; i < n_commits; i++) {
        struct state_change c = next_change(n);
        if (store_commit(s, &c, &e) < 0)
            return failed(&e);
        if (draw(40) > 0)
            continue;
        store_free(MOVE(s));
        if (image_open_store(path, pass, pass_bytes, NULL, &s, &e) < 0)
            return failed(&e);
    }
    return print_store(s);
}

static int secret_of(const char *text, struct secret **ret, struct err *e)
{
    if (secret_new(strlen(text) + 1, ret, e) < 0)
        return -1;
    memcpy(secret_bytes(*ret), text, strlen(text) + 1);
    return 0;
}

int main(int argc, char **argv)
{
    struct err e;
    OWNED(secret) pass = NULL;
    OWNED(store) s = NULL;
    bool reading = argc == 4 && strcmp(argv[1], "--read") == 0;
    if (!reading && argc != 5) {
        fprintf(stderr, "usage: tool_store_make [--read] IMAGE PASSPHRASE [SEED N]\n");
        return 2;
    }
    const char *text = argv[reading ? 3 : 2];
    if (secret_of(text, &pass, &e) < 0)
        return failed(&e);
    if (!reading) {
        sequence = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15 + 1;
        return make(argv[1], pass, strlen(text), (unsigned)strtoul(argv[4], NULL, 10));
    }
    if (image_open_store(argv[2], pass, strlen(text), NULL, &s, &e) < 0)
        return failed(&e);
    return print_store(s);
}
