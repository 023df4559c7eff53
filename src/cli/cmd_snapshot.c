#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "backend/image_snapshot.h"
#include "src/cli/cli.h"
#include "src/cli/cli_text.h"

enum { SHOWN_BYTES = 4 * SNAPSHOT_NAME_BYTES };

enum action { ACTION_LIST, ACTION_CREATE, ACTION_APPLY, ACTION_DELETE, N_ACTIONS };
static const char *const action_names[N_ACTIONS + 1] = {"list", "create", "apply", "delete"};

/* One run of the command. */
struct snapshot_run {
    struct cli_run *run;
    struct cli_args args; /* with the image where other commands have it */
    enum action action;
    const char *name;
};

/* --- the command line --- */

static const char *nth_action(const void *ctx, size_t i)
{
    (void)ctx;
    return action_names[i];
}

static int find_action(const char *name, enum action *ret, struct err *e)
{
    char buf[SHOWN_BYTES];
    for (unsigned i = 0; i < N_ACTIONS; i++)
        if (strcmp(action_names[i], name) == 0) {
            *ret = (enum action)i;
            return 0;
        }
    const char *like = cli_suggest(name, nth_action, NULL);
    return err_set(e, ERR_USAGE,
                   "snapshot: wanted list, create, apply or delete, and not \"%s\"%s%s%s",
                   err_quote(buf, 100, name, strlen(name)), like ? "; did you mean \"" : "",
                   like ? like : "", like ? "\"?" : "");
}

static int read_arguments(struct cli_run *run, struct snapshot_run *ret, struct err *e)
{
    *ret = (struct snapshot_run){.run = run, .args = *run->args};
    if (find_action(run->args->image, &ret->action, e) < 0)
        return -1;
    size_t wanted = ret->action == ACTION_LIST ? 1 : 2;
    if (run->args->n_more < wanted)
        return err_set(e, ERR_USAGE, "snapshot %s: missing: NAME", action_names[ret->action]);
    if (run->args->n_more > wanted)
        return err_set(e, ERR_USAGE, "snapshot %s: one argument too many",
                       action_names[ret->action]);
    if (ret->action == ACTION_LIST && run->args->text[OPT_KEY])
        return err_set(e, ERR_USAGE, "snapshot list: needs no key");
    ret->args.image = run->args->more[0];
    ret->name = wanted == 2 ? run->args->more[1] : NULL;
    return 0;
}

/* --- list --- */

/* UTC, as the clock was then. */
static void date_text(const struct snapshot_facts *s, char ret[32])
{
    time_t t = s->seconds;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        ret[0] = 0;
}

static void json_list(struct json_out *j, const struct snapshot_list *l)
{
    char text[SHOWN_BYTES], date[32];
    json_out_array(j, "snapshots");
    for (size_t i = 0; i < l->n; i++) {
        const struct snapshot_facts *s = &l->at[i];
        json_out_object(j, NULL);
        json_out_text(j, "id", err_quote(text, sizeof(text), s->id, strlen(s->id)));
        json_out_text(j, "name", err_quote(text, sizeof(text), s->name, strlen(s->name)));
        date_text(s, date);
        json_out_text(j, "date", date);
        json_out_number(j, "vm_state_bytes", s->vm_state_bytes);
        json_out_end(j);
    }
    json_out_end(j);
}

static void text_list(const struct snapshot_list *l)
{
    char id[SHOWN_BYTES], name[SHOWN_BYTES], date[32];
    printf("%-6s %-22s %s\n", "ID", "DATE", "NAME");
    for (size_t i = 0; i < l->n; i++) {
        const struct snapshot_facts *s = &l->at[i];
        date_text(s, date);
        printf("%-6s %-22s %s\n", err_quote(id, sizeof(id), s->id, strlen(s->id)), date,
               err_quote(name, sizeof(name), s->name, strlen(s->name)));
    }
}

static int list(struct snapshot_run *r, struct err *e)
{
    __attribute__((cleanup(snapshot_list_clear))) struct snapshot_list l = {0};
    if (image_snapshots(r->args.image, &l, e) < 0)
        return -1;
    if (r->run->json)
        json_list(r->run->json, &l);
    else
        text_list(&l);
    return 0;
}

/* --- the others --- */

static int open_store(struct snapshot_run *r, struct store **ret, struct err *e)
{
    struct progress progress;
    OWNED(secret) key = NULL;
    OWNED(store) s = NULL;
    size_t n = 0;
    if (cli_key(&r->args, true, &key, &n, e) < 0 ||
        progress_begin(&progress, "checking the passphrase", e) < 0)
        return -1;
    int result = image_open_store(r->args.image, key, n, &progress.watch, &s, e);
    r->run->signal = progress_end(&progress);
    if (result < 0 || r->run->signal)
        return result < 0 ? -1 : err_set(e, ERR_USAGE, "interrupted; nothing was changed");
    *ret = MOVE(s);
    return 0;
}

