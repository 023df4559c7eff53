#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/image_keys.h"
#include "backend/key_change.h"
#include "src/cli/cli.h"
#include "src/key/key_prompt.h"
#include "src/key/new_key.h"
#include "src/key/recovery_key.h"
#include "src/key/recovery_show.h"

enum { NAME_BYTES = 200, SLOTS_BYTES = 40 };

enum action { ACTION_LIST, ACTION_ADD, ACTION_REMOVE, ACTION_ROTATE, N_ACTIONS };
static const char *const action_names[N_ACTIONS + 1] = {"list", "add", "remove", "rotate"};

/* Options that belong to some of the actions. */
static const struct {
    enum cli_option_id id;
    bool goes_with[N_ACTIONS];
} belongs[] = {
    {OPT_NEXT_KEY, {[ACTION_ADD] = true, [ACTION_ROTATE] = true}},
    {OPT_NEW_KEY, {[ACTION_ADD] = true, [ACTION_ROTATE] = true}},
    {OPT_RECOVERY_KEY, {[ACTION_ADD] = true}},
    {OPT_ITER_TIME, {[ACTION_ADD] = true, [ACTION_ROTATE] = true}},
    {OPT_SLOT, {[ACTION_ADD] = true, [ACTION_REMOVE] = true, [ACTION_ROTATE] = true}},
    {OPT_OLD_KEY, {[ACTION_REMOVE] = true}},
};

/* One run of the command. */
struct key_run {
    struct cli_run *run;
    struct cli_args args; /* with the image where other commands have it */
    enum action action;
    struct secret *key, *second; /* second: to be added, or to be removed */
    size_t key_bytes, second_bytes;
    struct image_keys *image;
    struct volume_key *volume;
    unsigned opens;  /* slots that the key opens */
    int recovery_fd; /* where to show it; -1: the terminal */
    struct key_changed done;
    bool came_late; /* rotate: all was done before */
};

static void key_run_clear(struct key_run *r)
{
    secret_free(r->key);
    secret_free(r->second);
    volume_key_free(r->volume);
    image_keys_free(r->image);
}

/* --- the command line --- */

static const char *nth_action(const void *ctx, size_t i)
{
    (void)ctx;
    return action_names[i];
}

static int find_action(const char *name, enum action *ret, struct err *e)
{
    char buf[NAME_BYTES];
    for (unsigned i = 0; i < N_ACTIONS; i++)
        if (strcmp(action_names[i], name) == 0) {
            *ret = (enum action)i;
            return 0;
        }
    const char *like = cli_suggest(name, nth_action, NULL);
    return err_set(e, ERR_USAGE, "key: wanted list, add, remove or rotate, and not \"%s\"%s%s%s",
                   err_quote(buf, sizeof(buf), name, strlen(name)), like ? "; did you mean \"" : "",
                   like ? like : "", like ? "\"?" : "");
}

static int check_options(const struct key_run *r, struct err *e)
{
    const struct cli_args *a = &r->args;
    for (size_t i = 0; i < ARRAY_LEN(belongs); i++)
        if (a->text[belongs[i].id] && !belongs[i].goes_with[r->action])
            return err_set(e, ERR_USAGE, "--%s does not belong to key %s",
                           cli_options[belongs[i].id].name, action_names[r->action]);
    if (r->action == ACTION_REMOVE && !a->text[OPT_SLOT] && !a->text[OPT_OLD_KEY])
        return err_set(e, ERR_USAGE,
                       "key remove: missing: --slot N or --old-key SOURCE, which says what to "
                       "remove; --key is one that stays");
    return 0;
}

static int read_words(struct key_run *r, struct err *e)
{
    const struct cli_args *a = r->run->args;
    char buf[NAME_BYTES];
    if (find_action(a->image, &r->action, e) < 0)
        return -1;
    if (a->n_more > 1)
        return err_set(e, ERR_USAGE, "one image at a time: \"%s\" is one argument too many",
                       err_quote(buf, sizeof(buf), a->more[1], strlen(a->more[1])));
    r->args = *a;
    r->args.image = a->more[0];
    return check_options(r, e) < 0 ? -1 : cli_recovery_fd(a, &r->recovery_fd, e);
}

/* --- keys --- */

static bool is_given(const struct key_source *s)
{
    return s->kind != KEY_SOURCE_NONE;
}

/* A key that exists; the one that --new-key makes comes later. */
static int read_second(struct key_run *r, struct err *e)
{
    const struct cli_args *a = &r->args;
    bool adds = r->action == ACTION_ADD || r->action == ACTION_ROTATE;
    if (adds && (a->text[OPT_NEW_KEY] || a->text[OPT_RECOVERY_KEY]))
        return 0;
    if (is_given(&a->second_key) && (!adds || a->second_key.kind != KEY_SOURCE_PROMPT)) {
        if (key_source_read(&a->second_key, a->image, &r->second, &r->second_bytes, e) < 0)
            return -1;
    } else if (adds && (is_given(&a->second_key) || key_can_prompt())) {
        if (key_prompt_new(a->image, &r->second, &r->second_bytes, e) < 0)
            return -1;
    } else if (adds) {
        return err_set(
            e, ERR_KEY_MISSING,
            "the key to be added: name its source with --next-key, or --new-key FILE for "
            "a random one");
    }
    return adds ? key_usable_by_qemu(r->second, r->second_bytes, e) : 0;
}

