/* import --in-place: every TPM below some directories, one after the other. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "src/cli/cli_swtpm.h"
#include "src/cli/cli_text.h"
#include "src/make/in_place.h"

enum { QUOTED_BYTES = 200 };

/* One state and what became of it. */
struct done {
    struct done *next;
    const struct in_place_state *state;
    bool tried, failed;
    struct err err; /* of a failure */
    struct in_place_result result;
};

struct in_place {
    struct cli_run *run;
    struct in_place_how how;
    struct swtpm_key_source *key;
    struct in_place_state *states;
    size_t n_states, n_tried, n_skipped, n[IN_PLACE_ALREADY + 1];
    struct done *done, **last;
};

static const char *const outcomes[] = {
    [IN_PLACE_DONE] = "imported",
    [IN_PLACE_WOULD_BE] = "would be imported",
    [IN_PLACE_ALREADY] = "already an image",
};

/* ---- from the command line ---- */

static int parse_key(struct in_place *p, struct err *e)
{
    const struct cli_args *a = p->run->args;
    struct swtpm_key_source *key = p->key;
    char here[PATH_MAX];
    if (cli_swtpm_key_parse(a, OPT_SOURCE_KEY, key, e) < 0 || key->kind == KEY_SOURCE_NONE)
        return key->kind == KEY_SOURCE_NONE && !a->text[OPT_SOURCE_KEY] ? 0 : -1;
    if (key->kind == KEY_SOURCE_FD)
        return err_set(
            e, ERR_USAGE,
            "--source-key: a descriptor can be read once; with --in-place name a file or "
            "a credential");
    if (key->kind == KEY_SOURCE_CREDENTIAL || key->value[0] == '/')
        return 0;
    /* Every state is converted in its own directory. */
    if (!getcwd(here, sizeof(here)))
        return err_sys(e, ERR_STORAGE, errno, "cannot tell the working directory");
    size_t n = strlen(here), m = strlen(key->value) + 1;
    if (n + 1 + m > sizeof(key->value))
        return err_set(e, ERR_USAGE, "--source-key: the path is too long");
    memmove(key->value + n + 1, key->value, m);
    memcpy(key->value, here, n);
    key->value[n] = '/';
    return 0;
}

static int plan(struct in_place *p, struct err *e)
{
    static const enum device_kind kinds[] = {DEVICE_TPM12, DEVICE_TPM20};
    const struct cli_args *a = p->run->args;
    p->how = (struct in_place_how){
        .key = p->key,
        .ms = a->text[OPT_ITER_TIME] ? (unsigned)a->number[OPT_ITER_TIME] : 0,
        .kind = a->text[OPT_TPM12]  ? &kinds[0]
                : a->text[OPT_TPM2] ? &kinds[1]
                                    : NULL,
        .dry_run = a->text[OPT_DRY_RUN],
    };
    return parse_key(p, e) < 0 || new_image_sizes(a, &p->how.image, e) < 0 ? -1 : 0;
}

static int find(struct in_place *p, struct err *e)
{
    const struct cli_args *a = p->run->args;
    char buf[QUOTED_BYTES];
    for (size_t i = 0; i <= a->n_more; i++)
        if (in_place_find(i ? a->more[i - 1] : a->image, p->how.kind, &p->states, e) < 0)
            return -1;
    for (const struct in_place_state *s = p->states; s; s = s->next)
        p->n_states++;
    if (p->n_states > 0)
        return 0;
    return err_set(e, ERR_STATE_EMPTY, "there is no TPM state below %s",
                   err_quote(buf, sizeof(buf), a->image, strlen(a->image)));
}

/* ---- reporting ---- */

static void say(const struct in_place *p, const struct done *d)
{
    char path[PATH_MAX];
    const struct in_place_result *r = &d->result;
    err_quote(path, sizeof(path), d->state->path, strlen(d->state->path));
    if (p->run->json)
        return;
    if (d->failed)
        printf("%s: skipped: %s: %s\n", path, err_class(d->err.kind)->name, d->err.text);
    else if (r->outcome != IN_PLACE_DONE)
        printf("%s: %s\n", path, outcomes[r->outcome]);
    else
        printf("%s: imported: %s%s%s%s%s\n", path, r->image, r->key[0] ? ", its key: " : "", r->key,
               r->kept[0] ? "; kept: " : "", r->kept);
}

static void show_progress(const struct in_place *p)
{
    if (p->how.progress->shows && !p->run->json)
        fprintf(stderr, "\r\033[K%zu of %zu\r", p->n_tried + 1, p->n_states);
}