static int open_image(struct cli_run *run, const struct cli_args *args, struct image **ret,
                      struct err *e)
{
    struct progress progress;
    OWNED(secret) key = NULL;
    OWNED(image) image = NULL;
    size_t n = 0;
    if (cli_key(args, true, &key, &n, e) < 0 ||
        progress_begin(&progress, "checking the passphrase", e) < 0)
        return -1;
    int result = image_open_idle(args->image, key, n, &progress.watch, &image, e);
    run->signal = progress_end(&progress);
    if (result < 0 || run->signal)
        return result < 0 ? -1 : err_set(e, ERR_USAGE, "interrupted; nothing was changed");
    *ret = MOVE(image);
    return 0;
}

static void report_change(struct snapshot_run *r, uint64_t generation)
{
    char name[SHOWN_BYTES];
    err_quote(name, sizeof(name), r->name, strlen(r->name));
    if (r->run->json) {
        json_out_text(r->run->json, "snapshot", name);
        json_out_number(r->run->json, "generation", generation);
        return;
    }
    if (r->action == ACTION_CREATE)
        printf("snapshot \"%s\" holds generation %" PRIu64 "\n", name, generation);
    else
        printf("snapshot \"%s\" is gone\n", name);
}

static int change(struct snapshot_run *r, struct err *e)
{
    OWNED(store) s = NULL;
    struct store_mark mark;
    if (open_store(r, &s, e) < 0)
        return -1;
    int done = r->action == ACTION_CREATE ? store_snapshot_create(s, r->name, e)
                                          : store_snapshot_delete(s, r->name, e);
    if (done < 0)
        return -1;
    store_mark(s, &mark);
    report_change(r, mark.generation);
    return 0;
}

static void json_restored(struct json_out *j, const struct image_restored *d, bool done)
{
    char uuid[UUID_TEXT_BYTES];
    uuid_text(d->facts.instance, uuid);
    json_out_text(j, "instance", uuid);
    json_out_text(j, "device", device_text(d->facts.device));
    json_out_number(j, "generation", d->generation);
    json_out_number(j, "epoch", d->epoch);
    if (!done)
        return;
    json_out_number(j, "new_generation", d->next_generation);
    json_out_number(j, "new_epoch", d->next_epoch);
}

static int apply(struct snapshot_run *r, struct err *e)
{
    OWNED(image) image = NULL;
    struct image_restored done;
    char name[SHOWN_BYTES];
    if (open_image(r->run, &r->args, &image, e) < 0 || image_apply(image, r->name, &done, e) < 0)
        return -1;
    err_quote(name, sizeof(name), r->name, strlen(r->name));
    if (r->run->json) {
        json_out_text(r->run->json, "snapshot", name);
        json_restored(r->run->json, &done, true);
    } else {
        printf("the TPM is as in snapshot \"%s\": generation %" PRIu64 " lives on as %" PRIu64
               ", owner epoch %" PRIu64 "\n",
               name, done.generation, done.next_generation, done.next_epoch);
    }
    return 0;
}

int cmd_snapshot(struct cli_run *run, struct err *e)
{
    struct snapshot_run r;
    if (read_arguments(run, &r, e) < 0)
        return -1;
    if (r.action == ACTION_LIST)
        return list(&r, e);
    return r.action == ACTION_APPLY ? apply(&r, e) : change(&r, e);
}

/* --- adopt --- */

static void text_adopt(const struct cli_args *a, const struct image_restored *d, bool done)
{
    char name[300];
    err_quote(name, sizeof(name), a->image, strlen(a->image));
    if (d->rolled_back.kind == ERR_NONE) {
        printf("nothing to adopt: the image holds the newest state (generation %" PRIu64
               ", owner epoch %" PRIu64 "); nothing was written\n",
               d->generation, d->epoch);
        return;
    }
    printf("found:       %s: %s\n", err_class(d->rolled_back.kind)->name, d->rolled_back.text);
    printf("state there: generation %" PRIu64 ", owner epoch %" PRIu64 "\n", d->generation,
           d->epoch);
    if (done)
        printf("adopted:     it lives on as generation %" PRIu64 ", owner epoch %" PRIu64 "\n",
               d->next_generation, d->next_epoch);
    else
        printf("nothing was written; to go on with that state: nvkeep adopt %s --key SOURCE "
               "--yes\n",
               name);
}

int cmd_adopt(struct cli_run *run, struct err *e)
{
    const struct cli_args *a = run->args;
    OWNED(image) image = NULL;
    struct image_restored found;
    if (open_image(run, a, &image, e) < 0 || image_adopt(image, a->text[OPT_YES], &found, e) < 0)
        return -1;
    bool todo = found.rolled_back.kind != ERR_NONE, done = todo && a->text[OPT_YES];
    if (!run->json) {
        text_adopt(a, &found, done);
        return 0;
    }
    json_out_bool(run->json, "rolled_back", todo);
    if (todo)
        json_out_text(run->json, "found", found.rolled_back.text);
    json_out_bool(run->json, "adopted", done);
    json_restored(run->json, &found, done);
    return 0;
}
