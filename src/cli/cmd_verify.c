#include <inttypes.h>
#include <stdio.h>

#include "src/cli/cmd_verify.h"

int cli_verify_look(struct cli_run *run, bool full, bool may_ask, struct image_report *ret,
                    struct store_look **ret_look, struct err *e)
{
    struct progress progress;
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    if (cli_key(run->args, may_ask, &key, &key_bytes, e) < 0 ||
        progress_begin(&progress, "checking the passphrase", e) < 0)
        return -1;
    int r = image_verify_look(run->args->image, key, key_bytes, full, &progress.watch, ret,
                              ret_look, e);
    int sig = progress_end(&progress);
    if (r == 0)
        return 0;
    run->signal = sig;
    return -1;
}

int cli_verify(struct cli_run *run, bool full, bool may_ask, struct image_report *ret,
               struct err *e)
{
    OWNED(store_look) look = NULL;
    return cli_verify_look(run, full, may_ask, ret, &look, e);
}

void report_inside(struct cli_run *run, const struct image_report *r)
{
    struct json_out *j = run->json;
    char uuid[UUID_TEXT_BYTES];
    uuid_text(r->facts.instance, uuid);
    json_out_text(j, "instance", uuid);
    json_out_text(j, "device", device_text(r->facts.device));
    json_out_bool(j, "holds_tpm", r->holds_tpm);
    json_out_number(j, "generation", r->store.generation);
    json_out_number(j, "epoch", r->store.epoch);
    json_out_number(j, "state_bytes", r->store.state_bytes);
    json_out_number(j, "state_bytes_most", r->store.checkpoint_bytes);
    json_out_number(j, "log_sectors", r->store.log_sectors);
    json_out_number(j, "log_sectors_used", r->store.log_used);
    json_out_number(j, "log_records", r->store.n_records);
    json_out_number(j, "torn_sectors", r->store.torn_sectors);
}

const char *waits_text(const struct image_report *r)
{
    return r->holds_tpm ? "" : "; it holds no TPM yet: a migration is to bring it";
}

int cmd_verify_key(struct cli_run *run, struct err *e)
{
    struct image_report r;
    if (cli_verify(run, false, true, &r, e) < 0)
        return -1;
    if (run->json)
        report_inside(run, &r);
    else
        printf("the key opens the image: %s, generation %" PRIu64 "%s\n",
               device_text(r.facts.device), r.store.generation, waits_text(&r));
    return 0;
}

static void report_check(struct cli_run *run, const struct image_report *r)
{
    if (run->json) {
        report_inside(run, r);
        json_out_number(run->json, "clusters", r->check.clusters);
        json_out_number(run->json, "leaks", r->check.leaks);
        json_out_number(run->json, "corruptions", r->check.corruptions);
        if (r->check.leaks)
            json_out_text(run->json, "first", r->check.first);
        return;
    }
    printf("state: sound; %s, generation %" PRIu64 ", %" PRIu64 " bytes, %" PRIu64
           " records in the log%s\n",
           device_text(r->facts.device), r->store.generation, r->store.state_bytes,
           r->store.n_records, waits_text(r));
    if (r->store.torn_sectors)
        printf("state: %" PRIu64 " sectors of a write that was cut off and never acknowledged: "
               "harmless\n",
               r->store.torn_sectors);
    printf("image: %" PRIu64 " clusters in use, nothing damaged\n", r->check.clusters);
    if (r->check.leaks)
        printf("image: %" PRIu64 " clusters are allocated and not used (%s): costs space, not "
               "safety\n",
               r->check.leaks, r->check.first);
}

int cmd_check(struct cli_run *run, struct err *e)
{
    struct image_report r;
    if (cli_verify(run, true, true, &r, e) < 0)
        return -1;
    if (r.check.corruptions)
        return err_set(e, ERR_STATE_CORRUPT,
                       "%" PRIu64 " errors in the image's tables, first: %s; the TPM's state "
                       "itself is sound (generation %" PRIu64
                       "); make a copy of the image before qemu-img check -r repairs it",
                       r.check.corruptions, r.check.first, r.store.generation);
    report_check(run, &r);
    return 0;
}