static void state_json(struct json_out *j, const struct done *d)
{
    const struct in_place_result *r = &d->result;
    json_out_object(j, NULL);
    json_out_text(j, "path", d->state->path);
    json_out_text(j, "machine", d->state->machine);
    json_out_text(j, "outcome",
                  !d->tried   ? "not tried"
                  : d->failed ? "skipped"
                              : outcomes[r->outcome]);
    if (d->failed) {
        json_out_text(j, "class", err_class(d->err.kind)->name);
        json_out_text(j, "message", d->err.text);
    } else if (d->tried) {
        json_out_text(j, "image", r->image);
        if (r->outcome != IN_PLACE_ALREADY)
            json_out_bool(j, "source_encrypted", r->encrypted);
        if (r->key[0])
            json_out_text(j, "new_key", r->key);
        if (r->kept[0])
            json_out_text(j, "kept", r->kept);
    }
    json_out_end(j);
}

static void fill_json(const struct in_place *p, struct json_out *j)
{
    json_out_number(j, "imported", p->n[IN_PLACE_DONE]);
    json_out_number(j, "would_be_imported", p->n[IN_PLACE_WOULD_BE]);
    json_out_number(j, "already", p->n[IN_PLACE_ALREADY]);
    json_out_number(j, "skipped", p->n_skipped);
    json_out_array(j, "states");
    for (const struct done *d = p->done; d; d = d->next)
        state_json(j, d);
    json_out_end(j);
}

/* The failure is part of the one object, so that it does not take the rest away. */
static void report_failure(struct in_place *p, const struct err *why)
{
    struct err ignored;
    OWNED(json_out) j = p->run->json ? json_out_new() : NULL;
    if (!j)
        return;
    json_out_text(j, "result", err_class(why->kind)->name);
    json_out_number(j, "exit", (uint64_t)err_class(why->kind)->exit_code);
    json_out_text(j, "message", why->text);
    fill_json(p, j);
    p->run->failure_reported = json_out_print(j, stdout, &ignored) == 0 && fflush(stdout) == 0;
}

static int judge(struct in_place *p, struct err *e)
{
    char path[QUOTED_BYTES];
    const struct done *first = p->done;
    if (!p->run->json)
        printf("%zu imported, %zu would be, %zu already, %zu skipped\n", p->n[IN_PLACE_DONE],
               p->n[IN_PLACE_WOULD_BE], p->n[IN_PLACE_ALREADY], p->n_skipped);
    while (first && !first->failed)
        first = first->next;
    if (!first) {
        fill_json(p, p->run->json);
        return 0;
    }
    const char *name = first->state->path;
    err_set(e, first->err.kind, "%zu of %zu states were left as they are; the first: %s: %s",
            p->n_skipped, p->n_states, err_quote(path, sizeof(path), name, strlen(name)),
            first->err.text);
    report_failure(p, e);
    return -1;
}

/* ---- the work ---- */

static struct done *next_done(struct in_place *p, const struct in_place_state *s, struct err *e)
{
    struct done *d = calloc(1, sizeof(*d));
    if (!d) {
        err_nomem(e, "the report");
        return NULL;
    }
    d->state = s;
    *p->last = d;
    p->last = &d->next;
    return d;
}

static int convert(struct in_place *p, const struct in_place_state *s, struct err *e)
{
    struct done *d = next_done(p, s, e);
    if (!d)
        return -1;
    if (progress_interrupted(p->how.progress))
        return err_set(e, ERR_USAGE, "interrupted");
    show_progress(p);
    d->tried = true;
    p->n_tried++;
    d->failed = in_place_import(s, &p->how, &d->result, &d->err) < 0;
    if (d->failed)
        p->n_skipped++;
    else
        p->n[d->result.outcome]++;
    say(p, d);
    return 0;
}

static int convert_each(struct in_place *p, struct err *e)
{
    int r = 0;
    for (const struct in_place_state *s = p->states; s && r == 0; s = s->next)
        r = convert(p, s, e);
    return r;
}

static int convert_all(struct in_place *p, struct err *e)
{
    struct progress progress;
    if (progress_begin(&progress, "importing", e) < 0)
        return -1;
    p->how.progress = &progress;
    int r = convert_each(p, e);
    p->how.progress = NULL;
    p->run->signal = progress_end(&progress);
    if (r == 0 && p->run->signal && p->n_skipped > 0)
        r = err_set(e, ERR_USAGE, "interrupted");
    if (r == 0) {
        p->run->signal = 0; /* came too late: the work was done */
        return judge(p, e);
    }
    err_prefix(e, "after %zu of %zu states", p->n_tried, p->n_states);
    report_failure(p, e);
    return -1;
}

int cmd_import_in_place(struct cli_run *run, struct err *e)
{
    OWNED_HEAP struct swtpm_key_source *key = calloc(1, sizeof(*key));
    struct in_place p = {.run = run, .key = key};
    if (!key)
        return err_nomem(e, "the key's source");
    p.last = &p.done;
    int r = plan(&p, e) < 0 || find(&p, e) < 0 ? -1 : convert_all(&p, e);
    while (p.done) {
        struct done *next = p.done->next;
        free(p.done);
        p.done = next;
    }
    in_place_states_free(p.states);
    return r;
}
