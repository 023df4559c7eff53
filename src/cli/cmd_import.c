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
    struct secret *kept; /* --keep-key; owned */
    size_t kept_bytes;
};

static int parse(const struct cli_args *a, const char *image, struct import *ret,
                 struct swtpm_key_source *ret_key, struct err *e)
{
    if (a->text[OPT_KEEP_KEY] && !a->text[OPT_SOURCE_KEY])
        return err_set(e, ERR_USAGE,
                       "--keep-key: there is no key to keep: give it with --source-key KEY");
    if (swtpm_place_parse(a->image, &ret->from, e) < 0 ||
        cli_swtpm_key_parse(a, OPT_SOURCE_KEY, ret_key, e) < 0)
        return -1;
    bool random = a->text[OPT_NEW_KEY] || (a->text[OPT_KEEP_KEY] && !ret_key->passphrase);
    return new_image_plan(a, image, random, &ret->plan, e);
}

/* kept: it is read once. */
static int read_key(const struct cli_args *a, const struct swtpm_key_source *source,
                    struct import *i, struct migration_key **ret, struct err *e)
{
    static const char option[] = "source-key";
    OWNED(secret) text = NULL;
    OWNED(migration_key) key = NULL;
    size_t n = 0;
    if (swtpm_key_read(option, source, &text, &n, e) < 0 ||
        swtpm_key_cipher(option, source, text, n, &key, e) < 0)
        return -1;
    if (a->text[OPT_KEEP_KEY]) {
        if (swtpm_key_passphrase(option, source, &text, &n, e) < 0 ||
            key_usable_by_qemu(text, n, e) < 0)
            return -1;
        i->kept = MOVE(text);
        i->kept_bytes = n;
    }
    *ret = MOVE(key);
    return 0;
}

/* Read, authenticated, and known to be a TPM that works, before anything is made. */
static int read_source(const struct cli_args *a, const struct swtpm_key_source *key_source,
                       struct import *i, struct err *e)
{
    static const enum device_kind kinds[] = {DEVICE_TPM12, DEVICE_TPM20};
    const enum device_kind *want = a->text[OPT_TPM12]  ? &kinds[0]
                                   : a->text[OPT_TPM2] ? &kinds[1]
                                                       : NULL;
    char name[200];
    OWNED(migration_key) key = NULL;
    i->encrypted = a->text[OPT_SOURCE_KEY] != NULL;
    if ((i->encrypted && read_key(a, key_source, i, &key, e) < 0) ||
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
    OWNED(secret) key = MOVE(i->kept);
    size_t key_bytes = i->kept_bytes;
    bool random = run->args->text[OPT_NEW_KEY];
    if (!random && !key && new_image_key(run, image, &key, &key_bytes, e) < 0)
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
    OWNED_HEAP struct swtpm_key_source *key = calloc(1, sizeof(*key));
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
    secret_free(i.kept);
    swtpm_source_free(i.source);
    return r;
}
