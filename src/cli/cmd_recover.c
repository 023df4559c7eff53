#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/image.h"
#include "src/cli/cli.h"
#include "src/cli/cli_text.h"

static const char *const blob_names[N_BLOBS] = {"permanent", "volatile", "savestate", "origin"};

static int check_options(const struct cli_args *a, struct err *e)
{
    bool copy = a->text[OPT_BACKUP], none = a->text[OPT_NO_BACKUP];
    if (a->text[OPT_YES] && !copy && !none)
        return err_set(
            e, ERR_USAGE,
            "--yes writes to the image: name a file for a copy of it with --backup FILE, "
            "or say --no-backup");
    if (!a->text[OPT_YES] && (copy || none))
        return err_set(
            e, ERR_USAGE,
            "%s says nothing without --yes: nothing is written then, and no copy is made",
            copy ? "--backup" : "--no-backup");
    return 0;
}

static int open_damaged(struct cli_run *run, struct recovery **ret, struct err *e)
{
    struct progress progress;
    OWNED(secret) key = NULL;
    size_t key_bytes = 0;
    if (cli_key(run->args, true, &key, &key_bytes, e) < 0 ||
        progress_begin(&progress, "checking the passphrase", e) < 0)
        return -1;
    OWNED(recovery) r = NULL;
    int result = image_open_damaged(run->args->image, key, key_bytes, &progress.watch, &r, e);
    int sig = progress_end(&progress);
    if (result == 0 && sig == 0) {
        *ret = MOVE(r);
        return 0;
    }
    run->signal = sig;
    return result < 0 ? -1 : err_set(e, ERR_USAGE, "interrupted; nothing was written");
}

static const char *origin_text(const struct recovery_facts *f)
{
    if (!f->has_origin)
        return "made in this image";
    if (f->origin.how == ORIGIN_RESTORED)
        return "an older state that somebody restored";
    return f->origin.used ? "handed over by a migration"
                          : "handed over by a migration, not used when it was stored";
}

static void json_state(struct json_out *j, const struct recovery_facts *f)
{
    json_out_number(j, "generation", f->generation);
    json_out_number(j, "epoch", f->epoch);
    json_out_number(j, "log_records", f->n_records);
    json_out_object(j, "blobs");
    for (size_t i = 0; i < N_BLOBS; i++)
        if (f->present[i])
            json_out_number(j, blob_names[i], f->n_bytes[i]);
    json_out_end(j);
    json_out_text(j, "origin", origin_text(f));
}

static void json_report(struct cli_run *run, const struct recovery *r,
                        const struct recovery_facts *f, bool done)
{
    struct json_out *j = run->json;
    bool damaged = f->damage.kind != ERR_NONE;
    char uuid[UUID_TEXT_BYTES];
    uuid_text(recovery_ref_facts(r)->instance, uuid);
    json_out_text(j, "instance", uuid);
    json_out_text(j, "device", device_text(recovery_ref_facts(r)->device));
    json_out_bool(j, "damaged", damaged);
    json_state(j, f);
    if (!damaged)
        return;
    json_out_text(j, "damage", f->damage.text);
    /* What cannot be read claims nothing. */
    json_out_number(j, f->n_unreadable > 0 ? "generations_lost_seen" : "generations_lost_most",
                    f->newest - f->generation);
    json_out_number(j, "unreadable_sectors", f->n_unreadable);
    json_out_bool(j, "recovered", done);
    if (!done)
        return;
    json_out_number(j, "new_generation", f->next_generation);
    json_out_number(j, "new_epoch", f->next_epoch);
    if (run->args->text[OPT_BACKUP])
        json_out_text(j, "backup", run->args->text[OPT_BACKUP]);
}

static void text_state(const struct recovery *r, const struct recovery_facts *f)
{
    const char *between = "";
    printf("state:       %s, ", device_text(recovery_ref_facts(r)->device));
    for (size_t i = 0; i < N_BLOBS; i++)
        if (f->present[i]) {
            printf("%s%s %zu bytes", between, blob_names[i], f->n_bytes[i]);
            between = ", ";
        }
    puts(*between ? "" : "none yet: a migration is to bring it");
    printf("origin:      %s\n", origin_text(f));
}

static void text_lost(const struct recovery_facts *f)
{
    uint64_t n = f->newest - f->generation;
    if (n == 0) {
        puts("lost:        perhaps what lay in sectors that cannot be read");
        return;
    }
    if (f->n_unreadable > 0)
        printf("lost:        of generations %" PRIu64 " to %" PRIu64
               " something is seen, and there "
               "may be more in sectors that cannot be read\n",
               f->generation + 1, f->newest);
    else
        printf("lost:        at most %" PRIu64 " generation%s, %" PRIu64 " to %" PRIu64
               " (the last one may never have been complete)\n",
               n, n == 1 ? "" : "s", f->generation + 1, f->newest);
}

static void text_report(const struct cli_args *a, const struct recovery *r,
                        const struct recovery_facts *f, bool done)
{
    char name[300];
    err_quote(name, sizeof(name), a->image, strlen(a->image));
    if (f->damage.kind == ERR_NONE) {
        printf("nothing to recover: the state is sound (generation %" PRIu64
               ", owner epoch %" PRIu64 "); nothing was written\n",
               f->generation, f->epoch);
        return;
    }
    printf("damage:      %s: %s\n", err_class(f->damage.kind)->name, f->damage.text);
    printf("recoverable: generation %" PRIu64 ", owner epoch %" PRIu64 ": a checkpoint and %" PRIu64
           " record%s of the log\n",
           f->generation, f->epoch, f->n_records, f->n_records == 1 ? "" : "s");
    text_state(r, f);
    text_lost(f);
    if (f->n_unreadable > 0)
        printf("unreadable:  %" PRIu64 " sectors, %s\n", f->n_unreadable,
               done ? "which were written anew"
                    : "which --yes overwrites: if the storage may give them again, mend it first");
    if (!done) {
        printf(
            "nothing was written; to go back to that state: nvkeep recover %s --key SOURCE --yes "
            "--backup FILE\n",
            name);
        return;
    }
    if (a->text[OPT_BACKUP])
        printf("backup:      %s\n",
               err_quote(name, sizeof(name), a->text[OPT_BACKUP], strlen(a->text[OPT_BACKUP])));
    printf("recovered:   that state is generation %" PRIu64 ", owner epoch %" PRIu64
           " now, and the image opens again\n",
           f->next_generation, f->next_epoch);
}

/* The copy stays, whatever becomes of the rest. */
static int recover(const struct cli_args *a, struct recovery *r, struct err *e)
{
    if (a->text[OPT_BACKUP] && recovery_backup(r, a->text[OPT_BACKUP], e) < 0)
        return err_prefix(e, "the copy before the recovery; nothing was changed");
    return recovery_write(r, e);
}

int cmd_recover(struct cli_run *run, struct err *e)
{
    const struct cli_args *a = run->args;
    OWNED(recovery) r = NULL;
    struct recovery_facts f;
    if (check_options(a, e) < 0 || open_damaged(run, &r, e) < 0)
        return -1;
    recovery_facts(r, &f);
    bool todo = a->text[OPT_YES] && f.damage.kind != ERR_NONE;
    if (todo && recover(a, r, e) < 0)
        return -1;
    if (run->json)
        json_report(run, r, &f, todo);
    else
        text_report(a, r, &f, todo);
    return 0;
}