static int read_keys(struct key_run *r, struct err *e)
{
    if (r->action == ACTION_LIST && !is_given(&r->args.key))
        return 0;
    if (cli_key(&r->args, true, &r->key, &r->key_bytes, e) < 0)
        return -1;
    return r->action == ACTION_LIST ? 0 : read_second(r, e);
}

static int wrong_key(const struct key_run *r, const char *which, struct err *e)
{
    char name[NAME_BYTES];
    return err_set(e, ERR_KEY_WRONG,
                   "%s: %s opens none of the image's key slots; a key file counts byte for byte, "
                   "with a newline at its end",
                   err_quote(name, sizeof(name), r->args.image, strlen(r->args.image)), which);
}

static int open_image(struct key_run *r, struct err *e)
{
    char name[NAME_BYTES];
    if (image_keys_open(r->args.image, r->action != ACTION_LIST, &r->image, e) == 0)
        return 0;
    if (e->kind != ERR_LOCKED)
        return -1;
    return err_set(e, ERR_LOCKED,
                   "%s is in use; keys of an image that nvkeep serves are changed through the "
                   "daemon: nvkeep ctl SOCKET key-%s",
                   err_quote(name, sizeof(name), r->args.image, strlen(r->args.image)),
                   action_names[r->action]);
}

/* --- what is done --- */

static int slots_of(struct key_run *r, const struct secret *pass, size_t n,
                    const struct watch *watch, unsigned *ret, struct volume_key **ret_key,
                    struct err *e)
{
    return qcow_keys_try(image_keys_slots(r->image), pass, n, watch, ret, ret_key, e);
}

/* Before it counts: somebody who has it and cannot use it is better off than the other way round.
 */
static int make_recovery_key(struct key_run *r, struct err *e)
{
    if (recovery_key_new(&r->second, e) < 0 ||
        recovery_key_show(r->second, r->args.image, r->recovery_fd, e) < 0)
        return -1;
    r->second_bytes = RECOVERY_TEXT_BYTES;
    return 0;
}

static int new_one(struct key_run *r, struct key_new *ret, struct err *e)
{
    const struct cli_args *a = &r->args;
    bool random = a->text[OPT_NEW_KEY] || a->text[OPT_RECOVERY_KEY];
    unsigned ms = a->text[OPT_ITER_TIME] ? (unsigned)a->number[OPT_ITER_TIME]
                  : random               ? (unsigned)RANDOM_KEY_MS
                                         : (unsigned)PASSPHRASE_MS;
    struct key_new n = {.slot = a->text[OPT_SLOT] ? (int)a->number[OPT_SLOT] : KEY_SLOT_ANY,
                        .fresh = random};
    if (key_cost(ms, &n.iterations, e) < 0)
        return -1;
    if (a->text[OPT_RECOVERY_KEY] && make_recovery_key(r, e) < 0)
        return -1;
    if (a->text[OPT_NEW_KEY] &&
        new_key_file(a->text[OPT_NEW_KEY], &r->second, &r->second_bytes, e) < 0)
        return -1;
    n.pass = r->second;
    n.bytes = r->second_bytes;
    *ret = n;
    return 0;
}

static int add_or_rotate(struct key_run *r, const struct watch *watch, struct err *e)
{
    struct qcow_keys *k = image_keys_slots(r->image);
    const char *made = r->args.text[OPT_NEW_KEY];
    char name[NAME_BYTES];
    struct key_new n;
    if (new_one(r, &n, e) < 0)
        return -1;
    int result = r->action == ACTION_ADD
                     ? key_change_add(k, r->volume, &n, watch, &r->done, e)
                     : key_change_rotate(k, r->volume, r->opens, &n, watch, &r->done, e);
    if (result < 0 && r->args.text[OPT_RECOVERY_KEY] && !qcow_keys_touched(k))
        return err_prefix(e, "the recovery key that was shown is not one of this image");
    if (result == 0 || !made)
        return result;
    /* Where it may open the image it stays. */
    if (!qcow_keys_touched(k)) {
        (void)unlink(made);
        return -1;
    }
    return err_prefix(e, "the new key is in %s, and may be needed",
                      err_quote(name, sizeof(name), made, strlen(made)));
}

static int remove_key(struct key_run *r, const struct watch *watch, struct err *e)
{
    struct qcow_keys *k = image_keys_slots(r->image);
    unsigned slots = 0;
    if (r->args.text[OPT_SLOT])
        slots = 1u << r->args.number[OPT_SLOT];
    else if (slots_of(r, r->second, r->second_bytes, watch, &slots, NULL, e) < 0)
        return -1;
    if (key_change_remove(k, slots, r->opens, &r->done, e) < 0)
        return -1;
    if (slots == 0 && r->done.swept == 0)
        return wrong_key(r, "--old-key", e);
    return 0;
}

