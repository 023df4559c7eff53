#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/image.h"
#include "src/cli/cli_swtpm.h"
#include "src/cli/cli_text.h"

static int check_options(const struct cli_args *a, struct err *e)
{
    if (a->text[OPT_TARGET_KEY] || a->text[OPT_PLAINTEXT])
        return 0;
    return err_set(e, ERR_USAGE,
                   "the TPM's secrets would lie there in clear: give the key that swtpm is to have "
                   "with --target-key KEY, or say --plaintext");
}

/* Claimed: what is written is the newest state, and nobody changes it meanwhile. That libtpms reads
 * it is known, too. */
static int read_image(struct cli_run *run, struct progress *progress, const struct secret *key,
                      size_t key_bytes, struct swtpm_state *ret, struct err *e)
{
    OWNED(store) store = NULL;
    OWNED(tpm) tpm = NULL;
    if (image_open_store(run->args->image, key, key_bytes, &progress->watch, &store, e) < 0 ||
        tpm_new(&store, &tpm, e) < 0)
        return -1;
    ret->kind = tpm_kind(tpm);
    for (int kind = BLOB_PERMANENT; kind <= N_TPM_BLOBS; kind++)
        if (tpm_export(tpm, (enum blob_kind)kind, &ret->blobs.blob[kind - 1],
                       &ret->blobs.n[kind - 1], e) < 0)
            return -1;
    return 0;
}

static void report(struct cli_run *run, const char *to, const struct swtpm_state *state)
{
    const struct tpm_blobs *b = &state->blobs;
    bool encrypted = run->args->text[OPT_TARGET_KEY];
    if (run->json) {
        json_out_text(run->json, "target", to);
        json_out_text(run->json, "device", device_text(state->kind));
        json_out_bool(run->json, "target_encrypted", encrypted);
        json_out_number(run->json, "permanent", b->n[BLOB_PERMANENT - 1]);
        json_out_number(run->json, "volatile", b->n[BLOB_VOLATILE - 1]);
        json_out_number(run->json, "savestate", b->n[BLOB_SAVESTATE - 1]);
        return;
    }
    printf("%s, exported %s: permanent state %zu bytes%s%s; the image still holds the same TPM: "
           "run one of the two\n",
           device_text(state->kind), encrypted ? "encrypted" : "in clear", b->n[BLOB_PERMANENT - 1],
           b->blob[BLOB_VOLATILE - 1] ? ", volatile state" : "",
           b->blob[BLOB_SAVESTATE - 1] ? ", saved state" : "");
}

/* No signal ends the program between the opening and the last file. */
static int convert(struct cli_run *run, const struct swtpm_place *to,
                   const struct migration_key *target_key, struct swtpm_state *state, struct err *e)
{
    struct progress progress;
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    if (cli_key(run->args, true, &key, &key_bytes, e) < 0 ||
        progress_begin(&progress, "checking the passphrase", e) < 0)
        return -1;
    int r = read_image(run, &progress, key, key_bytes, state, e);
    if (r == 0)
        r = progress_interrupted(&progress) ? err_set(e, ERR_USAGE, "interrupted")
                                            : swtpm_target_write(to, state, target_key, e);
    run->signal = progress_end(&progress);
    if (r == 0)
        run->signal = 0; /* came too late: the work was done */
    return r;
}

int cmd_export(struct cli_run *run, struct err *e)
{
    const struct cli_args *a = run->args;
    OWNED_HEAP struct swtpm_key_source *source = calloc(1, sizeof(*source));
    OWNED(migration_key) target_key = NULL;
    struct swtpm_state state = {0};
    struct swtpm_place to;
    const char *name;
    if (!source)
        return err_nomem(e, "the key's source");
    if (cli_one_more(a, &name, e) < 0 || check_options(a, e) < 0 ||
        swtpm_place_parse(name, &to, e) < 0 ||
        cli_swtpm_key_parse(a, OPT_TARGET_KEY, source, e) < 0 || swtpm_target_is_free(&to, e) < 0 ||
        (a->text[OPT_TARGET_KEY] &&
         swtpm_key_read_cipher("target-key", source, &target_key, e) < 0))
        return -1;
    run->made_state_inside = access(to.path, F_OK) == 0;
    int r = convert(run, &to, target_key, &state, e);
    if (r == 0) {
        run->made_state = name;
        report(run, name, &state);
    }
    tpm_blobs_clear(&state.blobs);
    return r;
}
