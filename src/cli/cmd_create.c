#include <inttypes.h>
#include <stdio.h>

#include "src/cli/cli_text.h"
#include "src/make/new_image.h"

static void report(struct cli_run *run, const struct new_image *plan, bool waits,
                   const struct ref_facts *facts)
{
    char uuid[UUID_TEXT_BYTES];
    uint64_t size = plan->image.size ? plan->image.size : IMAGE_DEFAULT_BYTES;
    new_image_say_cost(plan);
    if (run->json) {
        new_image_json(run->json, run->args, plan, facts, !waits);
        return;
    }
    uuid_text(facts->instance, uuid);
    printf("%s, instance %s, %" PRIu64 " bytes, created%s\n", device_text(facts->device), uuid,
           size, waits ? "; it holds no TPM yet: a migration is to bring it" : "");
}

int cmd_create(struct cli_run *run, struct err *e)
{
    struct new_image plan = {0};
    const char *path = run->args->image;
    bool waits = run->args->text[OPT_INCOMING]; /* no TPM is made: a migration is to bring it */
    struct progress progress;
    struct ref_facts facts = {0};
    struct tpm_blobs blobs = {{NULL}, {0}};
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    if (new_image_plan(run->args, path, run->args->text[OPT_NEW_KEY], &plan, e) < 0)
        return -1;
    /* Asking comes before the signals are held back: Ctrl-C at the prompt just ends the program. */
    if (!run->args->text[OPT_NEW_KEY] && new_image_key(run, path, &key, &key_bytes, e) < 0)
        return -1;
    if (progress_begin(&progress, "stretching the passphrase", e) < 0)
        return -1;
    /* Foreign code runs before there is a file that only we would take away again. */
    int r = waits ? 0 : tpm_manufacture(plan.image.device, &blobs, e);
    if (r == 0 && run->args->text[OPT_NEW_KEY])
        r = new_image_key(run, path, &key, &key_bytes, e);
    if (r == 0)
        r = new_image_make(&plan, &blobs, key, key_bytes, &progress, &facts, e);
    tpm_blobs_clear(&blobs);
    if (r < 0 && run->made[1])
        (void)unlink(run->made[1]);
    run->signal = progress_end(&progress);
    if (r < 0)
        return -1;
    run->signal = 0; /* came too late: the work was done */
    run->made[0] = path;
    report(run, &plan, waits, &facts);
    return 0;
}