/* The old key is gone and the new one there: it was rotated before, perhaps not to the end. */
static int rotated_before(struct key_run *r, const struct watch *watch, struct err *e)
{
    unsigned slots = 0;
    if (r->action == ACTION_ROTATE && r->second &&
        slots_of(r, r->second, r->second_bytes, watch, &slots, NULL, e) < 0)
        return -1;
    if (slots == 0)
        return wrong_key(r, "--key", e);
    r->came_late = r->done.was_there = true;
    r->done.slot = key_first_slot(slots);
    return qcow_keys_sweep(image_keys_slots(r->image), &r->done.swept, e);
}

static int act(struct key_run *r, const struct watch *watch, struct err *e)
{
    if (!r->key)
        return 0;
    if (slots_of(r, r->key, r->key_bytes, watch, &r->opens, &r->volume, e) < 0)
        return -1;
    if (r->opens == 0 && r->action != ACTION_LIST)
        return rotated_before(r, watch, e);
    switch (r->action) {
    case ACTION_ADD:
    case ACTION_ROTATE:
        return add_or_rotate(r, watch, e);
    case ACTION_REMOVE:
        return remove_key(r, watch, e);
    default:
        return 0;
    }
}

/* --- what is said --- */

static const char *slots_text(unsigned slots, char ret[SLOTS_BYTES])
{
    size_t n = 0;
    ret[0] = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (slots & 1u << i)
            n += (size_t)snprintf(ret + n, SLOTS_BYTES - n, "%s%u", n ? ", " : "", i);
    return ret;
}

static void json_mask(struct json_out *j, const char *name, unsigned slots)
{
    json_out_array(j, name);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (slots & 1u << i)
            json_out_number(j, NULL, i);
    json_out_end(j);
}

static void list_slots(struct key_run *r)
{
    const struct luks_header *l = qcow_keys_header(image_keys_slots(r->image));
    struct json_out *j = r->run->json;
    unsigned n = 0;
    json_out_array(j, "slots");
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        const struct luks_slot *s = &l->slot[i];
        bool opens = r->opens & 1u << i;
        n += s->active;
        json_out_object(j, NULL);
        json_out_number(j, "slot", i);
        json_out_bool(j, "active", s->active);
        if (s->active)
            json_out_number(j, "iterations", s->iterations);
        if (r->key)
            json_out_bool(j, "opens", opens);
        json_out_end(j);
        if (!j && s->active)
            printf("slot %u: in use, %" PRIu32 " iterations of %s%s\n", i, s->iterations,
                   l->hash_spec, opens ? "; this key opens it" : "");
    }
    json_out_end(j);
    json_out_number(j, "free", LUKS_N_SLOTS - n);
    if (!j)
        printf("%u of %d slots are free\n", LUKS_N_SLOTS - n, LUKS_N_SLOTS);
}

static void say_added(const struct key_run *r)
{
    printf(r->done.was_there ? "the new key is in slot %u already\n"
                             : "the new key is in slot %u, and opens the image\n",
           r->done.slot);
}

static void report(struct key_run *r)
{
    struct json_out *j = r->run->json;
    const struct key_changed *d = &r->done;
    char text[SLOTS_BYTES];
    bool adds = r->action == ACTION_ADD || r->action == ACTION_ROTATE;
    if (adds && j) {
        json_out_number(j, "slot", d->slot);
        json_out_bool(j, "was_there", d->was_there);
    } else if (adds) {
        say_added(r);
    }
    if (r->action == ACTION_ADD)
        return;
    json_mask(j, "removed", d->removed);
    json_out_number(j, "overwritten_late", d->swept);
    if (j)
        return;
    if (d->removed)
        printf("removed: slot %s\n", slots_text(d->removed, text));
    else
        puts("nothing was left to be removed");
    if (d->swept)
        printf("key material of %u slots that hold no key was overwritten\n", d->swept);
}

static int run_action(struct key_run *r, struct err *e)
{
    struct progress progress;
    if (read_words(r, e) < 0 || read_keys(r, e) < 0 ||
        progress_begin(&progress, "stretching the passphrase", e) < 0)
        return -1;
    int result = open_image(r, e);
    if (result == 0)
        result = act(r, &progress.watch, e);
    int sig = progress_end(&progress);
    if (result == 0 && r->action == ACTION_LIST && r->key && r->opens == 0)
        result = wrong_key(r, "--key", e);
    if (result < 0) {
        r->run->signal = sig;
        return -1;
    }
    if (r->action == ACTION_LIST)
        list_slots(r);
    else
        report(r);
    return 0;
}

int cmd_key(struct cli_run *run, struct err *e)
{
    struct key_run r = {.run = run};
    int result = run_action(&r, e);
    key_run_clear(&r);
    return result;
}
