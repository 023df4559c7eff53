#include "src/make/new_image.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/cli_text.h"
#include "src/key/key_prompt.h"
#include "src/key/new_key.h"

enum { MIN_CLUSTER_BITS = 9 };

static int refuse_existing(const char *path, struct err *e)
{
    char buf[200];
    if (access(path, F_OK) != 0)
        return 0;
    return err_set(e, ERR_USAGE, "%s exists; a new image never replaces a file",
                   err_quote(buf, sizeof(buf), path, strlen(path)));
}

int new_image_sizes(const struct cli_args *a, struct image_create *ret, struct err *e)
{
    uint64_t cluster = a->number[OPT_CLUSTER_SIZE], size = a->number[OPT_SIZE];
    if (cluster & (cluster - 1))
        return err_set(e, ERR_USAGE,
                       "--cluster-size: %" PRIu64 " is not a power of two; 64K is the usual one",
                       cluster);
    if (size % 4096)
        return err_set(e, ERR_USAGE, "--size: %" PRIu64 " is not a multiple of 4096", size);
    unsigned bits = cluster ? MIN_CLUSTER_BITS : 0;
    while (cluster && UINT64_C(1) << bits < cluster)
        bits++;
    ret->cluster_bits = bits;
    ret->size = size;
    return 0;
}

int new_image_plan(const struct cli_args *a, const char *path, bool random_key,
                   struct new_image *ret, struct err *e)
{
    struct new_image p = {
        .image = {.path = path, .device = a->text[OPT_TPM12] ? DEVICE_TPM12 : DEVICE_TPM20}};
    p.ms = random_key ? RANDOM_KEY_MS : PASSPHRASE_MS;
    p.why = random_key ? "stretching adds nothing to a random key"
                       : "a passphrase must be slow to guess";
    if (a->text[OPT_ITER_TIME]) {
        p.ms = (unsigned)a->number[OPT_ITER_TIME];
        p.why = "asked for by --iter-time";
    }
    if (new_image_sizes(a, &p.image, e) < 0 || refuse_existing(path, e) < 0 ||
        key_cost(p.ms, &p.image.iterations, e) < 0)
        return -1;
    *ret = p;
    return 0;
}

/* A final newline that somebody's editor added is part of the key. Worth a word while it can still
 * be changed. */
static void note_newline(const struct cli_args *a, const struct secret *key, size_t n)
{
    enum key_source_kind k = a->key.kind;
    if ((k == KEY_SOURCE_FILE || k == KEY_SOURCE_FD || k == KEY_SOURCE_CREDENTIAL) &&
        secret_peek(key)[n - 1] == '\n')
        fputs("nvkeep: note: the key ends in a newline, and that newline is part of it; pwdfile= "
              "and pwdfd= drop one\n",
              stderr);
}

int new_image_key(struct cli_run *run, const char *path, struct secret **ret, size_t *ret_bytes,
                  struct err *e)
{
    const struct cli_args *a = run->args;
    OWNED(secret) key = NULL;
    size_t n = 0;
    if (a->text[OPT_NEW_KEY]) {
        if (new_key_file(a->text[OPT_NEW_KEY], &key, &n, e) < 0)
            return -1;
        run->made[1] = a->text[OPT_NEW_KEY];
    } else if (a->key.kind == KEY_SOURCE_PROMPT ||
               (a->key.kind == KEY_SOURCE_NONE && key_can_prompt())) {
        if (key_prompt_new(path, &key, &n, e) < 0)
            return -1;
    } else if (a->key.kind == KEY_SOURCE_NONE) {
        return err_set(e, ERR_KEY_MISSING,
                       "a new image needs a key; give --key SOURCE for a passphrase or --new-key "
                       "FILE for a random key");
    } else if (key_source_read(&a->key, path, &key, &n, e) < 0) {
        return -1;
    }
    if (key_usable_by_qemu(key, n, e) < 0)
        return -1;
    note_newline(a, key, n);
    *ret = MOVE(key);
    *ret_bytes = n;
    return 0;
}

int new_image_make(struct new_image *p, const struct tpm_blobs *blobs, const struct secret *key,
                   size_t key_bytes, struct progress *progress, struct ref_facts *ret,
                   struct err *e)
{
    struct state_change first = {0};
    tpm_blobs_change(blobs, &first);
    p->image.first = &first;
    int r = progress_interrupted(progress)
                ? err_set(e, ERR_USAGE, "interrupted")
                : image_create(&p->image, key, key_bytes, &progress->watch, ret, e);
    p->image.first = NULL;
    return r;
}

void new_image_say_cost(const struct new_image *p)
{
    fprintf(stderr, "nvkeep: one try of the key takes about %u ms (%" PRIu32 " iterations): %s\n",
            p->ms, p->image.iterations, p->why);
}

void new_image_json(struct json_out *j, const struct cli_args *a, const struct new_image *p,
                    const struct ref_facts *facts, bool holds_tpm)
{
    char uuid[UUID_TEXT_BYTES];
    uuid_text(facts->instance, uuid);
    json_out_text(j, "image", p->image.path);
    json_out_text(j, "instance", uuid);
    json_out_text(j, "device", device_text(facts->device));
    json_out_bool(j, "holds_tpm", holds_tpm);
    json_out_number(j, "size", p->image.size ? p->image.size : IMAGE_DEFAULT_BYTES);
    if (a->text[OPT_NEW_KEY])
        json_out_text(j, "new_key", a->text[OPT_NEW_KEY]);
    json_out_number(j, "iter_time_ms", p->ms);
    json_out_number(j, "iterations", p->image.iterations);
    json_out_text(j, "iterations_because", p->why);
}
