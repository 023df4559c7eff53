#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/image.h"
#include "backend/tpm.h"
#include "src/cli.h"
#include "src/cli_text.h"
#include "src/key_prompt.h"
#include "src/new_key.h"

enum { PASSPHRASE_MS = 2000, RANDOM_KEY_MS = 10, MIN_CLUSTER_BITS = 9 };

struct plan {
    unsigned ms;
    bool waits; /* no TPM is made: a migration is to bring it */
    struct image_create image;
    const char *why;
};

static int refuse_existing(const char *path, struct err *e)
{
    char buf[200];
    if (access(path, F_OK) != 0)
        return 0;
    return err_set(e, ERR_USAGE, "%s exists; create makes a new image and never replaces a file",
                   err_quote(buf, sizeof(buf), path, strlen(path)));
}

static int plan_numbers(const struct cli_args *a, struct plan *ret, struct err *e)
{
    struct plan p = {
        .image = {.path = a->image, .device = a->text[OPT_TPM12] ? DEVICE_TPM12 : DEVICE_TPM20}};
    bool random_key = a->text[OPT_NEW_KEY] != NULL;
    p.waits = a->text[OPT_INCOMING] != NULL;
    p.ms = random_key ? RANDOM_KEY_MS : PASSPHRASE_MS;
    p.why = random_key ? "stretching adds nothing to a random key"
                       : "a passphrase must be slow to guess";
    if (a->text[OPT_ITER_TIME]) {
        p.ms = (unsigned)a->number[OPT_ITER_TIME];
        p.why = "asked for by --iter-time";
    }
    uint64_t cluster = a->number[OPT_CLUSTER_SIZE], size = a->number[OPT_SIZE];
    if (cluster & (cluster - 1))
        return err_set(e, ERR_USAGE,
                       "--cluster-size: %" PRIu64 " is not a power of two; 64K is the usual one",
                       cluster);
    for (p.image.cluster_bits = cluster ? MIN_CLUSTER_BITS : 0;
         cluster && UINT64_C(1) << p.image.cluster_bits < cluster;)
        p.image.cluster_bits++;
    if (size % 4096)
        return err_set(e, ERR_USAGE, "--size: %" PRIu64 " is not a multiple of 4096", size);
    p.image.size = size;
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

static int get_key(struct cli_run *run, struct secret **ret, size_t *ret_bytes, struct err *e)
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
        if (key_prompt_new(a->image, &key, &n, e) < 0)
            return -1;
    } else if (a->key.kind == KEY_SOURCE_NONE) {
        return err_set(e, ERR_KEY_MISSING,
                       "a new image needs a key; give --key SOURCE for a passphrase or --new-key "
                       "FILE for a random key");
    } else if (key_source_read(&a->key, a->image, &key, &n, e) < 0) {
        return -1;
    }
    if (key_usable_by_qemu(key, n, e) < 0)
        return -1;
    note_newline(a, key, n);
    *ret = MOVE(key);
    *ret_bytes = n;
    return 0;
}

static int make(struct plan *p, const struct tpm_blobs *blobs, const struct secret *key,
                size_t key_bytes, struct progress *progress, struct ref_facts *ret, struct err *e)
{
    struct state_change first = {0};
    for (unsigned i = 0; i < N_TPM_BLOBS; i++)
        if (blobs->blob[i])
            first.blob[i] =
                (struct blob_change){BLOB_SET, secret_peek(blobs->blob[i]), blobs->n[i]};
    p->image.first = &first;
    int r = progress_interrupted(progress)
                ? err_set(e, ERR_USAGE, "interrupted")
                : image_create(&p->image, key, key_bytes, &progress->watch, ret, e);
    p->image.first = NULL;
    return r;
}

static void report(struct cli_run *run, const struct plan *p, const struct ref_facts *facts)
{
    const struct cli_args *a = run->args;
    char uuid[UUID_TEXT_BYTES];
    const char *device = device_text(facts->device);
    uint64_t size = p->image.size ? p->image.size : IMAGE_DEFAULT_BYTES;
    uuid_text(facts->instance, uuid);
    fprintf(stderr, "nvkeep: one try of the key takes about %u ms (%" PRIu32 " iterations): %s\n",
            p->ms, p->image.iterations, p->why);
    if (!run->json) {
        printf("%s, instance %s, %" PRIu64 " bytes, created%s\n", device, uuid, size,
               p->waits ? "; it holds no TPM yet: a migration is to bring it" : "");
        return;
    }
    json_out_text(run->json, "image", a->image);
    json_out_text(run->json, "instance", uuid);
    json_out_text(run->json, "device", device);
    json_out_bool(run->json, "holds_tpm", !p->waits);
    json_out_number(run->json, "size", size);
    if (a->text[OPT_NEW_KEY])
        json_out_text(run->json, "new_key", a->text[OPT_NEW_KEY]);
    json_out_number(run->json, "iter_time_ms", p->ms);
    json_out_number(run->json, "iterations", p->image.iterations);
    json_out_text(run->json, "iterations_because", p->why);
}

int cmd_create(struct cli_run *run, struct err *e)
{
    struct plan plan = {0};
    struct progress progress;
    struct ref_facts facts = {0};
    struct tpm_blobs blobs = {{NULL}, {0}};
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    if (plan_numbers(run->args, &plan, e) < 0 || refuse_existing(plan.image.path, e) < 0 ||
        key_cost(plan.ms, &plan.image.iterations, e) < 0)
        return -1;
    /* Asking comes before the signals are held back: Ctrl-C at the prompt just ends the program. */
    if (!run->args->text[OPT_NEW_KEY] && get_key(run, &key, &key_bytes, e) < 0)
        return -1;
    if (progress_begin(&progress, "stretching the passphrase", e) < 0)
        return -1;
    /* Foreign code runs before there is a file that only we would take away again. */
    int r = plan.waits ? 0 : tpm_manufacture(plan.image.device, &blobs, e);
    if (r == 0 && run->args->text[OPT_NEW_KEY])
        r = get_key(run, &key, &key_bytes, e);
    if (r == 0)
        r = make(&plan, &blobs, key, key_bytes, &progress, &facts, e);
    tpm_blobs_clear(&blobs);
    if (r < 0 && run->made[1])
        (void)unlink(run->made[1]);
    run->signal = progress_end(&progress);
    if (r < 0)
        return -1;
    run->signal = 0; /* came too late: the work was done */
    run->made[0] = run->args->image;
    report(run, &plan, &facts);
    return 0;
}
