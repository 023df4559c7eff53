#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli_swtpm.h"
#include "src/cli/cli_text.h"
#include "src/make/new_image.h"

struct import {
    struct new_image plan;
    struct swtpm_place from;
    struct swtpm_source *source; /* open, and locked */
    struct swtpm_state state;
    bool encrypted;
};

static int parse(const struct cli_args *a, const char *image, struct import *ret,
                 struct migration_key_source *ret_key, struct err *e)
{
    return swtpm_place_parse(a->image, &ret->from, e) < 0 ||
                   cli_swtpm_key_parse(a, OPT_SOURCE_KEY, ret_key, e) < 0 ||
                   new_image_plan(a, image, &ret->plan, e) < 0
               ? -1
               : 0;
}

/* Read, authenticated, and known to be a TPM that works, before anything is made. */
static int read_source(const struct cli_args *a, const struct migration_key_source *key_source,
                       struct import *i, struct err *e)
{
    static const enum device_kind kinds[] = {DEVICE_TPM12, DEVICE_TPM20};
    const enum device_kind *want = a->text[OPT_TPM12]  ? &kinds[0]
                                   : a->text[OPT_TPM2] ? &kinds[1]
                                                       : NULL;
    char name[200];
    OWNED(migration_key) key = NULL;
    i->encrypted = a->text[OPT_SOURCE_KEY] != NULL;
    if ((i->encrypted && swtpm_key_source_read("source-key", key_source, &key, e) < 0) ||
        swtpm_source_open(&i->from, &i->source, e) < 0 ||
        swtpm_source_read(i->source, want, key, &i->state, e) < 0)
        return -1;
    i->plan.image.device = i->state.kind;
    if (tpm_check_blobs(i->state.kind, &i->state.blobs, e) == 0)
        return 0;
    return err_prefix(e, "%s", err_quote(name, sizeof(name), i->from.path, strlen(i->from.path)));
}

static void report(struct cli_run *run, const struct import *i, const struct ref_facts *facts)
{
    const struct tpm_blobs *b = &i->state.blobs;
    char uuid[UUID_TEXT_BYTES];
    new_image_say_cost(&i->plan);
    if (run->json) {
        new_image_json(run->json, run->args, &i->plan, facts, true);
        json_out_text(run->json, "source", run->args->image);
        json_out_bool(run->json, "source_encrypted", i->encrypted);
        json_out_number(run->json, "permanent", b->n[BLOB_PERMANENT - 1]);
        json_out_number(run->json, "volatile", b->n[BLOB_VOLATILE - 1]);
        json_out_number(run->json, "savestate", b->n[BLOB_SAVESTATE - 1]);
        return;
    }
    uuid_text(facts->instance, uuid);
    printf("%s, instance %s, imported: permanent state %zu bytes%s%s; the source was not changed\n",
           device_text(facts->device), uuid, b->n[BLOB_PERMANENT - 1],
           b->blob[BLOB_VOLATILE - 1] ? ", volatile state" : "",
           b->blob[BLOB_SAVESTATE - 1] ? ", saved state" : "");
}

static int convert(struct cli_run *run, struct import *i, const char *image, struct err *e)
{
    struct progress progress;
    struct ref_facts facts = {0};
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    bool random = run->args->text[OPT_NEW_KEY];
    if (!random && new_image_key(run, image, &key, &key_bytes, e) < 0)
        return -1;
    if (progress_begin(&progress, "stretching the passphrase", e) < 0)
        return -1;
    int r = random ? new_image_key(run, image, &key, &key_bytes, e) : 0;
    if (r == 0)
        r = new_image_make(&i->plan, &i->state.blobs, key, key_bytes, &progress, &facts, e);
    if (r < 0 && run->made[1])
        (void)unlink(run->made[1]);
    run->signal = progress_end(&progress);
    if (r < 0)
        return -1;
    run->signal = 0; /* came too late: the work was done */
    run->made[0] = image;
    report(run, i, &facts);
    return 0;
}

int cmd_import(struct cli_run *run, struct err *e)
{
    struct import i = {0};
    OWNED_HEAP struct migration_key_source *key = calloc(1, sizeof(*key));
    const char *image;
    if (run->args->text[OPT_IN_PLACE])
        return cmd_import_in_place(run, e);
    if (run->args->text[OPT_DRY_RUN])
        return err_set(e, ERR_USAGE, "--dry-run is there for --in-place; give both or none");
    if (!key)
        return err_nomem(e, "the key's source");
    if (cli_one_more(run->args, &image, e) < 0 || parse(run->args, image, &i, key, e) < 0)
        return -1;
    int r = read_source(run->args, key, &i, e);
    if (r == 0)
        r = convert(run, &i, image, e);
    tpm_blobs_clear(&i.state.blobs);
    swtpm_source_free(i.source);
    return r;
}
